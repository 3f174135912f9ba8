from __future__ import annotations

import io

import pytest

from bids_msseg.progress import Progress, VisitOutcome, write_duration


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_progress_prints_lines_without_terminal(stream: io.StringIO) -> None:
    with Progress(3, stream=stream) as progress:
        for name, status, seconds in (("sub-01", "ok", 70.6), ("sub-12_ses-1", "failed", 2.0)):
            progress.step(name, "brain")
            progress.finish(name, status, seconds)
    assert stream.getvalue() == "[1/3] sub-01 ok 71 s\n[2/3] sub-12_ses-1 failed 2 s\n"


def test_disabled_progress_prints_nothing(stream: io.StringIO) -> None:
    with Progress(1, enabled=False, stream=stream) as progress:
        progress.step("sub-01", "brain")
        progress.finish("sub-01", "ok", 1.0)
        progress.close([VisitOutcome("sub-01", "ok")])
    assert stream.getvalue() == ""


def test_progress_bar_names_running_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    terminal = _Terminal()
    with Progress(2, stream=terminal) as progress:
        progress.step("sub-01", "conform")
        progress.step("sub-02", "brain")
    shown = terminal.getvalue()
    assert "sub-02 brain (+1)" in shown
    assert "0/2" in shown


def test_progress_prints_lines_on_dumb_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = _Terminal()
    with Progress(1, stream=terminal) as progress:
        progress.step("sub-01", "brain")
        progress.finish("sub-01", "ok", 3.0)
    assert terminal.getvalue() == "[1/1] sub-01 ok 3 s\n"


def test_cursor_is_shown_again_after_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    with pytest.raises(RuntimeError), Progress(1, stream=terminal):
        raise RuntimeError
    shown = terminal.getvalue()
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")


def test_time_left_is_extrapolated_from_finished_steps(stream: io.StringIO) -> None:
    clock = _Clock()
    with Progress(4, steps_per_visit=2, stream=stream, clock=clock) as progress:
        assert progress.seconds_left is None
        progress.step("a", "first")
        clock.now = 10.0
        progress.step("a", "second")
        assert (progress.fraction, progress.seconds_left) == (0.125, 70.0)
        progress.finish("a", "ok", 20.0)
        clock.now = 20.0
        assert (progress.fraction, progress.seconds_left) == (0.25, 60.0)


def test_progress_fraction_never_exceeds_one(stream: io.StringIO) -> None:
    with Progress(1, steps_per_visit=1, stream=stream) as progress:
        for _ in range(5):
            progress.step("a", "again")
        assert progress.fraction == 1.0
        progress.finish("a", "ok", 1.0)
        assert progress.fraction == 1.0


def test_summary_table_shows_n_a_for_missing_values(stream: io.StringIO) -> None:
    rows = [
        VisitOutcome("sub-01_ses-1", "ok", 12, 3.456, 71.4),
        VisitOutcome("sub-02", "failed in brain"),
    ]
    Progress(2, stream=stream).close(rows)
    cells = [line.split() for line in stream.getvalue().splitlines() if line.strip()]
    assert cells[0] == ["visit", "status", "lesions", "mL", "s"]
    assert cells[2] == ["sub-01_ses-1", "ok", "12", "3.46", "71"]
    assert cells[3] == ["sub-02", "failed", "in", "brain", "n/a", "n/a", "n/a"]
    assert stream.getvalue().splitlines()[-1] == "2 visits: 1 ok, 1 failed in brain"


def test_visit_names_are_not_read_as_markup(stream: io.StringIO) -> None:
    Progress(1, stream=stream).close([VisitOutcome("sub-[bold]x", "ok")])
    assert "sub-[bold]x" in stream.getvalue()


def test_summary_of_many_visits_lists_only_failed_ones(stream: io.StringIO) -> None:
    rows = [VisitOutcome(f"sub-{i:03}", "failed" if i == 7 else "ok") for i in range(100)]
    Progress(100, stream=stream).close(rows)
    shown = stream.getvalue()
    assert [f"sub-{i:03}" for i in range(100) if f"sub-{i:03}" in shown] == ["sub-007"]
    assert "100 visits: 99 ok, 1 failed" in shown


def test_summary_of_many_successful_visits_has_no_table(stream: io.StringIO) -> None:
    Progress(100, stream=stream).close([VisitOutcome(f"sub-{i}", "ok") for i in range(100)])
    assert stream.getvalue() == "100 visits: 100 ok\n"


@pytest.mark.parametrize(
    ("statuses", "counted"),
    [
        (["ok", "flagged", "ok"], "3 visits: 2 ok, 1 flagged;"),
        (["flagged"], "1 visit: 1 flagged;"),
        (["flagged"] * 60 + ["ok"] * 40, "100 visits: 60 flagged, 40 ok;"),
    ],
)
def test_flagged_visits_are_listed_and_counted(
    stream: io.StringIO, statuses: list[str], counted: str
) -> None:
    rows = [VisitOutcome(f"sub-{i:03}", status) for i, status in enumerate(statuses)]
    Progress(len(rows), stream=stream).close(rows)
    *table, last = stream.getvalue().splitlines()
    assert last.startswith(counted)
    listed = [line.split()[:2] for line in table if line.split()[:1] and "sub-" in line]
    assert [one for one in listed if one[1] == "flagged"] == [
        [row.visit, row.status] for row in rows if row.status == "flagged"
    ]


@pytest.mark.parametrize(("seconds", "text"), [(71, "1:11"), (3671, "1:01:11")])
def test_duration_is_written_with_hours_if_needed(seconds: float, text: str) -> None:
    assert write_duration(seconds) == text
