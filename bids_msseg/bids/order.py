"""Order in time of the visits of a participant: user, sessions table, scans tables, or labels."""

# No message contains a date, because messages about the order are shared with the results.

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from string import ascii_lowercase
from typing import Final

from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.visit import LABEL, bare_label, visit_key, visit_order

HINT: Final = "set the order with --session-order, or add acq_time to sub-*_sessions.tsv"
_BY_USER: Final = "--session-order"
_BY_LABELS: Final = "the session labels"
_SCANS: Final = "*_scans.tsv"
_MISSING: Final = ("", "n/a")
_LABEL: Final = re.compile(r"(.*?)([0-9]+)([a-z]*)")
_UNIT: Final = re.compile(r"|d|days?|w|wks?|weeks?|m|mos?|months?|y|yrs?|years?")
_LONGEST_COUNT: Final = 5
_DATE_LENGTHS: Final = (8, 12, 14)
_NO_TIME_AFTER_T: Final[Mapping[str, frozenset[int]]] = {
    "": frozenset({3, 7, 15}),
    "w": frozenset({1, 2}),
}
"""Numbers between T and a unit that can be scanners of 3, 7 or 1.5 tesla, or T1w and T2w."""
_NO_TIME: Final = re.compile(
    "(?:site|cent(?:re|er)|hospital|scanner|magnet|tesla|vendor|station|coil|rater|reader|observer"
    "|operator|task|condition|dose|arm|group)[a-z]?"
)
"""Words before a number that is not a point in time: ``site1``, ``scannerB2``, ``raters3``."""


@dataclass(frozen=True, slots=True)
class VisitOrder:
    """Sessions of a participant and the source of their order."""

    sessions: tuple[str, ...]  # labels without ses-, earliest first
    source: str = ""  # empty if the order is not known: the sessions are then in natural order
    notes: tuple[str, ...] = ()  # what is missing, unreadable or contradictory

    @property
    def known(self) -> bool:
        """Whether the order is known."""
        return bool(self.source)

    @property
    def description(self) -> str:
        """Source and notes as text."""
        return "; ".join((self.source or "not known", *self.notes))

    @property
    def level(self) -> int:
        """Logging level: a warning if the order is unknown or there are notes."""
        return logging.INFO if self.known and not self.notes else logging.WARNING

    def describe(self, participant: str) -> str:
        """Describe the order and its source for the log."""
        name = f"sub-{participant}"
        if self.known:
            return (
                f"{name}: order of the visits: {_session_list(self.sessions)} ({self.description})"
            )
        return (
            f"{name}: the order of the visits {_session_list(self.sessions)} is "
            f"{self.description}: changes between them are not reported\n  hint: {HINT}"
        )


def order_sessions(
    bids_dir: Path | None,
    participant: str,
    flairs: Mapping[str, str],
    *,
    user_order: Sequence[str] = (),
) -> VisitOrder:
    """Order sessions by the first source that orders all; ``flairs`` maps them to file names."""
    sessions = tuple(sorted(flairs, key=lambda session: visit_order(participant, session)))
    if user_order:
        return _order_by_user(sessions, user_order)
    evident = order_labels(sessions, _labels_in_dataset(bids_dir, participant))
    notes: list[str] = []
    for source, cells, remarks in _tables(bids_dir, participant, flairs):
        ordered, faults = _order_by_time(source, sessions, cells)
        notes += [*remarks, *faults]
        if ordered:
            differs = bool(evident) and evident != ordered
            notes += [f"{_BY_LABELS} suggest another order"] * differs
            return VisitOrder(ordered, f"acq_time in {source}", tuple(notes))
    if evident:
        return VisitOrder(evident, _BY_LABELS, tuple(notes))
    if bids_dir is not None and not notes:
        notes.append(f"no acq_time in sub-{participant}_sessions.tsv or {_SCANS}")
    return VisitOrder(sessions, notes=(*notes, "the session labels do not show an order"))


def _labels_in_dataset(bids_dir: Path | None, participant: str) -> list[str]:
    if bids_dir is None:
        return []
    folders = (bids_dir / f"sub-{participant}").glob("ses-*")
    labels = [folder.name.removeprefix("ses-") for folder in folders if folder.is_dir()]
    return [label for label in labels if re.fullmatch(LABEL, label)]


def order_labels(labels: Sequence[str], others: Sequence[str] = ()) -> tuple[str, ...]:
    """Order session labels that clearly show an order; otherwise return an empty tuple."""
    # numbers, dates (YYYYMMDD), or numbers after one prefix or before one unit of time; ``others``
    # of the participant, such as T0, show whether T3 and T7 are times
    parts = [_LABEL.fullmatch(label.casefold()) for label in labels]
    parsed = {
        label: (match[1], match[2], match[3])
        for label, match in zip(labels, parts, strict=True)
        if match
    }
    frames = {(prefix, unit) for prefix, _, unit in parsed.values()}
    numbers = [number for _, number, _ in parsed.values()]
    if len(parsed) < len(labels) or len(frames) != 1 or not _are_ranks(numbers):
        return ()
    prefix, unit = frames.pop()
    known = [int(number) for number in numbers]
    for match in filter(None, (_LABEL.fullmatch(label.casefold()) for label in others)):
        if (match[1], match[3]) == (prefix, unit):
            known.append(int(match[2]))
    if not _UNIT.fullmatch(unit) or not _can_be_times(prefix, unit, known):
        return ()
    return tuple(sorted(parsed, key=lambda label: int(parsed[label][1])))


