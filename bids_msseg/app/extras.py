"""Optional outputs of a run, with the files of one visit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.config import RunConfig
from bids_msseg.config_parts import Processing
from bids_msseg.options import CASCADE
from bids_msseg.spaces import FREESURFER, AtlasChoice, OutputSpace, fill_in

if TYPE_CHECKING:
    from bids_msseg.bids.derivatives import Extras
    from bids_msseg.bids.visit import Visit


def find_extras(config: RunConfig, visit: Visit) -> tuple[Extras, tuple[str, ...]]:
    """Return the optional outputs for which a visit has images, and notes on the others."""
    from bids_msseg.bids.derivatives import Extras

    processing = config.processing
    has_anatomy = processing.segmenter == CASCADE
    atlases = [_find_atlas(config, visit, atlas) for atlas in processing.atlas]
    grids = [_find_grid(visit, space) for space in processing.output_spaces if space.file]
    extras = Extras(
        atlases=tuple(atlas for atlas, _ in atlases if atlas),
        filled=processing.fill_lesions and has_anatomy,
        roi=processing.lesion_roi,
        grids=tuple(grid for grid, _ in grids if grid),
        anatomy=has_anatomy,
    )
    notes = () if has_anatomy else _without_anatomy(processing)
    return extras, (*(note for _, note in (*atlases, *grids) if note), *notes)


def _without_anatomy(processing: Processing) -> tuple[str, ...]:
    """Return notes on outputs that are missing because there is no anatomy."""
    reason = f"the segmenter {processing.segmenter} finds lesions only"
    notes = [f"no anatomy is segmented or measured: {reason}"]
    if processing.fill_lesions:
        notes.append(f"lesions are not filled, because filling needs the anatomy: {reason}")
    return tuple(notes)


def _find_atlas(
    config: RunConfig, visit: Visit, atlas: AtlasChoice
) -> tuple[AtlasChoice | None, str]:
    """Find the image of an atlas; a note explains why it is missing or what to check."""
    if atlas.space == "T1w" and visit.t1w is None:
        return None, f"the atlas {atlas.name} is not used: it needs a T1w"
    if atlas.kind == FREESURFER:
        return _find_segmentation(config.query.derivatives[FREESURFER], visit, atlas)
    if atlas.kind != "file":
        return atlas, ""
    path = fill_in(atlas.source, visit.participant, visit.session)
    if path is None or not path.is_file():
        return None, f"the atlas {atlas.name} is not used: no image of {visit.key} found"
    return replace(atlas, source=str(path)), ""


def _find_grid(visit: Visit, grid: OutputSpace) -> tuple[OutputSpace | None, str]:
    """Find the image that defines the requested grid; a note explains why it is missing."""
    if grid.world not in visit.contrasts:
        return None, f"no mask is written in {grid.name}: it needs a {grid.world}"
    path = fill_in(grid.file, visit.participant, visit.session)
    if path is None or not path.is_file():
        return None, f"no mask is written in {grid.name}: no image of {visit.key} found"
    return replace(grid, file=str(path)), ""


def _find_segmentation(
    subjects: Path, visit: Visit, atlas: AtlasChoice
) -> tuple[AtlasChoice | None, str]:
    """Find a segmentation of FreeSurfer; that of the session is preferred."""
    for name in dict.fromkeys((visit.key, f"sub-{visit.participant}")):
        path = subjects / name / "mri" / f"{atlas.source}.mgz"
        if path.is_file():
            shared = name != visit.key
            note = f"{atlas.source} of {name} is used: check that it is aligned with this T1w"
            return replace(atlas, kind="file", source=str(path)), note if shared else ""
    return None, f"no {atlas.source} of {visit.key} in the FreeSurfer subjects folder"
