"""Visit locks: a lock held by one run excludes other runs until that run ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bids_msseg.bids.record import UNFINISHED_REASON, VisitRecord, write_record
from bids_msseg.workflow import locks as module
from bids_msseg.workflow.locks import LOCK_FILE, VisitLocks, note_running

OTHER = """
import sys
from pathlib import Path
from bids_msseg.workflow.locks import VisitLocks
locks = VisitLocks([Path(folder) for folder in sys.argv[2:]])
print(locks.acquire(sys.argv[1]), flush=True)
sys.stdin.read()
locks.release_all()
"""


@contextmanager
def other_run(name: str, *folders: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that locks a visit until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, name, *map(str, folders)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_locks_of_single_run_succeed_and_lock_file_is_removed(tmp_path: Path) -> None:
    with VisitLocks([tmp_path]) as locks:
        assert [locks.acquire(f"sub-{number}") for number in range(2000)] == [True] * 2000
        assert (tmp_path / LOCK_FILE).stat().st_size == 0
    assert list(tmp_path.iterdir()) == []


def test_visit_locked_by_another_run_cannot_be_locked(tmp_path: Path) -> None:
    with other_run("sub-01", tmp_path), VisitLocks([tmp_path]) as locks:
        assert not locks.acquire("sub-01")
        assert locks.acquire("sub-02")
        locks.release_all()
        assert (tmp_path / LOCK_FILE).exists(), "the other run still has a lock in it"


@pytest.mark.parametrize("common", ["out", "work"])
def test_lock_in_one_shared_folder_excludes_other_runs(tmp_path: Path, common: str) -> None:
    for name in ("out", "work", "mine"):
        (tmp_path / name).mkdir()
    with (
        other_run("sub-01", tmp_path / "out", tmp_path / "work"),
        VisitLocks([tmp_path / "mine", tmp_path / common]) as locks,
    ):
        assert not locks.acquire("sub-01")
        # the lock in the first folder is released again
        with other_run("sub-01", tmp_path / "mine"):
            pass


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate("")


@pytest.mark.parametrize("ends", [kill, end])
def test_locks_of_ended_run_are_released(
    tmp_path: Path, ends: Callable[[subprocess.Popen[str]], None]
) -> None:
    with other_run("sub-01", tmp_path) as process, VisitLocks([tmp_path]) as locks:
        assert not locks.acquire("sub-01")
        ends(process)
        assert locks.acquire("sub-01")
        with VisitLocks([tmp_path]):
            assert locks.acquire("sub-01", wait=True)
    assert list(tmp_path.iterdir()) == []


def test_removed_lock_file_is_created_again(tmp_path: Path) -> None:
    """Otherwise two runs could hold the same lock in two files of the same name."""
    with VisitLocks([tmp_path]) as locks:
        assert locks.acquire("sub-01")
        (tmp_path / LOCK_FILE).unlink()
        assert locks.acquire("sub-02")
        with other_run("sub-03", tmp_path):
            assert not locks.acquire("sub-03")


def test_released_lock_can_be_acquired_by_another_run(tmp_path: Path) -> None:
    with VisitLocks([tmp_path]) as locks:
        assert locks.acquire("sub-01")
        assert locks.acquire("sub-02")
        locks.release("sub-01")
        with other_run("sub-01", tmp_path):
            assert not locks.acquire("sub-01")


def test_file_system_without_locks_grants_all_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", refuse)
    with VisitLocks([tmp_path]) as locks:
        assert locks.acquire("sub-01")
        assert locks.acquire("sub-01", wait=True)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_forked_workers_do_not_inherit_locks(tmp_path: Path) -> None:
    """A worker that briefly outlives a killed run must not block the next run."""
    with VisitLocks([tmp_path]) as locks:
        assert locks.acquire("sub-01")
        child = os.fork()
        if child == 0:
            os.read(0, 0)
            os._exit(0 if not VisitLocks([tmp_path]).acquire("sub-01") else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def unfinished_record(
    participant: str, session: str | None, reason: str = UNFINISHED_REASON
) -> VisitRecord:
    return VisitRecord(participant, session, f"sub-{participant}", "failed", reason=reason)


@pytest.mark.parametrize(
    ("record", "locked", "status"),
    [
        (unfinished_record("01", None), "sub-01", "running"),
        (unfinished_record("01", "2"), "sub-01_ses-2", "running"),
        (unfinished_record("a+b", "pre"), "sub-a+b_ses-pre", "running"),
        (unfinished_record("01", "2"), "sub-01_ses-1", "failed"),
        (unfinished_record("01", None), "changes of 01", "failed"),
        # a failed visit keeps its status until a new attempt writes its record
        (unfinished_record("01", None, "no FLAIR"), "sub-01", "failed"),
        (VisitRecord("01", None, "sub-01", "ok"), "sub-01", "ok"),
    ],
)
def test_note_running_marks_only_locked_unfinished_visits(
    tmp_path: Path, record: VisitRecord, locked: str, status: str
) -> None:
    with other_run(locked, tmp_path), VisitLocks([tmp_path]) as locks:
        (found,) = note_running(tmp_path, [record], locks)
        assert found.status == status
        if status != "running":
            assert found == record
    with VisitLocks([tmp_path]) as locks:
        assert note_running(tmp_path, [record], locks) == (record,)
        with other_run(record.key, tmp_path):
            assert locks.acquire(record.key) is False, "asking has left a lock"


@pytest.mark.parametrize(
    "ended",
    [
        VisitRecord("01", "2", "sub-01_ses-2", "ok", lesion_count=4),
        VisitRecord("01", "2", "sub-01_ses-2", "failed", reason="no brain"),
        VisitRecord("01", "2", "", "skipped", reason="no FLAIR"),
        # the run was killed, or another run also stopped unfinished
        VisitRecord("01", "2", "sub-01_ses-2", "failed", reason=UNFINISHED_REASON),
    ],
)
def test_note_running_rereads_record_of_ended_visit(tmp_path: Path, ended: VisitRecord) -> None:
    """The other run may write its result and release the lock after the record was read."""
    read = unfinished_record("01", "2")
    write_record(tmp_path, ended)
    other = unfinished_record("02", None)
    with VisitLocks([tmp_path]) as locks:
        assert note_running(tmp_path, [read, other], locks) == (ended, other)
