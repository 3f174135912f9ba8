"""Ranking of all orientations, and measures of how clearly an alignment is the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from bids_msseg.imaging.volume import Affine, Volume

Point = NDArray[np.float64]
BINS = 16
"""With a few thousand points, more bins would count noise as information."""
SPREAD_ROTATIONS = 600
"""Any rotation is within about 25° of one of these, the range of an optimiser."""
RANKED_POINTS = 2000
COMPARED_POINTS = 200
DISTINCT_MM = 20.0
"""Starts with a smaller mean distance between points lead to the same optimum."""
SHIFT_MM = 20.0
"""Larger than the error of an optimiser, smaller than a brain."""
PSI = 1.533751168755204288118041413
"""Root of x⁴ = x + 4."""
LEAST = 1e-12
"""Smallest divisor of a ratio."""


@dataclass(frozen=True, slots=True)
class Overlay:
    """Points sampled in a fixed image, and the moving image to evaluate there."""

    points: NDArray[np.float64]  # shape (N, 3), world mm of the fixed image
    bins: NDArray[np.intp]  # bin of the fixed value at each point
    moving: Volume  # values in units of bins, 0 for the darkest

    @classmethod
    def of(cls, fixed: Volume, inside: NDArray[np.bool_], moving: Volume) -> Overlay:
        """Sample the fixed image once, inside a mask on its grid and off the voxel centres."""
        index = np.argwhere(inside).astype(float)
        index += np.random.default_rng(0).uniform(-0.5, 0.5, index.shape)
        values = ndimage.map_coordinates(_in_bins(fixed.data), index.T, order=1, mode="nearest")
        points = index @ fixed.affine[:3, :3].T + fixed.affine[:3, 3]
        return cls(points, values.astype(np.intp), moving.with_data(_in_bins(moving.data)))

    def thinned(self, count: int) -> Overlay:
        """Return an overlay with about ``count`` points."""
        step = max(1, len(self.points) // count)
        return Overlay(self.points[::step], self.bins[::step], self.moving)

    def information(self, affine: Affine) -> float:
        """Return the mutual information in nats; all outside the moving image is dark."""
        chain = np.linalg.inv(self.moving.affine) @ affine
        index = self.points @ chain[:3, :3].T + chain[:3, 3]
        values = ndimage.map_coordinates(self.moving.data, index.T, order=1, cval=0.0)
        joint = np.bincount(self.bins * BINS + values.astype(np.intp), minlength=BINS**2)
        return mutual_information(joint.reshape(BINS, BINS))


def mutual_information(counts: NDArray[np.number]) -> float:
    """Compute the mutual information of a joint histogram in nats; 0 if it is empty."""
    if not counts.any():
        return 0.0
    joint = counts / counts.sum()
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    occupied = joint > 0
    return float(np.sum(joint[occupied] * np.log(joint[occupied] / independent[occupied])))


def quarter_turns() -> NDArray[np.float64]:
    """Return the rotations that map axes to axes, shape (24, 3, 3)."""
    # adding 0.0 turns -0.0 into 0.0
    turns: NDArray[np.float64] = np.rint(Rotation.create_group("O").as_matrix()) + 0.0
    return turns


def rotations(count: int = SPREAD_ROTATIONS) -> NDArray[np.float64]:
    """Return 24 quarter turns and ``count`` super-Fibonacci rotations (Alexa, CVPR 2022)."""
    index = np.arange(count) + 0.5
    inner, outer = np.sqrt(index / count), np.sqrt(1 - index / count)
    inner_angle, outer_angle = 2 * np.pi * index / np.sqrt(2), 2 * np.pi * index / PSI
    parts = (
        inner * np.sin(inner_angle),
        inner * np.cos(inner_angle),
        outer * np.sin(outer_angle),
        outer * np.cos(outer_angle),
    )
    spread: NDArray[np.float64] = Rotation.from_quat(np.stack(parts, axis=1)).as_matrix()
    return np.concatenate([quarter_turns(), spread])


def similarity_affine(
    turn: NDArray[np.float64], pivot: Point, target: Point, scale: float = 1.0
) -> Affine:
    """Return the affine that turns and scales about ``pivot`` and moves it to ``target``."""
    affine = np.eye(4)
    affine[:3, :3] = scale * turn
    affine[:3, 3] = target - affine[:3, :3] @ pivot
    return affine


def mean_distance(first: Affine, second: Affine, points: NDArray[np.float64]) -> float:
    """Return the mean distance in mm between points, shape (N, 3), mapped by two affines."""
    if not len(points):
        return 0.0
    gap = first - second
    return float(np.linalg.norm(points @ gap[:3, :3].T + gap[:3, 3], axis=1).mean())


def turn_degrees(affine: Affine) -> float:
    """Return the rotation angle of an affine, 0 to 180 degrees, whatever its scales."""
    left, _, right = np.linalg.svd(affine[:3, :3])
    cosine = (np.trace(left @ right) - 1) / 2
    return float(np.rad2deg(np.arccos(np.clip(cosine, -1.0, 1.0))))


def prominence(overlay: Overlay, affine: Affine, centre: Point) -> float:
    """Divide the mutual information by the largest of quarter turns about ``centre`` or shifts."""
    turns = (turn for turn in quarter_turns() if not np.array_equal(turn, np.eye(3)))
    alternatives = [similarity_affine(turn, centre, centre) for turn in turns]
    shifts = SHIFT_MM * np.concatenate([np.eye(3), -np.eye(3)])
    alternatives += [similarity_affine(np.eye(3), centre, centre + shift) for shift in shifts]
    highest = max(overlay.information(affine @ alternative) for alternative in alternatives)
    return overlay.information(affine) / max(highest, LEAST)


def lead(overlay: Overlay, affine: Affine, optima: Iterable[Affine], same_mm: float) -> float:
    """Divide the mutual information by that of the best optimum further away than ``same_mm``."""
    points = overlay.thinned(COMPARED_POINTS).points
    best, alternative = overlay.information(affine), 0.0
    for optimum in optima:
        information = overlay.information(optimum)
        if mean_distance(optimum, affine, points) <= same_mm:
            best = max(best, information)
        else:
            alternative = max(alternative, information)
    return best / max(alternative, LEAST)


def best_starts(
    overlay: Overlay, point_pairs: Sequence[tuple[Point, Point]], *, count: int, scale: float = 1.0
) -> list[Affine]:
    """Rank orientations about pairs of fixed and moving points; return the best distinct ones."""
    sparse = overlay.thinned(RANKED_POINTS)
    points = sparse.thinned(COMPARED_POINTS).points
    starts = [
        similarity_affine(turn, *pair, scale) for turn in rotations() for pair in point_pairs
    ]
    order = np.argsort([-sparse.information(start) for start in starts], kind="stable")
    chosen: list[Affine] = []
    for index in order:
        start = starts[int(index)]
        if all(mean_distance(start, distinct, points) > DISTINCT_MM for distinct in chosen):
            chosen.append(start)
        if len(chosen) == count:
            break
    return chosen


def _in_bins(data: NDArray[np.number]) -> NDArray[np.float32]:
    """Scale values so that their integer part is the bin."""
    low, high = float(data.min()), float(data.max())
    scaled = (data - low) * ((BINS - 0.001) / max(high - low, LEAST))
    return np.asarray(scaled, np.float32)
