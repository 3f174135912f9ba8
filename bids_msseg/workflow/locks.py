"""Locks on visits: one run works on a visit, even if several share an OUT or work folder.

A lock is on one byte of a file, at an offset from the visit name. The system releases it when
the process ends; forked workers do not inherit it. ``filelock`` would need a file for each visit.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Final

from bids_msseg.bids.record import UNFINISHED_REASON, VisitRecord, read_record

LOCK_FILE: Final = ".locks"
LOGGER = logging.getLogger("bids_msseg")
_HELD_BY_ANOTHER: Final = (errno.EACCES, errno.EAGAIN)


class VisitLocks:
    """Locks on the visits of this run; without file locks, every call succeeds."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = tuple(dict.fromkeys(folder / LOCK_FILE for folder in folders))
        self._open: dict[Path, int] = {}

    def __enter__(self) -> VisitLocks:
        """Return itself; files are opened with the first lock."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Release all locks."""
        self.release_all()

    def acquire(self, name: str, *, wait: bool = False) -> bool:
        """Lock a visit or another name, or wait for it; return False if another run holds it."""
        acquired: list[Path] = []
        for file in self._files:
            if not self._acquire(file, name, wait=wait):
                for locked in acquired:
                    self._release(locked, name)
                return False
            acquired.append(file)
        return True

    def release(self, name: str) -> None:
        """Release one lock."""
        for file in self._open:
            self._release(file, name)

    def release_all(self) -> None:
        """Release all locks, and remove lock files without another holder."""
        for file, descriptor in self._open.items():
            with suppress(OSError):
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # no other run has a lock in it; one that opens it now checks again after locking
                file.unlink(missing_ok=True)
            os.close(descriptor)
        self._open.clear()

    def _acquire(self, file: Path, name: str, *, wait: bool) -> bool:
        flags = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            while True:
                if file not in self._open:
                    self._open[file] = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                descriptor = self._open[file]
                fcntl.lockf(descriptor, flags, 1, _byte_offset(name))
                if _is_same(file, descriptor):
                    return True
                # its last user has removed it since it was opened
                os.close(self._open.pop(file))
        except OSError as error:
            if error.errno in _HELD_BY_ANOTHER:
                return False
            LOGGER.debug("no locks in %s: %s", file.parent, error)
            return True

    def _release(self, file: Path, name: str) -> None:
        with suppress(OSError):
            fcntl.lockf(self._open[file], fcntl.LOCK_UN, 1, _byte_offset(name))


def note_running(
    out_dir: Path, records: Iterable[VisitRecord], locks: VisitLocks
) -> tuple[VisitRecord, ...]:
    """Set the status ``running`` for unfinished visits that another run is processing."""
    return tuple(
        _with_current_status(out_dir, record, locks)
        if record.reason == UNFINISHED_REASON
        else record
        for record in records
    )


def _with_current_status(out_dir: Path, record: VisitRecord, locks: VisitLocks) -> VisitRecord:
    if not locks.acquire(record.key):
        return replace(
            record,
            status="running",
            reason="still running: another run is processing this visit",
            hint="wait for that run to finish, then run the group level or this command again",
        )
    locks.release(record.key)
    # the run that held the lock may have written its result after the record was read
    return read_record(out_dir, record.participant, record.session) or record


def _byte_offset(name: str) -> int:
    """Return the offset of the byte for a name; it may be far beyond the end of a file."""
    return int.from_bytes(sha256(name.encode()).digest()[:7], "big")


def _is_same(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
