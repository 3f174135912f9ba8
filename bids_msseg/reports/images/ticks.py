"""Round tick values on the axes of plots."""

from __future__ import annotations

import math

TICKS = 8
SMALLEST_LOAD = 1e-3
"""A scale for less than one mm³ would show nothing."""


def tick_step(largest: float) -> float:
    """Choose the distance between axis ticks: 1, 2 or 5 times a power of ten.

    Examples
    --------
    >>> [tick_step(x) for x in (0.0, 0.9, 7, 40, 1000)]
    [1.0, 0.2, 1.0, 5.0, 200.0]
    """
    if largest < SMALLEST_LOAD:
        return 1.0
    rough = largest / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    factor = next(f for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    return float(f"{factor * power:g}")
