"""Order in time of the visits of a participant, and the source of this order.

The first source that orders every visit is used: the order given by the user, ``acq_time`` in
``sub-*_sessions.tsv``, ``acq_time`` in ``*_scans.tsv``, session labels whose order is evident.
Dates may be shifted for privacy: they stay in order within a participant. No message contains a
date, because messages about the order are shared with the results.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.visit import bare_label, visit_key, visit_order

HINT: Final = "set the order with --session-order, or add acq_time to sub-*_sessions.tsv"
_BY_USER: Final = "--session-order"
_BY_LABELS: Final = "the session labels"
_SCANS: Final = "*_scans.tsv"
_MISSING: Final = ("", "n/a")
_LABEL: Final = re.compile(r"(.*?)([0-9]+)([a-z]*)")
_UNIT: Final = re.compile(r"|d|days?|w|wks?|weeks?|m|mos?|months?|y|yrs?|years?")
_LONGEST_COUNT: Final = 5
_DATE_LENGTHS: Final = (8, 12, 14)


@dataclass(frozen=True, slots=True)
class VisitOrder:
    """Sessions of a participant and the source of their order.

    ``sessions`` are labels without ``ses-``, earliest first. If ``source`` is empty, the order is
    not known and they are in natural order. ``notes`` name what is missing, unreadable or
    contradictory.
    """

    sessions: tuple[str, ...]
    source: str = ""
    notes: tuple[str, ...] = ()

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
        """Describe the order and its source for the log.

        Examples
        --------
        >>> VisitOrder(("M6", "M12"), "the session labels").describe("01")
        'sub-01: order of the visits: ses-M6, ses-M12 (the session labels)'
        """
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
    """Order the sessions of a participant by time.

    ``user_order``, given by the user, overrides ``acq_time`` in the tables of ``bids_dir``,
    which overrides the labels. A source that orders only some sessions is not used. ``flairs``
    maps sessions to FLAIR file names, which may be empty.
    """
    sessions = tuple(sorted(flairs, key=lambda session: visit_order(participant, session)))
    if user_order:
        return _order_by_user(sessions, user_order)
    evident = order_labels(sessions)
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


def order_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Order session labels that clearly show an order; otherwise return an empty tuple.

    All labels must be numbers, dates (YYYYMMDD), or numbers after one prefix or before one unit of
    time, without repetition.

    Examples
    --------
    >>> order_labels(["M12", "M6"]), order_labels(["10", "9"]), order_labels(["12mo", "6mo"])
    (('M6', 'M12'), ('9', '10'), ('6mo', '12mo'))
    >>> order_labels(["predrug", "postdrug"]), order_labels(["7T", "3T"])
    ((), ())
    """
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
    _, unit = frames.pop()
    if not _UNIT.fullmatch(unit):
        return ()
    return tuple(sorted(parsed, key=lambda label: int(parsed[label][1])))


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
    """Parse a BIDS date and time, or a date alone; return None if it is neither.

    A time with a zone is converted to UTC and returned without the zone.

    Examples
    --------
    >>> read_time("1867-06-15T09:30:00") < read_time("1867-12-15")
    True
    >>> read_time("15/06/2019"), read_time("n/a")
    (None, None)
    """
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
    return (
        _sessions_table(bids_dir, participant),
        _scans_tables(bids_dir, participant, flairs),
    )


def _sessions_table(bids_dir: Path, participant: str) -> _Table:
    name = f"sub-{participant}_sessions.tsv"
    rows, remarks = _rows(bids_dir / f"sub-{participant}" / name)
    cells: dict[str, str] = {}
    for row in rows:
        session = bare_label(row.get("session_id", ""), "ses")
        cells.setdefault(session, row.get("acq_time", ""))
    return name, cells, remarks


def _scans_tables(bids_dir: Path, participant: str, flairs: Mapping[str, str]) -> _Table:
    cells: dict[str, str] = {}
    remarks: list[str] = []
    for session, flair in flairs.items():
        folder = bids_dir / f"sub-{participant}" / f"ses-{session}"
        rows, row_remarks = _rows(folder / f"{visit_key(participant, session)}_scans.tsv")
        cells[session] = _scan_time(rows, flair)
        remarks += row_remarks
    return _SCANS, cells, tuple(remarks)


def _scan_time(rows: Sequence[Mapping[str, str]], flair: str) -> str:
    """Return the time of the FLAIR or, if it has none, that of the earliest scan."""
    cells = [
        (Path(row.get("filename", "")).name != flair, row.get("acq_time", "")) for row in rows
    ]
    dated = [(is_other, time, cell) for is_other, cell in cells if (time := read_time(cell))]
    if not dated:
        return next((cell for _, cell in cells if cell.strip() not in _MISSING), "")
    return min(dated)[2]


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
    """Order sessions by their times; return notes if times are missing or equal.

    The order is empty if there are notes.
    """
    acq_times = {
        session: cells[session]
        for session in sessions
        if cells.get(session, "").strip() not in _MISSING
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
    return (() if notes else tuple(sorted(times, key=times.__getitem__))), tuple(notes)


def _session_list(sessions: Sequence[str]) -> str:
    return ", ".join(f"ses-{session}" for session in sessions)
