"""Lesion filling with the local mean and texture of normal-appearing white matter.

After Battaglini et al. 2012 (PMC6870255), Magon et al. 2014 (doi 10.1186/1471-2202-15-106) and
Valverde et al. 2014 (doi 10.1016/j.nicl.2014.08.016). Local means are normalised convolutions
(Knutsson and Westin 1993, doi 10.1109/CVPR.1993.341081) at three scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import bounding_box

__all__ = ["fill_lesions"]

SCALES_MM = (16.0, 8.0, 4.0)
"""Standard deviations of the Gaussians, from coarse to fine."""
PRIOR_WEIGHT = 0.02
"""The mean of the coarser scale counts as much as this share of a Gaussian's volume."""
REACH_SD = 3.0
"""Gaussians are cut at so many standard deviations."""
BORDER_MM = 2.0
"""Voxels at most as far from a lesion may hold a part of it: they do not count as normal."""
FADE_MM = 1.0
"""White matter of the border goes from filled to original over this distance."""
MIN_WHITE = 0.5
OUTLIER_SD = 3.0
"""White matter further from the median of all is not normal."""
MAX_CORRELATION = 0.95
MAX_NOISE_SD = 3.0

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Spacing = Sequence[float] | NDArray[np.floating]


def fill_lesions(
    image: Array,
    lesions: NDArray[Any],
    white_matter: NDArray[Any],
    spacing: Spacing,
    *,
    texture: float = 1.0,
    rng: np.random.Generator | int = 0,
) -> Array:
    """Give lesions the local mean and the texture of normal-appearing white matter.

    Parameters
    ----------
    image : ndarray of float32, shape (X, Y, Z)
        T1w or FLAIR on its native grid; a bias field may remain in it.
    lesions : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    white_matter : ndarray of bool or of float, shape (X, Y, Z)
        White matter or its probability, found by anatomy and not by intensity: it has to hold
        the voxels at the borders of lesions, and may hold the lesions.
    spacing : sequence of 3 floats
        Voxel edges in mm; slices may be thick.
    texture : float, default 1
        Standard deviation of the texture as a multiple of that of the white matter around;
        0 gives a smooth fill.
    rng : Generator or int, default 0
        Source of the texture, or its seed.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        The given array itself where there is no lesion. Otherwise a copy that differs inside
        lesions, and within :data:`BORDER_MM` of them where ``white_matter`` is at least one half;
        all other voxels are bit-identical.

    Raises
    ------
    ValueError
        If the grids differ, or no white matter lies outside the lesions.

    Examples
    --------
    >>> image = np.full((9, 9, 9), 100, np.float32)
    >>> image[4, 4, 4] = 60
    >>> filled = fill_lesions(image, image == 60, np.ones(image.shape, bool), (1, 1, 1))
    >>> np.unique(filled)
    array([100.], dtype=float32)
    """
    if not image.shape == lesions.shape == white_matter.shape:
        shapes = f"{image.shape}, {lesions.shape} and {white_matter.shape}"
        raise ValueError(f"image, lesions and white matter differ in grid: {shapes}")
    inside = lesions != 0
    if not inside.any():
        return image
    edges = np.asarray(spacing, float)
    normal = _normal_white_matter(image, inside, white_matter)
    # float64: the mean of equal intensities is that intensity
    counted = normal > 0
    mean = float(np.average(image[counted], weights=normal[counted].astype(float)))
    # normal white matter further away does not count
    near = bounding_box(inside, margin=int(np.ceil(REACH_SD * SCALES_MM[0] / edges.min())))
    used = np.zeros(image.shape, bool)
    used[near] = counted[near] | inside[near]
    box = bounding_box(used, margin=int(np.ceil(BORDER_MM / edges.min())) + 1)
    distance = ndimage.distance_transform_edt(~inside[box], sampling=edges).astype(np.float32)
    # voxels of adjacent thick slices may contain part of a lesion as well
    normal[box][(distance <= BORDER_MM) | ndimage.binary_dilation(inside[box])] = 0
    difference = (image[box] - np.float32(mean)).astype(np.float32)
    spread = float(np.average((image[counted] - mean) ** 2))
    fill = np.float32(mean) + _fill(difference, normal[box], edges, spread, texture, rng)
    share = np.clip((BORDER_MM - distance) / FADE_MM, 0, 1)
    share[~inside[box] & (white_matter[box] < MIN_WHITE)] = 0
    changed = share > 0
    mixed = np.where(share < 1, image[box] + share * (fill - image[box]), fill)
    filled = image.astype(np.float32)
    filled[box][changed] = mixed[changed]
    return filled


