"""A strip of dots, one a visit, stacked where they would lie on each other: inline SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 1200
HEIGHT = 110
MARGIN = 24
RADIUS = 4.5
SMALLEST_RADIUS = 1.5
ROOMY = 250
"""Visits up to which dots keep their full size."""
TICKS = 8
SMALLEST_LOAD = 1e-3
"""A scale for less than one mm³ would show nothing."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A visit on the strip: place in pixels, words, link, and whether it is flagged."""

    x: float
    y: float
    words: str
    link: str
    flagged: bool


@dataclass(frozen=True, slots=True)
class Strip:
    """What the template draws.

    Attributes
    ----------
    width, height, baseline : float
        Pixels.
    radius : float
    dots : tuple of Dot
    ticks : tuple of (x, words)
    median_x : float
    median, count : float, int
    """

    width: int
    height: int
    baseline: int
    radius: float
    dots: tuple[Dot, ...]
    ticks: tuple[tuple[float, str], ...]
    median_x: float
    median: float
    count: int


def draw_strip(visits: Sequence[tuple[float, str, str, bool]], *, median: float) -> Strip:
    """Place one dot for every visit.

    Parameters
    ----------
    visits : sequence of (load in mL, name, link, flagged)
        At least one.
    median : float
        Median load in mL.

    Returns
    -------
    Strip

    Examples
    --------
    >>> strip = draw_strip([(0.0, "a", "a.html", False), (10.0, "b", "b.html", True)], median=5)
    >>> [(dot.x, dot.words) for dot in strip.dots], strip.median_x
    ([(24.0, 'a: 0.00 mL'), (1176.0, 'b: 10.00 mL')], 600.0)
    """
    step = tick_step(max(load for load, *_ in visits))
    top = step * max(1, math.ceil(max(load for load, *_ in visits) / step - 1e-9))
    scale = (WIDTH - 2 * MARGIN) / top
    radius = max(SMALLEST_RADIUS, RADIUS * min(1.0, math.sqrt(ROOMY / len(visits))))
    columns = [int(load * scale / (2 * radius)) for load, *_ in visits]
    highest = max(Counter(columns).values())
    rise = min(2 * radius, (HEIGHT - 2 * radius) / highest)
    stacked: Counter[int] = Counter()
    dots = []
    for column, (load, name, link, flagged) in zip(columns, visits, strict=True):
        x = round(MARGIN + load * scale, 1)
        y = round(HEIGHT - radius - rise * stacked[column], 1)
        stacked[column] += 1
        dots.append(Dot(x, y, f"{name}: {load:.2f} mL", link, flagged))
    ticks = [(MARGIN + i * step * scale, f"{i * step:g}") for i in range(round(top / step) + 1)]
    return Strip(
        width=WIDTH,
        height=HEIGHT + 24,
        baseline=HEIGHT,
        radius=round(radius, 2),
        dots=tuple(dots),
        ticks=tuple((round(x, 1), words) for x, words in ticks),
        median_x=round(MARGIN + median * scale, 1),
        median=median,
        count=len(visits),
    )


def tick_step(largest: float) -> float:
    """Choose a round distance between ticks: 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    largest : float
        Largest value that is drawn.

    Returns
    -------
    float

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
