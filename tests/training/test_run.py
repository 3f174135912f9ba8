from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bids_msseg.calibration import read_calibration
from bids_msseg.cli import train
from bids_msseg.models.checkpoint import load_cascade
from bids_msseg.models.weights import read_header

TINY = """\
size: 32
candidate: {steps: 1, batch: 1, workers: 0}
refinement: {steps: 1, batch: 2, workers: 0}
candidate_threshold: 0.01
"""
PEOPLE = ("sub-01", "sub-03", "sub-05")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def cohort(labelled_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three") / "raw"
    shutil.copytree(labelled_cohort, root)
    for folder in (*root.glob("sub-*"), *root.glob("derivatives/manual/sub-*")):
        if folder.name not in PEOPLE:
            shutil.rmtree(folder)
    return root


def _call(cohort: Path, out: Path, weights: Path, recipe: Path, *more: str) -> int:
    start = ["--init", str(weights), "--recipe", str(recipe), "--jobs", "1", "--name", "mine"]
    return train.main([str(cohort), str(out), *start, *more])


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.fixture(scope="module")
def trained(cohort: Path, toy_cascade: Path, recipe: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    assert _call(cohort, out, toy_cascade, recipe) == 0
    return out


@pytest.mark.slow
def test_every_patient_is_scored_by_held_out_networks(trained: Path) -> None:
    rows = _rows(trained / "scores.tsv")
    found = {(row["visit"], row["method"]) for row in rows}
    methods = ("candidate net", "cascade", "before")
    assert found == {(visit, method) for visit in PEOPLE for method in methods}
    assert {path.stem for path in (trained / "checkpoints").glob("*.pt")} == {
        f"{kind}-{test}"
        for kind in ("candidate", "refinement")
        for test in ("release", "without-0", "without-1", "without-2")
    }
    points = json.loads((trained / "points.json").read_text())
    assert set(points) == {"release", "0", "1", "2"}
    assert len(_rows(trained / "before_after.tsv")) == 3
    assert (trained / "predictions" / "sub-01" / "anat").is_dir()


@pytest.mark.slow
def test_weights_record_training_visits_and_start_weights(
    trained: Path, toy_cascade: Path
) -> None:
    (target,) = trained.glob("mine*.safetensors")
    cascade, given = load_cascade(target), load_cascade(toy_cascade)
    assert cascade.unseen is not None
    assert given.unseen is not None
    same = zip(
        cascade.unseen.state_dict().values(), given.unseen.state_dict().values(), strict=True
    )
    assert all(torch.equal(*pair) for pair in same)
    notes = read_header(target).notes
    assert notes["visits"] == list(PEOPLE)
    assert set(notes["images"]) == set(PEOPLE)
    assert notes["init"]["name"] == "toy"
    assert notes["init"]["visits"] == ["sub-99"]
    known = read_calibration(target, cascade.sha256)
    assert known.training is not None
    card = target.with_suffix(".md").read_text()
    assert cascade.sha256 in card
    assert given.sha256 in card


@pytest.mark.slow
def test_second_call_does_not_train_again(
    trained: Path, cohort: Path, toy_cascade: Path, recipe: Path
) -> None:
    before = {path: path.read_bytes() for path in (trained / "checkpoints").glob("*.pt")}
    (target,) = trained.glob("mine*.safetensors")
    content = target.read_bytes()
    assert _call(cohort, trained, toy_cascade, recipe) == 0
    assert {path: path.read_bytes() for path in before} == before
    assert target.read_bytes() == content


@pytest.mark.slow
def test_seen_patients_restart_from_pretrained_network(
    trained: Path, cohort: Path, recipe: Path, tmp_path: Path
) -> None:
    """The start weights have seen the patients, so only their pretrained CNN-1 is used."""
    (target,) = trained.glob("mine*.safetensors")
    out = tmp_path / "again"
    assert _call(cohort, out, target, recipe, "--test-folds", "1") == 0
    assert {row["method"] for row in _rows(out / "scores.tsv")} == {"candidate net", "cascade"}
    assert [path.name for path in out.glob("*.safetensors")] == ["mine-without-1.safetensors"]
    held = [row["visit"] for row in _rows(out / "splits.tsv") if row["fold"] == "1"]
    notes = read_header(out / "mine-without-1.safetensors").notes
    assert set(notes["visits"]) == set(PEOPLE) - set(held)
    assert notes["init"]["visits"] == []


@pytest.mark.slow
def test_changed_inputs_are_refused_after_training_has_begun(
    trained: Path, cohort: Path, toy_cascade: Path, recipe: Path, tmp_path: Path, capsys
) -> None:
    other = tmp_path / "other.yml"
    other.write_text(f"{TINY}seed: 4\n")
    assert _call(cohort, trained, toy_cascade, other) == 64
    assert "another recipe" in capsys.readouterr().err
    changed = tmp_path / "changed"
    shutil.copytree(cohort, changed)
    truth = changed / "derivatives/manual/sub-05/anat/sub-05_space-FLAIR_label-L_mask.nii.gz"
    image = nib.load(truth)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, 0), image.affine), truth)
    before = {path: path.stat().st_mtime_ns for path in (trained / "cohort").glob("*.npz")}
    assert _call(changed, trained, toy_cascade, recipe) == 64
    assert f"sub-05: {truth.name} has changed" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in before}
    fewer = tmp_path / "fewer"
    shutil.copytree(cohort, fewer)
    shutil.rmtree(fewer / "sub-05")
    assert _call(fewer, trained, toy_cascade, recipe) == 64
    assert "another split" in capsys.readouterr().err


@pytest.mark.slow
def test_predictions_lie_on_the_grid_of_the_flair(trained: Path, cohort: Path) -> None:
    flair = nib.load(cohort / "sub-03/anat/sub-03_FLAIR.nii.gz")
    stem = trained / "predictions" / "sub-03" / "anat" / "sub-03_space-FLAIR_label-L"
    for ending in ("mask", "probseg"):
        image = nib.load(f"{stem}_{ending}.nii.gz")
        assert image.shape == flair.shape
        np.testing.assert_allclose(image.affine, flair.affine, atol=1e-5)
    assert (trained / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_training_on_single_patient_holds_none_out(
    cohort: Path, toy_cascade: Path, recipe: Path, tmp_path: Path
) -> None:
    single = tmp_path / "single"
    shutil.copytree(cohort, single)
    for folder in (*single.glob("sub-*"), *single.glob("derivatives/manual/sub-*")):
        if folder.name != "sub-01":
            shutil.rmtree(folder)
    out = tmp_path / "out"
    assert _call(single, out, toy_cascade, recipe) == 0
    assert {row["method"] for row in _rows(out / "scores.tsv")} == {"before"}
    assert "No patient was held out" in (out / "mine.md").read_text()
    assert [path.name for path in out.glob("*.safetensors")] == ["mine.safetensors"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--test-folds", "7"], 64),
        (["--label-maps", "missing"], 66),
        (["--lesion-bank", "missing.npz"], 66),
    ],
)
def test_invalid_options_are_refused(
    cohort: Path, toy_cascade: Path, recipe: Path, tmp_path: Path, more: list[str], code: int
) -> None:
    assert _call(cohort, tmp_path / "out", toy_cascade, recipe, *more) == code
    assert not list(tmp_path.glob("out/*.safetensors"))
