"""Round tick values on the axes of plots."""

from __future__ import annotations

import math

TICKS = 8
SMALLEST_LOAD = 1e-3
"""Smallest load in mL that determines the scale: one mm³."""


def tick_step(largest: float) -> float:
    """Choose the distance between axis ticks: 1, 2 or 5 times a power of ten."""
    if largest < SMALLEST_LOAD:
        return 1.0
    rough = largest / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    factor = next(f for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    return float(f"{factor * power:g}")
