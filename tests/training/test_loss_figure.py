from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.training import loss_figure
from bids_msseg.training.loss_figure import _read_losses, draw_losses


@pytest.mark.parametrize("head", ["step,steps,loss,seconds_per_step\n", ""])
def test_losses_are_read_with_and_without_header(head: str, tmp_path: Path) -> None:
    path = tmp_path / "candidate-0.csv"
    path.write_text(head + "25,75,1.5,0.1\n50,75,1.25,0.1\n")
    assert _read_losses(path) == {25: 1.5, 50: 1.25}


def test_repeated_and_partial_lines_are_handled(tmp_path: Path) -> None:
    path = tmp_path / "candidate-0.csv"
    path.write_text("25,75,1.5,0.1\n50,75,1.25,0.1\n25,75,1.4,0.1\n\n75,7")
    assert _read_losses(path) == {25: 1.4, 50: 1.25}


def test_losses_are_drawn_without_log_of_second_network(tmp_path: Path, recwarn) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "candidate-0.csv").write_text("25,75,1.5,0.1\n50,75,1.25,0.1\n")
    target = tmp_path / "losses.png"
    draw_losses(logs, target)
    first = target.read_bytes()
    assert first.startswith(b"\x89PNG")
    draw_losses(logs, target)
    assert target.read_bytes() == first
    assert [str(one.message) for one in recwarn] == []


def test_losses_are_not_drawn_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loss_figure.importlib.util, "find_spec", {"torch": 1}.get)
    draw_losses(tmp_path, tmp_path / "losses.png")
    assert list(tmp_path.iterdir()) == []
    assert "bids_msseg[train]" in caplog.text
