"""What became of a visit: one small JSON file each, which is all that reports and group read."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from bids_msseg.bids.files import plain, write_json
from bids_msseg.bids.paths import record_path, records_dir
from bids_msseg.bids.visit import visit_key, visit_order

Status = Literal["ok", "failed", "skipped"]
Scalar = str | int | float | bool | None
_T = TypeVar("_T")
_FILE_NAME = re.compile(r"sub-([^_]+)(?:_ses-([^_]+))?")


@dataclass(frozen=True, slots=True)
class ContrastUse:
    """One contrast of a visit.

    Attributes
    ----------
    file : str
        Path below the BIDS dataset, with slashes.
    spacing_mm : tuple of 3 floats
        Voxel edge lengths (x, y, z) in mm.
    used : bool
        Whether the nets saw it.
    note : str
        Anything worth saying, for example why it was not used.
    """

    file: str
    spacing_mm: tuple[float, float, float]
    used: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """Which weights made the result.

    Attributes
    ----------
    name, version : str
        As in the model card.
    sha256 : str
        Of the weights file.
    """

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class VisitRecord:
    """What became of one visit.

    Attributes
    ----------
    participant : str
        Label without ``sub-``.
    session : str or None
        Label without ``ses-``.
    prefix : str
        Start of the names of the visit's outputs, ``sub-01_ses-1_acq-3D``; empty where nothing
        was processed.
    status : {"ok", "failed", "skipped"}
        How it ended.
    reason, cure : str
        Why it is not "ok" and what to do; empty where it is.
    crash_files : tuple of str
        Below OUT, with slashes.
    contrasts : mapping of str to ContrastUse
        By BIDS suffix.
    model : ModelUse or None
        Weights used.
    options : mapping of str to scalar
        Options that shape the result.
    brain_volume_ml, lesion_load_ml : float or None
        In mL.
    lesion_count, candidate_count, rejected_count : int or None
        Lesions in the result; candidates of the first net; those that the second one removed.
    regions : mapping of str to (float or None, int or None)
        Region name to load in mL and number of lesions.
    flags, notes : tuple of str
        Warnings that a reader of the group table should see; remarks.
    timings_s : mapping of str to float
        Wall time of each step in seconds.
    fingerprint : str
        Digest of inputs, options and model: equal means that the outputs are still true.
    versions : mapping of str to str
        Software versions.
    methods : str
        The methods paragraph.
    changes : mapping of str to scalar
        What changed since an earlier visit; see :mod:`bids_msseg.bids.changes`.
    load_interval_ml : (float, float, float) or None
        What the experts would probably have drawn, mL: expected, and the ends of the 90 %
        interval.
    load_interval_reason : str
        Why there is no interval; empty where there is one.
    quality_reasons : tuple of str or None
        What the check of the images found unusual; None where it was not made.
    quality_measures : mapping of str to float
        What it measured.
    """

    participant: str
    session: str | None
    prefix: str
    status: Status
    reason: str = ""
    cure: str = ""
    crash_files: tuple[str, ...] = ()
    contrasts: Mapping[str, ContrastUse] = field(default_factory=dict)
    model: ModelUse | None = None
    options: Mapping[str, Scalar] = field(default_factory=dict)
    brain_volume_ml: float | None = None
    lesion_load_ml: float | None = None
    lesion_count: int | None = None
    candidate_count: int | None = None
    rejected_count: int | None = None
    regions: Mapping[str, tuple[float | None, int | None]] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    methods: str = ""
    changes: Mapping[str, Scalar] = field(default_factory=dict)
    load_interval_ml: tuple[float, float, float] | None = None
    load_interval_reason: str = ""
    quality_reasons: tuple[str, ...] | None = None
    quality_measures: Mapping[str, float] = field(default_factory=dict)

    @property
    def quality(self) -> str:
        """``ok`` or ``flagged``, by the check of the images; ``n/a`` where it was not made."""
        if self.quality_reasons is None:
            return "n/a"
        return "flagged" if self.quality_reasons else "ok"

    @property
    def key(self) -> str:
        """Name of the visit: ``sub-<label>[_ses-<label>]``."""
        return visit_key(self.participant, self.session)

    def to_dict(self) -> dict[str, Any]:
        """Return what :func:`json.dumps` can write."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        content["contrasts"] = {name: _shallow(use) for name, use in self.contrasts.items()}
        content["model"] = None if self.model is None else _shallow(self.model)
        result: dict[str, Any] = plain(content)
        return result

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> VisitRecord:
        """Read what :meth:`to_dict` wrote, by this version of the package or another one.

        Parameters
        ----------
        content : mapping
            Unknown fields are passed over; missing ones get their default.

        Raises
        ------
        ValueError
            Where participant or status are missing, or a value is of the wrong kind.
        """
        try:
            known = {
                name: read(content[name]) for name, read in _READERS.items() if name in content
            }
            known.setdefault("prefix", "")
            known.setdefault("session", None)
            return cls(**known)
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"not a record of a visit: {error}") from error


