"""Agreement of two measurements of a volume over a cohort.

Every statistic takes weights along its last axis, one per visit, so that the bootstrap only has to
count how often each patient was drawn. Statistics are undefined for fewer than three visits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.comparison.bootstrap import DRAWS, FEWEST, LEVEL, draw_patients

Array = NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]
MIN_PAIRS: Final = 3
LIMITS: Final = 1.96
"""Standard deviations from the mean difference to the limits of agreement."""


def pearson(pairs: Array, weights: Array) -> Array:
    """Correlate two columns with row weights (..., n); NaN where one does not vary.

    Examples
    --------
    >>> float(pearson(np.array([[1.0, 2], [2, 4], [3, 7]]), np.ones(3)).round(4))
    0.9934
    """
    x, y = (_centred(pairs[:, column], weights) for column in (0, 1))
    covariance = (weights * x * y).sum(-1)
    spread = np.sqrt((weights * x * x).sum(-1) * (weights * y * y).sum(-1))
    return _divide(covariance, spread)


def icc_2_1(scores: Array, weights: Array) -> Array:
    """Compute ICC(2,1) of scores (n, raters) with row weights (..., n).

    Two-way random effects, absolute agreement, single measure: Shrout & Fleiss 1979
    (doi:10.1037/0033-2909.86.2.420), ICC(A,1) of McGraw & Wong 1996.

    Examples
    --------
    >>> float(icc_2_1(np.array([[1.0, 2], [2, 3], [3, 4]]), np.ones(3)).round(4))
    0.6667
    """
    raters = scores.shape[1]
    total = weights.sum(-1)
    columns = (weights @ scores) / total[..., None]
    grand = columns.mean(-1)
    rows = scores.mean(1)
    between_subjects = raters * (weights * (rows - grand[..., None]) ** 2).sum(-1)
    between_raters = total * ((columns - grand[..., None]) ** 2).sum(-1)
    total_squares = (weights[..., None] * (scores - grand[..., None, None]) ** 2).sum((-1, -2))
    residual = total_squares - between_subjects - between_raters
    msr, msc = between_subjects / (total - 1), between_raters / (raters - 1)
    mse = residual / ((total - 1) * (raters - 1))
    return _divide(msr - mse, msr + (raters - 1) * mse + raters * (msc - mse) / total)


def bias(pairs: Array, weights: Array) -> Array:
    """Compute the mean of first minus second column, shape (...) for weights (..., n)."""
    return _divide((weights * (pairs[:, 0] - pairs[:, 1])).sum(-1), weights.sum(-1))


def lower_limit(pairs: Array, weights: Array) -> Array:
    """Compute the lower limit of agreement; see :func:`upper_limit`."""
    return bias(pairs, weights) - LIMITS * _deviation(pairs, weights)


def upper_limit(pairs: Array, weights: Array) -> Array:
    """Compute the upper limit of agreement of pairs with row weights (..., n).

    Mean difference plus 1.96 standard deviations of the differences: Bland & Altman 1986
    (doi:10.1016/S0140-6736(86)90837-8).

    Examples
    --------
    >>> pairs, ones = np.array([[1.0, 0], [2, 0], [3, 0]]), np.ones(3)
    >>> [round(float(f(pairs, ones)), 2) for f in (lower_limit, bias, upper_limit)]
    [0.04, 2.0, 3.96]
    """
    return bias(pairs, weights) + LIMITS * _deviation(pairs, weights)


def lower_limit_of_repeats(rows: Array, weights: Array) -> Array:
    """Compute the lower limit of agreement; see :func:`upper_limit_of_repeats`."""
    return bias(rows, weights) - LIMITS * _deviation_of_repeats(rows, weights)


def upper_limit_of_repeats(rows: Array, weights: Array) -> Array:
    """Compute the upper limit of agreement for repeated first measurements.

    Bland & Altman 2007 (doi:10.1080/10543400701329422), section 3. Each row has the mean of the
    first measurements, the second measurement, the sum of squares of the first about their mean,
    and their number. Weights have shape (..., n).

    Examples
    --------
    Differences of 0.1 and 0.3, 0 and 0.2, -0.1 and 0.1: their means have a variance of 0.01, and
    within visits it is 0.02, half of which the means have lost.

    >>> rows = np.array([[1.2, 1.0, 0.02, 2], [3.1, 3.0, 0.02, 2], [2.0, 2.0, 0.02, 2]])
    >>> limits = (lower_limit_of_repeats, upper_limit_of_repeats)
    >>> [round(float(limit(rows, np.ones(3))), 3) for limit in limits]
    [-0.177, 0.377]
    """
    return bias(rows, weights) + LIMITS * _deviation_of_repeats(rows, weights)


def smallest_change(spreads: Array, weights: Array) -> Array:
    """Compute the smallest detectable change within a visit: 1.96 √2 within-visit SD.

    Bland & Altman 1996 (doi:10.1136/bmj.313.7059.744). Each row has the sum of squares of the
    measurements of a visit about their mean and their number minus one. Weights have shape (...,
    n).

    Examples
    --------
    Two visits, measured as 1.0 and 1.2 mL and twice as 3.0 mL:

    >>> float(smallest_change(np.array([[0.02, 1.0], [0.0, 1.0]]), np.ones(2)).round(3))
    0.277
    """
    variance = _divide((weights * spreads[:, 0]).sum(-1), (weights * spreads[:, 1]).sum(-1))
    change: Array = LIMITS * np.sqrt(2 * variance)
    return change


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic over visits with its bootstrap interval.

    ``value`` is NaN if undefined; ``low`` and ``high`` are NaN with fewer than five patients.
    """

    value: float
    low: float
    high: float
    n_patients: int
    n_visits: int


