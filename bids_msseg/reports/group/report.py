"""Files of the group level: tables, lesion map and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bids_msseg.bids.paths import group_path
from bids_msseg.bids.record import VisitRecord, read_records, recorded_visit
from bids_msseg.bids.sidecars import template_uri
from bids_msseg.errors import NoInputError, convert_os_error
from bids_msseg.reports import page
from bids_msseg.reports.atlas import atlas_rows, group_atlas_dictionary, view_atlases
from bids_msseg.reports.check import read_limits
from bids_msseg.reports.group.cohort import (
    Participants,
    find_facets,
    note_absent,
    read_participants,
    summarise,
    summary_dictionary,
)
from bids_msseg.reports.group.columns import Column
from bids_msseg.reports.group.data import Cohort
from bids_msseg.reports.group.frequency import Frequency, lesion_frequency, write_frequency
from bids_msseg.reports.group.page import render_group
from bids_msseg.reports.group.table import columns, data_dictionary, group_rows, mixtures
from bids_msseg.reports.qc import Review, read_reviews
from bids_msseg.reports.tables import Row
from bids_msseg.reports.text import MISSING, counted, listed


@dataclass(frozen=True, slots=True)
class GroupFiles:
    """Files that the group level wrote, and notes for the user."""

    tsv: Path
    html: Path
    notes: tuple[str, ...]


def write_group(
    out_dir: Path,
    *,
    bids_dir: Path | None = None,
    qc_dir: Path | None = None,
    records: Sequence[VisitRecord] | None = None,
) -> GroupFiles:
    """Write the tables of the cohort, their dictionaries, the lesion map and the page.

    Raises NoInputError without records or QC files, DataError for unusable QC files.
    """
    records = read_records(out_dir) if records is None else tuple(records)
    if not records:
        raise NoInputError(
            f"no processed visits found in {out_dir}",
            hint="run the participant level with this output folder first",
        )
    reviews = None if qc_dir is None else _reviews(qc_dir, out_dir, records)
    limits = read_limits(out_dir)
    rows = group_rows(records, reviews, limits)
    people = read_participants(bids_dir)
    regions = atlas_rows(out_dir, records)
    cohort = _cohort(out_dir, people, records, rows, reviews, regions)
    _write_frequency(out_dir, cohort.frequency)
    _write_atlases(out_dir, regions)
    summary = group_path(out_dir, ".tsv", "summary")
    page.save_table(summary, summary_dictionary(), cohort.summary)
    table = page.save_table(group_path(out_dir, ".tsv"), data_dictionary(reviews, limits), rows)
    html = page.save(group_path(out_dir, ".html"), render_group(cohort))
    notes = (*_without_result(records), *people.notes, *note_absent(people, rows))
    return GroupFiles(table, html, notes)


def _without_result(records: Sequence[VisitRecord]) -> tuple[str, ...]:
    texts = {"running": "still running"}
    names = [
        f"{record.key} ({texts.get(record.status, record.status)})"
        for record in records
        if record.status != "ok"
    ]
    if not names:
        return ()
    count = f"{len(names)} of {counted(len(records), 'visit')}"
    return (f"{count} without a result: {listed(names)}; the group table says why",)


def _reviews(qc_dir: Path, out_dir: Path, records: Sequence[VisitRecord]) -> Mapping[str, Review]:
    visits = {record.key: recorded_visit(record) for record in records if record.prefix}
    return read_reviews(qc_dir, out_dir, visits)


def _cohort(
    out_dir: Path,
    people: Participants,
    records: tuple[VisitRecord, ...],
    rows: Sequence[Row],
    reviews: Mapping[str, Review] | None,
    regions: Sequence[Row],
) -> Cohort:
    facets = find_facets(rows, people.rows)
    load = "lesion_load_ml" if reviews is None else "qc_lesion_load_ml"
    loads = [None if row[load] == MISSING else float(row[load]) for row in rows]
    excluded = {key for key, review in (reviews or {}).items() if review.rating == "reject"}
    finished = (record for record in records if record.status == "ok")
    included = [recorded_visit(record) for record in finished if record.key not in excluded]
    return Cohort(
        out_dir=out_dir,
        records=records,
        rows=tuple(rows),
        columns=_shown(columns(reviews), rows),
        loads=tuple(loads),
        excluded=frozenset(excluded),
        reviewed=None if reviews is None else len(reviews),
        facets=facets,
        summary=tuple(summarise(rows, loads, facets)),
        mixtures=tuple(mixtures(rows)),
        frequency=lesion_frequency(out_dir, included),
        atlases=view_atlases([row for row in regions if _key(row) not in excluded]),
    )


def _key(row: Row) -> str:
    """Return the visit key of a row."""
    session = row["session_id"]
    return row["participant_id"] + ("" if session == MISSING else f"_{session}")


def _shown(all_columns: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Select the columns of the page; omit those that are empty for all visits."""
    return tuple(
        column
        for column in all_columns
        if column.shown
        and (column.name == "flags" or any(row[column.name] != MISSING for row in rows))
    )


def _write_frequency(out_dir: Path, frequency: Frequency | None) -> None:
    """Write the map with its sidecar; remove stale files if there is no map."""
    image, sidecar = (group_path(out_dir, end, "frequency") for end in (".nii.gz", ".json"))
    if frequency is None:
        _remove(image, sidecar)
        return
    content = {
        "Description": "Share of participants with a lesion at any of their visits",
        "SpatialReference": template_uri(frequency.space, str(frequency.resolution)),
        "Participants": frequency.participants,
        "MostParticipants": frequency.most,
    }
    page.save_json(sidecar, content)
    page.save(image, lambda path: write_frequency(frequency, path))


def _write_atlases(out_dir: Path, rows: Sequence[Row]) -> None:
    """Write the load per region of all visits; remove stale files if there is none."""
    table, sidecar = (group_path(out_dir, end, "atlas") for end in (".tsv", ".json"))
    if rows:
        page.save_table(table, group_atlas_dictionary(), rows)
    else:
        _remove(table, sidecar)


def _remove(*paths: Path) -> None:
    hint = "remove it yourself, or make the folder writable"
    for path in paths:
        with convert_os_error(f"cannot remove {path}", hint=hint):
            path.unlink(missing_ok=True)
