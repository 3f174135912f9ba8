"""Plots of two numbers per visit as inline SVG with linked points, without a library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 420, 380
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 46
MARKERS = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M-4.4-4.4h8.8v8.8h-8.8z",
    "M0-5.8l5.4 9.4h-10.8z",
    "M0-6.2l5.2 6.2-5.2 6.2-5.2-6.2z",
)
"""Outlines of the marks: disc, square, triangle, diamond; colours change with them."""
AGREEMENT = {
    "upper": ("limit", "upper limit"),
    "bias": ("bias", "mean difference"),
    "lower": ("limit", "lower limit"),
}
"""Statistics drawn across Bland and Altman's plot: style and words."""
MARGIN = 0.12
"""Free share of an axis beyond the outermost point."""
TICKS = 8
SMALLEST_LOAD = 1e-3
"""Smallest load in mL that determines the scale of an axis: one mm³."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Linear map from values ``low`` to ``high`` to pixels ``start`` to ``end``."""

    label: str
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel position of a value, rounded to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Pixel positions and labels of round values."""
        step = tick_step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple((self(i * step), f"{i * step:g}") for i in range(first, last + 1))


@dataclass(frozen=True, slots=True)
class Mark:
    """One point: values, text, link, and the group (if any) that sets colour and shape."""

    x: float
    y: float
    words: str
    link: str = ""
    group: int | None = None

    @property
    def shape(self) -> str:
        """Outline of the mark as an SVG path."""
        return MARKERS[(self.group or 0) % len(MARKERS)]


@dataclass(frozen=True, slots=True)
class Stroke:
    """A line through values; ``style`` is its CSS class, ``words`` label its end."""

    points: tuple[tuple[float, float], ...]
    style: str
    words: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot as the template draws it; ``description`` is the alternative text."""

    title: str
    description: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    strokes: tuple[Stroke, ...] = ()

    def path(self, stroke: Stroke) -> str:
        """Return the ``d`` attribute of a line, in pixels."""
        return "M" + "L".join(f"{self.x(x)} {self.y(y)}" for x, y in stroke.points)


def plot(
    title: str,
    description: str,
    labels: tuple[str, str],
    limits: tuple[tuple[float, float], tuple[float, float]],
    marks: Sequence[Mark],
    strokes: Sequence[Stroke] = (),
) -> Plot:
    """Lay out a plot with given axis labels (x, y) and limits ((low, high) of x, of y)."""
    (x_low, x_high), (y_low, y_high) = limits
    x = Axis(labels[0], x_low, x_high, LEFT, WIDTH - RIGHT)
    y = Axis(labels[1], y_low, y_high, HEIGHT - BOTTOM, TOP)
    return Plot(title, description, x, y, tuple(marks), tuple(strokes))


def bland_altman(
    title: str,
    description: str,
    labels: tuple[str, str],
    marks: Sequence[Mark],
    lines: Mapping[str, tuple[float, str]],  # value and text by key of AGREEMENT
) -> Plot:
    """Lay out a Bland-Altman plot (Lancet 1986, doi:10.1016/S0140-6736(86)90837-8)."""
    right = round_up(max(mark.x for mark in marks))
    heights = [0.0, *(mark.y for mark in marks), *(value for value, _ in lines.values())]
    low, high = min(heights), max(heights)
    margin = MARGIN * (high - low) or 1.0
    strokes = [Stroke(((0, 0), (right, 0)), "ideal")]
    for name, (style, label) in AGREEMENT.items():
        if name in lines:
            value, text = lines[name]
            strokes.append(Stroke(((0, value), (right, value)), style, f"{label} {text}"))
    limits = ((0, right), (low - margin, high + margin))
    return plot(title, description, labels, limits, marks, strokes)


def round_up(value: float) -> float:
    """Return a round upper end for an axis that starts at 0."""
    step = tick_step(value)
    return max(step, step * math.ceil(value / step - 1e-9))


def tick_step(largest: float) -> float:
    """Choose the distance between axis ticks: 1, 2 or 5 times a power of ten."""
    if largest < SMALLEST_LOAD:
        return 1.0
    rough = largest / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    factor = next(f for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    return float(f"{factor * power:g}")
