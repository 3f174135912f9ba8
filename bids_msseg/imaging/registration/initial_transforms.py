"""Initial transforms of a registration: centres, shifts and pitches of two heads."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.registration.orientation import (
    Point,
    similarity_affine,
)
from bids_msseg.imaging.volume import Affine, Volume

COARSE_MM = 4.0
RISES_MM = (-40.0, -20.0, 0.0, 20.0, 40.0)
"""Offsets of the middle of the head if one image shows more of the neck."""


def centroid(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the centre of a mask in world mm, shape (3,)."""
    index = np.array(ndimage.center_of_mass(mask))
    centre: NDArray[np.float64] = volume.affine[:3, :3] @ index + volume.affine[:3, 3]
    return centre


def translation(shift: NDArray[np.float64]) -> Affine:
    """Return the affine of a shift without rotation or scaling."""
    affine = np.eye(4)
    affine[:3, 3] = shift
    return affine


def start_affine(
    centre: NDArray[np.float64], target: NDArray[np.float64], scale: float, pitch: float
) -> Affine:
    """Rotate about x and scale about the fixed centre, then shift to the moving one."""
    angle = np.deg2rad(pitch)
    turn = np.array(
        [[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]]
    )
    return similarity_affine(turn, centre, target, scale)


def meeting_points(
    moving: Volume,
    fixed: Volume,
    moving_mask: NDArray[np.bool_] | None,
    fixed_mask: NDArray[np.bool_] | None,
) -> list[tuple[Point, Point]]:
    """Return pairs of fixed and moving points: centres of brains, or of heads at 5 heights."""
    if moving_mask is not None and fixed_mask is not None:
        return [(centroid(fixed, fixed_mask), centroid(moving, moving_mask))]
    fixed_middle, moving_middle = _middle(fixed), _middle(moving)
    return [(fixed_middle + np.array([0.0, 0.0, rise]), moving_middle) for rise in RISES_MM]


def _middle(volume: Volume) -> Point:
    """Return the centre of all voxels that are not dark, on a subsampled grid."""
    steps = [max(1, round(float(edge))) for edge in COARSE_MM / volume.spacing]
    x, y, z = (slice(None, None, step) for step in steps)
    thin = Volume(volume.data[x, y, z], volume.affine @ np.diag([*steps, 1.0]))
    low, high = float(thin.data.min()), float(np.percentile(thin.data, 99))
    bright = thin.data > low + 0.1 * (high - low)
    return centroid(thin, bright if bright.any() else np.ones_like(bright))
