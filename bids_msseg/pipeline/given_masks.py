"""Masks drawn on the FLAIR by a person or another program."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.imaging.cut import Cut, find_drawn_cut, spread
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.volume import UNREADABLE, Volume, is_same_grid, load_or_raise
from bids_msseg.lesions.mask_values import MaskValues, lesion_voxels
from bids_msseg.pipeline.lesions import Grid

OUTSIDE_SHARE: Final = 0.1
"""Largest share of a given lesion mask outside the brain without a note."""
RESAMPLE: Final = (
    'python -c "import nibabel as n, nibabel.processing as p; '
    "n.save(p.resample_from_to(n.load('MASK'), n.load('FLAIR'), 0), 'NEW')\""
)
"""Command that resamples a mask to the FLAIR if both are in the same scanner space."""


def read_given_mask(
    path: Path, grid: Grid, *, what: str, values: MaskValues = None, from_viewer: bool = False
) -> tuple[NDArray[np.bool_], str]:
    """Read a mask on the grid of the FLAIR as acquired, with a note; MssegError if unusable."""
    header, frame = check_header(path, contrast=what), grid.frame
    same = is_same_grid(header.shape, header.affine, frame.shape, frame.affine)
    cut = _cut(path, frame) if from_viewer and not same else None
    if not (same or cut):
        raise DataError(
            f"the {what} {path.name} ({_shape(header.shape)} voxels) is not on the grid of the "
            f"FLAIR ({_shape(frame.shape)} voxels)",
            hint=f"if both lie in the same scanner space, resample it: {RESAMPLE}",
        )
    problem = f"the {what} {path.name} is damaged"
    data = load_or_raise(path, problem, hint="save the mask again").data
    inside, note = lesion_voxels(data.reshape(header.shape), path.name, values)
    return (spread(inside, cut, frame.shape) if cut else inside), note


def read_exclusion_masks(
    paths: Iterable[Path], grid: Grid
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Read and unite exclusion masks, also from the viewer; return notes, too."""
    excluded = np.zeros(grid.frame.shape, bool)
    notes: list[str] = []
    for path in paths:
        inside, note = read_given_mask(path, grid, what="exclusion mask", from_viewer=True)
        excluded |= inside
        if note:
            notes.append(f"{path.name}: all values above zero count as exclusion")
    return excluded, tuple(notes)


def outside_brain_note(lesions: NDArray[np.bool_], brain: NDArray[Any]) -> str:
    """Return a note if a given mask may be that of another image; empty otherwise."""
    share = float((brain[lesions] == 0).mean()) if lesions.any() else 0.0
    if share < OUTSIDE_SHARE:
        return ""
    return f"{share:.0%} of the lesion mask is outside the brain: check that it is from this visit"


def _cut(path: Path, frame: Volume) -> Cut | None:
    """Return the position of a mask drawn in the viewer; None for other or damaged masks."""
    try:
        return find_drawn_cut(path, frame.shape, frame.affine)
    except UNREADABLE:
        return None


def _shape(shape: tuple[int, int, int]) -> str:
    return "×".join(map(str, shape))
