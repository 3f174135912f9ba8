"""Simultaneous truth and performance level estimation (STAPLE), plain and as opinion pool.

Warfield et al. 2004, doi:10.1109/TMI.2004.828354; logarithmic opinion pool with a weight per rater
and voxel (LOP-STAPLE): Akhondi-Asl et al. 2014, doi:10.1109/TMI.2014.2329603.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

__all__ = ["pooled_staple", "staple"]

START = 0.99999
"""Sensitivity and specificity of all raters before the first iteration, as in ITK."""
_CLIP = 1e-12
"""Keeps logarithms finite where a rater is never wrong."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Lesion probability of each voxel and performance of each rater (NaN if not estimated)."""

    probability: Floats
    sensitivity: Floats
    specificity: Floats
    iterations: int


def share_of_raters(drawn: NDArray[np.bool_]) -> Estimate:
    """Use the share of raters that drew a voxel, shape (raters, voxels), as its probability."""
    unknown = np.full(len(drawn), np.nan)
    return Estimate(drawn.mean(axis=0, dtype=np.float64), unknown, unknown.copy(), 0)


def staple(drawn: NDArray[np.bool_], *, max_iterations: int = 1000) -> Estimate:
    """Run SimpleITK's STAPLE on voxels in a row.

    The prior is the share of lesion over all raters and voxels, as ITK sets it.

    Parameters
    ----------
    drawn : ndarray of bool, shape (raters, voxels)
        At least one voxel.
    max_iterations : int, default 1000

    Returns
    -------
    Estimate
    """
    # ITK needs two axes; the algorithm does not use neighbouring voxels
    images = [sitk.GetImageFromArray(row.astype(np.uint8)[None]) for row in drawn]
    filter_: Any = sitk.STAPLEImageFilter()
    filter_.SetForegroundValue(1)
    filter_.SetMaximumIterations(max_iterations)
    probability = sitk.GetArrayFromImage(filter_.Execute(images))[0]
    return Estimate(
        np.asarray(probability, np.float64),
        np.asarray(filter_.GetSensitivity(), np.float64),
        np.asarray(filter_.GetSpecificity(), np.float64),
        int(filter_.GetElapsedIterations()),
    )


def pooled_staple(
    drawn: NDArray[np.bool_],
    weights: Floats,
    *,
    max_iterations: int = 1000,
    tolerance: float = 1e-9,
) -> Estimate:
    """Run STAPLE as a logarithmic opinion pool.

    With weight ``a`` of rater j at voxel i, the probability of lesion is in the ratio of
    ``prior * product over j of P(drawn | lesion) ** a`` to the same for no lesion; sensitivity
    and specificity are averages over voxels, each with its probability times ``a``. Both steps
    increase one objective.

    Parameters
    ----------
    drawn : ndarray of bool, shape (raters, voxels)
        At least one voxel.
    weights : ndarray of float64, shape (raters, voxels)
        Reliability, not negative.
    max_iterations : int, default 1000
    tolerance : float, default 1e-9
        Ends the iteration when no sensitivity or specificity changes by more.

    Returns
    -------
    Estimate

    Raises
    ------
    ValueError
        If the shapes differ or a weight is negative.

    Examples
    --------
    >>> drawn = np.array([[1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]], bool)
    >>> estimate = pooled_staple(drawn, np.ones(drawn.shape))
    >>> estimate.probability.round(2)
    array([1., 1., 1., 0., 0., 0.])
    >>> estimate.sensitivity.round(2), estimate.specificity.round(2)
    (array([1.  , 0.67, 1.  ]), array([1.  , 1.  , 0.67]))
    """
    if drawn.shape != weights.shape or (weights < 0).any():
        raise ValueError("each rater needs one non-negative weight per voxel")
    prior = float(drawn.mean())
    votes_for, votes_against = weights * drawn, weights * ~drawn
    sensitivity = np.full(len(drawn), START)
    specificity = sensitivity.copy()
    probability = np.zeros(drawn.shape[1])
    iteration = 0
    for iteration in range(1, max_iterations + 1):  # noqa: B007 returned
        probability = _expect(votes_for, votes_against, prior, sensitivity, specificity)
        before = np.concatenate([sensitivity, specificity])
        sensitivity = _share(votes_for @ probability, votes_against @ probability, sensitivity)
        healthy = 1 - probability
        specificity = _share(votes_against @ healthy, votes_for @ healthy, specificity)
        if np.abs(np.concatenate([sensitivity, specificity]) - before).max() <= tolerance:
            break
    return Estimate(probability, sensitivity, specificity, iteration)


def _expect(
    votes_for: Floats,
    votes_against: Floats,
    prior: float,
    sensitivity: Floats,
    specificity: Floats,
) -> Floats:
    p, q = (np.clip(rate, _CLIP, 1 - _CLIP) for rate in (sensitivity, specificity))
    start = np.clip(prior, _CLIP, 1 - _CLIP)
    log_ratio = np.log(start / (1 - start))
    log_ratio = log_ratio + np.log(p / (1 - q)) @ votes_for + np.log((1 - p) / q) @ votes_against
    odds: Floats = 1 / (1 + np.exp(-np.clip(log_ratio, -700, 700)))
    return odds


def _share(part: Floats, rest: Floats, otherwise: Floats) -> Floats:
    """Return ``part / (part + rest)``, or ``otherwise`` where the sum is zero."""
    whole = part + rest
    share: Floats = np.where(whole > 0, part / np.where(whole > 0, whole, 1), otherwise)
    return share
