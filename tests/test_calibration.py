from __future__ import annotations

import json
from pathlib import Path

import pytest

from bids_msseg.calibration import (
    Calibration,
    calibration_path,
    read_calibration,
    write_calibration,
)
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.lesions.confidence.uncertainty import ConfidenceModel, LoadModel
from bids_msseg.models.weights import DEFAULT_MODEL, find_model, read_header

FULL = Calibration(
    load=LoadModel(0.6, 1.0, -0.5, 0.8, 13),
    confidence=ConfidenceModel(1.2, 0.1, 300, 13),
    training=TrainingVisits(({"FLAIR_p5": -2.5, "brain_ml": 1234.5},)),
    coverage={"A": (2, 3), "all": (12, 13)},
    auc=0.7,
)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "site.v1.safetensors"
    path.write_bytes(b"weights")
    return path


def test_what_is_written_is_read(weights: Path) -> None:
    path = write_calibration(weights, FULL, name="site.v1", sha256="ab")
    assert path == weights.with_name("site.v1.calibration.json")
    read = read_calibration(weights, "ab")
    assert len(read.digest) == 64
    for name in ("load", "confidence", "training", "coverage", "auc", "reason"):
        assert getattr(read, name) == getattr(FULL, name)


@pytest.mark.parametrize("seen", [None, (0.5, 40.25), (1.0, 1.0)])
def test_the_range_of_loads_is_kept(weights: Path, seen: tuple[float, float] | None) -> None:
    load = LoadModel(0.6, 1.0, -0.5, 0.8, 13, seen)
    path = write_calibration(weights, Calibration(load=load), name="site.v1", sha256="ab")
    assert read_calibration(weights, "ab").load == load
    content = json.loads(path.read_text())
    del content["load"]["range_ml"]
    path.write_text(json.dumps(content))
    earlier = read_calibration(weights, "ab").load
    assert earlier is not None
    assert earlier.range_ml is None


def test_an_empty_one_keeps_its_reason(weights: Path) -> None:
    write_calibration(weights, Calibration(reason="3 patients"), name="site", sha256="ab")
    read = read_calibration(weights, "ab")
    assert (read.load, read.confidence, read.training) == (None, None, None)
    assert read.reason == "3 patients"


def test_what_is_missing_or_of_others_costs_only_the_intervals(weights: Path) -> None:
    missing = read_calibration(weights, "ab")
    assert missing == Calibration(reason="these weights have no site.v1.calibration.json")
    write_calibration(weights, FULL, name="site.v1", sha256="cd")
    assert read_calibration(weights, "ab").reason.endswith("belongs to other weights")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "bids_msseg-calibration-1"}'])
def test_a_damaged_file_is_told(weights: Path, damage: str) -> None:
    calibration_path(weights).write_text(damage)
    read = read_calibration(weights, "ab")
    assert (read.load, read.digest) == (None, "")
    assert "is damaged" in read.reason


def test_a_load_model_that_does_not_fit_is_told(weights: Path) -> None:
    path = write_calibration(weights, FULL, name="site.v1", sha256="ab")
    content = json.loads(path.read_text())
    for wrong in ({"slope": "steep"}, {"range_mL": [1, 2]}):
        spoilt = {**content, "load": {**content["load"], **wrong}}
        path.write_text(json.dumps(spoilt))
        assert "is damaged" in read_calibration(weights, "ab").reason


def test_fast_leaves_only_what_images_look_like() -> None:
    fast = FULL.of_fast()
    assert (fast.load, fast.confidence) == (None, None)
    assert fast.training == FULL.training
    assert "--fast" in fast.reason


def test_the_default_weights_come_with_theirs() -> None:
    weights = find_model(DEFAULT_MODEL)
    known = read_calibration(weights, read_header(weights).sha256)
    assert known.reason == ""
    assert known.load is not None
    assert known.confidence is not None
    assert known.training is not None
    inside, count = known.coverage["all"]
    assert inside / count >= 0.85
