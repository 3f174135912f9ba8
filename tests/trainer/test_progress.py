from __future__ import annotations

import io
from pathlib import Path

from bids_msseg.trainer.plan import Report
from bids_msseg.trainer.progress import FitProgress, append_line

LINE = Report(25, 100, 0.81234, 2.0, 0.4142)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_append_line_writes_header_once(tmp_path: Path) -> None:
    path = tmp_path / "net.csv"
    append_line(path, LINE)
    append_line(path, Report(50, 100, 0.5, 1.5, 0.5))
    assert path.read_text() == (
        "step,steps,loss,seconds_per_step,dice\n"
        "25,100,0.81234,2.000,0.4142\n"
        "50,100,0.50000,1.500,0.5000\n"
    )


def test_report_is_printed_as_line_without_terminal() -> None:
    stream = io.StringIO()
    with FitProgress(stream=stream) as progress:
        progress.show("candidate-01", LINE)
        progress.show("refinement-0", Report(100, 100, 0.25, 1.0, 0.75))
    assert stream.getvalue().splitlines() == [
        "candidate-01 25/100 loss 0.812 Dice 0.414, 2:30 left",
        "refinement-0 100/100 loss 0.250 Dice 0.750, 0:00 left",
    ]


def test_terminal_shows_one_progress_bar_per_network(monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = _Terminal()
    with FitProgress(stream=stream, clock=lambda: 1000.0) as progress:
        progress.show("candidate-01", LINE)
        progress.show("candidate-02", Report(50, 100, 0.5, 2.0, 0.5))
        assert progress._bars is not None
        first, second = progress._bars.tasks
        assert (first.description, first.completed, first.total) == ("candidate-01", 25, 100)
        assert first.fields["quality"] == "loss 0.812 Dice 0.414"
        assert first.fields["ends"] == 1150.0
        assert second.completed == 50
        progress.show("candidate-01", Report(100, 100, 0.25, 2.0, 0.75))
        assert [task.description for task in progress._bars.tasks] == ["candidate-02"]
    assert "candidate-01 100 steps loss 0.250 Dice 0.750" in stream.getvalue()


def test_disabled_progress_prints_nothing() -> None:
    stream = _Terminal()
    with FitProgress(stream=stream, enabled=False) as progress:
        progress.show("candidate-01", LINE)
    assert stream.getvalue() == ""
