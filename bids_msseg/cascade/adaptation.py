"""Let a visit's own intensities correct CNN-1.

Scanners and diseases differ in how much lesions stand out. Where CNN-1 is sure of a part of them,
the visit itself tells what its lesions look like: two Gaussians over its contrasts, one for what
is lesion and one for what lies around and is none, are fitted by expectation maximisation, CNN-1's
probability serving as prior, as an atlas does in Van Leemput et al. 2001 (doi:10.1109/42.938237)
and Puonti et al. 2016 (doi:10.1016/j.neuroimage.2016.09.011). How far they are trusted grows with
the volume that CNN-1 is sure of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
Real = TypeVar("Real", np.float32, np.float64)
SEEN = 0.1
REACH_VOXELS = 4
"""Voxels at most this far from where CNN-1 sees something are looked at."""
ROUNDS = 4
SURE, UNSURE = 0.5, 0.2
FEWEST = 50.0
"""Voxels that either class needs for its Gaussian."""
HALF_TRUST = 20000.0
"""Voxels of 1 mm³ of which CNN-1 is sure at which the ratio is trusted by half."""
LARGEST_RATIO = 4.0
SMOOTH_VOXELS = 0.5
SPREAD = 0.05
"""Added to variances, in units of the brain's variance."""


def adapt(
    probability: Array,
    images: Array,
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    strength: float,
) -> Array:
    """Correct CNN-1's probability by the likelihood of the visit's own intensities.

    Parameters
    ----------
    probability : ndarray of float32, shape (X, Y, Z)
        CNN-1's.
    images : ndarray of float32, shape (3, X, Y, Z)
        FLAIR, T1w, T2w in standard deviations.
    present : sequence of bool
        Which contrasts are there.
    brain : ndarray of bool, shape (X, Y, Z)
    strength : float
        Weight of the logarithm of the likelihood ratio (bounded by 4) where CNN-1 is sure of very
        much; half of it where CNN-1 is sure of 20 mL.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        Unchanged far from what CNN-1 sees, and everywhere if it is sure of too little to learn
        from.
    """
    near = brain & ndimage.binary_dilation(probability > SEEN, iterations=REACH_VOXELS)
    prior = bounded_logit(probability[near].astype(np.float64))
    sure = float(probability[near & (probability > SURE)].sum())
    values = _values(images, present, near)
    ratio = _fit_ratio(values, probability[near].astype(np.float64), prior)
    if strength <= 0 or ratio is None:
        return probability
    trust = strength * sure / (sure + HALF_TRUST)
    corrected = probability.copy()
    corrected[near] = sigmoid(prior + trust * ratio)
    return corrected


def _values(
    images: Array, present: Sequence[bool], near: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Read the contrasts that are there, shape (voxels, contrasts)."""
    smooth = [
        ndimage.gaussian_filter(image, SMOOTH_VOXELS)[near]
        for image, there in zip(images, present, strict=True)
        if there
    ]
    return np.stack(smooth, -1).astype(np.float64)


def _fit_ratio(
    values: NDArray[np.float64], weight: NDArray[np.float64], prior: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Logarithm of the likelihood ratio of lesion against none; None with too few voxels."""
    ratio: NDArray[np.float64] | None = None
    for _ in range(ROUNDS):
        lesion = np.where(weight > SURE, weight, 0)
        other = np.where(weight < UNSURE, 1 - weight, 0)
        if min(lesion.sum(), other.sum()) < FEWEST:
            return ratio
        inside, outside = _log_density(values, lesion), _log_density(values, other)
        ratio = np.clip(inside - outside, -LARGEST_RATIO, LARGEST_RATIO)
        # half of the ratio's weight: neighbouring voxels are not independent
        weight = sigmoid(prior + 0.5 * ratio)
    return ratio


def _log_density(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit a Gaussian to weighted voxels and evaluate it at all of them."""
    share = weight / weight.sum()
    away = values - share @ values
    spread = (away * share[:, None]).T @ away + SPREAD * np.eye(values.shape[1])
    distance = np.einsum("vc,vc->v", away @ np.linalg.inv(spread), away)
    density: NDArray[np.float64] = -0.5 * (distance + np.linalg.slogdet(spread)[1])
    return density


def bounded_logit(probability: NDArray[Real]) -> NDArray[Real]:
    """Logit of probabilities, none of which counts as surer than one in a thousand.

    Examples
    --------
    >>> bounded_logit(np.array([0.0, 0.5, 1.0])).round(2).tolist()
    [-6.91, 0.0, 6.91]
    """
    bounded = np.clip(probability, 1e-3, 1 - 1e-3)
    result: NDArray[Real] = np.log(bounded / (1 - bounded))
    return result


def sigmoid(logit: NDArray[Real]) -> NDArray[Real]:
    """Probability of a logit, in its own precision.

    Examples
    --------
    >>> sigmoid(np.array([0.0, -1000.0])).tolist()
    [0.5, 0.0]
    """
    with np.errstate(over="ignore"):
        result: NDArray[Real] = np.reciprocal(1 + np.exp(-logit))
    return result
