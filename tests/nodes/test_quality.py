from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bids_msseg.bids.record import VisitRecord
from bids_msseg.calibration import Calibration, write_calibration
from bids_msseg.imaging.normalise import CONTRASTS, build_stack
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.imaging.quality_measures import measure_visit
from bids_msseg.imaging.volume import Volume, load_volume, save_volume
from bids_msseg.lesions.confidence.uncertainty import ConfidenceModel, LoadModel
from bids_msseg.models.weights import read_header
from bids_msseg.nodes.quality import CheckImages, EstimateLoad, VisitQuality

Files = dict[str, Path]
Run = Callable[..., Any]


@pytest.fixture
def weights(bright_model: Path, tmp_path: Path) -> Path:
    """Weights without a calibration file."""
    path = tmp_path / "bright.safetensors"
    path.write_bytes(bright_model.read_bytes())
    return path


@pytest.fixture
def visit(make_phantom: Callable[..., Any], tmp_path: Path) -> Files:
    """Two contrasts and the brain mask, as files."""
    phantom = make_phantom(spacing=(2.0, 2.0, 2.0))
    files = {c: phantom.write(tmp_path / f"{c}.nii.gz", c) for c in CONTRASTS[::2]}
    mask = Volume((phantom.image("FLAIR") > 0).astype(np.uint8), phantom.affine)
    save_volume(mask, tmp_path / "brain.nii.gz")
    return {**files, "brain": tmp_path / "brain.nii.gz"}


def _stack(images: Files, mask: Path, target: Path) -> Path:
    volumes = {name: load_volume(path) for name, path in images.items()}
    build_stack(volumes, load_volume(mask)).save(target)
    return target


def _store_calibration(weights: Path, **known: Any) -> None:
    sha256 = read_header(weights).sha256
    write_calibration(weights, Calibration(**known), name="bright", sha256=sha256)


def test_image_of_wrong_contrast_is_flagged(
    run: Run, weights: Path, visit: Files, tmp_path: Path
) -> None:
    brain = visit.pop("brain")
    volumes = {name: load_volume(path) for name, path in visit.items()}
    stack = build_stack(volumes, load_volume(brain))
    own = measure_visit(
        stack.data,
        stack.present,
        stack.brain,
        mask=load_volume(brain),
        spacings=dict.fromkeys(volumes, (2, 2, 2)),
    )
    _store_calibration(weights, training=TrainingVisits((own,) * 4))
    common = {"mask_file": brain, "model_file": weights}
    right = run(
        CheckImages,
        stack_file=_stack(visit, brain, tmp_path / "right.npz"),
        contrasts={name: str(path) for name, path in visit.items()},
        **common,
    )
    content = json.loads(Path(right.quality_file).read_text())
    assert (content["faults"], right.notes, content["reason"]) == ([], [], "")
    assert content["measures"]["training_distance"] == pytest.approx(0, abs=1e-3)
    wrong = {"FLAIR": visit["T2w"]}
    found = run(
        CheckImages,
        stack_file=_stack(wrong, brain, tmp_path / "wrong.npz"),
        contrasts={name: str(path) for name, path in wrong.items()},
        **common,
    )
    assert found.notes[0] == "the FLAIR image looks like a T2w image: check the file names"
    assert json.loads(Path(found.quality_file).read_text())["faults"] == found.notes


@pytest.fixture
def found(save: Callable[..., Path], tmp_path: Path) -> Files:
    """A probability with 8 mm³ at .9, and a table of a kept lesion and a rejected candidate."""
    data = np.zeros((6, 6, 6), np.float32)
    data[:2, :2, :2] = 0.9
    rows = [
        {"index": 1, "status": "kept", "p_final": 0.9},
        {"index": 1, "status": "rejected", "p_final": 0.2},
    ]
    table = tmp_path / "table.json"
    table.write_text(json.dumps(rows))
    return {"probseg_file": save("probseg", data, np.eye(4)), "table_file": table}


