from __future__ import annotations

import logging
from pathlib import Path

import pytest

from bids_msseg.trainer.log_watch import ExpectedTime, LogWatch, log_line, show_progress
from bids_msseg.trainer.plan import Report


def _report(step: int) -> Report:
    return Report(step, 100, 0.5, 2.0, 0.25)


STEPS = {
    "candidate-without-0": 400,
    "candidate-without-1": 0,
    "candidate-release": 200,
    "refinement-release": 250,
}
"""Steps that are left: one network is half trained, one is finished."""


def test_poll_returns_added_lines_once(tmp_path: Path) -> None:
    log_line(tmp_path / "logs", "old", _report(25))
    watch = LogWatch(tmp_path / "logs")
    assert watch.poll() == []
    log_line(tmp_path / "logs", "old", _report(50))
    log_line(tmp_path / "logs", "new", _report(25))
    assert watch.poll() == [("new", _report(25)), ("old", _report(50))]
    assert watch.poll() == []


def test_poll_returns_only_complete_lines(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    path = tmp_path / "net.csv"
    path.write_text("step,steps,loss,seconds_per_step,dice\n25,100,0.5,2")
    assert watch.poll() == []
    with path.open("a") as stream:
        stream.write(".0,0.25\n")
    assert watch.poll() == [("net", _report(25))]


def test_logs_with_old_columns_are_skipped(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    (tmp_path / "net.csv").write_text("step,steps,loss,seconds_per_step\n25,100,0.5,2.0\n")
    assert watch.poll() == []


def test_log_folder_may_be_created_after_start(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path / "logs")
    assert watch.poll() == []
    log_line(tmp_path / "logs", "net", _report(25))
    assert watch.poll() == [("net", _report(25))]


def test_show_progress_prints_last_lines_if_enabled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with show_progress(tmp_path):
        log_line(tmp_path, "net", _report(25))
    assert "net 25/100 loss 0.500 Dice 0.250" in capsys.readouterr().err
    with show_progress(tmp_path, enabled=False):
        log_line(tmp_path, "net", _report(50))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("jobs", "first", "both"),
    [(1, "20:00", "40:50"), (2, "10:00", "20:25"), (9, "10:00", "13:37")],
)
def test_expected_time_follows_second_line_of_each_kind(jobs: int, first: str, both: str) -> None:
    expected = ExpectedTime(STEPS, jobs)
    assert expected.add("pretraining", _report(25)) == ""
    start = Report(1, 250, 0.5, 60.0, 0.25)
    assert expected.add("candidate-without-0", start) == ""
    assert f"about {first} (2 networks" in expected.add("candidate-without-0", _report(25))
    assert expected.add("candidate-release", _report(25)) == ""
    assert expected.add("refinement-release", start) == ""
    slow = Report(25, 250, 0.5, 5.0, 0.25)
    assert f"about {both} (3 networks" in expected.add("refinement-release", slow)


def test_show_progress_logs_expected_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bids_msseg")
    with show_progress(tmp_path, expected=ExpectedTime(STEPS)):
        for step in (200, 225):
            log_line(tmp_path, "candidate-release", _report(step))
    assert "about 20:00" in caplog.text
