"""Result of a registration, and the check that an affine is plausible for a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bids_msseg.imaging.volume import Affine

__all__ = ["Registration"]

SCALE_RANGE = (0.6, 1.7)


@dataclass(frozen=True, slots=True)
class Registration:
    """Alignment of a moving image with a fixed one.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        Fixed world mm to moving world mm, RAS+.
    metric_before, metric_after : float
        Mutual information in nats with the headers' alignment and with the affine, measured on
        the same points: those inside the fixed mask; what falls outside the moving image counts
        as background.
    notes : tuple of str
        Notes for the report.
    failure_reason : str
        Why the alignment must not be used; empty if it passed its checks.
    prominence : float
        Information divided by the largest of the image turned or shifted, at 8 mm.
    lead : float
        Information divided by that of the next best end of a search over all orientations, at
        8 mm; NaN if no search was needed.
    mirrored : float
        Information of the image with left and right exchanged, aligned anew, divided by the
        information, at 4 mm; NaN where it was not measured.
    """

    affine: Affine
    metric_before: float
    metric_after: float
    notes: tuple[str, ...] = ()
    failure_reason: str = ""
    prominence: float = float("nan")
    lead: float = float("nan")
    mirrored: float = float("nan")


def plausible_or(affine: Affine, similarity: Affine) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine if it is plausible, else rotation and one scale with a note."""
    stretches = np.linalg.svd(affine[:3, :3], compute_uv=False)
    low, high = SCALE_RANGE
    # all scales are within the range of heads, and no axis is mirrored
    if low <= stretches.min() and stretches.max() <= high and np.linalg.det(affine) > 0:
        return affine, ()
    note = "the affine to the template was implausible; a similarity transform is used instead"
    return similarity, (note,)
