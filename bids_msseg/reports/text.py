"""Formatting of numbers and sentences for reports."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

MISSING = "n/a"
"""BIDS' word for a value that is not there."""
MAX_NAMES = 5
"""Names that a sentence lists."""
_ABSOLUTE = re.compile(r"(?<![\w.:/\\])(?:~|/)(?:[^\s/:;,\"'<>|]+/)+([^\s/:;,\"'<>|]*)")


def millilitres(value: float | None) -> str:
    """Format a volume in mL with about three digits; ``n/a`` for None and NaN.

    Examples
    --------
    >>> [millilitres(x) for x in (41.26, 3.456, 0.0123, 0, None)]
    ['41.3', '3.46', '0.012', '0.00', 'n/a']
    """
    if value is None or math.isnan(value):
        return MISSING
    digits = 1 if value >= 10 else 2 if value >= 0.1 or value == 0 else 3
    return f"{value:.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """Join names with commas; count those beyond :data:`MAX_NAMES`.

    Examples
    --------
    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def decimal(value: float | None, digits: int) -> str:
    """Format a number with fixed decimals; ``n/a`` for None and non-finite values.

    Examples
    --------
    >>> decimal(2 / 3, 2), decimal(None, 2), decimal(float("nan"), 1)
    ('0.67', 'n/a', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{digits}f}"


def counted(number: int, noun: str) -> str:
    """Format a count with its noun in singular or plural.

    Examples
    --------
    >>> counted(1, "lesion"), counted(2, "lesion"), counted(0, "lesion")
    ('1 lesion', '2 lesions', 'no lesions')
    """
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def voxel_size(spacing: Sequence[float] | None) -> str:
    """Format the voxel edges (mm) as ``XxYxZ``; ``n/a`` if unknown.

    Examples
    --------
    >>> voxel_size((0.5729, 0.5729, 3.3)), voxel_size(None)
    ('0.57x0.57x3.30', 'n/a')
    """
    if not spacing:
        return MISSING
    return "x".join(f"{edge:.2f}" for edge in spacing)


def duration(seconds: float) -> str:
    """Format a time in seconds, from one minute on in minutes and seconds.

    Examples
    --------
    >>> duration(0.42), duration(42.3), duration(125)
    ('0.4 s', '42 s', '2 min 5 s')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def readable(name: str) -> str:
    """Replace underscores and hyphens of an identifier by spaces.

    Examples
    --------
    >>> readable("deep_white_matter"), readable("min-lesion-volume")
    ('deep white matter', 'min lesion volume')
    """
    return re.sub(r"[_-]+", " ", name).strip()


def without_folders(text: str) -> str:
    """Shorten absolute paths in a text to their last part, to hide local folders.

    Examples
    --------
    >>> without_folders("cannot read /data/in/sub-01_FLAIR.nii.gz, see https://a.org/b/c")
    'cannot read …/sub-01_FLAIR.nii.gz, see https://a.org/b/c'
    """
    return _ABSOLUTE.sub(r"…/\1", text)
