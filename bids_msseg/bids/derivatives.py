"""List of the outputs of a visit in OUT, from which code, documentation and tests take names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.paths import figure_path, lesion_roi_path, output_path
from bids_msseg.bids.visit import Visit
from bids_msseg.imaging.template import EMBEDDED
from bids_msseg.spaces import NATIVE_SPACES, AtlasChoice, OutputSpace

IMAGE: Final = (".nii.gz", ".json")
Spaces = Sequence[tuple[str, int | None]]


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a visit: a data file and its companions with the same stem."""

    entities: Mapping[str, Any]  # keyword arguments of output_path
    extensions: tuple[str, ...] = IMAGE  # the first is that of the data file

    def path(self, out_dir: Path, visit: Visit, extension: str) -> Path:
        """Return the path of the file with an extension."""
        return output_path(out_dir, visit, extension=extension, **self.entities)

    def paths(self, out_dir: Path, visit: Visit) -> tuple[Path, ...]:
        """Return the paths of all files of this output."""
        return tuple(self.path(out_dir, visit, extension) for extension in self.extensions)

    @property
    def stem(self) -> str:
        """File name without the entities of the visit and without the extension."""
        visit = Visit("X", None, Path())
        name = self.path(Path(), visit, ".json").name
        return name.removeprefix(f"{visit.prefix}_").removesuffix(".json")


def _on_flair(
    *, suffix: str = "mask", extensions: tuple[str, ...] = IMAGE, **entities: str
) -> Output:
    return Output({"space": "FLAIR", **entities, "suffix": suffix}, extensions)


OUTPUTS: Final[Mapping[str, Output]] = {
    "brain": _on_flair(desc="brain"),
    "ventricles": _on_flair(label="ventricle"),
    "probseg": _on_flair(label="L", suffix="probseg"),
    "labels": _on_flair(seg="lesions", suffix="dseg", extensions=(*IMAGE, ".tsv")),
    "anatomy": _on_flair(seg="anatomy", suffix="dseg", extensions=(*IMAGE, ".tsv")),
    "candidates": _on_flair(label="L", desc="candidates"),
    "rejected": _on_flair(label="L", desc="rejected"),
    "mask": _on_flair(label="L"),
    "lesion_stats": Output({"desc": "lesions", "suffix": "stats"}, (".tsv", ".json")),
}
"""Outputs of every visit, by the name that the workflow uses."""
NETWORK_OUTPUTS: Final = ("probseg", "candidates")
"""Outputs that a visit with a given lesion mask does not have."""
ATLASES: Final = Output({"desc": "atlases", "suffix": "stats"}, (".tsv", ".json"))
"""Load per region of every requested atlas."""


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
    return _on_flair(desc="preproc", suffix=contrast)


def filled(contrast: str) -> Output:
    """Return the image of a contrast, as acquired, with filled lesions."""
    return Output({"space": contrast, "desc": "filled", "suffix": contrast})


def mask_in(space: str, resolution: str | int | None = None) -> Output:
    """Return the lesion mask on another grid; ``resolution`` is the index of a template's grid."""
    grid: dict[str, Any] = {} if resolution is None else {"res": resolution}
    return Output({"space": space, **grid, "label": "L", "suffix": "mask"})


def transform(start: str, end: str) -> Output:
    """Return the transform that brings images from one space to another."""
    names = {"from_": start, "to": end, "mode": "image", "suffix": "xfm"}
    return Output(names, (".txt", ".json"))


def with_anatomy(visit: Visit, extras: Extras) -> bool:
    """Return whether a visit has an anatomy: from the networks, or if filling needs it."""
    return extras.anatomy and (visit.lesion_mask is None or extras.filled)


def visit_outputs(
    visit: Visit, spaces: Spaces = (), extras: Extras = NO_EXTRAS
) -> tuple[Output, ...]:
    """List the outputs of a visit in its ``anat`` folder, with masks in ``spaces``."""
    templates = [(name, grid or 1) for name, grid in spaces if name not in NATIVE_SPACES]
    other_natives = [name for name, _ in spaces if name in visit.contrasts and name != "FLAIR"]
    template_spaces = {EMBEDDED, *(name for name, _ in templates)}
    template_spaces |= {
        atlas.space for atlas in extras.atlases if atlas.space not in NATIVE_SPACES
    }
    transforms = {("FLAIR", name) for name in template_spaces}
    transforms |= {(contrast, "FLAIR") for contrast in _moving_contrasts(visit)}
    left_out: set[str] = set() if visit.lesion_mask is None else {*NETWORK_OUTPUTS}
    left_out |= set() if with_anatomy(visit, extras) else {"anatomy"}
    return (
        *(output for name, output in OUTPUTS.items() if name not in left_out),
        *((ATLASES,) if extras.atlases else ()),
        *(filled(name) for name in _native_contrasts(visit) if extras.filled),
        *(preprocessed(contrast) for contrast in visit.contrasts),
        *(mask_in(name) for name in other_natives),
        *(mask_in(name, grid) for name, grid in templates),
        *(mask_in(grid.name) for grid in extras.grids if grid.world in visit.contrasts),
        *(transform(*ends) for ends in sorted(transforms)),
    )


def figure_labels(visit: Visit, extras: Extras = NO_EXTRAS) -> tuple[str, ...]:
    """List the ``desc-`` labels of a visit's figures."""
    anatomy = ["brainAnatomy"] if with_anatomy(visit, extras) else []
    moving = _moving_contrasts(visit)
    aligned = [f"registration{name}" for name in (*moving, "FLAIR")] if moving else []
    return ("lesions", "lesionsPlain", "brain", *anatomy, "brainPlain", *aligned)


def visit_files(
    out_dir: Path, visit: Visit, spaces: Spaces = (), extras: Extras = NO_EXTRAS
) -> tuple[Path, ...]:
    """List all files of a finished visit except its record and the report page."""
    labels = figure_labels(visit, extras)
    return (
        *_paths(out_dir, visit, visit_outputs(visit, spaces, extras)),
        *(_roi_files(out_dir, visit) if extras.roi else ()),
        *(figure_path(out_dir, visit, label, extension=".png") for label in labels),
    )


def unrequested_files(out_dir: Path, visit: Visit, extras: Extras) -> tuple[Path, ...]:
    """List files of an earlier run that could be mistaken for results of this run."""
    networks = (OUTPUTS[name] for name in (*NETWORK_OUTPUTS, "anatomy"))
    possible = _paths(out_dir, visit, (ATLASES, *map(filled, NATIVE_SPACES), *networks))
    possible += _roi_files(out_dir, visit)
    requested = set(visit_files(out_dir, visit, (), extras))
    return tuple(path for path in possible if path not in requested)


def _paths(out_dir: Path, visit: Visit, outputs: Iterable[Output]) -> tuple[Path, ...]:
    return tuple(path for output in outputs for path in output.paths(out_dir, visit))


def _roi_files(out_dir: Path, visit: Visit) -> tuple[Path, ...]:
    path = lesion_roi_path(out_dir, visit)
    return () if path is None else (path,)


def _native_contrasts(visit: Visit) -> list[str]:
    return [name for name in NATIVE_SPACES if name in visit.contrasts]


def _moving_contrasts(visit: Visit) -> list[str]:
    return [contrast for contrast in visit.contrasts if contrast != "FLAIR"]
