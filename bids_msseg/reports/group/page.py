"""Group page: plots with a shared highlight, a table, a lesion map and thumbnails."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup
from PIL import Image

from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.record import recorded_visit
from bids_msseg.bids.visit import Visit
from bids_msseg.lesions.regions import Region
from bids_msseg.reports import page
from bids_msseg.reports.check import check_page
from bids_msseg.reports.group.data import ROWS, Cohort, page_data, sort_flags, text_on_page
from bids_msseg.reports.group.frequency import Frequency, draw_frequency, frequency_caption
from bids_msseg.reports.images.drawing import read_figures
from bids_msseg.reports.participant import anchor_of
from bids_msseg.reports.text import readable

LENGTHS = (ROWS // 2, ROWS, 2 * ROWS, 5 * ROWS)
"""Numbers of rows that a reader can choose from."""
THUMBNAIL_WIDTH = 300
THUMBNAIL_QUALITY = 72
MAX_EMBEDDED = 500
"""Largest number of visits whose thumbnails are embedded, so that the page opens quickly."""


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
    embedded = len(cohort.records) <= MAX_EMBEDDED
    pictures = _pictures(cohort, _embedded if embedded else _linked)
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
        linked=bool(pictures) and not embedded,
        script=script,
        script_hash=page.script_hash(script),
    )


def _row(cohort: Cohort, place: int) -> RowView:
    record, row = cohort.records[place], cohort.rows[place]
    return RowView(
        f"sub-{record.participant}",
        quote(f"sub-{record.participant}.html") + f"#{anchor_of(record)}",
        record.key in cohort.excluded,
        tuple(text_on_page(row, column) for column in cohort.columns),
    )


def _map(frequency: Frequency) -> tuple[Markup, str]:
    return page.data_uri(draw_frequency(frequency)), frequency_caption(frequency)


def _pictures(cohort: Cohort, address: Callable[[Path, Visit], str | None]) -> list[str | None]:
    """List the address of each visit's picture; empty if no visit has one."""
    addresses = [
        address(cohort.out_dir, recorded_visit(record)) if record.prefix else None
        for record in cohort.records
    ]
    return addresses if any(addresses) else []


def _embedded(out_dir: Path, visit: Visit) -> str | None:
    jpeg = thumbnail(out_dir, visit)
    return None if jpeg is None else page.data_uri(jpeg, "jpeg")


def thumbnail(out_dir: Path, visit: Visit) -> bytes | None:
    """Return a visit's lesion picture as a small JPEG; None without one."""
    frames = read_figures(out_dir, visit).get("lesions")
    if not frames:
        return None
    with Image.open(io.BytesIO(frames[0].png)) as image:
        size = (THUMBNAIL_WIDTH, round(image.height * THUMBNAIL_WIDTH / image.width))
        small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True)
    return stream.getvalue()


def _linked(out_dir: Path, visit: Visit) -> str | None:
    path = figure_path(out_dir, visit, "lesions", extension=".png")
    return quote(path.relative_to(out_dir).as_posix()) if path.is_file() else None
