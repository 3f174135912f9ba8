"""Pseudo-rescans: simulated second scans of a brain, moved, resampled and with other noise.

A real second scan also differs in scanner drift, gradients and bias field, and its noise replaces
that of the first scan, whereas here noise is added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.normalise import BACKGROUND, zscore
from bids_msseg.imaging.resample import inverse, resample
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.training.data.visits import THICK_MM

Array = NDArray[np.float32]
OBLIQUE = (1.0, 2.0, 3.0)
TURN_DEG = (1.0, 5.0)
"""Rotations of pseudo-rescans that are drawn."""
SHIFT_MM = 2.0
"""Largest shift along an axis that is drawn."""


@dataclass(frozen=True, slots=True)
class RescanPlan:
    """Motion, noise and slices of a pseudo-rescan, in voxels of the 1 mm working grid."""

    degrees: float = 5.0  # about the centre of the grid, before the shift
    turn_axis: tuple[float, float, float] = OBLIQUE
    shift: tuple[float, float, float] = (1.3, -0.7, 2.1)
    noise: float | tuple[float, ...] = 0.1  # in SD of the brain, one for all contrasts or each
    slices: float = 1.0  # distance of the slices on which noise is drawn
    slice_axis: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rescan:
    """Pseudo-rescan on its own grid, normalised anew."""

    images: Array  # (3, X, Y, Z): -3 outside the brain, all zero for a missing contrast
    brain: NDArray[np.bool_]
    motion: Affine  # voxels of the second scan to voxels of the first


def pseudo_rescan(
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    plan: RescanPlan,
    average: Callable[[Array], Array] | None = None,  # over thicker slices, before noise
) -> Rescan:
    """Simulate a second scan of FLAIR, T1w and T2w (3, X, Y, Z) on a 1 mm grid that fits it."""
    motion, grid = _motion(brain.shape, plan)
    inside = resample(Volume(brain.astype(np.float32), np.eye(4)), grid, motion).data
    if average is not None:
        inside = average(inside)
    new_brain = inside >= 0.5
    beyond = ndimage.distance_transform_edt(~brain, return_distances=False, return_indices=True)
    rng = np.random.default_rng(plan.seed)
    noise = np.broadcast_to(np.asarray(plan.noise, np.float64), (len(images),))
    acquired = np.zeros((len(images), *grid), np.float32)
    for channel in np.flatnonzero(present):
        endless = images[channel].astype(np.float32)[tuple(beyond)]
        moved = resample(Volume(endless, np.eye(4)), grid, motion, order=3).data
        if average is not None:
            moved = average(moved)
        level = float(noise[channel])
        acquired[channel] = _acquire(moved, new_brain, plan, level, rng)
    return Rescan(acquired, new_brain, motion)


def plan_rescans(
    spacing: Sequence[float],
    noise: tuple[float, ...],
    rng: np.random.Generator,
    count: int,
) -> tuple[RescanPlan, ...]:
    """Draw head movements, in plane for thick slices; ``spacing`` (mm) is that of the FLAIR."""
    axis = int(np.argmax(spacing))
    thick = spacing[axis] >= THICK_MM
    plans = []
    for _ in range(count):
        shift = rng.uniform(-SHIFT_MM, SHIFT_MM, 3)
        a, b, c = rng.standard_normal(3).tolist()
        plan = RescanPlan(float(rng.uniform(*TURN_DEG)), (a, b, c), noise=noise)
        if thick:
            shift[axis] = 0
            slices = float(spacing[axis])
            plan = replace(plan, degrees=0.0, slices=slices, slice_axis=axis)
        x, y, z = shift.tolist()
        plans.append(replace(plan, shift=(x, y, z), seed=int(rng.integers(2**31))))
    return tuple(plans)


def map_back(probability: Array, rescan: Rescan, shape: tuple[int, int, int]) -> Array:
    """Resample a probability of the second scan linearly onto the grid of the first."""
    back: Array = resample(Volume(probability, np.eye(4)), shape, inverse(rescan.motion)).data
    return back


def interpolate_planes(planes: Array, spacing: float, length: int) -> Array:
    """Interpolate along the first axis; the first plane covers the first ``spacing`` voxels."""
    at = np.clip((np.arange(length) + 0.5) / spacing - 0.5, 0, len(planes) - 1)
    low = np.minimum(at.astype(int), max(len(planes) - 2, 0))
    share = (at - low).astype(np.float32).reshape(-1, *[1] * (planes.ndim - 1))
    high = np.minimum(low + 1, len(planes) - 1)
    between: Array = planes[low] * (1 - share) + planes[high] * share
    return between


def _motion(shape: tuple[int, ...], plan: RescanPlan) -> tuple[Affine, tuple[int, int, int]]:
    """Return the affine from voxels of the second scan to the first, and the second size."""
    axis = np.asarray(plan.turn_axis, float)
    angle = np.deg2rad(plan.degrees)
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    middle = (np.asarray(shape, float) - 1) / 2
    reach = np.linalg.norm(shape) * abs(np.sin(angle / 2)) + np.linalg.norm(plan.shift)
    rim = int(np.ceil(reach))
    motion = np.eye(4)
    motion[:3, :3] = turn.T
    motion[:3, 3] = middle - turn.T @ (middle + rim + np.asarray(plan.shift))
    x, y, z = (edge + 2 * rim for edge in shape)
    return motion, (x, y, z)


def _acquire(
    moved: Array,
    inside: NDArray[np.bool_],
    plan: RescanPlan,
    noise: float,
    rng: np.random.Generator,
) -> Array:
    """Add noise to a moved image, and normalise it as in the app."""
    spread = float(moved[inside].std())
    noisy = moved + noise * spread * _slice_noise(inside.shape, plan, rng)
    return np.where(inside, zscore(noisy, inside), np.float32(BACKGROUND)).astype(np.float32)


def _slice_noise(shape: tuple[int, ...], plan: RescanPlan, rng: np.random.Generator) -> Array:
    """Draw unit noise on slices, and interpolate it linearly between them."""
    length = shape[plan.slice_axis]
    in_plane = [edge for axis, edge in enumerate(shape) if axis != plan.slice_axis]
    count = int(np.ceil(length / plan.slices))
    planes = rng.standard_normal((count, *in_plane), np.float32)
    return np.moveaxis(interpolate_planes(planes, plan.slices, length), 0, plan.slice_axis)
