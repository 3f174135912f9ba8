"""Pseudo-rescans: simulated second scans of a brain, moved, resampled and with other noise.

All computations are on arrays of the 1 mm working grid, so the differences between the two scans
are known: position, interpolation, noise and, if requested, slice thickness. A real second scan
differs in more respects (scanner drift, gradients, bias field), and its noise replaces that of the
first scan, whereas here noise is added to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.normalise import BACKGROUND, zscore
from bids_msseg.imaging.resample import inverse, resample
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.training.data.cohort import THICK_MM

Array = NDArray[np.float32]
OBLIQUE = (1.0, 2.0, 3.0)
TURN_DEG = (1.0, 5.0)
"""Rotations of pseudo-rescans that are drawn."""
SHIFT_MM = 2.0
"""Largest shift along an axis that is drawn."""


@dataclass(frozen=True, slots=True)
class RescanPlan:
    """Motion, noise and slices of a pseudo-rescan, in voxels of the 1 mm working grid.

    The rotation is about the centre of the grid and precedes the ``shift`` (x, y, z). ``noise`` is
    in standard deviations of the brain, one for all contrasts or one each. Noise is drawn on
    slices ``slices`` voxels apart; ``thicken`` also averages the image over them.
    """

    degrees: float = 5.0
    turn_axis: tuple[float, float, float] = OBLIQUE
    shift: tuple[float, float, float] = (1.3, -0.7, 2.1)
    noise: float | tuple[float, ...] = 0.1
    slices: float = 1.0
    thicken: bool = False
    slice_axis: int = 2
    seed: int = 0

    @classmethod
    def of_thick(cls, slices: float, slice_axis: int) -> RescanPlan:
        """Create a plan for a visit with thick slices: same slices, moved in plane only.

        Nothing is known between thick slices, so a rotated head cannot be computed from them.
        """
        shift = [1.3, -0.7, 2.1]
        shift[slice_axis] = 0.0
        x, y, z = shift
        return cls(degrees=0.0, shift=(x, y, z), slices=slices, slice_axis=slice_axis)


@dataclass(frozen=True, slots=True)
class Rescan:
    """Pseudo-rescan on its own grid, normalised anew.

    ``images`` has shape (3, X, Y, Z): -3 outside the brain, all zero for a missing contrast.
    ``motion`` (4, 4) maps voxels of the second scan to voxels of the first.
    """

    images: Array
    brain: NDArray[np.bool_]
    motion: Affine


def pseudo_rescan(
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    plan: RescanPlan,
) -> Rescan:
    """Simulate a second scan of FLAIR, T1w and T2w, shape (3, X, Y, Z), on the 1 mm grid.

    The grid grows so that the brain stays inside. The image is extended beyond the brain by its
    nearest value and interpolated with cubic splines. Raises ValueError if ``plan`` averages
    slices of a fraction of a voxel.
    """
    if plan.thicken and (plan.slices < 1 or plan.slices % 1):
        raise ValueError(f"only whole voxels can be averaged, not {plan.slices}")
    motion, grid = _motion(brain.shape, plan)
    inside = resample(Volume(brain.astype(np.float32), np.eye(4)), grid, motion).data
    if plan.thicken:
        inside = thicken(inside, int(plan.slices), plan.slice_axis)
    new_brain = inside >= 0.5
    beyond = ndimage.distance_transform_edt(~brain, return_distances=False, return_indices=True)
    rng = np.random.default_rng(plan.seed)
    noise = np.broadcast_to(np.asarray(plan.noise, np.float64), (len(images),))
    acquired = np.zeros((len(images), *grid), np.float32)
    for channel in np.flatnonzero(present):
        endless = images[channel].astype(np.float32)[tuple(beyond)]
        level = float(noise[channel])
        acquired[channel] = _acquire(endless, new_brain, motion, plan, level, rng)
    return Rescan(acquired, new_brain, motion)


def plan_rescans(
    spacing: Sequence[float],
    noise: tuple[float, ...],
    rng: np.random.Generator,
    count: int,
) -> tuple[RescanPlan, ...]:
    """Draw small head movements; with thick slices only in-plane shifts.

    ``spacing`` is the voxel edges of the FLAIR in mm, in axis order of the working grid; ``noise``
    is measured per contrast.
    """
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


def thicken(image: NDArray[np.floating], voxels: int, axis: int) -> Array:
    """Average over slices of ``voxels`` thickness and interpolate between them.

    An incomplete last slice is completed with the last plane.

    Examples
    --------
    >>> thicken(np.array([0.0, 3, 6, 9, 9, 9]), 3, 0).tolist()
    [3.0, 3.0, 5.0, 7.0, 9.0, 9.0]
    """
    planes = np.moveaxis(image.astype(np.float32), axis, 0)
    length = len(planes)
    count = -(-length // voxels)
    order = np.minimum(np.arange(count * voxels), length - 1)
    means = planes[order].reshape(count, voxels, *planes.shape[1:]).mean(axis=1)
    return np.moveaxis(_between(means, float(voxels), length), 0, axis)


def _between(planes: Array, spacing: float, length: int) -> Array:
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
    image: Array,
    inside: NDArray[np.bool_],
    motion: Affine,
    plan: RescanPlan,
    noise: float,
    rng: np.random.Generator,
) -> Array:
    """Simulate one contrast of the second scan, normalised as in the app."""
    x, y, z = inside.shape
    moved = resample(Volume(image, np.eye(4)), (x, y, z), motion, order=3).data
    if plan.thicken:
        moved = thicken(moved, int(plan.slices), plan.slice_axis)
    spread = float(moved[inside].std())
    noisy = moved + noise * spread * _slice_noise(inside.shape, plan, rng)
    return np.where(inside, zscore(noisy, inside), np.float32(BACKGROUND)).astype(np.float32)


def _slice_noise(shape: tuple[int, ...], plan: RescanPlan, rng: np.random.Generator) -> Array:
    """Draw unit noise on slices, and interpolate it linearly between them."""
    length = shape[plan.slice_axis]
    in_plane = [edge for axis, edge in enumerate(shape) if axis != plan.slice_axis]
    count = int(np.ceil(length / plan.slices))
    planes = rng.standard_normal((count, *in_plane), np.float32)
    return np.moveaxis(_between(planes, plan.slices, length), 0, plan.slice_axis)
