from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_msseg.calibration import Calibration, read_calibration, write_calibration
from bids_msseg.evaluation.labels import LabelledFiles, find_labelled
from bids_msseg.evaluation.scoring import keep_prediction
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.imaging.volume import load_volume
from bids_msseg.lesions.confidence.fit import LesionCase, LoadCase
from bids_msseg.lesions.confidence.uncertainty import SWEEP
from bids_msseg.models.weights import read_header
from bids_msseg.training.calibration import (
    HeldOutData,
    calibrate,
    collect_held_out,
    describe,
)
from bids_msseg.training.data.cohort_cache import prepare_cohort


@pytest.fixture(scope="module")
def files(
    labelled_cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[LabelledFiles]]:
    """Prepared cohort; all visits but the last have a prediction, the ground truth times 0.6."""
    out = tmp_path_factory.mktemp("train")
    found = find_labelled(labelled_cohort, labelled_cohort / "derivatives" / "manual", out)
    prepare_cohort(out, found, 1)
    for item in found[:-1]:
        truth = load_volume(item.truth)
        probability = truth.with_data(truth.data * np.float32(0.6))
        key = item.visit.key
        keep_prediction(out / "predictions", key, "cascade", probability, truth.data > 0)
    return out, found


@pytest.fixture(scope="module")
def held_out(files: tuple[Path, list[LabelledFiles]]) -> HeldOutData:
    return collect_held_out(*files)


def test_held_out_predictions_are_compared_with_ground_truth(
    files: tuple[Path, list[LabelledFiles]], held_out: HeldOutData
) -> None:
    _, found = files
    assert held_out.visits == tuple(item.visit.key for item in found[:-1])
    assert [case.participant for case in held_out.loads] == ["01", "02", "03", "04", "04"]
    assert {case.site for case in held_out.loads} == {"A", "B"}
    for case in held_out.loads:
        wanted = [case.truth_ml if cut < 0.6 else 0.0 for cut in SWEEP]
        # 0.6 in float32 is not below the cut of 0.6
        wanted[SWEEP.index(0.6)] = case.truth_ml
        assert case.sweep_ml == pytest.approx(wanted)
        assert 0.027 <= case.truth_ml <= 0.081
    assert all(case.found and case.p == pytest.approx(0.6) for case in held_out.lesions)


def test_visits_without_prediction_are_measured_too(
    files: tuple[Path, list[LabelledFiles]], held_out: HeldOutData
) -> None:
    assert len(held_out.measures) == len(files[1])
    assert all(
        one["brain_ml"] == held_out.measures[0]["brain_ml"] > 9 for one in held_out.measures
    )


def test_too_few_patients_give_reason_but_no_interval(
    files: tuple[Path, list[LabelledFiles]], bright_model: Path, tmp_path: Path
) -> None:
    out, found = files
    weights = tmp_path / "site.safetensors"
    weights.write_bytes(bright_model.read_bytes())
    given = tmp_path / "given.safetensors"
    given.write_bytes(bright_model.read_bytes())
    sha256 = read_header(given).sha256
    before = Calibration(training=TrainingVisits(({"brain_ml": 1.0},)))
    write_calibration(given, before, name="given", sha256=sha256)
    written = calibrate(out, found, weights, start=given)
    read = read_calibration(weights, sha256)
    assert read.load is read.confidence is None
    assert read.reason == written.reason
    assert read.reason.startswith("these weights were tested on 4 held-out patients")
    assert read.training is not None
    assert read.training.measures[0] == {"brain_ml": 1.0}
    assert len(read.training.measures) == 1 + len(found)
    assert "None: these weights" in describe(read)


def test_describe_states_coverage_and_auc() -> None:
    rng = np.random.default_rng(0)
    loads, lesions = [], []
    for number in range(12):
        volume = float(rng.uniform(1, 30))
        truth = volume * float(rng.uniform(0.8, 1.2))
        loads.append(LoadCase(str(number), "AB"[number % 2], (volume,) * len(SWEEP), truth))
        lesions += [
            LesionCase(str(number), "A", p, bool(rng.random() < p)) for p in rng.uniform(0, 1, 20)
        ]
    learnt = HeldOutData((), tuple(loads), tuple(lesions), ()).calibration()
    assert learnt.reason == ""
    assert learnt.coverage["all"][1] == 12
    said = describe(learnt)
    inside, count = learnt.coverage["B"]
    assert f"B {inside} of {count}, all {learnt.coverage['all'][0]} of 12" in said
    assert f"{learnt.auc:.2f} (240 lesions)" in said
