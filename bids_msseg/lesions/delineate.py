"""From probabilities on an image's own grid to lesions kept and candidates rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions

REJECTED_BY_REFINEMENT = "refinement"
REJECTED_BY_SIZE = "size"


@dataclass(frozen=True, slots=True)
class Delineation:
    """Lesions and rejected candidates of one image; arrays have shape (X, Y, Z).

    Attributes
    ----------
    lesions : ndarray of int32
        Kept lesions 1..n, by decreasing volume.
    rejected : ndarray of int32
        Rejected candidates 1..m, by decreasing volume.
    reasons : tuple of str
        Why each was rejected: ``refinement`` (the refinement net does not hold it for a lesion)
        or ``size`` (what is left of it is smaller than the smallest lesion).
    """

    lesions: NDArray[np.int32]
    rejected: NDArray[np.int32]
    reasons: tuple[str, ...]


def delineate(
    probability: NDArray[np.floating],
    candidates: NDArray[Any],
    *,
    voxel_volume: float,
    threshold: float,
    min_volume: float,
) -> Delineation:
    """Cut a probability into lesions and account for every candidate.

    Parameters
    ----------
    probability : ndarray, shape (X, Y, Z)
        Final probability.
    candidates : ndarray, shape (X, Y, Z)
        Non-zero where the candidate net saw something.
    voxel_volume : float
        Volume of one voxel in mm³.
    threshold : float
        A voxel is lesion where the probability reaches this.
    min_volume : float
        Smaller lesions are rejected, in mm³.

    Returns
    -------
    Delineation
        A candidate that shares a voxel with a kept lesion is part of it and not rejected.

    Examples
    --------
    >>> p = np.array([0.9, 0.9, 0.0, 0.9, 0.0, 0.2]).reshape(6, 1, 1)
    >>> found = delineate(p, p > 0.1, voxel_volume=2.0, threshold=0.5, min_volume=3.0)
    >>> found.lesions.ravel().tolist(), found.rejected.ravel().tolist(), found.reasons
    ([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 2], ('size', 'refinement'))
    """
    over = probability >= threshold
    lesions = label_lesions(over, voxel_volume=voxel_volume, min_volume=min_volume)
    blobs = label_lesions((candidates != 0) | over, voxel_volume=voxel_volume)
    count = int(blobs.max(initial=0))
    kept = np.zeros(count + 1, bool)
    kept[np.unique(blobs[lesions > 0])] = True
    kept[0] = True
    rejected = label_lesions(~kept[blobs], voxel_volume=voxel_volume)
    small = np.zeros(int(rejected.max(initial=0)) + 1, bool)
    small[np.unique(rejected[over])] = True
    reasons = tuple(
        REJECTED_BY_SIZE if too_small else REJECTED_BY_REFINEMENT for too_small in small[1:]
    )
    return Delineation(lesions, rejected, reasons)