def estimate(
    values: NDArray[np.floating],
    patients: Sequence[str],
    statistic: Statistic,
    *,
    fewest: int = MIN_PAIRS,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Compute a statistic with a percentile bootstrap interval over patients.

    ``statistic`` maps values (n, columns) and weights (..., n) to (...). Rows with NaN are left
    out; a drawn patient contributes all visits. The value is NaN with less than ``fewest`` visits.

    Examples
    --------
    >>> pairs = np.array([[1.0, 0], [3, 1], [2, 1], [5, 2]])
    >>> estimate(pairs, list("abcd"), bias)
    Estimate(value=1.75, low=nan, high=nan, n_patients=4, n_visits=4)
    """
    numbers = np.asarray(values, np.float64)
    complete = ~np.isnan(numbers).any(axis=1)
    numbers = numbers[complete]
    names, owner = np.unique(np.asarray(patients, str)[complete], return_inverse=True)
    undefined = float("nan")
    if len(numbers) < fewest:
        return Estimate(undefined, undefined, undefined, len(names), len(numbers))
    value = float(statistic(numbers, np.ones(len(numbers))))
    if len(names) < FEWEST:
        return Estimate(value, undefined, undefined, len(names), len(numbers))
    parts = draw_patients(len(names), draws, np.random.default_rng(seed))
    estimates = np.concatenate(
        [statistic(numbers, _times_drawn(chosen)[:, owner]) for chosen in parts]
    )
    # a draw of one patient only has no correlation
    estimates = estimates[~np.isnan(estimates)]
    tail = (1 - level) / 2
    ends = np.quantile(estimates, (tail, 1 - tail)) if len(estimates) else (undefined, undefined)
    return Estimate(value, float(ends[0]), float(ends[1]), len(names), len(numbers))


def _times_drawn(chosen: NDArray[np.int64]) -> Array:
    """Count how often each patient was drawn, shape (draws, patients)."""
    draws, patients = chosen.shape
    index = chosen + patients * np.arange(draws)[:, None]
    counts = np.bincount(index.ravel(), minlength=draws * patients)
    return counts.reshape(draws, patients).astype(np.float64)


def _centred(column: Array, weights: Array) -> Array:
    mean = (weights * column).sum(-1) / weights.sum(-1)
    centred: Array = column - mean[..., None]
    return centred


def _deviation(pairs: Array, weights: Array) -> Array:
    """Return the standard deviation of the differences, with denominator n - 1."""
    centred = _centred(pairs[:, 0] - pairs[:, 1], weights)
    deviation: Array = np.sqrt(_divide((weights * centred**2).sum(-1), weights.sum(-1) - 1))
    return deviation


def _deviation_of_repeats(rows: Array, weights: Array) -> Array:
    """Return the standard deviation of differences between single measurements.

    To the variance of the mean differences, this adds the variance that averaging removed.
    """
    squares, counts = rows[:, 2], rows[:, 3]
    within = _divide((weights * squares).sum(-1), (weights * (counts - 1)).sum(-1))
    lost_share = 1 - (weights / counts).sum(-1) / weights.sum(-1)
    # single measurements have no variance within a visit, and lose nothing
    added = np.where(lost_share > 0, lost_share * within, 0.0)
    deviation: Array = np.sqrt(_deviation(rows, weights) ** 2 + added)
    return deviation


def _divide(part: Array, whole: Array) -> Array:
    part, whole = np.asarray(part), np.asarray(whole)
    quotient: Array = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotient
