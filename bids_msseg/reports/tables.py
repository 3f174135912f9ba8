"""The table of lesions of one visit, from TSV to what a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_msseg.bids.files import load_tsv
from bids_msseg.reports.text import MISSING, decimal, words

Row = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Heading:
    """One column of a shown table.

    Attributes
    ----------
    label, unit : str
    sources : tuple of str
        Columns of the TSV file; several are joined to a triple.
    digits : int or None
        Decimals of a number; None where the column holds words.
    """

    label: str
    unit: str
    sources: tuple[str, ...]
    digits: int | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is shown.

    Attributes
    ----------
    headings : tuple of Heading
    rows : tuple of tuple of str
    """

    headings: tuple[Heading, ...]
    rows: tuple[tuple[str, ...], ...]


HEADINGS = (
    Heading("no.", "", ("index",), 0),
    Heading("volume", "mm³", ("volume_mm3",), 1),
    Heading("voxels", "", ("n_voxels",), 0),
    Heading("region", "", ("region",), None),
    Heading("centroid x, y, z", "mm", ("centroid_x", "centroid_y", "centroid_z"), 0),
    Heading(
        "in the template",
        "mm",
        ("centroid_template_x", "centroid_template_y", "centroid_template_z"),
        0,
    ),
    Heading("p, candidate net", "", ("p_cnn1",), 2),
    Heading("p, both nets", "", ("p_final",), 2),
    Heading("p, is a lesion", "", ("p_cnn2_lesion",), 2),
    Heading("reason", "", ("reason",), None),
)


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Read a table; no rows where it is missing or unreadable.

    Parameters
    ----------
    path : Path
        As for :func:`bids_msseg.bids.files.load_tsv`.

    Returns
    -------
    list of dict
        Column to text.
    """
    try:
        return load_tsv(path)
    except (OSError, ValueError):
        return []


def arrange(rows: Sequence[Row], headings: Sequence[Heading] = HEADINGS) -> Table | None:
    """Choose and format what is known of some lesions.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`read_tsv`. Unknown columns are left out, missing or empty ones not shown.
    headings : sequence of Heading, optional
        What may be shown, in order.

    Returns
    -------
    Table or None
        None where there are no rows.

    Examples
    --------
    >>> table = arrange([{"index": "1", "volume_mm3": "12.345", "region": "deep_white_matter"}])
    >>> [heading.label for heading in table.headings], table.rows
    (['no.', 'volume', 'region'], (('1', '12.3', 'deep white matter'),))
    """
    if not rows:
        return None
    shown = tuple(h for h in headings if any(_known(row, h) for row in rows))
    return Table(shown, tuple(tuple(_cell(row, h) for h in shown) for row in rows))


def _known(row: Row, heading: Heading) -> bool:
    return all(row.get(source, MISSING) not in (MISSING, "") for source in heading.sources)


def _cell(row: Row, heading: Heading) -> str:
    if not _known(row, heading):
        return MISSING
    values = [row[source] for source in heading.sources]
    if heading.digits is None:
        return " ".join(words(value) if heading.label == "region" else value for value in values)
    return ", ".join(_number(value, heading.digits) for value in values)


def _number(value: str, digits: int) -> str:
    """Round a number; leave what is none as it is."""
    try:
        return decimal(float(value), digits)
    except ValueError:
        return value
