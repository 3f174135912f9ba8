"""The cohort's table: one row a visit, from the records alone."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from bids_msseg.bids.files import format_cell
from bids_msseg.bids.paths import group_path
from bids_msseg.bids.record import VisitRecord, read_records
from bids_msseg.errors import NoInputError
from bids_msseg.lesions.regions import Region
from bids_msseg.reports import page
from bids_msseg.reports.participant import anchor_of, contrasts_used, percent_of_brain
from bids_msseg.reports.strip import Strip, draw_strip
from bids_msseg.reports.text import MISSING, decimal, voxel_size, without_folders, words

SHA_DIGITS = 12
MIN_VOLUME_OPTIONS = ("min_lesion_volume_mm3", "min_lesion_volume")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the group table.

    Attributes
    ----------
    name : str
        Heading in the TSV file.
    description : str
        For the data dictionary.
    value : callable
        From a visit's record; None where unknown.
    units : str
        Empty where there are none.
    levels : mapping of str to str
        Meaning of the values where they are few.
    shown : str
        Heading on the page; empty where the page leaves the column out.
    digits : int or None
        Decimals on the page; None where the column holds words.
    """

    name: str
    description: str
    value: Callable[[VisitRecord], object]
    units: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""
    digits: int | None = None


@dataclass(frozen=True, slots=True)
class GroupFiles:
    """What the group level wrote.

    Attributes
    ----------
    tsv, json, html : Path
    visits, incomplete : int
        Rows in all, and those that are not "ok".
    """

    tsv: Path
    json: Path
    html: Path
    visits: int
    incomplete: int


def columns() -> tuple[Column, ...]:
    """List the columns of the group table, the only place where they stand.

    Returns
    -------
    tuple of Column
        In the order of the file.
    """
    return (*_identity(), *_measures(), *_by_region(), *_circumstances())


def group_rows(records: Iterable[VisitRecord]) -> list[dict[str, str]]:
    """Turn records into rows of the group table.

    Parameters
    ----------
    records : iterable of VisitRecord

    Returns
    -------
    list of dict
        Column to text, in the order of the records. What is unknown is ``n/a``, and so is every
        measure of a visit that is not "ok".

    Examples
    --------
    >>> record = VisitRecord("01", None, "sub-01", "ok", lesion_load_ml=12.5, lesion_count=0)
    >>> row = group_rows([record])[0]
    >>> row["participant_id"], row["session_id"], row["lesion_load_ml"], row["lesion_count"]
    ('sub-01', 'n/a', '12.5', '0')
    """
    defined = columns()
    return [
        {column.name: format_cell(column.value(record)) for column in defined}
        for record in records
    ]


def write_group(out_dir: Path) -> GroupFiles:
    """Write ``group_lesions.tsv``, its dictionary and its page.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs; only the visits' records are read.

    Returns
    -------
    GroupFiles

    Raises
    ------
    NoInputError
        If no visit is recorded.
    CannotCreateError
        If a file cannot be written.
    """
    records = read_records(out_dir)
    if not records:
        raise NoInputError(
            f"no visit is recorded in {out_dir}",
            cure="run the participant level into this folder first",
        )
    rows = group_rows(records)
    tsv = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    dictionary = json.dumps(data_dictionary(), indent=2, ensure_ascii=False)
    return GroupFiles(
        tsv=page.save(group_path(out_dir, ".tsv"), "\n".join(tsv) + "\n"),
        json=page.save(group_path(out_dir, ".json"), dictionary + "\n"),
        html=page.save(group_path(out_dir, ".html"), render_group(records, rows)),
        visits=len(records),
        incomplete=sum(record.status != "ok" for record in records),
    )


def data_dictionary() -> dict[str, dict[str, object]]:
    """Describe the columns as BIDS wants it beside a TSV file.

    Returns
    -------
    dict
        Column to ``Description``, ``Units`` and ``Levels``.
    """
    content: dict[str, dict[str, object]] = {}
    for column in columns():
        content[column.name] = {"Description": column.description}
        if column.units:
            content[column.name]["Units"] = column.units
        if column.levels:
            content[column.name]["Levels"] = dict(column.levels)
    return content


def render_group(records: Sequence[VisitRecord], rows: Sequence[Mapping[str, str]]) -> str:
    """Fill the group page.

    Parameters
    ----------
    records : sequence of VisitRecord
        At least one.
    rows : sequence of mapping
        From :func:`group_rows`, in the same order.

    Returns
    -------
    str
    """
    script = page.asset("templates/group.js")
    shown = [column for column in columns() if column.shown]
    links = [quote(f"sub-{one.participant}.html") + f"#{anchor_of(one)}" for one in records]
    cells = [
        (link, [_on_page(row, column) for column in shown])
        for link, row in zip(links, rows, strict=True)
    ]
    return page.render(
        "group.html",
        columns=shown,
        rows=cells,
        counts=Counter(record.status for record in records),
        participants=len({record.participant for record in records}),
        mixtures=mixtures(rows),
        strip=_strip(records, links),
        script=script,
        script_hash=page.script_hash(script),
    )


