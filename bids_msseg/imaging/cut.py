"""Position of images that were cut out and whose voxels were joined, as in the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.volume import GRID_TOLERANCE_MM, Affine

OF_VIEWER: Final = "bids_msseg viewer"
"""NIfTI description of the images in a page. The viewer copies it into the mask that it saves."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Position of a cut image with joined voxels in the whole image."""

    start: tuple[int, int, int]  # first voxel
    factors: tuple[int, int, int]  # numbers of voxels joined along each axis


def cut_affine(affine: Affine, start: Sequence[int], factors: tuple[int, int, int]) -> Affine:
    """Return the affine of an image that was cut out and whose voxels were joined."""
    inner = np.diag([*map(float, factors), 1.0])
    inner[:3, 3] = [first + (factor - 1) / 2 for first, factor in zip(start, factors, strict=True)]
    moved: Affine = affine @ inner
    return moved


def find_cut(
    shape: tuple[int, ...], affine: Affine, whole_shape: tuple[int, ...], whole_affine: Affine
) -> Cut | None:
    """Find where an image was cut out of another one; None if not. May raise LinAlgError."""
    inner = np.linalg.inv(whole_affine) @ affine
    if not np.isfinite(inner).all():
        return None
    x, y, z = np.rint(np.diag(inner)[:3]).astype(int).tolist()
    first = np.rint(inner[:3, 3] - (np.array((x, y, z)) - 1) / 2).astype(int)
    # the last joined voxels may reach beyond the whole image
    last = first + (np.array(shape) - 1) * (x, y, z)
    if min(x, y, z) < 1 or (first < 0).any() or (last >= whole_shape).any():
        return None
    expected = cut_affine(whole_affine, first.tolist(), (x, y, z))
    if not np.allclose(affine, expected, rtol=0, atol=GRID_TOLERANCE_MM):
        return None
    i, j, k = first.tolist()
    return Cut((i, j, k), (x, y, z))


def find_drawn_cut(path: Path, shape: tuple[int, ...], affine: Affine) -> Cut | None:
    """Return the position of a mask drawn in the viewer in the FLAIR; None for other masks."""
    image: Any = nib.load(path)
    if image.header["descrip"].item() != OF_VIEWER.encode():
        return None
    return find_cut(image.shape[:3], np.asarray(image.affine, np.float64), shape, affine)


def spread(data: NDArray[np.bool_], cut: Cut, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """Put a cut mask back onto the grid of the whole image; False outside the cut."""
    for axis, factor in enumerate(cut.factors):
        data = data.repeat(factor, axis)
    whole = np.zeros(shape, bool)
    ends = zip(cut.start, data.shape, strict=True)
    part = whole[tuple(slice(first, first + size) for first, size in ends)]
    x, y, z = part.shape
    part[...] = data[:x, :y, :z]
    return whole
