"""The cohort's table: one row a visit, from the records alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bids_msseg.bids.files import format_cell
from bids_msseg.bids.paths import group_path
from bids_msseg.bids.record import VisitRecord, read_records
from bids_msseg.bids.sidecars import template_uri
from bids_msseg.errors import CannotCreateError, NoInputError
from bids_msseg.lesions.regions import Region, disseminated_in_space
from bids_msseg.reports import page
from bids_msseg.reports.cohort import (
    Participants,
    find_facets,
    note_absent,
    read_participants,
    summarise,
    summary_dictionary,
)
from bids_msseg.reports.frequency import Frequency, lesion_frequency, write_frequency
from bids_msseg.reports.group_data import Cohort
from bids_msseg.reports.group_page import render_group
from bids_msseg.reports.participant import contrasts_used, percent_of_brain, visit_of
from bids_msseg.reports.qc import Review, read_reviews
from bids_msseg.reports.tables import Row
from bids_msseg.reports.text import MISSING, counted, listed, voxel_size, without_folders, words

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
    notes : tuple of str
        What the user should know of the table, one sentence each.
    """

    tsv: Path
    json: Path
    html: Path
    visits: int
    incomplete: int
    notes: tuple[str, ...] = ()


def columns(reviews: Mapping[str, Review] | None = None) -> tuple[Column, ...]:
    """List the columns of the group table, the only place where they stand.

    Parameters
    ----------
    reviews : mapping of str to Review, optional
        What readers decided, by key of the visit; adds the columns of QC.

    Returns
    -------
    tuple of Column
        In the order of the file.
    """
    qc = () if reviews is None else _reviewed(reviews)
    measures = (*_identity(), *_measures(), *_trust(), *qc)
    return (*measures, *_by_region(), *_changes(), *_circumstances())


