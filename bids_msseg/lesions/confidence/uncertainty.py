"""Interval of a lesion load and confidence of a lesion, learnt from held-out patients.

The load of the experts is log-linear in the volume above a probability cut, with Student's
interval. The confidence is a logistic function of a lesion's mean probability (Platt 1999).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from scipy import special

__all__ = ["LoadInterval"]

SWEEP = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LEVEL = 0.9
OFFSET_ML = 0.1
"""Added before the logarithm, so that an empty mask has one."""
MIN_P = 1e-3
MIN_HALF_WIDTH = 0.01
"""On the logarithmic scale: no load is known better than to one percent."""
MIN_HALF_WIDTH_ML = 0.01
"""Tables and pages show two decimals of a load."""


@dataclass(frozen=True, slots=True)
class LoadInterval:
    """Expected lesion load that experts would mark, mL, with its 90 % interval.

    Attributes
    ----------
    expected_ml, low_ml, high_ml : float
    learnt : bool
        Whether it was learnt from loads like this one; else it is an extrapolation.
    """

    expected_ml: float
    low_ml: float
    high_ml: float
    learnt: bool = True

    def holds(self, load_ml: float) -> bool:
        """Return whether a load is inside the interval."""
        return self.low_ml <= load_ml <= self.high_ml

    def contradiction(self, load_ml: float) -> str:
        """State which load to use if that of the mask is outside the interval; else nothing.

        Examples
        --------
        >>> LoadInterval(4.0, 2.0, 8.0).contradiction(3.0)
        ''
        >>> LoadInterval(4.0, 2.0, 8.0).contradiction(9.0)
        'the load of the mask, 9.00 mL, is above the interval of 2.00-8.00 mL: use the interval;
        the mask is probably too large'
        """
        if self.holds(load_ml):
            return ""
        side, size = ("above", "large") if load_ml > self.high_ml else ("below", "small")
        bounds = f"{self.low_ml:.2f}-{self.high_ml:.2f} mL"
        comparison = (
            f"the load of the mask, {load_ml:.2f} mL, is {side} the interval of {bounds}: "
        )
        if self.learnt:
            return f"{comparison}use the interval; the mask is probably too {size}"
        return f"{comparison}use the mask; the interval is an extrapolation"


@dataclass(frozen=True, slots=True)
class LoadModel:
    """Log-linear model of the experts' load on the volume above a probability cut."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    cut: float  # in SWEEP
    slope: float  # of log(truth + 0.1 mL) on log(volume + 0.1 mL)
    intercept: float
    half_width: float  # on the same scale
    patients: int
    range_ml: tuple[float, float] | None = None  # of training volumes

    def interval(self, sweep_ml: Sequence[float]) -> LoadInterval:
        """Estimate the load that experts would draw, from :func:`sweep_volumes`."""
        volume = sweep_ml[SWEEP.index(self.cut)]
        line, smallest = self.slope * log_load(volume) + self.intercept, log_load(0.0)
        half = max(self.half_width, MIN_HALF_WIDTH)
        low, middle, high = (
            max(math.exp(max(line, smallest) + side * half) - OFFSET_ML, 0.0)
            for side in (-1, 0, 1)
        )
        low = max(min(low, middle - MIN_HALF_WIDTH_ML), 0.0)
        high = max(high, middle + MIN_HALF_WIDTH_ML)
        lowest, highest = self.range_ml or (0.0, math.inf)
        return LoadInterval(middle, low, high, line >= smallest and lowest <= volume <= highest)


@dataclass(frozen=True, slots=True)
class ConfidenceModel:
    """Logistic model of the share of true lesions on the mean probability of a lesion."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    slope: float  # on the logit, not negative
    intercept: float
    lesions: int
    patients: int

    def confidence(self, p: float) -> float:
        """Return the confidence of a lesion, from 0 to 1."""
        return float(special.expit(self.slope * logit(p) + self.intercept))


def sweep_volumes(probability: NDArray[np.floating], voxel_volume: float) -> tuple[float, ...]:
    """Measure the volume in mL at or above each cut of SWEEP; ``voxel_volume`` is in mm³."""
    # float32 holds 0.3 as a little more: the same rounding on both sides
    cuts = np.asarray(SWEEP, probability.dtype)
    values = np.sort(probability[probability >= cuts[0]], axis=None)
    above = values.size - np.searchsorted(values, cuts)
    return tuple((above * voxel_volume / 1000).tolist())


def log_load(volume_ml: float) -> float:
    """Return the logarithm of a volume plus 0.1 mL, the scale of load predictions."""
    return math.log(volume_ml + OFFSET_ML)


def logit(p: float) -> float:
    """Return the log-odds of a probability clipped to 0.001 to 0.999."""
    return float(special.logit(min(max(p, MIN_P), 1 - MIN_P)))
