"""Masks of raters in their union, and local reliability weights of raters for LOP-STAPLE.

The background would make estimates depend on the image. Weights come from masks, not images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import bounding_box

SIGMA_MM = 2.0
"""Width of the neighbourhood: about one median lesion."""
FLOOR = 0.05
"""Smallest agreement, so that a rater who contradicts all others keeps a weight."""

Grid = tuple[int, int, int]
Spacing = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Votes:
    """Masks of several raters inside their union, on a box that may extend beyond the grid."""

    drawn: NDArray[np.bool_]  # shape (raters, voxels), voxels of the union in C order
    inside: NDArray[np.bool_]  # the union on the box
    origin: Grid  # first voxel of the box in the grid; may be negative
    shape: Grid  # of the grid, (X, Y, Z)

    def on_box(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put values of shape (voxels,) on the box, zero outside the union."""
        box = np.zeros(self.inside.shape, values.dtype)
        box[self.inside] = values
        return box

    def on_grid(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put values of shape (voxels,) on the raters' grid, zero outside the union."""
        image = np.zeros(self.shape, values.dtype)
        target, source = [], []
        for low, length, size in zip(self.origin, self.inside.shape, self.shape, strict=True):
            first, last = max(low, 0), min(low + length, size)
            target.append(slice(first, max(last, first)))
            source.append(slice(first - low, max(last, first) - low))
        image[tuple(target)] = self.on_box(values)[tuple(source)]
        return image


def collect_votes(masks: Sequence[NDArray[Any]], *, margin: int = 0) -> Votes:
    """Gather the masks inside their union, dilated by ``margin`` voxels also beyond the grid."""
    if not len(masks):
        raise ValueError("no masks to combine")
    shape = masks[0].shape
    if any(mask.shape != shape for mask in masks):
        raise ValueError(f"masks lie on different grids: {[mask.shape for mask in masks]}")
    box = bounding_box(np.logical_or.reduce([mask != 0 for mask in masks]))
    boxed = [np.pad(mask[box] != 0, margin) for mask in masks]
    inside = dilate(np.logical_or.reduce(boxed), margin)
    x, y, z = (side.start - margin for side in box)
    return Votes(
        np.stack([mask[inside] for mask in boxed]),
        inside,
        (x, y, z),
        (shape[0], shape[1], shape[2]),
    )


def dilate(mask: NDArray[np.bool_], margin: int) -> NDArray[np.bool_]:
    """Dilate a mask by ``margin`` voxels along all axes and diagonals."""
    if not margin or not mask.size:
        return mask
    grown = ndimage.maximum_filter(mask.view(np.uint8), 2 * margin + 1, mode="constant")
    return np.asarray(grown, bool)


def local_weights(
    votes: Votes, spacing: Spacing, *, sigma_mm: float = SIGMA_MM
) -> NDArray[np.float64]:
    """Weight each rater by local agreement with the others, shape (raters, voxels), mean one."""
    n = len(votes.drawn)
    if n <= 2:
        return np.ones(votes.drawn.shape)
    total = votes.drawn.sum(axis=0, dtype=np.float64)
    widths = [sigma_mm / edge for edge in spacing]
    cover = _smooth(votes, np.ones(len(total)), widths)
    agreement = np.empty(votes.drawn.shape)
    for row, vote in zip(agreement, votes.drawn, strict=True):
        closeness = 1 - np.abs(vote - (total - vote) / (n - 1))
        row[:] = np.maximum(_smooth(votes, closeness, widths) / cover, FLOOR)
    weights: NDArray[np.float64] = agreement / agreement.mean(axis=0)
    return weights


def _smooth(
    votes: Votes, values: NDArray[np.float64], widths: Sequence[float]
) -> NDArray[np.float64]:
    box = votes.on_box(values)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(box, widths, mode="constant")
    return smooth[votes.inside]
