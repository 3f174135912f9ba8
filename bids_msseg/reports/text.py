"""Formatting of numbers and sentences for reports."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MISSING = "n/a"
"""A missing value in BIDS tables."""
MAX_NAMES = 5
"""Largest number of names in a sentence."""
_ABSOLUTE = re.compile(r"(?<![\w.:/\\])(?:~|/)(?:[^\s/:;,\"'<>|]+/)+([^\s/:;,\"'<>|]*)")


def millilitres(value: float | None) -> str:
    """Format a volume in mL with about three digits; ``n/a`` for None and NaN."""
    if value is None or math.isnan(value):
        return MISSING
    digits = 1 if value >= 10 else 2 if value >= 0.1 or value == 0 else 3
    return f"{value:.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """Join names with commas; count those beyond :data:`MAX_NAMES`."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def decimal(value: float | None, digits: int) -> str:
    """Format a number with fixed decimals; ``n/a`` for None and non-finite values."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{digits}f}"


def counted(number: int, noun: str) -> str:
    """Format a count with its noun in singular or plural, such as ``no lesions``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def voxel_size(spacing: Sequence[float] | None) -> str:
    """Format the voxel edges (mm) as ``XxYxZ``; ``n/a`` if unknown."""
    if not spacing:
        return MISSING
    return "x".join(f"{edge:.2f}" for edge in spacing)


def duration(seconds: float) -> str:
    """Format a time in seconds, from one minute on in minutes and seconds."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def readable(name: str) -> str:
    """Replace underscores and hyphens of an identifier by spaces."""
    return re.sub(r"[_-]+", " ", name).strip()


def without_folders(text: str) -> str:
    """Shorten absolute paths in a text to their last part, to hide local folders."""
    return _ABSOLUTE.sub(r"…/\1", text)
