"""The page of a cohort: plots that share one highlight, a table, a map and small pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from bids_msseg.bids.record import VisitRecord
from bids_msseg.lesions.regions import Region
from bids_msseg.reports import page
from bids_msseg.reports.cohort import Facets
from bids_msseg.reports.frequency import Frequency, draw_frequency, words
from bids_msseg.reports.participant import anchor_of, visit_of
from bids_msseg.reports.tables import Row
from bids_msseg.reports.text import MISSING, decimal
from bids_msseg.reports.text import words as readable
from bids_msseg.reports.thumbnails import MOST, thumbnail

if TYPE_CHECKING:
    from bids_msseg.reports.group import Column


@dataclass(frozen=True, slots=True)
class Cohort:
    """What the page shows.

    Attributes
    ----------
    out_dir : Path
        Top folder of the outputs, for the pictures of visits.
    records : tuple of VisitRecord
    rows : tuple of mapping
        Of the group table, in the same order.
    columns : tuple of Column
        Those of the table that the page shows.
    loads : tuple of float or None
        Lesion load of each visit in mL, after QC where there is some.
    excluded : frozenset of str
        Keys of the visits that a reader left out.
    reviewed : int or None
        Visits that a reader looked at; None where no QC was given.
    facets : Facets
    summary : tuple of mapping
        Of ``group_lesions_summary.tsv``.
    mixtures : tuple of str
        What makes visits hard to compare.
    frequency : Frequency or None
    """

    out_dir: Path
    records: tuple[VisitRecord, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    loads: tuple[float | None, ...]
    excluded: frozenset[str]
    reviewed: int | None
    facets: Facets
    summary: tuple[Row, ...]
    mixtures: tuple[str, ...]
    frequency: Frequency | None


@dataclass(frozen=True, slots=True)
class RowView:
    """A row of the table; ``cells`` in the order of the shown columns."""

    key: str
    participant: str
    link: str
    excluded: bool
    cells: tuple[str, ...]


def render_group(cohort: Cohort) -> str:
    """Fill the group page.

    Parameters
    ----------
    cohort : Cohort
        At least one visit.

    Returns
    -------
    str
    """
    script = page.asset("templates/group.js")
    return page.render(
        "group.html",
        cohort=cohort,
        rows=[_row(cohort, i) for i in range(len(cohort.records))],
        counts=Counter(record.status for record in cohort.records),
        participants=list(dict.fromkeys(f"sub-{one.participant}" for one in cohort.records)),
        data=plot_data(cohort),
        regions=[(region.label, readable(region.label)) for region in Region],
        map=None if cohort.frequency is None else _map(cohort.frequency),
        pictures=_pictures(cohort),
        most_pictures=MOST,
        script=script,
        script_hash=page.script_hash(script),
    )


def plot_data(cohort: Cohort) -> dict[str, Any]:
    """Collect what the script of the page draws.

    Parameters
    ----------
    cohort : Cohort

    Returns
    -------
    dict
        JSON values: visits, the columns that divide them or make an axis, the summary.
    """
    visits = [
        {
            "key": record.key,
            "participant": f"sub-{record.participant}",
            "session": record.session,
            "link": _link(record),
            "load": load,
            "excluded": record.key in cohort.excluded,
            "flagged": bool(record.flags),
            "regions": [record.regions.get(one.label, (None,))[0] or 0 for one in Region]
            if record.status == "ok"
            else None,
            "levels": {name: values[i] for name, values in cohort.facets.levels.items()},
            "numbers": {name: values[i] for name, values in cohort.facets.numbers.items()},
        }
        for i, (record, load) in enumerate(zip(cohort.records, cohort.loads, strict=True))
    ]
    return {
        "visits": visits,
        "levels": list(cohort.facets.levels),
        "numbers": list(cohort.facets.numbers),
        "summary": list(cohort.summary),
        "load": "lesion load" + (" after QC" if cohort.reviewed is not None else ""),
        "regions": [region.label for region in Region],
    }


def _row(cohort: Cohort, place: int) -> RowView:
    record, row = cohort.records[place], cohort.rows[place]
    return RowView(
        record.key,
        f"sub-{record.participant}",
        _link(record),
        record.key in cohort.excluded,
        tuple(_on_page(row, column) for column in cohort.columns),
    )


def _link(record: VisitRecord) -> str:
    return quote(f"sub-{record.participant}.html") + f"#{anchor_of(record)}"


def _on_page(row: Mapping[str, str], column: Column) -> str:
    """Round a number (the table file has all digits); put reasons where flags would stand."""
    value = row[column.name]
    if column.name == "flags":
        remarks = [text for text in (row["reason"], value) if text != MISSING]
        return "; ".join(remarks)
    if column.digits is None or value == MISSING:
        return value
    return decimal(float(value), column.digits)


def _map(frequency: Frequency) -> tuple[Markup, str]:
    return page.data_uri(draw_frequency(frequency)), words(frequency)


def _pictures(cohort: Cohort) -> list[tuple[VisitRecord, str, Markup]]:
    found = []
    for record in cohort.records[:MOST]:
        jpeg = thumbnail(cohort.out_dir, visit_of(record)) if record.prefix else None
        if jpeg is not None:
            found.append((record, _link(record), page.data_uri(jpeg, "jpeg")))
    return found
