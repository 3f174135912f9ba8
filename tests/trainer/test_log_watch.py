from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.trainer.log_watch import LogWatch, log_line, show_progress
from bids_msseg.trainer.plan import Report


def _report(step: int) -> Report:
    return Report(step, 100, 0.5, 2.0, 0.25)


def test_only_what_is_added_is_told_and_only_once(tmp_path: Path) -> None:
    log_line(tmp_path / "logs", "old", _report(25))
    watch = LogWatch(tmp_path / "logs")
    assert watch.poll() == []
    log_line(tmp_path / "logs", "old", _report(50))
    log_line(tmp_path / "logs", "new", _report(25))
    assert watch.poll() == [("new", _report(25)), ("old", _report(50))]
    assert watch.poll() == []


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    path = tmp_path / "net.csv"
    path.write_text("step,steps,loss,seconds_per_step,dice\n25,100,0.5,2")
    assert watch.poll() == []
    with path.open("a") as stream:
        stream.write(".0,0.25\n")
    assert watch.poll() == [("net", _report(25))]


def test_logs_of_older_columns_are_passed_over(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    (tmp_path / "net.csv").write_text("step,steps,loss,seconds_per_step\n25,100,0.5,2.0\n")
    assert watch.poll() == []


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path / "logs")
    assert watch.poll() == []
    log_line(tmp_path / "logs", "net", _report(25))
    assert watch.poll() == [("net", _report(25))]


def test_what_is_logged_until_the_end_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress(tmp_path):
        log_line(tmp_path, "net", _report(25))
    assert "net 25/100 loss 0.500 Dice 0.250" in capsys.readouterr().err
    with show_progress(tmp_path, enabled=False):
        log_line(tmp_path, "net", _report(50))
    assert capsys.readouterr().err == ""
