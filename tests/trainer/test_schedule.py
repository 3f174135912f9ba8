from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_msseg.trainer import schedule
from bids_msseg.trainer.schedule import _quiet_allocator, run_in_order


@dataclass(frozen=True, slots=True)
class _StubTask:
    name: str
    needs: tuple[str, ...] = ()
    trains: bool = False


def test_group_trains_together_and_rank_zero_does_other_tasks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(schedule, "rank_and_size", lambda: (1, 2))
    monkeypatch.setattr(schedule, "rank_zero_first", lambda job: calls.append(job.args[0].name))

    def work(piece: _StubTask) -> str:
        calls.append(f"train {piece.name}")
        return piece.name

    finished: list[str] = []
    pieces = (_StubTask("predict"), _StubTask("net", ("predict",), trains=True))
    run_in_order(pieces, work, jobs=2, threads=1, on_done=finished.append)
    assert calls == ["predict", "train net"]
    assert finished == ["predict", "net"]


def test_allocator_settings_are_restored() -> None:
    before = dict(os.environ)
    with _quiet_allocator():
        assert os.environ["MALLOC_MMAP_MAX_"] == "0"
    assert dict(os.environ) == before


HEAD = """
import sys, time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from bids_msseg.trainer.schedule import run_in_order

"""
ORDERED = """
def work(folder, piece):
    assert all((folder / name).exists() for name in piece.needs)
    (folder / piece.name).touch()
    return piece.name


if __name__ == "__main__":
    needs = {"late": ["early"], "early": [], "last": ["late", "early"]}
    pieces = [SimpleNamespace(name=name, needs=before) for name, before in needs.items()]
    run_in_order(pieces, partial(work, Path(sys.argv[1])), jobs=2, threads=1, on_done=print)
"""
STOPPED = """
def work(folder, piece):
    if piece.name == "long":
        (folder / "begun").touch()
        time.sleep(60)
        (folder / "ended").touch()
    while not (folder / "begun").exists():
        time.sleep(0.05)
    raise ValueError("a net failed")


if __name__ == "__main__":
    pieces = [SimpleNamespace(name=name, needs=()) for name in ("long", "short", "later")]
    try:
        run_in_order(pieces, partial(work, Path(sys.argv[1])), jobs=2, threads=1)
    except ValueError as error:
        print(error)
"""


def _run(script: str, folder: Path) -> str:
    """Run a script that starts processes, and return what it prints."""
    path = folder / "script.py"
    path.write_text(HEAD + script)
    done = subprocess.run(
        [sys.executable, path, folder],
        env={**os.environ, "PYTHONPATH": str(Path(schedule.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_task_waits_for_tasks_that_it_needs(tmp_path: Path) -> None:
    assert _run(ORDERED, tmp_path).split() == ["early", "late", "last"]


@pytest.mark.slow
def test_failed_task_terminates_other_tasks(tmp_path: Path) -> None:
    assert _run(STOPPED, tmp_path) == "a net failed\n"
    assert not (tmp_path / "ended").exists()
