"""Table of the outputs of a visit in OUT, which code, documentation and tests read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from bids_msseg.bids import sidecars
from bids_msseg.bids.paths import figure_path, lesion_roi_path, output_path
from bids_msseg.bids.visit import Visit
from bids_msseg.lesions.load import column_dictionary
from bids_msseg.spaces import EMBEDDED_SPACE, NATIVE_SPACES, AtlasChoice, OutputSpace

IMAGE: Final = (".nii.gz", ".json")
DSEG: Final = (*IMAGE, ".tsv")
TABLE: Final = (".tsv", ".json")
FIGURE: Final = (".png",)
ANY: Final = "ANY"
"""Placeholder for the value of an entity that varies, such as the contrast."""
Condition = Literal["always", "networks", "anatomy", "atlases", "filled"]
Sidecar = Callable[..., Mapping[str, Any]]
Spaces = Sequence[tuple[str, int | None]]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a visit: a data file and its companions with the same stem."""

    description: str
    entities: Mapping[str, Any]  # keyword arguments of output_path; of a figure, of figure_path
    extensions: tuple[str, ...]  # the first is that of the data file
    sidecar: Sidecar = dict  # returns the content of the JSON file, where there is one
    condition: Condition = "always"  # on which a visit has it, see is_met

    def path(self, out_dir: Path, visit: Visit, extension: str) -> Path:
        """Return the path of the file with an extension."""
        if extension in FIGURE:
            return figure_path(out_dir, visit, extension=extension, **self.entities)
        return output_path(out_dir, visit, extension=extension, **self.entities)

    def paths(self, out_dir: Path, visit: Visit) -> tuple[Path, ...]:
        """Return the paths of all files of this output."""
        return tuple(self.path(out_dir, visit, extension) for extension in self.extensions)

    def with_entities(self, **entities: str | int | None) -> Output:
        """Return a copy with other values of some entities."""
        return replace(self, entities={**self.entities, **entities})

    @property
    def stem(self) -> str:
        """File name without the entities of the visit and the extension; ``*`` for any value."""
        visit, ending = Visit("X", None, Path()), self.extensions[0]
        name = self.path(Path(), visit, ending).name
        return name.removeprefix(f"{visit.prefix}_").removesuffix(ending).replace(ANY, "*")

    @property
    def varies(self) -> bool:
        """Whether a visit has one for each of its contrasts, grids or transforms."""
        return "*" in self.stem


def _on_flair(
    description: str, sidecar: Sidecar, condition: Condition = "always", **entities: str
) -> Output:
    names = {"space": "FLAIR", "suffix": "mask", **entities}
    extensions = DSEG if names["suffix"] == "dseg" else IMAGE
    return Output(description, names, extensions, sidecar, condition)


def _figure(description: str, desc: str, condition: Condition = "always") -> Output:
    return Output(description, {"desc": desc}, FIGURE, condition=condition)


