from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bids_msseg import __version__
from bids_msseg.bids.visit import Visit
from bids_msseg.cascade.folds import Split
from bids_msseg.commands import shipping
from bids_msseg.commands.shipping import (
    SHOWN,
    _read_losses,
    describe_data,
    draw_losses,
    model_card,
    score_table,
)
from bids_msseg.evaluation.labels import LabelledFiles
from bids_msseg.evaluation.scoring import Score


def _score(visit: str, site: str, dice: float, false: int = 1) -> Score:
    return Score(visit, site, "cascade", dice, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, false, 1.0, 1.0)


def test_the_table_has_visits_then_means_with_their_n() -> None:
    scores = [_score("sub-2", "A", 0.5), _score("sub-1", "A", 0.75, 12), _score("sub-3", "B", 1)]
    lines = score_table(scores).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].split(" | ")[3:] == [*SHOWN[:-1], f"{SHOWN[-1]} |"]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| sub-1",
        "| sub-2",
        "| sub-3",
        "| **mean, n = 2**",
        "| **mean, n = 1**",
    ]
    assert lines[2].endswith("| 0.750 | 0.500 | 0.500 | 0.500 | 0.250 | 12 |")
    assert lines[5].endswith("| 0.625 | 0.500 | 0.500 | 0.500 | 0.250 | 6 |")


def test_what_is_undefined_is_not_a_number_in_the_table() -> None:
    assert "| n/a |" in score_table([_score("sub-1", "A", math.nan)])


def test_a_model_card_says_what_was_trained_on_whom() -> None:
    workshop = SimpleNamespace(
        split=Split((("sub-1",), ("sub-2", "sub-4"), ("sub-3",))),
        recipe=SimpleNamespace(inner=None, everyone=None, keep_made=False),
    )
    scores = [_score("sub-1", "A", 0.5)]
    card = model_card(
        "toy", "ab" * 32, 2_500_000, scores, workshop, {"seed": 7, "folds": 3}, "## D\n"
    )  # type: ignore[arg-type]
    assert card.endswith("|\n\n## D\n")
    for words in (
        "# Model card: toy\n",
        f"`toy.safetensors`, 2.5 MB, SHA-256 `{'ab' * 32}`",
        f"bids_msseg {__version__}",
        "seed: 7; folds: 3",
        "- fold 1: sub-2, sub-4\n",
        "no diagnosis",
        score_table(scores),
    ):
        assert words in card


@pytest.mark.parametrize("head", ["step,steps,loss,seconds_per_step\n", ""])
def test_losses_are_read_with_and_without_a_head(head: str, tmp_path: Path) -> None:
    path = tmp_path / "candidate-0.csv"
    path.write_text(head + "25,75,1.5,0.1\n50,75,1.25,0.1\n")
    assert _read_losses(path) == {25: 1.5, 50: 1.25}


def test_what_a_killed_run_left_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "candidate-0.csv"
    path.write_text("25,75,1.5,0.1\n50,75,1.25,0.1\n25,75,1.4,0.1\n\n75,7")
    assert _read_losses(path) == {25: 1.4, 50: 1.25}


def test_losses_are_drawn_even_where_a_net_has_none(tmp_path: Path, recwarn) -> None:
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
    monkeypatch.setattr(shipping.importlib.util, "find_spec", {"torch": 1}.get)
    draw_losses(tmp_path, tmp_path / "losses.png")
    assert list(tmp_path.iterdir()) == []
    assert "bids_msseg[train]" in caplog.text


def _labelled(who: str, session: str, site: str, share: Path | None = None) -> LabelledFiles:
    path = Path("f.nii.gz")
    return LabelledFiles(Visit(who, session, path), path, path, site, share)


def test_data_are_counted_by_site_and_their_licence_is_told(tmp_path: Path) -> None:
    about = {"Name": "Toy", "License": "CC-BY", "Authors": ["A. Doe", "B. Roe"]}
    (tmp_path / "dataset_description.json").write_text(json.dumps(about))
    files = [
        _labelled("1", "1", "Oslo"),
        _labelled("1", "2", "Oslo", Path("s.nii.gz")),
        _labelled("2", "1", "Oslo"),
        _labelled("3", "1", "Bern"),
    ]
    section = describe_data(tmp_path, files)
    for line in (
        "- dataset: Toy",
        "- licence: CC-BY",
        "- authors: A. Doe, B. Roe",
        "- DOI: not stated",
        "| Bern | 1 | 1 | none |\n| Oslo | 2 | 3 | 1 of 3 |",
        f"bids_msseg {__version__}, Python 3.",
        f"torch {torch.__version__.partition('+')[0]}",
    ):
        assert line in section


def test_a_dataset_that_says_nothing_of_itself(tmp_path: Path) -> None:
    section = describe_data(tmp_path, [_labelled("1", "1", "one site")])
    assert "- licence: not stated" in section
