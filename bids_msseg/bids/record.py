"""Records of visits: one small JSON file each, the only input of the reports and the group."""

from __future__ import annotations

import re
import textwrap
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bids_msseg.bids.files import plain, read_small, write_json
from bids_msseg.bids.paths import record_path, records_dir
from bids_msseg.bids.record_values import (
    Amount,
    ContrastUse,
    Count,
    FileStatus,
    Label,
    Measure,
    ModelUse,
    Scalar,
    Times,
    Triple,
    adapter,
    check_changes,
)
from bids_msseg.bids.visit import LABEL, PREFIX_ENTITIES, Visit, visit_key, visit_order
from bids_msseg.io.validation import first_error

UNFINISHED_REASON = "the run stopped before this visit was finished"
"""Reason in the record of a visit that was begun, until it is finished."""
LONGEST_REASON = 300
"""Characters of an error about a record: the message can quote the whole file."""
_FILE_NAME = re.compile(rf"sub-({LABEL})(?:_ses-({LABEL}))?")
_ENTITIES = re.compile(rf"(?:_[0-9a-zA-Z]+-{LABEL})*")


@dataclass(frozen=True, slots=True)
class VisitRecord:
    """Status, measurements and provenance of one visit."""

    participant: Label
    session: Label | None
    prefix: str
    status: FileStatus  # no stored record has ``running``
    reason: str = ""
    hint: str = ""
    crash_files: tuple[str, ...] = ()
    contrasts: Mapping[str, ContrastUse] = field(default_factory=dict)
    model: ModelUse | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)
    brain_volume_ml: Amount | None = None
    lesion_load_ml: Amount | None = None
    lesion_count: Count | None = None
    candidate_count: Count | None = None
    rejected_count: Count | None = None
    # load in mL and number of lesions
    regions: Mapping[str, tuple[Amount | None, Count | None]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    timings_s: Times = field(default_factory=dict)
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    methods: str = ""
    changes: Mapping[str, Scalar] = field(default_factory=dict)
    load_interval_ml: Triple | None = None  # expected, low and high of a 90 % interval
    load_interval_reason: str = ""
    load_interval_note: str = ""
    quality_reasons: tuple[str, ...] | None = None  # None if not checked
    quality_measures: Mapping[str, Measure] = field(default_factory=dict)
    visit_number: Count | None = None  # from 1
    order_source: str = ""
    figures: tuple[Label, ...] = ()
    lesion_mask: str = ""
    exclude_masks: tuple[str, ...] = ()
    excluded_ml: Amount | None = None
    brain_measures: Mapping[str, Measure] = field(default_factory=dict)
    anatomy_implausible: tuple[str, ...] | None = None  # None if not checked

    @property
    def quality(self) -> str:
        """``ok`` or ``flagged`` by the check of the images; ``n/a`` if not checked."""
        if self.quality_reasons is None:
            return "n/a"
        return "flagged" if self.quality_reasons else "ok"

    @property
    def key(self) -> str:
        """Name of the visit: ``sub-<label>[_ses-<label>]``."""
        return visit_key(self.participant, self.session)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that :func:`json.dumps` can write."""
        result: dict[str, Any] = plain(asdict(self))
        return result

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> VisitRecord:
        """Read the result of :meth:`to_dict`, also of another version; ValueError if invalid."""
        complete = {"prefix": "", "session": None, **content}
        try:
            record: VisitRecord = adapter(VisitRecord).validate_python(complete)
        except ValidationError as error:
            raise ValueError(first_error(error)) from error
        check_changes(record.changes)
        if record.prefix and not _is_file_prefix(record.prefix, record.key):
            raise ValueError(f"prefix: {record.prefix!r} does not name a file of {record.key}")
        return record


def recorded_visit(record: VisitRecord) -> Visit:
    """Rebuild the visit of a record, without images, to construct output paths."""
    pairs = [part.partition("-") for part in record.prefix.split("_")]
    entities = {name: value for name, _, value in pairs if name in PREFIX_ENTITIES}
    return Visit(record.participant, record.session, Path(), entities=entities)


def _read_json(path: Path) -> Any:
    try:
        return adapter(dict[str, Any]).validate_json(read_small(path).removeprefix(BOM_UTF8))
    except ValidationError as error:
        raise ValueError(first_error(error)) from error


def write_record(out_dir: Path, record: VisitRecord) -> Path:
    """Write a record atomically to ``OUT/logs/visits/<key>.json`` and return the path."""
    path = record_path(out_dir, record.participant, record.session)
    write_json(path, record.to_dict())
    return path


def read_record(out_dir: Path, participant: str, session: str | None) -> VisitRecord | None:
    """Read the record of one visit; return None if there is none."""
    path = record_path(out_dir, participant, session)
    return _read(path) if path.exists() else None


def read_records(out_dir: Path, participant: str | None = None) -> tuple[VisitRecord, ...]:
    """Read all records in visit order; an unreadable file yields a record with ``failed``."""
    # so does a file that describes another visit than its name says
    start = "sub-*" if participant is None else f"sub-{participant}"
    paths = set(records_dir(out_dir).glob(f"{start}.json"))
    paths |= set(records_dir(out_dir).glob(f"{start}_ses-*.json"))
    return tuple(record for visits in _by_participant(paths).values() for record in visits)


def read_records_of(
    out_dir: Path, participants: Iterable[str]
) -> dict[str, tuple[VisitRecord, ...]]:
    """Read the records of several participants, by participant; open no file of others."""
    names = {f"sub-{participant}" for participant in participants}
    paths = records_dir(out_dir).glob("sub-*.json")
    return _by_participant(path for path in paths if path.stem.partition("_")[0] in names)


def _by_participant(paths: Iterable[Path]) -> dict[str, tuple[VisitRecord, ...]]:
    records = [_read(path) for path in sorted(paths)]
    by_participant: dict[str, list[VisitRecord]] = {}
    for record in sorted(records, key=lambda visit: visit_order(visit.participant, visit.session)):
        by_participant.setdefault(record.participant, []).append(record)
    return {participant: in_visit_order(visits) for participant, visits in by_participant.items()}


def in_visit_order(records: Iterable[VisitRecord]) -> tuple[VisitRecord, ...]:
    """Sort records of a participant naturally, unless visit numbers contradict that order."""
    # if they do, visits without a number are last
    natural = sorted(records, key=lambda record: visit_order(record.participant, record.session))
    numbers = [record.visit_number for record in natural if record.visit_number is not None]
    if numbers == sorted(numbers):
        return tuple(natural)
    last = len(natural)
    return tuple(sorted(natural, key=lambda record: record.visit_number or last + 1))


def _read(path: Path) -> VisitRecord:
    try:
        record = VisitRecord.from_dict(_read_json(path))
        if record.key != path.stem:
            raise ValueError(f"it describes {record.key}")
    except OSError as error:
        return _unreadable_record(path, error.strerror or str(error))
    except ValueError as error:
        return _unreadable_record(path, str(error))
    return record


def _unreadable_record(path: Path, reason: str) -> VisitRecord:
    """Return a failed record, based on the file name, in place of an unreadable one."""
    name = plain(path.name)
    match = _FILE_NAME.match(name)
    stem = name.removesuffix(".json")
    participant, session = match.groups() if match else (stem.removeprefix("sub-"), None)
    short = textwrap.shorten(plain(reason), LONGEST_REASON, placeholder=" …")
    return VisitRecord(
        participant,
        session,
        prefix="",
        status="failed",
        reason=f"the record {name} cannot be read: {short}",
        hint="process the visit again",
    )


def _is_file_prefix(prefix: str, key: str) -> bool:
    rest = prefix.removeprefix(key)
    return rest != prefix and _ENTITIES.fullmatch(rest) is not None
