"""Levels of a registration: two images on grids of one spacing, and the search on them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.errors import DataError
from bids_msseg.imaging.registration.itk import LPS, from_itk, to_itk
from bids_msseg.imaging.registration.orientation import mutual_information
from bids_msseg.imaging.resample import mask_onto, resample, smooth_before_coarser
from bids_msseg.imaging.volume import Affine, Volume

BINS = 32
# the template needs less precision than contrasts of one head
SAMPLES = {"rigid": 40_000, "similarity": 15_000, "affine": 15_000}
# larger first steps make the search for an affine diverge
FIRST_STEP = {"rigid": 0.5, "similarity": 0.5, "affine": 0.125}
POLISH_PACE = 0.25
SPARSE_MM = 8.0
MARGIN_MM = 6.0
SCALP_MM = 20.0
"""Depth below which a head is mostly brain."""


@dataclass(frozen=True)
class Level:
    """One level of the pyramid, ready for ITK."""

    spacing: float
    fixed: Volume
    inside: Volume
    moving: Volume

    @cached_property
    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Points inside, shape (N, 3), voxel indices of ``fixed``; and its values there."""
        # off the voxel centres: there, coinciding grids have no blur, and the headers would win
        index = np.argwhere(np.asarray(self.inside.data, bool)).astype(float)
        index += np.random.default_rng(0).uniform(-0.5, 0.5, index.shape)
        return index, ndimage.map_coordinates(self.fixed.data, index.T, order=1, mode="nearest")


