from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from bids_msseg import __version__
from bids_msseg.bids.visit import Visit
from bids_msseg.evaluation.labels import LabelledFiles
from bids_msseg.evaluation.scoring import Score
from bids_msseg.training.model_card import SHOWN_METRICS, describe_data, score_table


def _score(visit: str, site: str, dice: float, false: int = 1) -> Score:
    return Score(visit, site, "cascade", dice, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25, false, 1.0, 1.0)


def test_score_table_lists_visits_then_site_means() -> None:
    scores = [_score("sub-2", "A", 0.5), _score("sub-1", "A", 0.75, 12), _score("sub-3", "B", 1)]
    lines = score_table(scores).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].split(" | ")[3:] == [*SHOWN_METRICS[:-1], f"{SHOWN_METRICS[-1]} |"]
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| sub-1",
        "| sub-2",
        "| sub-3",
        "| **mean, n = 2**",
        "| **mean, n = 1**",
    ]
    assert lines[2].endswith("| 0.750 | 0.500 | 0.500 | 0.500 | 0.250 | 12 |")
    assert lines[5].endswith("| 0.625 | 0.500 | 0.500 | 0.500 | 0.250 | 6 |")


def test_undefined_score_is_shown_as_na() -> None:
    assert "| n/a |" in score_table([_score("sub-1", "A", math.nan)])


def _labelled(who: str, session: str, site: str, share: Path | None = None) -> LabelledFiles:
    path = Path("f.nii.gz")
    return LabelledFiles(Visit(who, session, path), path, path, site, share)


def test_data_section_lists_counts_by_site_and_licence(tmp_path: Path) -> None:
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


def test_missing_licence_is_reported_as_not_stated(tmp_path: Path) -> None:
    section = describe_data(tmp_path, [_labelled("1", "1", "one site")])
    assert "- licence: not stated" in section
