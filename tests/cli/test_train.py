from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.calibration import read_calibration
from bids_msseg.cascade.checkpoint import load_cascade
from bids_msseg.cli import train
from bids_msseg.commands import train_valverde
from bids_msseg.commands.recipes import make_recipe, read_recipe, site_recipe
from bids_msseg.errors import UsageError
from bids_msseg.models.weights import read_header

TINY = """\
seed: 3
candidate: {steps: 3, batch: 1, workers: 0, learning_rate: 2e-3}
continued: {steps: 2, batch: 1, workers: 0}
refinement: {steps: 2, batch: 2, workers: 0}
widths: [4, 8]
refinement_widths: [4, 8]
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(labelled_cohort: Path, recipe: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    assert _train(labelled_cohort, out, recipe) == 0
    return out


def _train(cohort: Path, out: Path, recipe: Path, *more: str) -> int:
    return train.main(
        [str(cohort), str(out), "--recipe", str(recipe), "--jobs", "1", "--name", "toy", *more]
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.slow
def test_everybody_is_in_a_fold_with_all_visits(trained: Path) -> None:
    folds = {row["visit"]: row["fold"] for row in _rows(trained / "splits.tsv")}
    assert set(folds) == {
        "sub-01", "sub-02", "sub-03", "sub-04_ses-1", "sub-04_ses-2", "sub-05"
    }  # fmt: skip
    assert set(folds.values()) == {"0", "1", "2"}
    assert folds["sub-04_ses-1"] == folds["sub-04_ses-2"]


@pytest.mark.slow
def test_every_visit_is_scored_by_both_methods(trained: Path) -> None:
    rows = _rows(trained / "scores.tsv")
    assert len(rows) == 12
    assert {row["method"] for row in rows} == {"candidate net", "cascade"}
    assert {(row["visit"], row["site"]) for row in rows} >= {("sub-01", "B"), ("sub-02", "A")}
    for row in rows:
        assert 0 <= float(row["dice"]) <= 1
        assert float(row["truth_ml"]) > 0.02


@pytest.mark.slow
def test_the_weights_are_a_cascade_that_the_app_accepts(trained: Path) -> None:
    cascade = load_cascade(trained / "toy.safetensors")
    assert cascade.name == "toy"
    assert len(cascade.candidate) == 3
    assert len(cascade.refinement) == 1
    assert cascade.candidate[0].config.widths == (4, 8)
    assert cascade.sha256 in (trained / "toy.md").read_text()
    known = read_calibration(trained / "toy.safetensors", cascade.sha256)
    assert known.reason.startswith("these weights were tested on 5 unseen patients")
    assert known.training is not None
    assert len(known.training.measures) == 6
    assert "## Uncertainty" in (trained / "toy.md").read_text()


@pytest.mark.slow
def test_the_model_card_names_folds_and_sites(trained: Path) -> None:
    card = (trained / "toy.md").read_text()
    assert card.startswith("# Model card: toy\n")
    for words in ("- fold 2: ", "sub-04_ses-2", "**mean, n = 2** | A", "**mean, n = 3** | B"):
        assert words in card


@pytest.mark.slow
def test_predictions_lie_on_the_grid_of_the_flair(trained: Path, labelled_cohort: Path) -> None:
    place = trained / "predictions" / "sub-04" / "ses-2" / "anat"
    flair = nib.load(labelled_cohort / "sub-04/ses-2/anat/sub-04_ses-2_FLAIR.nii.gz")
    stem = "sub-04_ses-2_space-FLAIR_label-L"
    mask = nib.load(place / f"{stem}_mask.nii.gz")
    probability = nib.load(place / f"{stem}_probseg.nii.gz")
    for image in (mask, probability):
        assert image.shape == flair.shape
        np.testing.assert_allclose(image.affine, flair.affine, atol=1e-5)
    assert set(np.unique(mask.get_fdata())) <= {0, 1}
    assert (trained / "predictions" / "sub-01" / "anat").is_dir()
    assert (trained / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_second_call_trains_and_scores_nothing(
    trained: Path, labelled_cohort: Path, recipe: Path, capsys
) -> None:
    checkpoints = list((trained / "checkpoints").iterdir())
    before = _times(*checkpoints, trained / "scores.tsv")
    weights = (trained / "toy.safetensors").read_bytes()
    assert len(checkpoints) == 6 + 4 + 4
    assert _train(labelled_cohort, trained, recipe) == 0
    assert before == _times(*(trained / "checkpoints").iterdir(), trained / "scores.tsv")
    assert (trained / "toy.safetensors").read_bytes() == weights
    captured = capsys.readouterr()
    assert "nothing has changed since" in captured.err
    assert "| **mean, n = 3** | B | cascade |" in captured.out


def _times(*paths: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.slow
def test_scores_older_than_a_net_are_made_again(
    trained: Path, labelled_cohort: Path, recipe: Path
) -> None:
    scores = trained / "scores.tsv"
    content = scores.read_text()
    os.utime(scores, ns=(1, 1))
    assert _train(labelled_cohort, trained, recipe) == 0
    assert scores.stat().st_mtime_ns > 1
    assert scores.read_text() == content


@pytest.mark.slow
def test_weights_say_whom_they_have_seen(trained: Path) -> None:
    notes = read_header(trained / "toy.safetensors").notes
    assert sorted(notes["visits"]) == [
        "sub-01", "sub-02", "sub-03", "sub-04_ses-1", "sub-04_ses-2", "sub-05"
    ]  # fmt: skip
    assert set(notes["images"]) == set(notes["visits"])


@pytest.mark.slow
def test_changed_masks_are_refused_once_it_has_begun(
    trained: Path, labelled_cohort: Path, recipe: Path, tmp_path: Path, capsys
) -> None:
    other = tmp_path / "other"
    shutil.copytree(labelled_cohort, other)
    truth = other / "derivatives/manual/sub-05/anat/sub-05_space-FLAIR_label-L_mask.nii.gz"
    image = nib.load(truth)
    nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 1, 0), image.affine), truth)
    before = _times(*(trained / "cohort").glob("*.npz"))
    assert _train(other, trained, recipe) == 64
    assert f"sub-05: {truth.name} has changed" in capsys.readouterr().err
    assert before == _times(*(trained / "cohort").glob("*.npz"))


@pytest.mark.slow
def test_two_processes_train_each_net_together(labelled_cohort: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "team.yml"
    fit = "{steps: 2, batch: 1, accumulate: 2, workers: 0}"
    plans = "\n".join(f"{name}: {fit}" for name in ("candidate", "continued", "refinement"))
    judge = "judge: {epochs: 1, patches: 64, batch: 8}"
    recipe.write_text(f"{plans}\nwidths: [4, 8]\nrefinement_widths: [4, 8]\n{judge}\n")
    out = tmp_path / "out"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    team = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "bids_msseg.cli.train", str(labelled_cohort), str(out)]
    both = [
        subprocess.Popen(
            [*command, "--recipe", str(recipe), "--outer", "0"],
            env={**os.environ, **team, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(train.__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    # only the first one speaks
    assert "| cascade |" in told[0][0]
    assert "finished refinement-0" in told[0][1]
    assert told[1][0] == ""
    assert "finished refinement-0" not in told[1][1]
    assert {path.stem for path in (out / "checkpoints").glob("*.pt")} == {
        "candidate-1",
        "candidate-2",
        "candidate-12",
        "refinement-0",
        "judge-0",
    }
    (weights,) = out.glob("*-without-0.safetensors")
    cascade, header = load_cascade(weights), read_header(weights)
    assert (len(cascade.judges), cascade.point.verdict) == (1, 0.1)
    folds = [line.split("\t") for line in (out / "splits.tsv").read_text().splitlines()[1:]]
    assert set(header.notes["visits"]) == {visit for visit, fold in folds if fold != "0"}
    steps = (out / "logs" / "candidate-1.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in steps[1:]] == [["2", "2"]]


@pytest.mark.slow
def test_the_preset_is_handed_what_was_asked_for(
    labelled_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def note(files, out, **options) -> list:
        calls.append((len(files), out, options))
        return []

    monkeypatch.setattr(train_valverde, "run_valverde", note)
    recipe = tmp_path / "short.yml"
    recipe.write_text("epochs: 1\nseed: 3\n")
    out = tmp_path / "out"
    argv = [str(labelled_cohort), str(out), "--preset", "valverde2017", "--name", "old"]
    assert train.main([*argv, "--recipe", str(recipe), "--threads", "2"]) == 0
    (count, folder, options) = calls[0]
    assert (count, folder) == (6, out)
    assert options["settings"] == {"epochs": 1, "seed": 3}
    assert (options["name"], options["threads"], options["split"]) == ("old", 2, None)
    assert len(list((out / "cohort").glob("*.npz"))) == 6
    recipe.write_text("widths: [4, 8]\n")
    assert train.main([*argv, "--recipe", str(recipe)]) == 64
    assert len(calls) == 1


@pytest.mark.slow
def test_another_recipe_or_split_in_the_same_folder_is_refused(
    trained: Path, labelled_cohort: Path, recipe: Path, tmp_path: Path, capsys
) -> None:
    other = tmp_path / "other.yml"
    other.write_text(TINY.replace("seed: 3", "seed: 4"))
    assert _train(labelled_cohort, trained, other) == 64
    assert "another recipe" in capsys.readouterr().err
    fewer = tmp_path / "fewer"
    shutil.copytree(labelled_cohort, fewer)
    shutil.rmtree(fewer / "sub-05")
    assert _train(fewer, trained, recipe) == 64
    assert "another split" in capsys.readouterr().err


def test_no_folder_of_labels(labelled_cohort: Path, recipe: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    nowhere = str(tmp_path / "nowhere")
    assert _train(labelled_cohort, out, recipe, "--labels", nowhere) == 66
    assert "no folder of manual masks" in capsys.readouterr().err
    assert not out.exists()


def test_labels_of_nobody(labelled_cohort: Path, recipe: Path, tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert _train(labelled_cohort, tmp_path / "out", recipe, "--labels", str(empty)) == 66
    message = capsys.readouterr().err
    assert "sub-04_ses-2 has no manual lesion mask: left out" in message
    assert "label-L_mask.nii.gz" in message


def test_too_few_participants(labelled_cohort: Path, recipe: Path, tmp_path: Path, capsys) -> None:
    few = tmp_path / "few"
    shutil.copytree(labelled_cohort, few)
    for name in ("sub-01", "sub-02", "sub-03"):
        shutil.rmtree(few / name)
    assert _train(few, tmp_path / "out", recipe) == 64
    assert "2 labelled participants" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes: 3", "unknown keys: sedes"),
        ("7: 3", "unknown keys: 7"),
        ("- steps", "unknown keys: no keys"),
        ("", "unknown keys: no keys"),
        ("a: [", "cannot read"),
        ("candidate: {stops: 3}", "there is no stops"),
        ("candidate: {steps: many}", "many"),
        ("candidate: {steps: 2.5}", "steps"),
        ("candidate: {steps: 0}", "steps"),
        ("candidate: 5", "the recipe is wrong"),
        ("seed: high", "high"),
        ("folds: [3]", "the recipe is wrong"),
        ("widths: 4", "the recipe is wrong"),
        ("widths: [4]", "two or more"),
        ("augment: {spin: 1}", "there is no spin"),
    ],
)
def test_a_wrong_recipe_is_a_usage_error(
    text: str, message: str, labelled_cohort: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    assert _train(labelled_cohort, tmp_path / "out", path) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there(labelled_cohort: Path, tmp_path: Path) -> None:
    assert _train(labelled_cohort, tmp_path / "out", tmp_path / "none.yml") == 64


@pytest.mark.parametrize(
    "options", [["--jobs", "0"], ["--threads", "many"], ["--name", "a/b"], ["--spin"]]
)
def test_wrong_options(options: list[str], tmp_path: Path, capsys) -> None:
    assert train.main([str(tmp_path), str(tmp_path / "out"), *options]) == 64
    assert options[0] in capsys.readouterr().err


def test_a_recipe_changes_only_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "some.yml"
    path.write_text("refinement: {steps: 5, learning_rate: 2e-3}\naugment: {blur_mm: 0}\n")
    settings = read_recipe(path)
    recipe = make_recipe(settings)
    assert recipe.refinement.steps == 5
    assert recipe.refinement.learning_rate == 2e-3
    assert recipe.refinement.batch == site_recipe()["refinement"]["batch"]
    assert recipe.augment.blur_mm == 0
    assert recipe.candidate == make_recipe(site_recipe()).candidate
    assert read_recipe(None) == site_recipe()


def test_the_shipped_recipe_is_json_and_can_be_made() -> None:
    assert json.loads(json.dumps(site_recipe()))
    recipe = make_recipe(site_recipe())
    assert recipe.widths == (16, 32, 64, 128)
    assert isinstance(recipe.candidate.steps, int)


def test_a_plan_of_unknown_fields_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no x"):
        make_recipe({**site_recipe(), "candidate": {"x": 1}})


@pytest.mark.slow
def test_a_mask_that_is_not_on_the_grid_is_a_data_error(
    labelled_cohort: Path, recipe: Path, tmp_path: Path, capsys
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(labelled_cohort, moved)
    path = moved / "derivatives/manual/sub-01/anat/sub-01_space-FLAIR_label-L_mask.nii.gz"
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1, 1.1, 1])), path)
    assert _train(moved, tmp_path / "out", recipe) == 65
    assert path.name in capsys.readouterr().err
