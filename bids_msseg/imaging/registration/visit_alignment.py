"""Symmetric alignment of two visits of one person on a common grid.

Both images are moved halfway, so that both are interpolated (Reuter and Fischl 2011, doi
10.1016/j.neuroimage.2011.02.076). Exchanging the visits inverts the transform.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, logm

from bids_msseg.errors import DataError
from bids_msseg.imaging.normalise import zscore
from bids_msseg.imaging.registration.affine import register_rigid
from bids_msseg.imaging.registration.orientation import turn_degrees
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.resample import inverse, mask_onto, resample, smooth_before_coarser
from bids_msseg.imaging.volume import Affine, Volume

SPACING_MM = 1.0
MARGIN_MM = 2.0
NOTABLE_DISAGREEMENT_MM = 1.0
"""A larger difference between both registration directions is noted in the report."""
MAX_DISAGREEMENT_MM = 5.0
"""A larger difference means that one direction failed; most slices are thinner."""
MAX_TURN_DEG = 150.0
"""Near 180 degrees, the mean of two rotations is ambiguous."""
MIN_SHARED = 0.5


@dataclass(frozen=True, slots=True)
class Alignment:
    """Rigid alignment of two visits of one person."""

    affine: Affine  # later world mm to earlier world mm, RAS+
    disagreement_mm: float  # RMS between both directions: a lower bound of the error
    notes: tuple[str, ...] = ()
    failure_reason: str = ""  # why the visits must not be compared

    @property
    def to_earlier(self) -> Affine:
        """Halfway world mm to earlier world mm."""
        return _power(self.affine, 0.5)

    @property
    def to_later(self) -> Affine:
        """Halfway world mm to later world mm."""
        return _power(self.affine, -0.5)


@dataclass(frozen=True, slots=True)
class CommonGrid:
    """Common grid of two visits, halfway between them, 1 mm along the world's axes."""

    inside: NDArray[np.bool_]  # shape (X, Y, Z), in both brain masks
    affine: Affine  # voxel index to halfway world mm
    alignment: Alignment

    def take(self, volume: Volume, *, later: bool, order: int = 1) -> NDArray[np.floating]:
        """Interpolate an image of a visit on the common grid; ``order`` 0: nearest neighbour."""
        move = self.alignment.to_later if later else self.alignment.to_earlier
        x, y, z = self.inside.shape
        source = smooth_before_coarser(volume, SPACING_MM) if order else volume
        moved: NDArray[np.floating] = resample(
            source, (x, y, z), self.affine, transform=move, order=order
        ).data
        return moved

    def flair(self, volume: Volume, *, later: bool) -> NDArray[np.float32]:
        """Return :meth:`take` in standard deviations of the shared brain."""
        return zscore(self.take(volume, later=later), self.inside)


def align_visits(
    earlier: Volume,
    later: Volume,
    *,
    earlier_brain: NDArray[np.bool_],
    later_brain: NDArray[np.bool_],
    threads: int = 1,
    seed: int = 0,
) -> Alignment:
    """Register two images of one contrast of the same person; DataError if a mask is empty."""
    common = {"threads": threads, "seed": seed}
    forward = register_rigid(
        earlier, later, moving_mask=earlier_brain, fixed_mask=later_brain, **common
    )
    backward = register_rigid(
        later, earlier, moving_mask=later_brain, fixed_mask=earlier_brain, **common
    )
    disagreement_mm = _rms_distance(forward.affine, inverse(backward.affine), later, later_brain)
    failure_reason = _failure_reason(forward, backward, disagreement_mm)
    # the mean of two different optima, or of rotations near 180°, would be a wrong third one
    mean = forward.affine if failure_reason else _mean(forward.affine, inverse(backward.affine))
    notes = tuple(dict.fromkeys((*forward.notes, *backward.notes)))
    if disagreement_mm > NOTABLE_DISAGREEMENT_MM:
        notes += (f"the two directions of the registration differ by {disagreement_mm:.1f} mm",)
    return Alignment(mean, disagreement_mm, notes, failure_reason)


def _failure_reason(forward: Registration, backward: Registration, disagreement_mm: float) -> str:
    """Return why the visits may not be aligned; empty if both directions agree."""
    turn = max(turn_degrees(registration.affine) for registration in (forward, backward))
    if forward.failure_reason or backward.failure_reason:
        return forward.failure_reason or backward.failure_reason
    if disagreement_mm > MAX_DISAGREEMENT_MM:
        return f"the two directions of the registration differ by {disagreement_mm:.1f} mm"
    if turn > MAX_TURN_DEG:
        return f"the rotation between their headers is {turn:.0f}°"
    return ""


def build_common_grid(
    alignment: Alignment, earlier_brain: Volume, later_brain: Volume
) -> CommonGrid:
    """Build a 1 mm grid around both brains, halfway; DataError if they share less than half."""
    visits = ((earlier_brain, alignment.to_earlier), (later_brain, alignment.to_later))
    corners = [_bounds(brain, inverse(move)) for brain, move in visits]
    low = np.floor(np.min([low for low, _ in corners], axis=0) - MARGIN_MM)
    high = np.ceil(np.max([high for _, high in corners], axis=0) + MARGIN_MM)
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = low
    x, y, z = (int(n) for n in (high - low) / SPACING_MM + 1)
    masks = [
        mask_onto(brain.with_data(brain.data > 0), (x, y, z), affine, transform=move)
        for brain, move in visits
    ]
    inside = masks[0] & masks[1]
    if inside.sum() < MIN_SHARED * max(mask.sum() for mask in masks):
        raise DataError(
            "the two visits show different parts of the brain, or could not be aligned",
            hint="check both FLAIR images and their brain masks",
        )
    return CommonGrid(inside, affine, alignment)


def _bounds(brain: Volume, move: Affine) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and highest world coordinates of a mask after a transform."""
    index = np.argwhere(brain.data > 0).astype(float)
    chain = move @ brain.affine
    points = index @ chain[:3, :3].T + chain[:3, 3]
    return points.min(axis=0), points.max(axis=0)


def _rms_distance(first: Affine, second: Affine, image: Volume, brain: NDArray[np.bool_]) -> float:
    """Return the root mean square distance of brain voxels under two transforms, in mm."""
    index = np.argwhere(brain)[::97].astype(float)
    points = index @ image.affine[:3, :3].T + image.affine[:3, 3]
    gap = points @ (first - second)[:3, :3].T + (first - second)[:3, 3]
    return float(np.sqrt((gap**2).sum(axis=1).mean()))


def _mean(first: Affine, second: Affine) -> Affine:
    return _rigid(expm((logm(first) + logm(second)) / 2))


def _power(affine: Affine, exponent: float) -> Affine:
    """Return a fraction of a rigid transform along its screw axis."""
    return _rigid(expm(exponent * logm(affine)))


def _rigid(matrix: NDArray[np.complexfloating]) -> Affine:
    """Return the real part with the nearest rotation as its linear part."""
    nearest = np.array(np.real(matrix), np.float64, order="C")
    left, _, right = np.linalg.svd(nearest[:3, :3])
    nearest[:3, :3] = left @ right
    return nearest
