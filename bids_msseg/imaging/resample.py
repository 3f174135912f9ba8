"""Resampling of images onto another grid through an affine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.volume import Affine, Volume

__all__ = ["resample"]

IDENTITY: Affine = np.eye(4)


def resample(
    volume: Volume,
    shape: tuple[int, int, int],
    affine: Affine,
    *,
    transform: Affine | None = None,
    order: int = 1,
    fill: float = 0.0,
) -> Volume:
    """Interpolate an image at the voxel centres of another grid.

    Parameters
    ----------
    volume : Volume
        The source image.
    shape : tuple of int, (X, Y, Z)
        Size of the target grid.
    affine : ndarray, shape (4, 4)
        Target voxel index to world mm.
    transform : ndarray, shape (4, 4), optional
        Target world mm to source world mm; identity where not given.
    order : {0, 1, 3}, default 1
        Spline order; 0 is nearest neighbour.
    fill : float, default 0
        Value outside the source's field of view.

    Returns
    -------
    Volume
        float32 for ``order > 0``, the source's own type for ``order == 0``.
    """
    world = IDENTITY if transform is None else transform
    chain = np.linalg.inv(volume.affine) @ world @ affine
    same_grid = shape == volume.shape and np.allclose(chain, IDENTITY, atol=1e-6)
    kind = volume.data.dtype if order == 0 else np.dtype(np.float32)
    if same_grid:
        return Volume(volume.data.astype(kind), affine)
    moved = reoriented(volume.data, snapped(chain), shape)
    if moved is None and order < 2:
        moved = scaled_axes(volume.data, snapped(chain), shape, order, fill)
    if moved is not None:
        return Volume(moved.astype(kind), affine)
    source = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    moved = ndimage.affine_transform(
        source.astype(np.float32) if order else source,
        snapped(chain),
        output_shape=shape,
        order=order,
        mode="constant",
        cval=fill,
    )
    return Volume(moved.astype(kind), affine)


def reoriented(
    data: NDArray[np.generic], matrix: Affine, shape: tuple[int, ...]
) -> NDArray[np.generic] | None:
    """Permute, flip and crop axes if ``matrix`` (target to source voxels) does only that."""
    # the same values as by interpolation, but much faster
    turn, shift = matrix[:3, :3], matrix[:3, 3]
    size = np.abs(turn)
    if not (_has_parallel_axes(turn) and np.isin(size, (0, 1)).all()):
        return None
    ends = np.stack([shift, turn @ (np.array(shape) - 1) + shift])
    if (shift % 1).any() or ends.min() < 0 or (ends.max(0) >= data.shape).any():
        return None
    axes = size.argmax(1)
    steps = turn.sum(1).astype(int)
    cut = []
    for axis, step, start in zip(axes, steps, shift.astype(int), strict=True):
        end = start + step * shape[axis]
        cut.append(slice(start, None if end < 0 else end, step))
    return np.ascontiguousarray(data[tuple(cut)].transpose(np.argsort(axes)))


def scaled_axes(
    data: NDArray[Any], matrix: Affine, shape: tuple[int, ...], order: int, fill: float
) -> NDArray[Any] | None:
    """Interpolate along one axis at a time if ``matrix`` (target to source) does not rotate.

    Order 0 or 1. The values of ``scipy.ndimage.affine_transform``, several times faster.
    """
    turn, shift = matrix[:3, :3], matrix[:3, 3]
    if not _has_parallel_axes(turn):
        return None
    axes = np.abs(turn).argmax(1)
    moved: NDArray[Any] = data.astype(np.float32) if order else data
    outside = []
    # axes that shrink come first; padding does not change the order, and so no rounding
    for axis in sorted(range(3), key=lambda axis: -abs(turn[axis, axes[axis]])):
        at = shift[axis] + turn[axis, axes[axis]] * np.arange(shape[axes[axis]])
        outside.append((axis, (at < 0) | (at > data.shape[axis] - 1)))
        moved = _along(moved, axis, np.clip(at, 0, data.shape[axis] - 1), order)
    for axis, beyond in outside:
        np.moveaxis(moved, axis, 0)[beyond] = fill
    return np.ascontiguousarray(moved.transpose(np.argsort(axes)))


def _along(data: NDArray[Any], axis: int, at: NDArray[np.float64], order: int) -> NDArray[Any]:
    """Interpolate along one axis at voxel coordinates within the image."""
    if order == 0:
        return np.take(data, np.floor(at + 0.5).astype(int), axis)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, data.shape[axis] - 1)
    weight = (at - low).astype(np.float32)
    weight = weight.reshape([-1 if side == axis else 1 for side in range(3)])
    lower = np.take(data, low, axis)
    moved: NDArray[Any] = np.take(data, high, axis)
    # this form keeps a constant exactly
    moved -= lower
    moved *= weight
    moved += lower
    return moved


def _has_parallel_axes(turn: NDArray[np.float64]) -> bool:
    """Return whether a matrix only permutes, flips and scales axes."""
    used = turn != 0
    return bool((used.sum(0) == 1).all() and (used.sum(1) == 1).all())


def inverse(affine: Affine) -> Affine:
    """Invert an affine; float64 stays float64."""
    return np.asarray(np.linalg.inv(affine), np.float64)


def snapped(matrix: Affine) -> Affine:
    """Round off numerical noise of an affine, so that voxel centres map to voxel centres."""
    # otherwise padding may move a sample on the edge of the field of view to the outside
    return np.round(matrix, 9)


def smooth_before_coarser(volume: Volume, spacing: float) -> Volume:
    """Smooth along axes whose voxels are finer than ``spacing`` (mm), against aliasing."""
    # the variance that a target voxel adds, voxels taken as Gaussians of half their edge length
    ratio = spacing / volume.spacing
    sigma = 0.5 * np.sqrt(np.clip(ratio**2 - 1.0, 0.0, None))
    sigma[ratio < 1.05] = 0.0
    if not sigma.any():
        return volume.with_data(volume.data.astype(np.float32))
    return volume.with_data(
        ndimage.gaussian_filter(volume.data.astype(np.float32), sigma, mode="nearest", truncate=3)
    )


def mask_onto(
    mask: Volume, shape: tuple[int, int, int], affine: Affine, *, transform: Affine | None = None
) -> NDArray[np.bool_]:
    """Resample a binary mask onto another grid linearly, with a threshold of one half."""
    soft = mask.with_data(mask.data.astype(np.float32))
    return resample(soft, shape, affine, transform=transform).data >= 0.5