def group_rows(
    records: Iterable[VisitRecord], reviews: Mapping[str, Review] | None = None
) -> list[dict[str, str]]:
    """Turn records into rows of the group table.

    Parameters
    ----------
    records : iterable of VisitRecord
    reviews : mapping of str to Review, optional
        As for :func:`columns`.

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
    defined = columns(reviews)
    return [
        {column.name: format_cell(column.value(record)) for column in defined}
        for record in records
    ]


def write_group(
    out_dir: Path,
    *,
    bids_dir: Path | None = None,
    qc_dir: Path | None = None,
    records: Sequence[VisitRecord] | None = None,
) -> GroupFiles:
    """Write the table of the cohort, its summary, its map and its page, dictionaries beside them.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs; of each visit the record, the small pictures and the mask in
        template space are read.
    bids_dir : Path, optional
        Dataset whose ``participants.tsv`` divides the cohort; may be missing.
    qc_dir : Path, optional
        Folder with the files that readers saved; see :mod:`bids_msseg.reports.qc`.
    records : sequence of VisitRecord, optional
        What became of the visits; read from OUT where not given.

    Returns
    -------
    GroupFiles

    Raises
    ------
    NoInputError
        If no visit is recorded, or the QC folder holds no file.
    DataError
        If a QC file cannot be used.
    CannotCreateError
        If a file cannot be written, or one of an earlier run not be removed.
    """
    records = read_records(out_dir) if records is None else tuple(records)
    if not records:
        raise NoInputError(
            f"no visit is recorded in {out_dir}",
            hint="run the participant level into this folder first",
        )
    reviews = None if qc_dir is None else _reviews(qc_dir, out_dir, records)
    rows = group_rows(records, reviews)
    people = read_participants(bids_dir)
    cohort = _cohort(out_dir, people, records, rows, reviews)
    _write_frequency(out_dir, cohort.frequency)
    _save_table(group_path(out_dir, ".tsv", "summary"), cohort.summary)
    _save_json(group_path(out_dir, ".json", "summary"), summary_dictionary())
    return GroupFiles(
        tsv=_save_table(group_path(out_dir, ".tsv"), rows),
        json=_save_json(group_path(out_dir, ".json"), data_dictionary(reviews)),
        html=page.save(group_path(out_dir, ".html"), render_group(cohort)),
        visits=len(records),
        incomplete=sum(record.status != "ok" for record in records),
        notes=(*_without_result(records), *people.notes, *note_absent(people, rows)),
    )


def _without_result(records: Sequence[VisitRecord]) -> tuple[str, ...]:
    names = [f"{one.key} ({_in_words(one)})" for one in records if one.status != "ok"]
    if not names:
        return ()
    count = f"{len(names)} of {counted(len(records), 'visit')}"
    return (f"{count} without a result: {listed(names)}; the group table says why",)


def _in_words(record: VisitRecord) -> str:
    return "still running" if record.status == "running" else record.status


def _reviews(qc_dir: Path, out_dir: Path, records: Sequence[VisitRecord]) -> Mapping[str, Review]:
    visits = {record.key: visit_of(record) for record in records if record.prefix}
    return read_reviews(qc_dir, out_dir, visits)


def _cohort(
    out_dir: Path,
    people: Participants,
    records: tuple[VisitRecord, ...],
    rows: Sequence[Row],
    reviews: Mapping[str, Review] | None,
) -> Cohort:
    facets = find_facets(rows, people.rows)
    load = "lesion_load_ml" if reviews is None else "qc_lesion_load_ml"
    loads = [None if row[load] == MISSING else float(row[load]) for row in rows]
    excluded = {key for key, one in (reviews or {}).items() if one.verdict == "reject"}
    counted = [one for one in records if one.status == "ok" and one.key not in excluded]
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
        frequency=lesion_frequency(out_dir, map(visit_of, counted)),
    )


def _shown(known: Sequence[Column], rows: Sequence[Row]) -> tuple[Column, ...]:
    """Leave out of the page what no visit has; the table file has every column."""
    return tuple(
        column
        for column in known
        if column.shown
        and (column.name == "flags" or any(row[column.name] != MISSING for row in rows))
    )


def _write_frequency(out_dir: Path, frequency: Frequency | None) -> None:
    """Write the map with its sidecar; one of an earlier run must not stay."""
    image = group_path(out_dir, ".nii.gz", "frequency")
    beside = group_path(out_dir, ".json", "frequency")
    if frequency is None:
        for path in (image, beside):
            _remove(path)
        return
    content = {
        "Description": "Share of participants with a lesion at any of their visits",
        "SpatialReference": template_uri(frequency.space, str(frequency.resolution)),
        "Participants": frequency.participants,
        "MostParticipants": frequency.most,
    }
    _save_json(beside, content)
    page.save(image, lambda path: write_frequency(frequency, path))


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotCreateError(
            f"cannot remove {path}: {error.strerror or error}",
            hint="remove it yourself, or make the folder writable",
        ) from error


def _save_table(path: Path, rows: Sequence[Row]) -> Path:
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    return page.save(path, "\n".join(lines) + "\n")


def _save_json(path: Path, content: Mapping[str, object]) -> Path:
    return page.save(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def data_dictionary(
    reviews: Mapping[str, Review] | None = None,
) -> dict[str, dict[str, object]]:
    """Describe the columns as BIDS wants it beside a TSV file.

    Parameters
    ----------
    reviews : mapping of str to Review, optional
        As for :func:`columns`.

    Returns
    -------
    dict
        Column to ``Description``, ``Units`` and ``Levels``.
    """
    content: dict[str, dict[str, object]] = {}
    for column in columns(reviews):
        content[column.name] = {"Description": column.description}
        if column.units:
            content[column.name]["Units"] = column.units
        if column.levels:
            content[column.name]["Levels"] = dict(column.levels)
    return content


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
            found = ", ".join(
                f"{value} ({number} visit{'s' if number > 1 else ''})"
                for value, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            )
            sentences.append(f"{what}: {found}")
    return sentences


def _identity() -> tuple[Column, ...]:
    levels = {
        "ok": "the visit was processed",
        "failed": "processing broke off; see reason",
        "skipped": "the visit could not be processed; see reason",
        "running": "another run was still at work on it",
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


def _trust() -> tuple[Column, ...]:
    """List how far the load may be trusted, and what the check of the images found."""
    expert = "of the load that the experts of the training would have drawn"
    return (
        _measure(
            "lesion_load_expected_ml", f"Expected value {expert}", _load_bound(0), units="mL"
        ),
        _measure(
            "lesion_load_low_ml",
            f"Lower end of the 90 % interval {expert}",
            _load_bound(1),
            units="mL",
            shown="90 % from",
            digits=2,
        ),
        _measure(
            "lesion_load_high_ml",
            f"Upper end of the 90 % interval {expert}",
            _load_bound(2),
            units="mL",
            shown="to",
            digits=2,
        ),
        Column(
            "lesion_load_interval_reason",
            "Why there is no interval",
            lambda one: without_folders(one.load_interval_reason),
        ),
        Column(
            "lesion_load_interval_note",
            "Which of mask and interval to believe where lesion_load_ml lies outside the interval",
            lambda one: without_folders(one.load_interval_note),
            shown="mask or interval",
        ),
        *_image_checks(),
    )


def _image_checks() -> tuple[Column, ...]:
    return (
        Column(
            "quality",
            "What the check of the images says, before anything is segmented",
            lambda one: one.quality,
            levels={
                "ok": "no check raised a flag",
                "flagged": "the images are unusual: see quality_reasons",
            },
            shown="images",
        ),
        Column(
            "quality_reasons",
            "What is unusual about the images, separated by semicolons",
            lambda one: without_folders("; ".join(one.quality_reasons or ())),
        ),
        Column(
            "training_distance",
            "How far the images lie from the nearest visit of the training; 1 is the median "
            "distance between a visit of the training and its nearest fellow",
            lambda one: one.quality_measures.get("training_distance"),
            shown="distance",
            digits=1,
        ),
        Column(
            "flair_noise",
            "Noise of FLAIR in standard deviations of the brain, the worst axis",
            lambda one: (
                max(
                    (one.quality_measures.get(f"FLAIR_noise_{axis}", -1.0) for axis in "xyz"),
                )
                if one.quality_measures
                else None
            ),
        ),
        Column(
            "brain_cut_cm2",
            "Largest area in which the brain mask touches a face of the field of view",
            lambda one: one.quality_measures.get("cut_cm2"),
            "cm^2",
        ),
    )


def _load_bound(place: int) -> Callable[[VisitRecord], object]:
    return lambda one: None if one.load_interval_ml is None else one.load_interval_ml[place]


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


def _reviewed(reviews: Mapping[str, Review]) -> tuple[Column, ...]:
    def of(value: Callable[[Review], object]) -> Callable[[VisitRecord], object]:
        return lambda one: value(reviews[one.key]) if one.key in reviews else None

    def load(one: VisitRecord) -> object:
        review = reviews.get(one.key)
        return review.load_ml(one.lesion_load_ml) if review else one.lesion_load_ml

    def count(one: VisitRecord) -> object:
        review = reviews.get(one.key)
        return review.count(one.lesion_count) if review else one.lesion_count

    levels = {
        "accept": "a reader accepted the visit",
        "unsure": "a reader wants another opinion",
        "reject": "a reader left the visit out: it has no load after QC",
    }
    after = "after a reader's QC; as before where nobody looked"
    return (
        Column(
            "qc_verdict",
            "A reader's verdict; n/a where nobody looked or none was given",
            of(lambda review: review.verdict),
            levels=levels,
            shown="verdict",
        ),
        _measure(
            "qc_lesion_load_ml",
            f"lesion_load_ml {after}",
            load,
            units="mL",
            shown="load after QC",
            digits=2,
        ),
        _measure("qc_lesion_count", f"lesion_count {after}", count, shown="lesions after QC"),
        _measure(
            "qc_rejected_count",
            "Lesions that a reader rejected",
            of(lambda review: len(review.rejected_mm3)),
        ),
        _measure(
            "qc_restored_count",
            "Rejected candidates that a reader called lesions",
            of(lambda review: len(review.restored_mm3)),
        ),
        Column("qc_rater", "Who looked", of(lambda review: review.rater)),
        Column("qc_comment", "The reader's remark", of(lambda review: review.comment)),
    )


def _by_region() -> tuple[Column, ...]:
    found = []
    for name in (region.label for region in Region):
        plain = words(name)
        found += [
            _measure(
                f"{name}_load_ml",
                f"Volume of all lesions within the {plain} region: a confluent lesion gives "
                "each region its share",
                _of_region(name, 0),
                units="mL",
                shown=plain,
                digits=2,
            ),
            _measure(
                f"{name}_count",
                f"Number of {plain} lesions; each lesion counts in its main region",
                _of_region(name, 1),
            ),
        ]
    return (*found, _dissemination())


def _dissemination() -> Column:
    return Column(
        "dissemination_in_space",
        "At least one lesion in at least two of periventricular, juxtacortical, infratentorial "
        "(McDonald 2017), by the counts beside it; cord and optic nerve not assessed, cortical "
        "lesions only where they are in the mask; symptoms are not considered",
        lambda one: disseminated_in_space(_counts(one)) if one.status == "ok" else None,
        levels={
            "true": "shown by lesions of the brain",
            "false": "not shown by lesions of the brain; those of the cord are not known",
        },
        shown="DIS (cord, optic nerve not assessed)",
    )


def _counts(record: VisitRecord) -> dict[str, int | None]:
    return {name: count for name, (_, count) in record.regions.items()}


def _changes() -> tuple[Column, ...]:
    """List which visit it is, and what has changed since the finished visit before."""
    found = [
        _measure(
            "visit_number",
            "Place among the finished visits of the participant, the earliest is 1; n/a where "
            "there is no other or the order is not known",
            lambda one: one.visit_number,
            shown="visit",
        ),
        Column(
            "visit_order_source",
            "Where that order is known from, or why it is not known; nothing is compared then",
            lambda one: without_folders(one.order_source) if one.status == "ok" else None,
        ),
        Column(
            "compared_with",
            "Earlier session that this one is compared with; n/a where there is none, or the two "
            "could not be compared",
            _compared_with,
        ),
    ]
    for change, words_ in (
        ("new", "that are new since then"),
        ("enlarging", "that have grown since then beyond noise"),
        ("shrinking", "that have shrunk since then beyond noise"),
        ("resolved", "of then that have gone"),
        ("unclear", "of one of the two visits only, without proof of a change"),
    ):
        shown = change if change in ("new", "enlarging") else ""
        name, meaning = f"n_{change}", f"Number of lesions {words_}"
        found.append(_measure(name, meaning, _of_change(name), shown=shown))
    for name, description in (
        ("new_ml", "Volume of the lesions that are new"),
        ("enlarging_gained_ml", "Tissue that enlarging lesions have gained"),
        ("shrinking_lost_ml", "Tissue that shrinking lesions have lost"),
        ("resolved_ml", "Volume, then, of the lesions that have gone"),
    ):
        found.append(_measure(name, description, _of_change(name), units="mL"))
    return tuple(found)


def _compared_with(record: VisitRecord) -> str | None:
    changes = record.changes
    compared = "fingerprint" in changes and not changes.get("failed")
    return f"ses-{changes.get('compared_with')}" if compared else None


def _of_change(name: str) -> Callable[[VisitRecord], object]:
    return lambda one: one.changes.get(name)


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
