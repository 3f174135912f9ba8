"""Percentile bootstrap of means over few patients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 5
DRAWS = 10_000
LEVEL = 0.95
_CHUNK = 1000


@dataclass(frozen=True, slots=True)
class MeanEstimate:
    """A mean over visits with its bootstrap interval.

    ``mean`` is NaN if no value is defined; ``low`` and ``high`` are NaN with fewer than
    :data:`FEWEST` patients. Patients and visits are counted only if their value is defined.
    """

    mean: float
    low: float
    high: float
    n_patients: int
    n_visits: int

    @property
    def has_interval(self) -> bool:
        """Whether there are enough patients for an interval."""
        return self.n_patients >= FEWEST


def estimate_mean(
    values: Sequence[float],
    patients: Sequence[str] | None = None,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    seed: int = 0,
) -> MeanEstimate:
    """Average over visits, with a percentile bootstrap interval over patients.

    Efron & Tibshirani 1993, chapter 13: a drawn patient contributes all visits. NaN values are
    left out. Without ``patients`` each visit is its own patient. Raises ValueError if the lengths
    differ.

    Examples
    --------
    >>> estimate_mean([0.5] * 6)
    MeanEstimate(mean=0.5, low=0.5, high=0.5, n_patients=6, n_visits=6)
    >>> estimate_mean([0.25, float("nan"), 0.75], ["a", "b", "c"])
    MeanEstimate(mean=0.5, low=nan, high=nan, n_patients=2, n_visits=2)
    """
    owners = [str(index) for index in range(len(values))] if patients is None else list(patients)
    if len(owners) != len(values):
        raise ValueError(f"{len(values)} values, but {len(owners)} patients")
    numbers = np.asarray(values, np.float64)
    defined = ~np.isnan(numbers)
    names, index = np.unique(np.asarray(owners, str)[defined], return_inverse=True)
    sums = np.bincount(index, numbers[defined], len(names))
    counts = np.bincount(index, minlength=len(names))
    n_visits, n_patients = int(defined.sum()), len(names)
    mean = float(sums.sum() / n_visits) if n_visits else float("nan")
    if n_patients < FEWEST:
        return MeanEstimate(mean, float("nan"), float("nan"), n_patients, n_visits)
    means = _bootstrap_means(sums, counts, draws, np.random.default_rng(seed))
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(means, (tail, 1 - tail)))
    return MeanEstimate(mean, low, high, n_patients, n_visits)


def _bootstrap_means(
    sums: np.ndarray, counts: np.ndarray, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Compute means over the visits of patients drawn with replacement, shape (draws,)."""
    parts = [
        sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
        for chosen in draw_patients(len(sums), draws, rng)
    ]
    return np.concatenate(parts)


def draw_patients(
    patients: int, draws: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Draw ``patients`` indices with replacement ``draws`` times, in chunks.

    Yields arrays of shape (at most 1000, patients). All intervals of the package use these draws,
    so that the same data have the same interval everywhere.
    """
    for start in range(0, draws, _CHUNK):
        yield rng.integers(0, patients, (min(_CHUNK, draws - start), patients))
