"""Fields of a step: their default, what may stand in them, and how YAML's value is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

AXES = "xyz"


class Rule(Protocol):
    """What may stand in a field; ``str(rule)`` says it to a user."""

    def read(self, value: object) -> Any:
        """Return the value in its one canonical form.

        Raises
        ------
        TypeError, ValueError
            If it may not stand there.
        """


@dataclass(frozen=True, slots=True)
class Number:
    """A number from ``low`` to ``high``.

    Examples
    --------
    >>> Number(0, 1).read("2e-3"), str(Number(0, 1))
    (0.002, 'is a number from 0 to 1')
    """

    low: float
    high: float

    def read(self, value: object) -> float:
        """Read a number; YAML 1.1 takes ``2e-3`` for text."""
        number = _number(value)
        if not self.low <= number <= self.high:
            raise ValueError(f"{value} is out of range")
        return number

    def __str__(self) -> str:
        return f"is a number from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Count:
    """A whole number from ``low`` to ``high``."""

    low: int
    high: int

    def read(self, value: object) -> int:
        """Read a whole number."""
        number = _number(value)
        if number % 1 or not self.low <= number <= self.high:
            raise ValueError(f"{value} is no whole number in range")
        return int(number)

    def __str__(self) -> str:
        return f"is a whole number from {self.low} to {self.high}"


@dataclass(frozen=True, slots=True)
class Range:
    """Two numbers in order, between which a value is drawn; one number stands for both.

    Examples
    --------
    >>> Range(0, 1).read([0, 0.5]), Range(0, 1).read(0.5)
    ((0.0, 0.5), (0.5, 0.5))
    """

    low: float
    high: float

    def read(self, value: object) -> tuple[float, float]:
        """Read one or two numbers."""
        pair = value if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2:
            raise ValueError(f"{value} is not two numbers")
        first, last = (_number(part) for part in pair)
        if not self.low <= first <= last <= self.high:
            raise ValueError(f"{value} is out of range or not in order")
        return first, last

    def __str__(self) -> str:
        return f"is one or two numbers in order from {self.low:g} to {self.high:g}"


@dataclass(frozen=True, slots=True)
class Word:
    """One of some words."""

    choices: tuple[str, ...]

    def read(self, value: object) -> str:
        """Read a word."""
        if value not in self.choices:
            raise ValueError(f"{value!r} is none of them")
        return str(value)

    def __str__(self) -> str:
        return f"is one of {', '.join(self.choices)}"


@dataclass(frozen=True, slots=True)
class Axes:
    """Axes of the sub-image, of which one is drawn: x left-right, y front-back, z up-down."""

    def read(self, value: object) -> str:
        """Read some of the letters; their order means nothing."""
        if not isinstance(value, str) or not value or set(value) - set(AXES):
            raise ValueError(f"{value!r} names no axes")
        return "".join(axis for axis in AXES if axis in value)

    def __str__(self) -> str:
        return "is some of the letters x, y and z"


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def number(default: float, low: float, high: float) -> Any:
    """Declare a field that holds a number."""
    return field(default=float(default), metadata={"rule": Number(low, high)})


def count(default: int, low: int, high: int) -> Any:
    """Declare a field that holds a whole number."""
    return field(default=default, metadata={"rule": Count(low, high)})


def between(default: Sequence[float], low: float, high: float) -> Any:
    """Declare a field that holds the two ends of what is drawn from."""
    first, last = default
    return field(default=(float(first), float(last)), metadata={"rule": Range(low, high)})


def word(default: str, *others: str) -> Any:
    """Declare a field that holds one of some words, the default first."""
    return field(default=default, metadata={"rule": Word((default, *others))})


def axes(default: str) -> Any:
    """Declare a field that holds axes to draw from."""
    return field(default=default, metadata={"rule": Axes()})
