"""Calibration of probabilities: comparison of predicted probability with truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 10
FLOOR: Final = 0.01
"""Lowest probability that counts without a mask: most voxels are certainly healthy."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """Voxels, sum of their probability, and lesion voxels per bin of equal width from 0 to 1."""

    count: NDArray[np.int64]
    probability: NDArray[np.float64]
    lesion: NDArray[np.int64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Limits of the bins, shape (bins + 1,)."""
        return np.linspace(0, 1, len(self.count) + 1)

    @property
    def mean_probability(self) -> NDArray[np.float64]:
        """Mean probability in each bin; NaN where it is empty."""
        return _divide(self.probability, self.count)

    @property
    def share_lesion(self) -> NDArray[np.float64]:
        """Share of lesion voxels in each bin; NaN where it is empty."""
        return _divide(self.lesion, self.count)

    @property
    def ece(self) -> float:
        """Expected calibration error (Naeini et al. 2015, AAAI); NaN without voxels."""
        total = int(self.count.sum())
        if not total:
            return float("nan")
        return float(np.abs(self.lesion - self.probability).sum() / total)


def reliability(
    probability: NDArray[np.floating],
    truth: NDArray[Any],
    *,
    within: NDArray[Any] | None = None,
    floor: float = FLOOR,
    bins: int = BINS,
) -> Reliability:
    """Count voxels by probability and truth, ``within`` a mask or else from ``floor`` on."""
    if probability.shape != truth.shape or (within is not None and within.shape != truth.shape):
        raise ValueError(f"shapes differ: {probability.shape} and {truth.shape}")
    chosen = probability >= floor if within is None else within != 0
    p = probability[chosen].astype(np.float64)
    hit = (truth[chosen] != 0).astype(np.float64)
    bin_index = np.clip((p * bins).astype(np.int64), 0, bins - 1)
    return Reliability(
        np.bincount(bin_index, minlength=bins).astype(np.int64),
        np.bincount(bin_index, p, minlength=bins).astype(np.float64),
        np.bincount(bin_index, hit, minlength=bins).astype(np.int64),
    )


def pool(parts: Iterable[Reliability], *, bins: int = BINS) -> Reliability:
    """Add up the reliability of several visits with the same bins."""
    count, lesion = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
    probability = np.zeros(bins)
    for part in parts:
        count, lesion = count + part.count, lesion + part.lesion
        probability = probability + part.probability
    return Reliability(count, probability, lesion)


def _divide(part: NDArray[Any], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = np.divide(
        part, whole, out=np.full(len(whole), np.nan), where=whole > 0
    )
    return shares