OUTPUTS: Final[Mapping[str, Output]] = {
    "mask": _on_flair(
        "Lesions on the grid of the FLAIR as acquired", sidecars.lesion_mask_sidecar, label="L"
    ),
    "probseg": _on_flair(
        "Probability of lesion, 0 to 1",
        sidecars.probseg_sidecar, "networks", label="L", suffix="probseg",
    ),
    "labels": _on_flair(
        "Lesions: 26-connected components, numbered from the largest",
        sidecars.dseg_sidecar, seg="lesions", suffix="dseg",
    ),
    "lesion_stats": Output(
        "One row per lesion or rejected candidate: volume, position, region, probabilities, and "
        "the reason for a rejection",
        {"desc": "lesions", "suffix": "stats"}, TABLE, column_dictionary,
    ),
    "anatomy": _on_flair(
        "Anatomy of the brain from the first network at 2 mm, with a table of volumes",
        sidecars.anatomy_sidecar, "anatomy", seg="anatomy", suffix="dseg",
    ),
    "candidates": _on_flair(
        "Candidates of the first network, before any is rejected",
        sidecars.candidates_sidecar, "networks", label="L", desc="candidates",
    ),
    "rejected": _on_flair(
        "Candidates that are not part of the result",
        sidecars.rejected_sidecar, label="L", desc="rejected",
    ),
    "mask_in_space": Output(
        "Lesions on another grid: of the T1w, of a template, or of an image of --output-spaces",
        {"space": ANY, "label": "L", "suffix": "mask"}, IMAGE, sidecars.lesion_mask_sidecar,
    ),
    "brain": _on_flair("Brain mask", sidecars.brain_mask_sidecar, desc="brain"),
    "ventricles": _on_flair(
        "Lateral and third ventricles, from which the regions of lesions are derived",
        sidecars.ventricle_mask_sidecar, label="ventricle",
    ),
    "preproc": _on_flair(
        "Preprocessed image: bias field removed, aligned with the FLAIR",
        sidecars.preproc_sidecar, desc="preproc", suffix=ANY,
    ),
    "filled": Output(
        "Image as acquired; lesions are filled with intensities of white matter (--fill-lesions)",
        {"space": ANY, "desc": "filled", "suffix": ANY}, IMAGE, sidecars.filled_sidecar, "filled",
    ),
    "transform": Output(
        "Transform of images from one space to another; ITK text file (LPS)",
        {"from_": ANY, "to": ANY, "mode": "image", "suffix": "xfm"}, (".txt", ".json"),
        sidecars.xfm_sidecar,
    ),
    "atlases": Output(
        "Lesion load, one row per atlas and region (--atlas)",
        {"desc": "atlases", "suffix": "stats"}, TABLE, sidecars.atlas_dictionary, "atlases",
    ),
    "figure_lesions": _figure("Lesions on the FLAIR", "lesions"),
    "figure_lesions_plain": _figure("Slices of the lesions without outlines", "lesionsPlain"),
    "figure_brain": _figure("Brain mask on the FLAIR", "brain"),
    "figure_anatomy": _figure(
        "Outlines of white matter, deep grey nuclei, cerebellum, brainstem and ventricles",
        "brainAnatomy", "anatomy",
    ),
    "figure_brain_plain": _figure("Slices of the brain mask without its outline", "brainPlain"),
    "figure_registration": _figure(
        "Alignment of the contrast, or the template, with the FLAIR", f"registration{ANY}"
    ),
}  # fmt: skip
"""Outputs by the name that the workflow uses, the most important first."""


@dataclass(frozen=True, slots=True)
class Extras:
    """Optional outputs of a visit; paths in ``atlases`` and ``grids`` are those of the visit."""

    atlases: tuple[AtlasChoice, ...] = ()
    filled: bool = False
    roi: bool = False  # the mask on the T1w with the name that fMRIPrep expects
    grids: tuple[OutputSpace, ...] = ()
    anatomy: bool = True  # whether the segmenter can find the anatomy


NO_EXTRAS: Final = Extras()


def preprocessed(contrast: str) -> Output:
    """Return the preprocessed image of a contrast."""
    return OUTPUTS["preproc"].with_entities(suffix=contrast)


def filled(contrast: str) -> Output:
    """Return the image of a contrast, as acquired, with filled lesions."""
    return OUTPUTS["filled"].with_entities(space=contrast, suffix=contrast)


def mask_in(space: str, resolution: str | int | None = None) -> Output:
    """Return the lesion mask on another grid; ``resolution`` is the index of a template's grid."""
    return OUTPUTS["mask_in_space"].with_entities(space=space, res=resolution)


def transform(start: str, end: str) -> Output:
    """Return the transform that brings images from one space to another."""
    return OUTPUTS["transform"].with_entities(from_=start, to=end)


def is_met(condition: Condition, visit: Visit, extras: Extras) -> bool:
    """Return whether a visit meets the condition of an output."""
    networks = visit.lesion_mask is None
    met: dict[Condition, bool] = {
        "always": True,
        "networks": networks,
        "anatomy": extras.anatomy and (networks or extras.filled),  # filling needs the anatomy
        "atlases": bool(extras.atlases),
        "filled": extras.filled,
    }
    return met[condition]


