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


def test_calibration_round_trip(weights: Path) -> None:
    path = write_calibration(weights, FULL, name="site.v1", sha256="ab")
    assert path == weights.with_name("site.v1.calibration.json")
    read = read_calibration(weights, "ab")
    assert len(read.digest) == 64
    for name in ("load", "confidence", "training", "coverage", "auc", "reason"):
        assert getattr(read, name) == getattr(FULL, name)


@pytest.mark.parametrize("seen", [None, (0.5, 40.25), (1.0, 1.0)])
def test_load_range_is_read_back_or_none(weights: Path, seen: tuple[float, float] | None) -> None:
    load = LoadModel(0.6, 1.0, -0.5, 0.8, 13, seen)
    path = write_calibration(weights, Calibration(load=load), name="site.v1", sha256="ab")
    assert read_calibration(weights, "ab").load == load
    content = json.loads(path.read_text())
    del content["load"]["range_ml"]
    path.write_text(json.dumps(content))
    earlier = read_calibration(weights, "ab").load
    assert earlier is not None
    assert earlier.range_ml is None


def test_empty_calibration_keeps_its_reason(weights: Path) -> None:
    write_calibration(weights, Calibration(reason="3 patients"), name="site", sha256="ab")
    read = read_calibration(weights, "ab")
    assert (read.load, read.confidence, read.training) == (None, None, None)
    assert read.reason == "3 patients"


def test_missing_or_mismatched_calibration_gives_reason(weights: Path) -> None:
    missing = read_calibration(weights, "ab")
    assert missing == Calibration(reason="these weights have no site.v1.calibration.json")
    write_calibration(weights, FULL, name="site.v1", sha256="cd")
    assert read_calibration(weights, "ab").reason.endswith("belongs to other weights")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": "bids_msseg-calibration-1"}'])
def test_damaged_calibration_file_is_reported(weights: Path, damage: str) -> None:
    calibration_path(weights).write_text(damage)
    read = read_calibration(weights, "ab")
    assert (read.load, read.digest) == (None, "")
    assert "is damaged" in read.reason


def test_invalid_load_model_is_reported_as_damaged(weights: Path) -> None:
    path = write_calibration(weights, FULL, name="site.v1", sha256="ab")
    content = json.loads(path.read_text())
    for wrong in ({"slope": "steep"}, {"range_mL": [1, 2]}):
        spoilt = {**content, "load": {**content["load"], **wrong}}
        path.write_text(json.dumps(spoilt))
        assert "is damaged" in read_calibration(weights, "ab").reason


def test_calibration_of_fast_keeps_only_training_visits() -> None:
    fast = FULL.of_fast()
    assert (fast.load, fast.confidence) == (None, None)
    assert fast.training == FULL.training
    assert "--fast" in fast.reason


def test_default_weights_have_complete_calibration() -> None:
    weights = find_model(DEFAULT_MODEL)
    known = read_calibration(weights, read_header(weights).sha256)
    assert known.reason == ""
    assert known.load is not None
    assert known.confidence is not None
    assert known.training is not None
    inside, count = known.coverage["all"]
    assert inside / count >= 0.85


def test_calibration_file_is_beside_weights() -> None:
    path = calibration_path(Path("models/site.safetensors"))
    assert path == Path("models/site.calibration.json")