def write_record(out_dir: Path, record: VisitRecord) -> Path:
    """Store a record as ``OUT/logs/visits/<key>.json``, atomically.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    record : VisitRecord
        Replaces an earlier record of the same visit.

    Returns
    -------
    Path
        The file.
    """
    path = record_path(out_dir, record.participant, record.session)
    write_json(path, record.to_dict())
    return path


def read_record(out_dir: Path, participant: str, session: str | None) -> VisitRecord | None:
    """Read the record of one visit; None where there is none."""
    path = record_path(out_dir, participant, session)
    return _read(path) if path.exists() else None


def read_records(out_dir: Path, participant: str | None = None) -> tuple[VisitRecord, ...]:
    """Read all records of a dataset, or of one participant.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    participant : str, optional
        Label without ``sub-``; no file of others is opened then.

    Returns
    -------
    tuple of VisitRecord
        In natural order of participant and session. A file that cannot be read gives a record
        with status "failed" and the reason.
    """
    start = "sub-*" if participant is None else f"sub-{participant}"
    paths = set(records_dir(out_dir).glob(f"{start}.json"))
    paths |= set(records_dir(out_dir).glob(f"{start}_ses-*.json"))
    records = [_read(path) for path in paths]
    return tuple(sorted(records, key=lambda one: visit_order(one.participant, one.session)))


def _read(path: Path) -> VisitRecord:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return VisitRecord.from_dict(content)
    except (OSError, ValueError, RecursionError) as error:
        match = _FILE_NAME.match(path.stem)
        participant, session = match.groups() if match else (path.stem, None)
        return VisitRecord(
            participant,
            session,
            prefix="",
            status="failed",
            reason=f"its record {path.name} cannot be read: {error}",
            cure="process the visit again",
        )


def _shallow(value: ContrastUse | ModelUse) -> dict[str, Any]:
    return {one.name: getattr(value, one.name) for one in fields(value)}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _status(value: Any) -> Status:
    if value not in ("ok", "failed", "skipped"):
        raise ValueError(f"unknown status {value!r}")
    status: Status = value
    return status


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _measure(value: Any) -> float:
    """Undo what JSON does to NaN."""
    return math.nan if value is None else _number(value)


def _count(value: Any) -> int:
    return int(_number(value))


def _spacing(value: Any) -> tuple[float, float, float]:
    x, y, z = (_measure(item) for item in value)
    return (x, y, z)


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return tuple(_text(item) for item in value)


def _scalar(value: Any) -> Scalar:
    if value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"{value!r} is not a scalar")
    return value


def _region(value: Any) -> tuple[float | None, int | None]:
    load, count = value
    return (_optional(_number)(load), _optional(_count)(count))


def _contrast(value: Any) -> ContrastUse:
    return ContrastUse(
        _text(value["file"]),
        _spacing(value["spacing_mm"]),
        bool(value.get("used", True)),
        _text(value.get("note", "")),
    )


def _model(value: Any) -> ModelUse:
    return ModelUse(*(_text(value[name]) for name in ("name", "version", "sha256")))


def _optional(read: Callable[[Any], _T]) -> Callable[[Any], _T | None]:
    return lambda value: None if value is None else read(value)


def _mapping(read: Callable[[Any], _T]) -> Callable[[Any], dict[str, _T]]:
    return lambda value: {_text(key): read(item) for key, item in value.items()}


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "participant": _text,
    "session": _optional(_text),
    "prefix": _text,
    "status": _status,
    "reason": _text,
    "cure": _text,
    "crash_files": _texts,
    "contrasts": _mapping(_contrast),
    "model": _optional(_model),
    "options": _mapping(_scalar),
    "brain_volume_ml": _optional(_number),
    "lesion_load_ml": _optional(_number),
    "lesion_count": _optional(_count),
    "candidate_count": _optional(_count),
    "rejected_count": _optional(_count),
    "regions": _mapping(_region),
    "flags": _texts,
    "notes": _texts,
    "timings_s": _mapping(_measure),
    "fingerprint": _text,
    "versions": _mapping(_text),
    "methods": _text,
    "changes": _mapping(_scalar),
    "load_interval_ml": _optional(_spacing),
    "load_interval_reason": _text,
    "quality_reasons": _optional(_texts),
    "quality_measures": _mapping(_measure),
}
