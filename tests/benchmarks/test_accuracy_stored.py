from __future__ import annotations

import json
import math
import runpy
from pathlib import Path

import accuracy_stored
import nibabel as nib
import numpy as np
import pytest
from accuracy_stored import Bench, Case, open_bench, removal
from training_output import open_training

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.normalise import working_grid
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import Prediction
from bids_msseg.training.context import TrainingContext
from bids_msseg.training.data.folds import Split
from bids_msseg.training.protocol import write_output
from bids_msseg.training.recipe import CascadeRecipe

EDGE = 16
AFFINE = np.diag([-1.0, 1, 1, 1])
TRUTH = (slice(4, 8), slice(4, 8), slice(4, 8))
MISSED = (slice(12, 14), slice(4, 6), slice(4, 6))
FALSE = (slice(4, 7), slice(11, 13), slice(11, 13))
PALE = (slice(11, 13), slice(11, 13), slice(4, 6))
NORMAL = (slice(4, 7), slice(11, 13), slice(9, 13))


def _image(*parts: tuple[tuple[slice, ...], float]) -> np.ndarray:
    data = np.zeros((EDGE,) * 3, np.float32)
    for where, value in parts:
        data[where] = value
    return data


def _save(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)
    return path


def _on_working_grid(brain: Path, data: np.ndarray) -> np.ndarray:
    """Copy an array from the FLAIR grid to the working grid; both have voxels of 1 mm."""
    grid, affine = working_grid(as_ras(load_volume(brain)))
    source = as_ras(Volume(data, AFFINE))
    offset = np.rint(np.linalg.inv(source.affine) @ affine)[:3, 3].astype(int)
    out = np.zeros(grid, np.float32)
    rim = -int(offset[0])
    out[(slice(rim, rim + EDGE),) * 3] = source.data
    return out


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """One visit: a lesion found, one missed, one false component, one pale spot.

    CNN-1 finds the pale spot only at the candidate threshold of 0.1. The cascade removes the
    false and the pale one, except for a spot in its probability below the threshold.
    """
    manual, predictions = tmp_path / "manual", tmp_path / "predictions"
    brain = _save(manual / "brain.nii.gz", np.ones((EDGE,) * 3, np.uint8))
    stem = "sub-01_space-FLAIR_label"
    truth = _save(manual / f"{stem}-L_mask.nii.gz", _image((TRUTH, 1), (MISSED, 1)))
    _save(manual / f"{stem}-normalWMH_mask.nii.gz", _image((NORMAL, 1)))
    mask = _save(predictions / f"{stem}-L_mask.nii.gz", _image((TRUTH, 1)))
    shown = _save(predictions / f"{stem}-L_probseg.nii.gz", _image((TRUTH, 0.9), (FALSE, 0.4)))
    seen = _image((TRUTH, 0.9), (FALSE, 0.7), (PALE, 0.2))
    probability = _on_working_grid(brain, seen)
    anatomy = np.zeros((CLASSES, *(-(-edge // 2) for edge in probability.shape)), np.float16)
    write_output(tmp_path / "held-out" / "sub-01.npz", Prediction(probability, anatomy), None)
    split = Split((("sub-01",), ("sub-02",), ("sub-03",)))
    training = TrainingContext(
        tmp_path, split, tmp_path / "start.pt", False, None, None, Engine(), CascadeRecipe()
    )
    case = Case("sub-01", "01", "A", 0, brain, truth, mask, shown)
    return Bench(training, (case,))


def test_agreement_of_cascade_and_candidate_net_with_experts(bench: Bench) -> None:
    found = {one.method: one.values for one in accuracy_stored.agreement(bench).findings}
    assert found["cascade"]["dice"] == pytest.approx(2 * 64 / (64 + 72))
    assert found["cascade"]["ppv"] == 1
    assert found["cascade"]["n_false"] == 0
    assert found["candidate net"]["dice"] == pytest.approx(2 * 64 / (76 + 72))
    assert found["candidate net"]["ppv"] == pytest.approx(64 / 76)
    assert found["candidate net"]["sensitivity"] == pytest.approx(64 / 72)
    assert found["candidate net"]["lesion_f1"] == pytest.approx(0.5)
    assert found["candidate net"]["n_false"] == 1
    assert found["candidate net"]["volume_manual_ml"] == pytest.approx(0.072)


def test_share_of_normal_hyperintensity_in_predictions(bench: Bench) -> None:
    found = {one.method: one.values for one in accuracy_stored.normal(bench).findings}
    # 12 of the 24 normal voxels lie in the false component
    assert found["candidate net"] == {"share": 0.5, "volume_ml": pytest.approx(0.024)}
    assert found["cascade"]["share"] == 0


def test_visits_without_normal_hyperintensity_are_excluded(bench: Bench) -> None:
    case = bench.cases[0]
    case.truth.with_name("sub-01_space-FLAIR_label-normalWMH_mask.nii.gz").unlink()
    assert accuracy_stored.normal(bench).findings == ()


def test_refinement_net_removes_false_candidates(bench: Bench) -> None:
    (found,) = accuracy_stored.refinement(bench).findings
    assert found.values == {
        "candidate_threshold": 0.1,
        "false_candidates": 2, "false_half": 1, "false_after": 0,
        "removed_candidates": 1, "removed_half": 1,
        "recall_candidates": 0.5, "recall_half": 0.5, "recall_after": 0.5,
        "lost_candidates": 0, "lost_half": 0,
    }  # fmt: skip


def test_removal_of_small_example() -> None:
    truth = np.zeros((9, 9, 9), bool)
    masks = {name: np.zeros_like(truth) for name in ("candidates", "half", "after")}
    for row in (0, 4, 8):
        truth[row, 0, :3] = True
    masks["candidates"][[0, 4, 8], 0, :3] = True
    masks["half"][[0, 4], 0, :3] = True
    masks["after"][0, 0, :3] = True
    for name, rows in (("candidates", (0, 2, 4, 6)), ("after", (0,))):
        masks[name][rows, 6, 4:8] = True
    found = removal(masks, truth, voxel_volume=1.0)
    assert (found["false_candidates"], found["false_half"], found["false_after"]) == (4, 0, 1)
    assert found["removed_candidates"] == 0.75
    assert math.isnan(found["removed_half"])
    assert found["lost_candidates"] == pytest.approx(2 / 3)
    assert found["lost_half"] == pytest.approx(1 / 3)
    masks["half"][0, 6, 4:8] = masks["half"][4, 6, 4:8] = True
    masks["after"][[0, 2, 4, 6], 6, 4:8] = True
    # false components that the net adds give a negative value
    assert removal(masks, truth, voxel_volume=1.0)["removed_half"] == -1


def test_precise_point_needs_other_folds(bench: Bench) -> None:
    assert accuracy_stored.point(bench).findings == ()


@pytest.mark.parametrize(("false", "threshold", "ppv"), [(0.95, 0.99, None), (0.4, 0.41, 1.0)])
def test_the_precise_point_is_chosen_on_the_other_folds(
    bench: Bench, tmp_path: Path, false: float, threshold: float, ppv: float | None
) -> None:
    """In the other fold false voxels reach ``false``, and lesions 0.97."""
    (own,) = bench.cases
    shown = _save(tmp_path / "other.nii.gz", _image((TRUTH, 0.97), (FALSE, false), (PALE, false)))
    truth = _save(tmp_path / "truth.nii.gz", _image((TRUTH, 1)))
    other = Case("sub-02", "02", "B", 1, own.brain, truth, truth, shown)
    section = accuracy_stored.point(Bench(bench.training, (own, other)))
    found = {one.visit: one.values for one in section.findings}["sub-01"]
    assert found["threshold"] == threshold if ppv else found["threshold"] > false
    if ppv:
        assert found["ppv"] == ppv
        assert found["sensitivity"] == pytest.approx(64 / 72)


def _write_training(folder: Path, folds: list[list[str]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {"candidate_net": {"widths": [4, 8]}, "refinement_net": {"widths": [4, 6, 8]}}
    plan = {"recipe": {"seed": 5, "size": 64, **shapes}, "split": folds, "seen": False}
    (folder / "training.json").write_text(json.dumps(plan))
    (folder / "start").mkdir(exist_ok=True)
    (folder / "start" / "pretraining.pt").touch()


def test_open_training_restores_plan(tmp_path: Path) -> None:
    _write_training(tmp_path, [["sub-01"], ["sub-02"], ["sub-03", "sub-04"]])
    training = open_training(tmp_path)
    assert training.split.folds == (("sub-01",), ("sub-02",), ("sub-03", "sub-04"))
    assert (training.recipe.size, training.recipe.seed, training.folder) == (64, 5, tmp_path)
    assert training.recipe.candidate_net.widths == (4, 8)
    assert training.recipe.refinement_net.widths == (4, 6, 8)
    assert training.start == tmp_path / "start" / "pretraining.pt"


@pytest.mark.parametrize("content", ["{", "[]", '{"recipe": {}}', '{"split": 3, "recipe": {}}'])
def test_invalid_training_folder_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(NoInputError):
        open_training(tmp_path)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "pretraining.pt").touch()
    (tmp_path / "training.json").write_text(content)
    with pytest.raises(DataError):
        open_training(tmp_path)


@pytest.fixture
def predicted(labelled_cohort: Path, tmp_path: Path) -> Path:
    """A training whose prediction of sub-03 is missing."""
    out = tmp_path / "out"
    keys = ["sub-01", "sub-02", "sub-04_ses-1", "sub-04_ses-2", "sub-05"]
    _write_training(out, [["sub-01", "sub-03"], ["sub-02", "sub-05"], keys[2:4]])
    for key in keys:
        place = out / "predictions" / key.replace("_", "/") / "anat"
        name = f"{key}_space-FLAIR_label-L_mask.nii.gz"
        source = labelled_cohort / "derivatives" / "manual" / key.replace("_", "/") / "anat" / name
        _save(place / name, load_volume(source).data)
    return out


def test_visits_are_paired_with_predictions_folds_and_sites(
    predicted: Path, labelled_cohort: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = open_bench(predicted, labelled_cohort, labelled_cohort / "derivatives" / "manual")
    assert [(case.key, case.participant, case.site, case.fold) for case in bench.cases] == [
        ("sub-01", "01", "B", 0),
        ("sub-02", "02", "A", 1),
        ("sub-04_ses-1", "04", "A", 2),
        ("sub-04_ses-2", "04", "A", 2),
        ("sub-05", "05", "B", 1),
    ]
    assert "sub-03: no manual mask, brain mask or prediction" in caplog.text
    last = bench.cases[3]
    assert last.probability.name == "sub-04_ses-2_space-FLAIR_label-L_probseg.nii.gz"
    assert last.brain.name == "sub-04_ses-2_space-FLAIR_desc-brain_mask.nii.gz"


def test_open_bench_selects_given_visits(predicted: Path, labelled_cohort: Path) -> None:
    labels = labelled_cohort / "derivatives" / "manual"
    bench = open_bench(predicted, labelled_cohort, labels, visits=["sub-02"])
    assert [case.key for case in bench.cases] == ["sub-02"]
    with pytest.raises(NoInputError, match="no visit of"):
        open_bench(predicted, labelled_cohort, labels, visits=["sub-99"])


PROGRAM = Path(__file__).parents[2] / "benchmarks" / "accuracy.py"


def _run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    main = runpy.run_path(str(PROGRAM))["main"]
    monkeypatch.setattr("sys.argv", ["accuracy.py", *map(str, words)])
    return int(main())


def test_program_prints_requested_rows_and_updates_page(
    predicted: Path,
    labelled_cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--rows", "normal,time", "--threads", 1, "--page", tmp_path / "accuracy.md")
    assert _run(monkeypatch, predicted, labelled_cohort, *words) == 0
    kept = (tmp_path / "accuracy.md").read_text()
    assert [line for line in kept.splitlines() if line.startswith("## ")] == [
        "## Normal hyperintensity",
        "## Wall time of the cascade",
    ]
    assert capsys.readouterr().out.split() == kept.split()
    assert _run(monkeypatch, predicted, labelled_cohort, "--rows", "normal", *words[2:]) == 0
    assert (tmp_path / "accuracy.md").read_text() == kept


def test_program_refuses_invalid_folder_and_rows(
    tmp_path: Path,
    labelled_cohort: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, tmp_path, labelled_cohort) == 66
    assert "does not hold the output of msseg-train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        _run(monkeypatch, tmp_path, labelled_cohort, "--rows", "dice")
    assert "no such row: dice" in capsys.readouterr().err
