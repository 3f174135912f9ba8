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
    """A mean over visits with a value, NaN if none; its interval needs FEWEST patients."""

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
    seed: int = 0,
) -> MeanEstimate:
    """Average over visits that are not NaN, with a percentile bootstrap over patients."""
    # Efron & Tibshirani 1993, chapter 13: a drawn patient contributes all visits
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
    tail = (1 - LEVEL) / 2
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
    """Draw patients with replacement: chunks of shape (at most 1000, patients)."""
    for start in range(0, draws, _CHUNK):
        yield rng.integers(0, patients, (min(_CHUNK, draws - start), patients))