def single_images(visit: Visit, extras: Extras = NO_EXTRAS) -> tuple[str, ...]:
    """List the names of the images of which a visit has one."""
    return tuple(
        name
        for name, output in OUTPUTS.items()
        if output.extensions[0] == ".nii.gz"
        and not output.varies
        and is_met(output.condition, visit, extras)
    )


def visit_outputs(
    visit: Visit, spaces: Spaces = (), extras: Extras = NO_EXTRAS
) -> tuple[Output, ...]:
    """List the outputs of a visit, with masks in ``spaces``."""
    variants = _variants(visit, spaces, extras)
    return tuple(
        variant
        for name, output in OUTPUTS.items()
        if is_met(output.condition, visit, extras)
        for variant in variants.get(name, [output])
    )


def _variants(visit: Visit, spaces: Spaces, extras: Extras) -> dict[str, list[Output]]:
    """Return the outputs of which a visit has one per contrast, grid or transform."""
    moving = [contrast for contrast in visit.contrasts if contrast != "FLAIR"]
    templates = [(name, grid or 1) for name, grid in spaces if name not in NATIVE_SPACES]
    others = [name for name, _ in spaces if name in moving]
    others += [grid.name for grid in extras.grids if grid.world in visit.contrasts]
    template_spaces = {EMBEDDED_SPACE, *(name for name, _ in templates)}
    template_spaces |= {
        atlas.space for atlas in extras.atlases if atlas.space not in NATIVE_SPACES
    }
    transforms = {("FLAIR", name) for name in template_spaces}
    transforms |= {(contrast, "FLAIR") for contrast in moving}
    aligned = [f"registration{name}" for name in (*moving, "FLAIR")] if moving else []
    registration = OUTPUTS["figure_registration"]
    return {
        "preproc": [preprocessed(contrast) for contrast in visit.contrasts],
        "filled": [filled(name) for name in NATIVE_SPACES if name in visit.contrasts],
        "mask_in_space": [*map(mask_in, others), *(mask_in(*grid) for grid in templates)],
        "transform": [transform(*ends) for ends in sorted(transforms)],
        "figure_registration": [registration.with_entities(desc=label) for label in aligned],
    }


def figure_labels(visit: Visit, extras: Extras = NO_EXTRAS) -> tuple[str, ...]:
    """List the ``desc-`` labels of a visit's figures."""
    outputs = visit_outputs(visit, (), extras)
    return tuple(output.entities["desc"] for output in outputs if output.extensions == FIGURE)


def visit_files(
    out_dir: Path, visit: Visit, spaces: Spaces = (), extras: Extras = NO_EXTRAS
) -> tuple[Path, ...]:
    """List all files of a finished visit except its record and the report page."""
    files = _paths(out_dir, visit, visit_outputs(visit, spaces, extras))
    return (*files, *(_roi_files(out_dir, visit) if extras.roi else ()))


def unrequested_files(out_dir: Path, visit: Visit, extras: Extras) -> tuple[Path, ...]:
    """List files of an earlier run that could be mistaken for results of this run."""
    optional = [output for output in OUTPUTS.values() if output.condition != "always"]
    single = [output for output in optional if not output.varies and output.extensions != FIGURE]
    possible = _paths(out_dir, visit, (*single, *map(filled, NATIVE_SPACES)))
    possible += _roi_files(out_dir, visit)
    requested = set(visit_files(out_dir, visit, (), extras))
    return tuple(path for path in possible if path not in requested)


def _paths(out_dir: Path, visit: Visit, outputs: Iterable[Output]) -> tuple[Path, ...]:
    return tuple(path for output in outputs for path in output.paths(out_dir, visit))


def _roi_files(out_dir: Path, visit: Visit) -> tuple[Path, ...]:
    path = lesion_roi_path(out_dir, visit)
    return () if path is None else (path,)