def compared_region(volume: Volume, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return the brain, or the foreground if no mask is given; DataError if it is empty."""
    if mask is None:
        level = np.percentile(volume.data, 99)
        mask = np.asarray(ndimage.binary_fill_holes(volume.data > 0.1 * level), bool)
    if not mask.any():
        raise DataError(
            "cannot register the image: the brain mask is empty",
            hint="check the image; pass a brain mask, or leave this contrast out",
        )
    return np.asarray(mask, bool)


def deep_region(volume: Volume) -> NDArray[np.bool_]:
    """Return the foreground without its outer 20 mm: mostly brain, in any orientation."""
    foreground = compared_region(volume, None)
    deep = ndimage.distance_transform_edt(foreground, volume.spacing) > SCALP_MM
    return deep if deep.any() else foreground


def build_level(
    moving: Volume,
    fixed: Volume,
    inside: NDArray[np.bool_],
    spacing: float,
    moving_mask: NDArray[np.bool_] | None,
) -> Level:
    """Coarsen both images and crop the fixed one to the region that is compared."""
    region = fixed.with_data(inside)
    shape, affine = _grid(region, spacing, MARGIN_MM + 2 * spacing)
    fixed_brain = mask_onto(region, shape, affine)
    reach = ndimage.distance_transform_edt(~fixed_brain, np.linalg.norm(affine[:3, :3], axis=0))
    coarse_fixed = resample(smooth_before_coarser(fixed, spacing), shape, affine)
    whole = moving.with_data(np.ones(moving.shape, bool))
    moving_shape, moving_affine = _grid(whole, spacing, 0.0)
    coarse_moving = resample(smooth_before_coarser(moving, spacing), moving_shape, moving_affine)
    moving_brain = _moving_brain(
        coarse_moving, moving, moving_mask, coarse_fixed.with_data(fixed_brain)
    )
    return Level(
        spacing,
        coarse_fixed.with_data(_clipped(coarse_fixed.data, fixed_brain)),
        coarse_fixed.with_data(reach <= MARGIN_MM),
        coarse_moving.with_data(_clipped(coarse_moving.data, moving_brain)),
    )


def _moving_brain(
    moved: Volume, moving: Volume, mask: NDArray[np.bool_] | None, fixed_brain: Volume
) -> NDArray[np.bool_]:
    """Return the approximate brain of the moving image, which sets the histogram range."""
    if mask is not None:
        return mask_onto(moving.with_data(mask), moved.shape, moved.affine)
    guess = mask_onto(fixed_brain, moved.shape, moved.affine)
    return guess if 2 * guess.sum() > fixed_brain.data.sum() else compared_region(moved, None)


def _clipped(data: NDArray[Any], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Clip values to the brain's range, so that a bright scalp does not use most bins."""
    low, high = np.percentile(data[inside] if inside.any() else data, (0.5, 99.5))
    return np.asarray(np.clip(data, min(low, 0.0), high), np.float32)


def _grid(region: Volume, spacing: float, margin: float) -> tuple[tuple[int, int, int], Affine]:
    """Build a grid of about the given spacing, never finer than stored, around a mask."""
    bounds = [np.flatnonzero(region.data.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    first = np.array([index[0] for index in bounds], float)
    last = np.array([index[-1] for index in bounds], float)
    edges = np.maximum(region.spacing, spacing)
    rim = np.ceil(margin / edges)
    extent = (last - first) * region.spacing / edges
    x, y, z = (int(n) for n in np.ceil(extent + 2 * rim) + 1)
    affine = np.eye(4)
    affine[:3, :3] = region.affine[:3, :3] / region.spacing * edges
    start = region.affine[:3, :3] @ first + region.affine[:3, 3]
    affine[:3, 3] = start - affine[:3, :3] @ rim
    return (x, y, z), affine


def best_search(
    level: Level,
    kind: str,
    starts: list[Affine],
    centre: NDArray[np.float64],
    seed: int,
    threads: int,
) -> Affine:
    """Search from every start in threads; return the end with the most mutual information."""
    with ThreadPoolExecutor(max_workers=max(1, min(threads, len(starts)))) as pool:
        ends = list(pool.map(lambda start: search(level, kind, start, centre, seed), starts))
    return max(ends, key=lambda affine: information(level, affine))


def refine(
    level: Level, kind: str, start: Affine, centre: NDArray[np.float64], seed: int
) -> Affine:
    """Search twice, the second time with short steps, in case the optimum is flat."""
    near = search(level, kind, start, centre, seed)
    return search(level, kind, near, centre, seed, pace=POLISH_PACE)


def search(
    level: Level,
    kind: str,
    start: Affine,
    centre: NDArray[np.float64],
    seed: int,
    pace: float = 1.0,
) -> Affine:
    """Optimise one kind of transform on one level; return the start if none is better."""
    transform = _itk_start(kind, start, centre)
    method = sitk.ImageRegistrationMethod()
    # several work units sum derivatives in varying order, and the last digits differ between runs
    method.SetNumberOfWorkUnits(1)
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(to_itk(level.inside, np.uint8))
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = min(1.0, SAMPLES[kind] / np.count_nonzero(level.inside.data))
    # ITK counts seeds in 32 bits and takes 0 for "use the clock"
    method.SetMetricSamplingPercentage(share, seed % (2**32 - 1) + 1)
    method.SetInterpolator(sitk.sitkLinear)
    # the filter blurs by the slice thickness and moves the optimum by more than a millimetre
    method.MetricUseMovingImageGradientFilterOff()
    method.MetricUseFixedImageGradientFilterOff()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=pace * FIRST_STEP[kind] * level.spacing,
        minStep=pace * level.spacing / 400,
        numberOfIterations=150,
        relaxationFactor=0.7,
        gradientMagnitudeTolerance=1e-8,
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(to_itk(level.fixed), to_itk(level.moving))
    except RuntimeError:  # the images do not overlap from this start
        return start
    return max(start, from_itk(transform), key=lambda affine: information(level, affine))


def _itk_start(kind: str, start: Affine, centre: NDArray[np.float64]) -> Any:
    """Convert an affine to an ITK transform of the given kind."""
    kinds: dict[str, Callable[[], Any]] = {
        "rigid": sitk.Euler3DTransform,
        "similarity": sitk.Similarity3DTransform,
        "affine": lambda: sitk.AffineTransform(3),
    }
    lps = LPS @ start @ LPS
    pivot = LPS[:3, :3] @ centre
    transform = kinds[kind]()
    transform.SetCenter([float(x) for x in pivot])
    transform.SetMatrix([float(x) for x in lps[:3, :3].ravel()])
    offset = lps[:3, :3] @ pivot + lps[:3, 3] - pivot
    transform.SetTranslation([float(x) for x in offset])
    return transform


def information(level: Level, affine: Affine) -> float:
    """Return the mutual information in nats of the points inside the fixed mask."""
    index, fixed_values = level.points
    chain = np.linalg.inv(level.moving.affine) @ affine @ level.fixed.affine
    moved = index @ chain[:3, :3].T + chain[:3, 3]
    floor = float(level.moving.data.min())
    moving_values = ndimage.map_coordinates(level.moving.data, moved.T, order=1, cval=floor)
    counts, _, _ = np.histogram2d(fixed_values, moving_values, bins=2 * BINS)
    return mutual_information(counts)


def sparser(level: Level) -> Level:
    """Coarsen a level, so that all orientations can be searched in a second."""
    shape, affine = _grid(level.inside, SPARSE_MM, 0.0)
    sparse_fixed = resample(smooth_before_coarser(level.fixed, SPARSE_MM), shape, affine)
    inside = mask_onto(level.inside, shape, affine)
    whole = level.moving.with_data(np.ones(level.moving.shape, bool))
    moving_shape, moving_affine = _grid(whole, SPARSE_MM, 0.0)
    sparse_moving = resample(
        smooth_before_coarser(level.moving, SPARSE_MM), moving_shape, moving_affine
    )
    # a region of less than a voxel is compared with its surroundings
    region = inside if inside.any() else np.ones(shape, bool)
    return Level(SPARSE_MM, sparse_fixed, sparse_fixed.with_data(region), sparse_moving)
