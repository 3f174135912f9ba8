"""Methods paragraph and references for use in publications (CC0)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from bids_msseg.bids.record_values import ModelUse

CASCADE = "Valverde et al. 2017, NeuroImage 155:159, arXiv 1702.04869 (cascade of two CNNs)"
REFERENCES = (
    "Gorgolewski et al. 2011, Front. Neuroinform. 5:13, doi 10.3389/fninf.2011.00013 (nipype)",
    "Yarkoni et al. 2019, JOSS 4:1294, doi 10.21105/joss.01294 (pybids)",
    "Fisch et al. 2024, Comput. Biol. Med., deepbet, arXiv 2308.07003 (brain extraction)",
    "Tustison et al. 2010, IEEE TMI 29:1310, doi 10.1109/TMI.2010.2046908 (N4)",
    "Lowekamp et al. 2013, Front. Neuroinform. 7:45, doi 10.3389/fninf.2013.00045 (SimpleITK)",
    "Fonov et al. 2011, NeuroImage 54:313, doi 10.1016/j.neuroimage.2010.07.033 (template)",
    CASCADE,
)


def references(model: ModelUse | None) -> tuple[str, ...]:
    """List the references of the methods paragraph, with the citation of another segmenter."""
    if model is None or model.is_cascade:
        return REFERENCES
    citation = (model.citation,) if model.citation else ()
    return (*(reference for reference in REFERENCES if reference != CASCADE), *citation)


def methods_paragraph(
    contrasts: Sequence[str],  # FLAIR first
    *,
    model: str,  # empty if no network ran, as its digest
    sha256: str,
    threshold: float,
    min_lesion_volume: float,  # mm³
    versions: Mapping[str, str],
    masks: str = "",  # names of given lesion masks that replaced the networks
    excluded: str = "",
    segmenter: ModelUse | None = None,  # used instead of the cascade
) -> str:
    """Write the methods paragraph that describes how a visit was processed."""
    registered = " and ".join(contrasts[1:])
    aligned = (
        f"{registered} {'was' if len(contrasts) == 2 else 'were'} rigidly registered to FLAIR by "
        "mutual information (SimpleITK; Lowekamp 2013). "
        if registered
        else "Only FLAIR was available. "
    )
    software = ", ".join(f"{name} {version}" for name, version in versions.items())
    verb = "measured in given masks" if masks else "segmented"
    if masks:
        detection = _of_masks(masks, model, sha256)
    else:
        method = (
            _networks(model, sha256) if segmenter is None else _segmenter(segmenter, contrasts)
        )
        detection = f"{method}Voxels with a probability of at least {threshold:g} form the mask; "
    removed = (
        f"Before this step, lesion voxels inside the exclusion masks {excluded} were removed. "
        if excluded
        else ""
    )
    return (
        f"White-matter lesions were {verb} with bids_msseg, a BIDS App built on pybids "
        "(Yarkoni 2019) and nipype (Gorgolewski 2011). The brain was extracted from FLAIR "
        f"(deepbet; Fisch 2024), unless the input was already skull-stripped. {aligned}Bias "
        "fields were corrected inside the brain (N4; Tustison 2010). The ICBM 2009a symmetric "
        "template (Fonov 2011) was registered to the brain with an affine transform. "
        f"{detection}26-connected components smaller than {min_lesion_volume:g} mm³ were removed. "
        f"{removed}The results are for research use only and not for diagnostic use. "
        f"Software: {software}."
    )


_NORMALISED: Final = (
    "Contrasts were resampled to 1 mm in FLAIR space and normalised to z-scores of the brain "
    "voxels. "
)


def _networks(model: str, sha256: str) -> str:
    return (
        f"{_NORMALISED}A cascade of two 3-D convolutional networks, based on the design of "
        "Valverde 2017, segmented the lesions: the first network proposed candidates, the second "
        f"accepted or rejected each of them (model {model}, SHA-256 {sha256[:12]}). Probabilities "
        "were adjusted to the slice thickness of the FLAIR. "
    )


def _segmenter(segmenter: ModelUse, contrasts: Sequence[str]) -> str:
    """Describe the other segmenter and the available contrasts that it used."""
    contrasts_read = [name for name in contrasts if name in segmenter.contrasts] or list(contrasts)
    details = [f"SHA-256 of model and settings {segmenter.sha256[:12]}"]
    if segmenter.licence:
        details.append(f"licence {segmenter.licence}")
    if segmenter.citation:
        details.append(f"cite {segmenter.citation}")
    name = f"{segmenter.name} {segmenter.version}".strip()
    return (
        f"Contrasts were resampled to 1 mm in FLAIR space. Lesions were segmented on "
        f"{', '.join(contrasts_read)} by {name}, not by the networks of bids_msseg "
        f"({'; '.join(details)}). "
    )


def _of_masks(masks: str, model: str, sha256: str) -> str:
    source = f"Lesions were taken from the given masks {masks}. "
    if not model:
        return f"{source}No network was run. "
    return (
        f"{_NORMALISED}A 3-D convolutional network segmented the anatomy (first network of the "
        f"model {model}, SHA-256 {sha256[:12]}). {source}"
    )
