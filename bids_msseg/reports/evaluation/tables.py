"""Cells and headings of an evaluation's tables, as the page shows them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from bids_msseg.reports.evaluation.data import Row
from bids_msseg.reports.text import MISSING, decimal, millilitres, readable

UNITS = {"_ml": "mL", "_mm3": "mm³", "_mm": "mm"}
SPELLED = {
    "dice": "Dice",
    "ppv": "PPV",
    "hd95": "HD95",
    "assd": "ASSD",
    "ndsc": "nDSC",
    "f1": "F1",
    "isbi": "ISBI",
    "ltpr": "LTPR",
    "lfpr": "LFPR",
    "anima": "Anima",
    "ece": "ECE",
    "icc": "ICC",
    "bland": "Bland",
    "altman": "Altman",
    "pearson": "Pearson",
    "1mm": "1 mm",
}
"""Parts of names that are not written in small letters."""
PLAIN = {
    "n_manual": "manual lesions",
    "n_auto": "automatic lesions",
    "n_missed": "missed",
    "n_false": "false positive",
    "n_found": "found",
    "n_true": "true positive",
    "n_patients": "patients",
    "n_visits": "visits",
    "name": "visit",
    "index": "no.",
    "volume_manual_ml": "manual load",
    "volume_auto_ml": "automatic load",
    "volume_mean_ml": "mean load",
    "icc_2_1": "ICC(2,1)",
}
MILLIMETRES = ("x", "y", "z")
DIGITS = {"ece": 3, "ece_brain": 4, "mean_probability": 2}


@dataclass(frozen=True, slots=True)
class Heading:
    """Heading of a column; ``title`` is its definition."""

    label: str
    unit: str = ""
    title: str = ""
    numeric: bool = True
    extra: bool = False  # hidden at first


@dataclass(frozen=True, slots=True)
class Entry:
    """A table row: its anchor, the link of its first cell (both may be empty), and cells."""

    anchor: str
    link: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table prepared for display."""

    headings: tuple[Heading, ...]
    entries: tuple[Entry, ...]


def anchor_of(name: str) -> str:
    """Convert the name of a visit to an HTML anchor."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


def lesion_anchor(name: str, side: str, index: int) -> str:
    """Return the anchor of a lesion's table row."""
    return f"{anchor_of(name)}-{side}-{index}"


def heading(name: str, title: str = "", *, numeric: bool = True, extra: bool = False) -> Heading:
    """Build a readable heading, with unit, from the name of a column."""
    ending = next((end for end in UNITS if name.endswith(end)), "")
    unit = UNITS.get(ending, "mm" if name in MILLIMETRES else "")
    parts = name.removesuffix(ending).split("_")
    label = PLAIN.get(name) or " ".join(SPELLED.get(part, part) for part in parts)
    return Heading(label, unit, title, numeric, extra)


def format_value(name: str, value: object) -> str:
    """Format a cell by its column or metric; None and NaN become ``n/a``."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return readable(str(value)) if name == "region" else str(value)
    sign = "-" if value < 0 else "+" if "difference" in name or "bland" in name else ""
    if isinstance(value, int):
        return str(value)
    if name.endswith("_ml"):
        return sign + millilitres(abs(value))
    digits = 1 if name.endswith(("_mm", "_mm3")) or name in MILLIMETRES else DIGITS.get(name, 2)
    return sign + decimal(abs(value), digits)


def sheet(
    rows: Sequence[Row],
    names: Sequence[str],
    definitions: Mapping[str, str],
    *,
    link: Callable[[Row], str] = lambda _: "",
    anchor: Callable[[Row], str] = lambda _: "",
    extra: Collection[str] = (),
) -> Sheet:
    """Arrange the columns ``names`` of a table for display; those in ``extra`` hidden at first."""
    headings = tuple(
        heading(
            name,
            definitions.get(name, ""),
            numeric=not any(isinstance(row.get(name), str) for row in rows),
            extra=name in extra,
        )
        for name in names
    )
    entries = (
        Entry(anchor(row), link(row), tuple(format_value(name, row.get(name)) for name in names))
        for row in rows
    )
    return Sheet(headings, tuple(entries))


def pivot(
    rows: Sequence[Row], group: str, item: str, value: str, definitions: Mapping[str, str]
) -> Sheet:
    """Pivot a long table: one row per item, one column per group, with intervals if known."""
    groups = list(dict.fromkeys(str(row[group]) for row in rows))
    items = dict.fromkeys(str(row[item]) for row in rows)
    cells = {(str(row[item]), str(row[group])): row for row in rows}
    headings = (
        Heading(item, numeric=False),
        *(Heading(name, title=definitions.get(value, "")) for name in groups),
        Heading("definition", numeric=False),
    )
    entries = []
    for name in items:
        first = heading(name)
        label = f"{first.label} ({first.unit})" if first.unit else first.label
        values = (_with_interval(name, cells.get((name, column)), value) for column in groups)
        entries.append(Entry("", "", (label, *values, definitions.get(name, ""))))
    return Sheet(headings, tuple(entries))


def _with_interval(name: str, row: Row | None, value: str) -> str:
    if row is None:
        return MISSING
    low, high = format_value(name, row.get("low")), format_value(name, row.get("high"))
    interval = "" if MISSING in (low, high) else f" ({low} to {high})"
    return f"{format_value(name, row.get(value))}{interval}"