def mixtures(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Say what differs between visits so that their loads must not be compared blindly.

    Parameters
    ----------
    rows : sequence of mapping
        From :func:`group_rows`.

    Returns
    -------
    list of str
        One sentence for each difference; empty where all visits were treated alike.

    Examples
    --------
    >>> base = {"status": "ok", "model_sha256": "a", "min_lesion_volume_mm3": "3"}
    >>> rows = [{**base, "threshold": "0.4", "contrasts": "FLAIR"}] * 3
    >>> mixtures(rows), mixtures([*rows, {**rows[0], "threshold": "0.5"}])
    ([], ['different thresholds: 0.4 (3 visits), 0.5 (1 visit)'])
    """
    compared = {
        "model_sha256": "different models",
        "threshold": "different thresholds",
        "min_lesion_volume_mm3": "different smallest lesions in mm³",
        "contrasts": "different contrasts",
    }
    sentences = []
    for name, what in compared.items():
        counts = Counter(row[name] for row in rows if row["status"] == "ok")
        if len(counts) > 1:
            listed = ", ".join(
                f"{value} ({number} visit{'s' if number > 1 else ''})"
                for value, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            )
            sentences.append(f"{what}: {listed}")
    return sentences


def _on_page(row: Mapping[str, str], column: Column) -> str:
    """Round a number (the table file has all digits); put reasons where flags would stand."""
    value = row[column.name]
    if column.name == "flags":
        remarks = [text for text in (row["reason"], value) if text != MISSING]
        return "; ".join(remarks)
    if column.digits is None or value == MISSING:
        return value
    return decimal(float(value), column.digits)


def _strip(records: Sequence[VisitRecord], links: Sequence[str]) -> Strip | None:
    loads = {
        place: record.lesion_load_ml
        for place, record in enumerate(records)
        if record.status == "ok" and record.lesion_load_ml is not None
    }
    if not loads:
        return None
    return draw_strip(
        [(load, records[i].key, links[i], bool(records[i].flags)) for i, load in loads.items()],
        median=statistics.median(loads.values()),
    )


def _identity() -> tuple[Column, ...]:
    levels = {
        "ok": "the visit was processed",
        "failed": "processing broke off; see reason",
        "skipped": "the visit could not be processed; see reason",
    }
    return (
        Column(
            "participant_id",
            "Participant",
            lambda one: f"sub-{one.participant}",
            shown="participant",
        ),
        Column(
            "session_id",
            "Session; n/a where the participant has none",
            lambda one: None if one.session is None else f"ses-{one.session}",
            shown="session",
        ),
        Column(
            "status", "How processing ended", lambda one: one.status, levels=levels, shown="status"
        ),
    )


def _measures() -> tuple[Column, ...]:
    return (
        _measure(
            "lesion_load_ml",
            "Volume of all lesions",
            lambda one: one.lesion_load_ml,
            units="mL",
            shown="load",
            digits=2,
        ),
        _measure(
            "lesion_count",
            "Number of lesions: 26-connected parts of the mask",
            lambda one: one.lesion_count,
            shown="lesions",
        ),
    )


def _by_region() -> tuple[Column, ...]:
    found = []
    for name in (region.label for region in Region):
        plain = words(name)
        found += [
            _measure(
                f"{name}_load_ml",
                f"Volume of the {plain} lesions (each lesion counts in one region)",
                _of_region(name, 0),
                units="mL",
                shown=plain,
                digits=2,
            ),
            _measure(
                f"{name}_count",
                f"Number of {plain} lesions",
                _of_region(name, 1),
            ),
        ]
    return tuple(found)


def _circumstances() -> tuple[Column, ...]:
    return (
        _measure(
            "brain_volume_ml",
            "Volume of the brain mask",
            lambda one: one.brain_volume_ml,
            units="mL",
            shown="brain",
        ),
        _measure(
            "lesion_load_percent_of_brain",
            "Lesion load as a percentage of brain_volume_ml",
            percent_of_brain,
            units="%",
            shown="of brain",
            digits=2,
        ),
        _measure(
            "rejected_count",
            "Candidates of the first net that the second one removed",
            lambda one: one.rejected_count,
        ),
        Column("contrasts", "Contrasts that the nets saw", _contrasts, shown="contrasts"),
        Column("flair_voxel_mm", "Voxel edges of FLAIR, x, y, z", _voxel, "mm", shown="FLAIR"),
        Column("model", "Name and version of the weights", _model),
        Column(
            "model_sha256",
            f"First {SHA_DIGITS} digits of the SHA-256 of the weights",
            lambda one: one.model and one.model.sha256[:SHA_DIGITS],
        ),
        Column(
            "threshold",
            "Probability from which a voxel is lesion",
            lambda one: one.options.get("threshold"),
        ),
        Column("min_lesion_volume_mm3", "Smallest lesion that is kept", _min_volume, "mm^3"),
        Column(
            "flags",
            "What a reader should look at, separated by semicolons",
            lambda one: without_folders("; ".join(one.flags)),
            shown="flags, reason",
        ),
        Column(
            "reason",
            "Why the visit is not ok",
            lambda one: without_folders(one.reason),
        ),
    )


def _measure(
    name: str,
    description: str,
    value: Callable[[VisitRecord], object],
    *,
    units: str = "",
    shown: str = "",
    digits: int = 0,
) -> Column:
    """Make a column that only finished visits fill: what a failed one left is not a result."""
    return Column(
        name,
        description,
        lambda one: value(one) if one.status == "ok" else None,
        units,
        shown=shown,
        digits=digits,
    )


def _of_region(name: str, place: int) -> Callable[[VisitRecord], object]:
    return lambda one: one.regions.get(name, (None, None))[place]


def _contrasts(record: VisitRecord) -> str | None:
    used = contrasts_used(record)
    return None if used == MISSING else used


def _voxel(record: VisitRecord) -> str | None:
    flair = record.contrasts.get("FLAIR")
    return None if flair is None else voxel_size(flair.spacing_mm)


def _model(record: VisitRecord) -> str | None:
    return None if record.model is None else f"{record.model.name} {record.model.version}".strip()


def _min_volume(record: VisitRecord) -> object:
    return next(
        (record.options[name] for name in MIN_VOLUME_OPTIONS if name in record.options), None
    )