def _content(outputs: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    names = ("estimate_file", "table_file")
    estimate, table = (json.loads(Path(getattr(outputs, one)).read_text()) for one in names)
    return estimate, table


def test_calibration_gives_load_interval_and_confidence(
    run: Run, weights: Path, found: Files
) -> None:
    load = LoadModel(0.7, 1.0, 0.0, np.log(2), 9)
    _store_calibration(weights, load=load, confidence=ConfidenceModel(1.0, 0.0, 50, 9))
    estimate, table = _content(run(EstimateLoad, model_file=weights, **found))
    assert estimate["expected_ml"] == pytest.approx(0.008)
    assert estimate["low_ml"] == 0
    assert estimate["high_ml"] == pytest.approx(0.116)
    assert table[0]["confidence"] == pytest.approx(0.9)
    assert "confidence" not in table[1]


def test_estimate_without_calibration_has_a_reason(run: Run, weights: Path, found: Files) -> None:
    estimate, table = _content(run(EstimateLoad, model_file=weights, **found))
    assert estimate == {"reason": "these weights have no bright.calibration.json"}
    assert "confidence" not in table[0]


def test_fast_mode_has_no_load_interval(run: Run, weights: Path, found: Files) -> None:
    _store_calibration(weights, load=LoadModel(0.7, 1.0, 0.0, 1.0, 9))
    estimate, _ = _content(run(EstimateLoad, model_file=weights, fast=True, **found))
    assert estimate == {"reason": "intervals and confidence were measured without --fast"}


def test_quality_and_load_interval_are_added_to_record(tmp_path: Path) -> None:
    quality, estimate = tmp_path / "q.json", tmp_path / "e.json"
    quality.write_text(json.dumps({"measures": {"brain_ml": 1.5}, "faults": ["noisy"]}))
    estimate.write_text(json.dumps({"expected_ml": 2.0, "low_ml": 1.0, "high_ml": 3.0}))
    visit_quality = VisitQuality.read(str(quality), str(estimate))
    record = visit_quality.mark(VisitRecord("01", None, "sub-01", "ok"))
    assert (visit_quality.quality, record.quality) == ("flagged", "flagged")
    again = VisitRecord.from_dict(json.loads(json.dumps(record.to_dict())))
    assert again == record
    assert again.load_interval_ml == (2.0, 1.0, 3.0)
    assert again.load_interval_note == ""
    estimate.write_text(json.dumps({"reason": "unknown"}))
    quality.write_text(json.dumps({"measures": {}, "faults": []}))
    good = VisitQuality.read(str(quality), str(estimate))
    assert (good.quality, good.interval_ml, good.reason) == ("ok", None, "unknown")
    assert VisitRecord("01", None, "sub-01", "failed").quality == "n/a"


@pytest.mark.parametrize("known", [[], ["the T1w is left out"], ["one", "another"]])
def test_faults_of_earlier_steps_flag_the_visit(
    run: Run, weights: Path, visit: Files, tmp_path: Path, known: list[str]
) -> None:
    brain = visit.pop("brain")
    found = run(
        CheckImages,
        stack_file=_stack(visit, brain, tmp_path / "stack.npz"),
        mask_file=brain,
        model_file=weights,
        contrasts={name: str(path) for name, path in visit.items()},
        known_faults=known,
    )
    assert found.notes == known
    assert json.loads(Path(found.quality_file).read_text())["faults"] == known


@pytest.mark.parametrize(
    ("load", "estimate", "used"),
    [
        (0.22, {"expected_ml": 0.0, "low_ml": 0.0, "high_ml": 0.13, "learnt": False}, "mask"),
        (9.0, {"expected_ml": 2.0, "low_ml": 1.0, "high_ml": 3.0, "learnt": True}, "interval"),
        (0.5, {"expected_ml": 2.0, "low_ml": 1.0, "high_ml": 3.0}, "interval"),
        (2.5, {"expected_ml": 2.0, "low_ml": 1.0, "high_ml": 3.0, "learnt": True}, ""),
        (2.5, {"reason": "unknown"}, ""),
    ],
)
def test_record_notes_load_outside_interval(
    tmp_path: Path, load: float, estimate: dict[str, Any], used: str
) -> None:
    files = [tmp_path / name for name in ("q.json", "e.json")]
    for path, content in zip(files, ({"measures": {}, "faults": []}, estimate), strict=True):
        path.write_text(json.dumps(content))
    visit_quality = VisitQuality.read(*map(str, files))
    record = visit_quality.mark(VisitRecord("01", None, "sub-01", "ok", lesion_load_ml=load))
    assert (f"use the {used}" in record.load_interval_note) == bool(used)
    assert bool(record.load_interval_note) == bool(used)
    assert VisitRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_extrapolated_load_interval_has_positive_width(
    run: Run, weights: Path, found: Files
) -> None:
    _store_calibration(weights, load=LoadModel(0.7, 1.5643, -1.8037, 0.8264, 13))
    estimate, _ = _content(run(EstimateLoad, model_file=weights, **found))
    assert estimate["low_ml"] == 0
    assert estimate["high_ml"] == pytest.approx(0.1285, abs=1e-3)
    assert estimate["learnt"] is False
