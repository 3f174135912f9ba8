"""Group page: plots with a shared highlight, a table, a lesion map and thumbnails."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from bids_msseg.bids.record import VisitRecord, recorded_visit
from bids_msseg.bids.visit import Visit
from bids_msseg.lesions.regions import Region
from bids_msseg.reports import page
from bids_msseg.reports.check import check_page
from bids_msseg.reports.group.data import ROWS, Cohort, page_data, sort_flags, text_on_page
from bids_msseg.reports.group.frequency import Frequency, draw_frequency, frequency_caption
from bids_msseg.reports.group.thumbnails import MAX_EMBEDDED, picture_file, thumbnail
from bids_msseg.reports.participant import anchor_of
from bids_msseg.reports.text import readable

LENGTHS = (ROWS // 2, ROWS, 2 * ROWS, 5 * ROWS)
"""Numbers of rows that a reader can choose from."""


@dataclass(frozen=True, slots=True)
class RowView:
    """A row of the table; ``cells`` in the order of the shown columns."""

    participant: str
    link: str
    excluded: bool
    cells: tuple[str, ...]


def render_group(cohort: Cohort) -> str:
    """Render the group page; without scripts it shows only the first rows of the table."""
    script = page.asset("templates/group.js")
    flags = sort_flags(cohort.records)
    pictures = _pictures(cohort)
    return page.render(
        "group.html",
        cohort=cohort,
        check=check_page(cohort.out_dir),
        visits=len(cohort.records),
        participants=len({record.participant for record in cohort.records}),
        rows=[_row(cohort, i) for i in range(min(ROWS, len(cohort.records)))],
        lengths=LENGTHS,
        counts=Counter(record.status for record in cohort.records),
        flags=flags.kinds,
        flagged=flags.flagged,
        data=page.json_block(page_data(cohort, flags, pictures)),
        regions=[(region.label, readable(region.label)) for region in Region],
        map=None if cohort.frequency is None else _map(cohort.frequency),
        pictures=bool(pictures),
        linked=bool(pictures) and not _are_inside(cohort),
        script=script,
        script_hash=page.script_hash(script),
    )


def _row(cohort: Cohort, place: int) -> RowView:
    record, row = cohort.records[place], cohort.rows[place]
    return RowView(
        f"sub-{record.participant}",
        _link(record),
        record.key in cohort.excluded,
        tuple(text_on_page(row, column) for column in cohort.columns),
    )


def _link(record: VisitRecord) -> str:
    return quote(f"sub-{record.participant}.html") + f"#{anchor_of(record)}"


def _map(frequency: Frequency) -> tuple[Markup, str]:
    return page.data_uri(draw_frequency(frequency)), frequency_caption(frequency)


def _are_inside(cohort: Cohort) -> bool:
    """Return whether pictures are embedded in the page; large cohorts link to files."""
    return len(cohort.records) <= MAX_EMBEDDED


def _pictures(cohort: Cohort) -> list[str | None]:
    """List the address of each visit's picture; empty if no visit has one."""
    address = _page_anchor if _are_inside(cohort) else _page_link
    addresses = [
        address(cohort.out_dir, recorded_visit(record)) if record.prefix else None
        for record in cohort.records
    ]
    return addresses if any(addresses) else []


def _page_anchor(out_dir: Path, visit: Visit) -> str | None:
    jpeg = thumbnail(out_dir, visit)
    return None if jpeg is None else page.data_uri(jpeg, "jpeg")


def _page_link(out_dir: Path, visit: Visit) -> str | None:
    file = picture_file(out_dir, visit)
    return None if file is None else quote(file.relative_to(out_dir).as_posix())
