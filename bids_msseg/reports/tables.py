"""Lesion table of one visit: conversion from TSV to the cells of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_msseg.bids.files import load_tsv
from bids_msseg.reports.text import MISSING, decimal, readable

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Heading:
    """Heading of one table column, with its source columns in the TSV file."""

    label: str
    unit: str = ""
    sources: tuple[str, ...] = ()  # joined in one cell
    digits: int | None = None  # decimals; None for text


@dataclass(frozen=True, slots=True)
class Table:
    """Headings and formatted cells of a table for display."""

    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]


HEADINGS = (
    Heading("no.", "", ("index",), 0),
    Heading("volume", "mm³", ("volume_mm3",), 1),
    Heading("voxels", "", ("n_voxels",), 0),
    Heading("region", "", ("region",), None),
    Heading("centroid x, y, z", "mm", ("centroid_x", "centroid_y", "centroid_z"), 0),
    Heading(
        "template x, y, z",
        "mm",
        ("centroid_template_x", "centroid_template_y", "centroid_template_z"),
        0,
    ),
    Heading("p, candidate net", "", ("p_cnn1",), 2),
    Heading("p, final", "", ("p_final",), 2),
    Heading("p, candidate is a lesion", "", ("p_cnn2_lesion",), 2),
    Heading("reason", "", ("reason",), None),
)


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a TSV table as text by column; empty if missing or unreadable."""
    try:
        return load_tsv(path)
    except (OSError, ValueError):
        return []


def arrange(rows: Sequence[Row], headings: Sequence[Heading] = HEADINGS) -> Table | None:
    """Select and format the known and filled columns of lesion rows; None without rows."""
    if not rows:
        return None
    shown = tuple(heading for heading in headings if any(_has_value(row, heading) for row in rows))
    return Table(shown, tuple(tuple(_cell(row, heading) for heading in shown) for row in rows))


def _has_value(row: Row, heading: Heading) -> bool:
    return all(row.get(source, MISSING) not in (MISSING, "") for source in heading.sources)


def _cell(row: Row, heading: Heading) -> str:
    if not _has_value(row, heading):
        return MISSING
    values = [row[source] for source in heading.sources]
    if heading.digits is None:
        return " ".join(
            readable(value) if heading.label == "region" else value for value in values
        )
    return ", ".join(_number(value, heading.digits) for value in values)


def _number(value: str, digits: int) -> str:
    """Round a number; return text that is not a number unchanged."""
    try:
        return decimal(float(value), digits)
    except ValueError:
        return value
