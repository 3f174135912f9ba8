"""Second scans with thick slices: movements in plane, and averages over slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bids_msseg.check.rescan import RescanPlan, interpolate_planes

Array = NDArray[np.float32]


def in_plane(slices: float, slice_axis: int) -> RescanPlan:
    """Plan a second scan of thick slices, in-plane only: nothing is known between slices."""
    shift = [1.3, -0.7, 2.1]
    shift[slice_axis] = 0.0
    x, y, z = shift
    return RescanPlan(degrees=0.0, shift=(x, y, z), slices=slices, slice_axis=slice_axis)


def thicken(image: NDArray[np.floating], voxels: int, axis: int) -> Array:
    """Average over slices of ``voxels`` thickness and interpolate between them."""
    planes = np.moveaxis(image.astype(np.float32), axis, 0)
    length = len(planes)
    count = -(-length // voxels)
    order = np.minimum(np.arange(count * voxels), length - 1)
    means = planes[order].reshape(count, voxels, *planes.shape[1:]).mean(axis=1)
    return np.moveaxis(interpolate_planes(means, float(voxels), length), 0, axis)