def _normal_white_matter(image: Array, inside: Mask, white_matter: NDArray[Any]) -> Array:
    """Weight white matter by its probability; lesions and intensity outliers get 0."""
    usable = (white_matter >= MIN_WHITE) & ~inside
    values = image[usable]
    if not values.size:
        raise ValueError("the white-matter mask has no voxel outside lesions")
    median = np.median(values)
    # 1.4826 times the median absolute deviation is the standard deviation of a Gaussian
    limit = OUTLIER_SD * 1.4826 * np.median(np.abs(values - median))
    usable &= np.abs(image - median) <= limit
    return np.where(usable, white_matter, 0).astype(np.float32)


def _fill(
    difference: Array,
    normal: Array,
    edges: NDArray[np.float64],
    spread: float,
    texture: float,
    rng: np.random.Generator | int,
) -> Array:
    """Compute local mean plus texture, relative to the mean of all white matter."""
    counted = normal > 0
    widths = [scale / edges for scale in SCALES_MM]
    support = [_gaussian(normal, width) for width in widths]
    local = _local_mean(difference, normal, support, widths, start=0.0)
    if not texture:
        return local
    residual = np.where(counted, difference - local, 0).astype(np.float32)
    spread = float(np.average(residual[counted].astype(float) ** 2)) if counted.any() else 0.0
    variance = _local_mean(np.square(residual), normal, support, widths, start=spread)
    noise = _noise(residual, counted, np.random.default_rng(rng))
    return np.asarray(local + texture * np.sqrt(variance) * noise, np.float32)


def _local_mean(
    values: Array,
    normal: Array,
    support: Sequence[Array],
    widths: Sequence[NDArray[np.float64]],
    *,
    start: float,
) -> Array:
    """Compute a local mean, at each scale weighted with that of the coarser scale."""
    weighted = np.where(normal > 0, normal * values, 0)
    mean: NDArray[Any] = np.full(values.shape, start, np.float32)
    for weight, width in zip(support, widths, strict=True):
        total = _gaussian(weighted, width)
        mean = (total + PRIOR_WEIGHT * mean) / (weight + PRIOR_WEIGHT)
    return mean


def _gaussian(values: Array, width: NDArray[np.float64]) -> Array:
    """Smooth by a Gaussian; ``width`` is in voxels, values outside the grid are zero."""
    smooth: Array = ndimage.gaussian_filter(values, width, mode="constant", truncate=REACH_SD)
    return smooth


def _noise(residual: Array, counted: Mask, rng: np.random.Generator) -> Array:
    """Generate clipped Gaussian noise of variance 1 with the smoothness of the residuals."""
    widths = [_smoothness(residual, counted, axis) for axis in range(3)]
    white = rng.standard_normal(residual.shape, np.float32)
    gain = math.prod(_noise_gain(width) for width in widths)
    noise: Array = ndimage.gaussian_filter(white, widths, mode="wrap") / gain
    clipped: Array = np.clip(noise, -MAX_NOISE_SD, MAX_NOISE_SD)
    return clipped


def _smoothness(residual: Array, counted: Mask, axis: int) -> float:
    """Return the width (voxels) of the Gaussian with the residuals' autocorrelation."""
    values, valid = np.moveaxis(residual, axis, 0), np.moveaxis(counted, axis, 0)
    pairs = valid[1:] & valid[:-1]
    first, second = (part[pairs].astype(float) for part in (values[:-1], values[1:]))
    power = float(first @ first + second @ second) / 2
    correlation = min(float(first @ second) / power, MAX_CORRELATION) if power else 0.0
    # white noise smoothed by a Gaussian of width s has the correlation exp(-1 / 4s²) at lag 1
    return 0.5 / float(np.sqrt(-np.log(correlation))) if correlation > 0 else 0.0


def _noise_gain(width: float) -> float:
    """Return the SD of unit white noise after smoothing by a Gaussian (width in voxels)."""
    impulse = np.zeros(2 * int(np.ceil(4 * width)) + 3)
    impulse[len(impulse) // 2] = 1
    kernel = ndimage.gaussian_filter(impulse, width, mode="constant")
    return float(np.sqrt(np.sum(kernel**2)))
