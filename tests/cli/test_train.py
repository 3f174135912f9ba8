from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.cli import train
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.models.weights import read_header
from bids_msseg.training.valverde import run as preset

TINY = """\
size: 32
candidate: {steps: 1, batch: 1, workers: 0}
refinement: {steps: 1, batch: 2, workers: 0}
candidate_threshold: 0.01
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yml"
    path.write_text(TINY)
    return path


@pytest.fixture
def call(toy_cascade: Path, labelled_cohort: Path, recipe: Path, tmp_path: Path):
    """Run ``msseg-train`` on the labelled or another cohort, with an untrained cascade."""

    def run(*more: str, cohort: Path = labelled_cohort) -> int:
        start = ["--init", str(toy_cascade), "--recipe", str(recipe), "--jobs", "1"]
        return train.main([str(cohort), str(tmp_path / "out"), *start, *more])

    return run


@pytest.mark.slow
def test_distributed_training_with_two_processes(
    labelled_cohort: Path, toy_cascade: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "group.yml"
    fit = "{steps: 2, batch: 1, accumulate: 2, workers: 0}"
    recipe.write_text(
        f"candidate: {fit}\nrefinement: {fit}\nsize: 32\ncandidate_threshold: 0.01\n"
    )
    out = tmp_path / "out"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "bids_msseg.cli.train", str(labelled_cohort), str(out)]
    command += ["--init", str(toy_cascade), "--recipe", str(recipe), "--test-folds", "0"]
    both = [
        subprocess.Popen(
            command,
            env={**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=Path(train.__file__).parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    # only rank 0 prints results and logs progress
    assert "| cascade |" in texts[0][0]
    assert "finished refinement-without-0" in texts[0][1]
    assert texts[1][0] == ""
    assert "finished refinement-without-0" not in texts[1][1]
    assert {path.stem for path in (out / "checkpoints").glob("*.pt")} == {
        "candidate-without-0",
        "refinement-without-0",
    }
    (weights,) = out.glob("*-without-0.safetensors")
    folds = [line.split("\t") for line in (out / "splits.tsv").read_text().splitlines()[1:]]
    seen = {visit for visit, fold in folds if fold != "0"}
    assert set(read_header(weights).notes["visits"]) == seen
    steps = (out / "logs" / "candidate-without-0.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in steps[1:]] == [["2", "2"]]


@pytest.mark.slow
def test_preset_receives_options_and_recipe(
    labelled_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def note(files, out, **options) -> list:
        calls.append((len(files), out, options))
        return []

    monkeypatch.setattr(preset, "run_valverde", note)
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
    recipe.write_text("size: 32\n")
    assert train.main([*argv, "--recipe", str(recipe)]) == 64
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("--init", "cascade"), ("--label-maps", "x"), ("--lesion-bank", "x"), ("--test-folds", "0")],
)
def test_options_without_effect_on_preset_are_refused(
    option: str, value: str, tmp_path: Path, capsys
) -> None:
    argv = [str(tmp_path), str(tmp_path / "out"), "--preset", "valverde2017", option, value]
    assert train.main(argv) == 64
    assert option in capsys.readouterr().err


def test_starting_weights_must_exist_and_be_valid(toy_cascade: Path, tmp_path: Path) -> None:
    assert train.starting_weights(str(toy_cascade)) == toy_cascade
    pretrained = tmp_path / "pretrained.pt"
    with pytest.raises(NoInputError):
        train.starting_weights(str(pretrained))
    pretrained.touch()
    assert train.starting_weights(str(pretrained)) == pretrained
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(toy_cascade.read_bytes()[:200])
    with pytest.raises(DataError):
        train.starting_weights(str(broken))


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--init", "missing.pt"], 66),
        (["--init", "./missing.safetensors"], 66),
        (["--init", "missing"], 64),
        (["--recipe", "missing.yml"], 64),
        (["--labels", "missing"], 66),
        (["--resume"], 66),
    ],
)
def test_invalid_options_are_refused_before_output_is_written(
    call, tmp_path: Path, more: list[str], code: int
) -> None:
    assert call(*more) == code
    assert not (tmp_path / "out").exists()


def test_cohort_without_lesion_masks_is_refused(call, tmp_path: Path, capsys) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert call("--labels", str(empty)) == 66
    message = capsys.readouterr().err
    assert "sub-04_ses-2 skipped: no manual lesion mask" in message
    assert "label-L_mask.nii.gz" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sedes: 3", "unknown keys: sedes"),
        ("7: 3", "unknown keys: 7"),
        ("- steps", "unknown keys: no keys"),
        ("", "unknown keys: no keys"),
        ("a: [", "cannot read"),
        ("candidate: {stops: 3}", "stops"),
        ("candidate: {steps: many}", "many"),
        ("candidate: 5", "invalid recipe"),
        ("seed: high", "high"),
        ("folds: [3]", "invalid recipe"),
        ("candidate_net: {widths: [4]}", "unknown keys: candidate_net"),
    ],
)
def test_invalid_recipe_is_usage_error(
    call, text: str, message: str, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    assert call("--recipe", str(path)) == 64
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "options", [["--jobs", "0"], ["--threads", "many"], ["--name", "a/b"], ["--spin"]]
)
def test_invalid_options_are_usage_errors(options: list[str], tmp_path: Path, capsys) -> None:
    assert train.main([str(tmp_path), str(tmp_path / "out"), *options]) == 64
    assert options[0] in capsys.readouterr().err


@pytest.mark.slow
def test_mask_on_other_grid_is_data_error(
    call, labelled_cohort: Path, tmp_path: Path, capsys
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(labelled_cohort, moved)
    path = moved / "derivatives/manual/sub-01/anat/sub-01_space-FLAIR_label-L_mask.nii.gz"
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1, 1.1, 1])), path)
    assert call(cohort=moved) == 65
    assert path.name in capsys.readouterr().err
