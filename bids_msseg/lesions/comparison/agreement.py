"""Agreement of two measurements of a volume over a cohort.

Statistics take weights (..., n) of the n rows: how often the bootstrap drew each visit.
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
    """Correlate two columns with row weights (..., n); NaN where one does not vary."""
    x, y = (_centred(pairs[:, column], weights) for column in (0, 1))
    covariance = (weights * x * y).sum(-1)
    spread = np.sqrt((weights * x * x).sum(-1) * (weights * y * y).sum(-1))
    return _divide(covariance, spread)


def icc_2_1(scores: Array, weights: Array) -> Array:
    """Compute ICC(2,1) of (n, raters): Shrout & Fleiss 1979, doi:10.1037/0033-2909.86.2.420."""
    # two-way random effects, absolute agreement, single measure
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
    """Compute the upper limit: Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8."""
    return bias(pairs, weights) + LIMITS * _deviation(pairs, weights)


def lower_limit_of_repeats(rows: Array, weights: Array) -> Array:
    """Compute the lower limit of agreement; see :func:`upper_limit_of_repeats`."""
    return bias(rows, weights) - LIMITS * _deviation_of_repeats(rows, weights)


def upper_limit_of_repeats(rows: Array, weights: Array) -> Array:
    """Compute the upper limit: Bland & Altman 2007, section 3, doi:10.1080/10543400701329422."""
    # columns: mean of the first measurements, the second one, and of the first the sum of squares
    # about their mean and their number
    return bias(rows, weights) + LIMITS * _deviation_of_repeats(rows, weights)


def smallest_change(spreads: Array, weights: Array) -> Array:
    """Compute 1.96 √2 within-visit SD: Bland & Altman 1996, doi:10.1136/bmj.313.7059.744."""
    # columns: sum of squares of the measurements of a visit about their mean, their number - 1
    variance = _divide((weights * spreads[:, 0]).sum(-1), (weights * spreads[:, 1]).sum(-1))
    change: Array = LIMITS * np.sqrt(2 * variance)
    return change


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic over visits, NaN if undefined; its interval needs five patients."""

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
) -> Estimate:
    """Compute a statistic and its percentile bootstrap interval over patients; skip NaN rows."""
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
    parts = draw_patients(len(names), DRAWS, np.random.default_rng(0))
    estimates = np.concatenate(
        [statistic(numbers, _times_drawn(chosen)[:, owner]) for chosen in parts]
    )
    # a draw of one patient only has no correlation
    estimates = estimates[~np.isnan(estimates)]
    tail = (1 - LEVEL) / 2
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
    """Return the SD of single differences: adds the variance that averaging removed."""
    squares, counts = rows[:, 2], rows[:, 3]
    within = _divide((weights * squares).sum(-1), (weights * (counts - 1)).sum(-1))
    lost_share = 1 - (weights / counts).sum(-1) / weights.sum(-1)
    # single measurements have no variance within a visit
    added = np.where(lost_share > 0, lost_share * within, 0.0)
    deviation: Array = np.sqrt(_deviation(rows, weights) ** 2 + added)
    return deviation


def _divide(part: Array, whole: Array) -> Array:
    part, whole = np.asarray(part), np.asarray(whole)
    quotient: Array = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return quotient
