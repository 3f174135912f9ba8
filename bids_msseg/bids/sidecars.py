"""JSON sidecars of the outputs, with keys of BIDS 1.11.1 as its validator interprets them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.record_values import ModelUse
from bids_msseg.lesions.atlas import REGION_COLUMNS
from bids_msseg.lesions.load import LesionRow, column_dictionary, rows_to_table
from bids_msseg.models.brain_volumes import LABEL_COLUMNS

LESION_CODE: Final = 7
"""Code of ``L`` among the common image-derived labels of BIDS."""
_BIDS_COLUMNS: Final = ("index", "name", "abbreviation", "mapping")
_DSEG_OMITTED: Final = frozenset({"index", "status", "reason"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Sources and grid of an output, as BIDS URIs."""

    sources: tuple[str, ...]
    spatial_reference: str | None  # image with the same grid; None for a template without URI
    resolution: str = ""  # explains the entity res-
    software: Mapping[str, str] = field(default_factory=dict)

    def keys(self) -> dict[str, Any]:
        """Return the keys that every image has."""
        keys: dict[str, Any] = {"Sources": list(self.sources)}
        if self.spatial_reference:
            keys["SpatialReference"] = self.spatial_reference
        if self.resolution:
            keys["Resolution"] = self.resolution
        if self.software:
            keys["SoftwareVersion"] = _versions(self.software)
        return keys


@dataclass(frozen=True, slots=True)
class Method:
    """How the lesions and the brain mask were found."""

    model: ModelUse | None  # None if no segmenter was run
    threshold: float  # of the final probability
    min_lesion_volume: float  # mm³
    candidate_threshold: float | None = None  # of the probability of the first network
    masks: str = ""  # names of the datasets of given masks
    excluded: str = ""  # names of the datasets of exclusion masks
    brain_mask: str = ""  # how it was made, such as ``made by another pipeline``

    def keys(self) -> dict[str, Any]:
        """Return the model and the thresholds, or what replaced them."""
        keys: dict[str, Any] = {**self.model_keys(), "Threshold": self.threshold}
        if self.masks:
            keys = {"SegmentationMethod": f"Given lesion mask of {self.masks}"}
        keys["MinLesionVolume"] = self.min_lesion_volume
        keys["MinLesionVolumeUnits"] = "mm^3"
        return keys

    def without(self) -> str:
        """Return a phrase on exclusion masks; empty if there are none."""
        return f", without voxels in exclusion masks of {self.excluded}" if self.excluded else ""

    def model_keys(self) -> dict[str, Any]:
        """Return the model alone; of another segmenter also its kind, licence and citation."""
        if self.model is None:
            return {}
        keys = {
            "ModelName": self.model.name,
            "ModelVersion": self.model.version,
            "ModelSHA256": self.model.sha256,
        }
        if not self.model.is_cascade:
            keys["Segmenter"] = self.model.segmenter
            keys["ModelLicense"] = self.model.licence
            keys["ModelCitation"] = self.model.citation
        return {name: value for name, value in keys.items() if value or self.model.is_cascade}

    @property
    def other_segmenter(self) -> str:
        """Name of the segmenter that replaced the cascade; empty for the cascade."""
        if self.model is None or self.model.is_cascade:
            return ""
        return f"{self.model.name} {self.model.version}".strip()


def bids_uri(path: Path, datasets: Mapping[str, Path]) -> str:
    """Return ``bids:<name>:<path>`` of a file in the innermost of datasets, or ValueError."""
    path = path.absolute()
    roots = {name: root.absolute() for name, root in datasets.items()}
    containing = [name for name, root in roots.items() if path.is_relative_to(root)]
    if not containing:
        raise ValueError(f"{path} is in none of the datasets {sorted(roots)}")
    name = max(containing, key=lambda dataset: len(roots[dataset].parts))
    return f"bids:{link_name(name)}:{path.relative_to(roots[name]).as_posix()}"


def link_name(name: str) -> str:
    """Make a name valid for ``DatasetLinks``: letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^0-9A-Za-z_-]+", "-", name)


def template_uri(template: str, resolution: str | int | None = None, suffix: str = "T1w") -> str:
    """Return the BIDS URI of a TemplateFlow image."""
    res = "" if resolution is None else f"_res-{resolution}"
    return f"bids:templateflow:tpl-{template}/tpl-{template}{res}_{suffix}.nii.gz"


def preproc_sidecar(
    contrast: str, origin: Origin, *, skull_stripped: bool, steps: Sequence[str]
) -> dict[str, Any]:
    """Return the sidecar of a preprocessed contrast; ``steps`` are in order of processing."""
    return {
        "Description": f"Preprocessed {contrast} image: {'; '.join(steps)}",
        "SkullStripped": skull_stripped,
        **origin.keys(),
    }


def filled_sidecar(
    contrast: str, origin: Origin, method: Method, *, skull_stripped: bool
) -> dict[str, Any]:
    """Return the sidecar of an image with filled lesions."""
    text = f"{contrast} as acquired; lesions are filled with intensities of nearby white matter"
    return {"Description": text, "SkullStripped": skull_stripped, **origin.keys(), **method.keys()}


def brain_mask_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of a brain mask."""
    return {
        "Type": "Brain",
        "Description": f"Brain mask; {method.brain_mask}",
        "Manual": False,
        **origin.keys(),
    }


def ventricle_mask_sidecar(origin: Origin, _method: Method) -> dict[str, Any]:
    """Return the sidecar of the ventricle mask, which the regions of lesions depend on."""
    return {
        "Type": "ROI",
        "Description": "Lateral and third ventricles, segmented from the fluid in the images, or "
        "from the template (affine registration) where a flag of the visit says so. The regions "
        "of lesions are derived from them",
        "Manual": False,
        **origin.keys(),
    }


def lesion_mask_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of the lesion mask."""
    text = f"Lesions, segmented by {method.other_segmenter or 'the cascade'}"
    if method.masks:
        text = f"Lesions of the given mask of {method.masks}"
    return _lesion_mask(text + method.without(), origin, method)


def candidates_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of the mask of all candidates of the first network."""
    text = "Candidates of the sensitive first network, before any is rejected"
    if method.other_segmenter:
        text = "Candidates: voxels that reach the threshold, before size and position are checked"
    content = _lesion_mask(text, origin, method)
    threshold = method.candidate_threshold
    return content if threshold is None else {**content, "Threshold": threshold}


def rejected_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of the mask of rejected candidates."""
    subject = "Parts of the given mask" if method.masks else "Candidates"
    return _lesion_mask(f"{subject} that are not part of the result", origin, method)


def _lesion_mask(description: str, origin: Origin, method: Method) -> dict[str, Any]:
    return {
        "Type": "Lesion",
        "Description": description,
        **_by_hand(method),
        **origin.keys(),
        **method.keys(),
    }


def _by_hand(method: Method) -> dict[str, Any]:
    """Return ``Manual: false``; nothing for a given mask, for which it is not known."""
    return {} if method.masks else {"Manual": False}


def probseg_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of the map of lesion probability."""
    source = f"by {method.other_segmenter}" if method.other_segmenter else "after both networks"
    return {
        "Description": f"Probability of lesion {source}, 0 to 1{method.without()}",
        "Manual": False,
        **origin.keys(),
        **method.model_keys(),
    }


def dseg_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of the image of lesion instances, with columns of its table."""
    # the validator reports a second description of columns that BIDS defines
    columns = column_dictionary()
    return {
        "Description": "Lesions: 26-connected components, numbered from the largest"
        + method.without(),
        **_by_hand(method),
        **origin.keys(),
        **method.keys(),
        **{name: columns[name] for name in dseg_columns() if name not in _BIDS_COLUMNS},
    }


def anatomy_sidecar(origin: Origin, method: Method) -> dict[str, Any]:
    """Return the sidecar of the anatomy, with the column that BIDS does not define."""
    return {
        "Description": "Anatomy of the brain, segmented by the first network at 2 mm",
        "Manual": False,
        **origin.keys(),
        **method.model_keys(),
        "volume_ml": dict(LABEL_COLUMNS["volume_ml"]),
    }


def dseg_columns() -> tuple[str, ...]:
    """Return the column names of the table of lesion instances."""
    return (*_BIDS_COLUMNS, *(name for name in column_dictionary() if name not in _DSEG_OMITTED))


def dseg_rows(rows: Iterable[LesionRow]) -> list[dict[str, Any]]:
    """Return the kept lesions as table rows with the keys of :func:`dseg_columns`."""
    lesions = [row for row in rows if row.status == "kept"]
    return [
        {
            **cells,
            "name": f"lesion {row.index}",
            "abbreviation": f"L{row.index}",
            "mapping": LESION_CODE,
        }
        for row, cells in zip(lesions, rows_to_table(lesions), strict=True)
    ]


def xfm_sidecar(
    from_: str, to: str, *, kind: str, sources: Sequence[str], software: Mapping[str, str]
) -> dict[str, Any]:
    """Return the sidecar of a transform; ``kind`` is ``rigid`` or ``affine``."""
    text = f"{kind.capitalize()} transform that brings images from {from_} to {to}"
    return {
        "Description": f"{text}; ITK text file (LPS convention)",
        "Sources": list(sources),
        "Type": kind,
        **({"SoftwareVersion": _versions(software)} if software else {}),
    }


def atlas_dictionary() -> dict[str, Any]:
    """Describe the columns of the table with one row per atlas and region."""
    atlas = {"Description": "Name of the atlas, as in --atlas"}
    return {"atlas": atlas, **{name: dict(column) for name, column in REGION_COLUMNS.items()}}


def _versions(software: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in software.items())
