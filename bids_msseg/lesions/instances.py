"""Lesions as separate objects: 26-connected components measured in mm³."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

__all__ = ["label_lesions"]

# Voxel volumes come from float32 headers: three voxels of 0.9999999 mm³ are 3 mm³.
_VOLUME_TOLERANCE = 1e-5


def bounding_box(mask: NDArray[Any], margin: int = 0) -> tuple[slice, slice, slice]:
    """Return the box of all non-zero voxels plus a margin in voxels; empty for an empty mask."""
    sides = []
    for axis in range(3):
        other_axes = tuple({0, 1, 2} - {axis})
        inside = np.flatnonzero(np.any(mask, axis=other_axes))
        if not len(inside):
            return (slice(0, 0), slice(0, 0), slice(0, 0))
        start, stop = int(inside[0]) - margin, int(inside[-1]) + 1 + margin
        sides.append(slice(max(start, 0), min(stop, mask.shape[axis])))
    return (sides[0], sides[1], sides[2])


def label_lesions(
    mask: NDArray[Any], *, voxel_volume: float, min_volume: float = 0.0
) -> NDArray[np.int32]:
    """Give numbers to the 26-connected components of a mask, the largest first.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z)
        Non-zero inside lesions.
    voxel_volume : float
        Volume of one voxel in mm³.
    min_volume : float, default 0
        Components below this volume in mm³ are left out.

    Returns
    -------
    ndarray of int32, shape (X, Y, Z)
        0 outside, 1..n by decreasing volume; equal volumes in the order of their first voxel
        (C order of the indices, whatever the order in memory).

    Raises
    ------
    ValueError
        If the mask is not three-dimensional or the voxel volume is not positive.

    Examples
    --------
    >>> mask = np.zeros((6, 1, 1), bool)
    >>> mask[[0, 2, 3, 5]] = True
    >>> label_lesions(mask, voxel_volume=1.0).ravel()
    array([2, 0, 1, 1, 0, 3], dtype=int32)
    >>> label_lesions(mask, voxel_volume=2.0, min_volume=3.0).ravel()
    array([0, 0, 1, 1, 0, 0], dtype=int32)
    """
    if mask.ndim != 3:
        raise ValueError(f"a lesion mask has three axes, not {mask.ndim}")
    if not voxel_volume > 0:
        raise ValueError(f"voxel volume must be positive, not {voxel_volume} mm³")
    labels = np.zeros(mask.shape, np.int32)
    box = bounding_box(mask)
    if not mask[box].size:
        return labels
    # the rim of one voxel is for cc3d, which fails on boxes that are a single line of voxels
    inside = np.pad(mask[box] != 0, 1)
    components = cc3d.connected_components(inside, connectivity=26)[1:-1, 1:-1, 1:-1]
    labels[box] = _rank(components, voxel_volume, min_volume)[components]
    return labels


def _rank(
    components: NDArray[np.integer], voxel_volume: float, min_volume: float
) -> NDArray[np.int32]:
    """Map component numbers to final labels, by decreasing volume (index 0: background)."""
    # np.unique gives the first voxel in C order, which breaks ties between equal volumes
    numbers, first, sizes = np.unique(
        components[components > 0], return_index=True, return_counts=True
    )
    large_enough = sizes * voxel_volume >= min_volume * (1 - _VOLUME_TOLERANCE)
    order = np.lexsort((first, -sizes))
    order = order[large_enough[order]]
    final = np.zeros(int(numbers[-1]) + 1, np.int32)
    final[numbers[order]] = np.arange(1, len(order) + 1, dtype=np.int32)
    return final
