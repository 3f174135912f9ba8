"""Who works on a visit: one run at a time, however many were started on one OUT or work folder.

A claim is a lock on one byte of a file, at a place that follows from the visit's name. The system
lets go of it when the process ends, also by SIGKILL; forked workers do not inherit it; and one
open file serves any number of visits.
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

from bids_msseg.bids.record import BROKE_OFF, VisitRecord, read_record

LOCK_FILE: Final = ".claims"
LOGGER = logging.getLogger("bids_msseg")
_TAKEN: Final = (errno.EACCES, errno.EAGAIN)


class Claims:
    """Locks on the visits that this run may work on.

    Each folder must exist and has a lock file ``.claims`` while there are claims. If the file
    system has no locks, every claim succeeds.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Claims([Path(folder)]) as claims:
    ...     claims.take("sub-01")
    True
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._files = tuple(dict.fromkeys(folder / LOCK_FILE for folder in folders))
        self._open: dict[Path, int] = {}

    def __enter__(self) -> Claims:
        """Return itself; files are opened with the first claim."""
        return self

    def __exit__(self, *problem: object) -> None:
        """Let go of everything."""
        self.release()

    def take(self, name: str, *, wait: bool = False) -> bool:
        """Claim a visit or another name; return False if another run holds it.

        With ``wait``, waits until the other run releases it.
        """
        taken: list[Path] = []
        for file in self._files:
            if not self._take(file, name, wait=wait):
                for one in taken:
                    self._let_go(one, name)
                return False
            taken.append(file)
        return True

    def drop(self, name: str) -> None:
        """Let go of one claim."""
        for file in self._open:
            self._let_go(file, name)

    def release(self) -> None:
        """Let go of all claims, and remove files in which nobody has any."""
        for file, descriptor in self._open.items():
            with suppress(OSError):
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # nobody else has a claim in it, and who opens it now looks again after locking
                file.unlink(missing_ok=True)
            os.close(descriptor)
        self._open.clear()

    def _take(self, file: Path, name: str, *, wait: bool) -> bool:
        how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            while True:
                descriptor = self._descriptor(file)
                fcntl.lockf(descriptor, how, 1, _place(name))
                if _is_same(file, descriptor):
                    return True
                # its last user has removed it since it was opened
                os.close(self._open.pop(file))
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            LOGGER.debug("no locks in %s: %s", file.parent, error)
            return True

    def _descriptor(self, file: Path) -> int:
        if file not in self._open:
            self._open[file] = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._open[file]

    def _let_go(self, file: Path, name: str) -> None:
        with suppress(OSError):
            fcntl.lockf(self._open[file], fcntl.LOCK_UN, 1, _place(name))


def note_running(
    out_dir: Path, records: Iterable[VisitRecord], claims: Claims
) -> tuple[VisitRecord, ...]:
    """Set the status ``running`` for unfinished visits that another run is processing.

    ``claims`` must hold none of these visits. A record is read again if the other run has ended
    meanwhile. The order is kept.
    """
    return tuple(
        _running_or_ended(out_dir, one, claims) if one.reason == BROKE_OFF else one
        for one in records
    )


def _running_or_ended(out_dir: Path, record: VisitRecord, claims: Claims) -> VisitRecord:
    if _is_taken(record.key, claims):
        return replace(
            record,
            status="running",
            reason="still running: another run is at work on this visit",
            hint="wait for it; then run the group level, or the same command, again",
        )
    # the run that held the claim may have written its result after the record was read
    return read_record(out_dir, record.participant, record.session) or record


def _is_taken(name: str, claims: Claims) -> bool:
    if not claims.take(name):
        return True
    claims.drop(name)
    return False


def _place(name: str) -> int:
    """Find a name's byte; files may be locked far beyond their end."""
    return int.from_bytes(sha256(name.encode()).digest()[:7], "big")


def _is_same(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