def _can_be_times(prefix: str, unit: str, numbers: Iterable[int]) -> bool:
    """Return whether numbers between a prefix and a unit can be points in time."""
    word = prefix[len(prefix.rstrip(ascii_lowercase)) :]
    if word == "t":
        # T3 with T7 may be two scanners; any other number (T0, T1, T2) shows that T is for time
        return not _NO_TIME_AFTER_T.get(unit, frozenset()).issuperset(numbers)
    return not _NO_TIME.fullmatch(word)


def _are_ranks(numbers: Sequence[str]) -> bool:
    """Return whether numbers grow with time, unlike dates that start with the day."""
    if len({int(number) for number in numbers}) < len(numbers):
        return False
    lengths = {len(number) for number in numbers}
    if max(lengths) <= _LONGEST_COUNT:
        return True
    return (
        len(lengths) == 1
        and lengths.pop() in _DATE_LENGTHS
        and all(read_time(number[:8]) is not None for number in numbers)
    )


def read_time(text: str) -> datetime | None:
    """Parse a BIDS date with or without a time, in UTC if it has a zone; None if it is neither."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        return None


def _order_by_user(sessions: tuple[str, ...], user_order: Sequence[str]) -> VisitOrder:
    absent = [session for session in sessions if session not in user_order]
    if absent:
        return VisitOrder(sessions, notes=(f"{_session_list(absent)} not in {_BY_USER}",))
    return VisitOrder(tuple(session for session in user_order if session in sessions), _BY_USER)


_Table = tuple[str, Mapping[str, str], tuple[str, ...]]
"""Name of a source, its ``acq_time`` by session, and what is wrong with its files."""


def _tables(
    bids_dir: Path | None, participant: str, flairs: Mapping[str, str]
) -> tuple[_Table, ...]:
    if bids_dir is None:
        return ()
    return (_sessions_table(bids_dir, participant), _scans_tables(bids_dir, participant, flairs))


def _sessions_table(bids_dir: Path, participant: str) -> _Table:
    name = f"sub-{participant}_sessions.tsv"
    rows, remarks = _rows(bids_dir / f"sub-{participant}" / name)
    cells: dict[str, str] = {}
    for row in rows:
        session = bare_label(row.get("session_id", ""), "ses")
        if _is_missing(cells.get(session, "")):
            cells[session] = row.get("acq_time", "")
    return name, cells, remarks


def _scans_tables(bids_dir: Path, participant: str, flairs: Mapping[str, str]) -> _Table:
    cells: dict[str, str] = {}
    remarks: list[str] = []
    replaced: list[str] = []
    for session, flair in flairs.items():
        folder = bids_dir / f"sub-{participant}" / f"ses-{session}"
        rows, row_remarks = _rows(folder / f"{visit_key(participant, session)}_scans.tsv")
        cells[session], is_replaced = _scan_time(rows, flair)
        remarks += row_remarks
        replaced += [session] * is_replaced
    if replaced:
        problem = f"invalid acq_time of the FLAIR in {_SCANS}, replaced by that of another scan"
        remarks.append(f"{problem}: {_session_list(replaced)}")
    return _SCANS, cells, tuple(remarks)


def _scan_time(rows: Sequence[Mapping[str, str]], flair: str) -> tuple[str, bool]:
    """Return the time of the FLAIR or earliest scan; True if that replaces an invalid time."""
    cells = [
        (Path(row.get("filename", "")).name != flair, row.get("acq_time", "")) for row in rows
    ]
    dated = [(is_other, time, cell) for is_other, cell in cells if (time := read_time(cell))]
    if not dated:
        return next((cell for _, cell in cells if not _is_missing(cell)), ""), False
    is_other, _, cell = min(dated)
    flair_has_cell = any(not _is_missing(text) for other, text in cells if not other)
    return cell, is_other and flair_has_cell


def _is_missing(cell: str) -> bool:
    return cell.strip() in _MISSING


def _rows(path: Path) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    """Read a table that need not be there."""
    try:
        return load_tsv(path), ()
    except FileNotFoundError:
        return [], (f"{path.name} is not fetched",) if path.is_symlink() else ()
    except (OSError, ValueError):
        return [], (f"{path.name} cannot be read",)


def _order_by_time(
    source: str, sessions: Sequence[str], cells: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Order sessions by time; no order but notes if times are missing, equal or of one date."""
    acq_times = {
        session: cells[session] for session in sessions if not _is_missing(cells.get(session, ""))
    }
    if not acq_times:
        return (), ()
    times = {session: time for session, cell in acq_times.items() if (time := read_time(cell))}
    absent = [session for session in sessions if session not in acq_times]
    invalid = [session for session in acq_times if session not in times]
    repeated = [session for session in times if list(times.values()).count(times[session]) > 1]
    notes = [
        f"{problem} in {source}: {_session_list(affected)}"
        for problem, affected in (
            ("no acq_time", absent),
            ("invalid acq_time", invalid),
            ("the same acq_time", repeated),
        )
        if affected
    ]
    # dates shifted for privacy stay in order, but one date for all may be a placeholder
    if not repeated and _have_one_date([acq_times[session] for session in times]):
        notes.append(
            f"all acq_time in {source} have one date, which may be a placeholder: times of day do "
            "not order the visits"
        )
    return (() if notes else tuple(sorted(times, key=times.__getitem__))), tuple(notes)


def _have_one_date(cells: Sequence[str]) -> bool:
    """Return whether several valid times have the same date, as written."""
    dates = {datetime.fromisoformat(cell.strip()).date() for cell in cells}
    return len(cells) > 1 and len(dates) == 1


def _session_list(sessions: Sequence[str]) -> str:
    return ", ".join(f"ses-{session}" for session in sessions)
