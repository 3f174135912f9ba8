from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

from bids_msseg.cascade.checkpoint import load_cascade, save_cascade
from bids_msseg.cascade.networks import CandidateNet, JudgeNet, RefinementNet
from bids_msseg.cli import train
from bids_msseg.commands.finetune import advise, finetune, net_counts, read_given, read_tuning
from bids_msseg.errors import UsageError
from bids_msseg.evaluation.labels import LabelledFiles, find_labelled
from bids_msseg.lesions.bootstrap import estimate_mean
from bids_msseg.models.engine import Engine
from bids_msseg.models.weights import OperatingPoint, read_header

TINY = """\
candidate: {steps: 1, batch: 1, workers: 0}
refinement: {steps: 1, batch: 2, workers: 0}
judge: {epochs: 1, patches: 32, batch: 8}
"""
POINT = OperatingPoint(gate=0.25, keep=0.375, threshold=0.99)
"""Untrained nets reach no such threshold, before or after: nothing is better."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two candidate nets, a refinement net and a judge, untrained; they have seen sub-03."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("given") / "toy.safetensors"
    save_cascade(
        path,
        [CandidateNet((4, 8)), CandidateNet((4, 8))],
        [RefinementNet((4, 8))],
        judges=[JudgeNet()],
        name="toy",
        version="0",
        point=POINT,
        notes={"visits": ["sub-03"]},
    )
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yml"
    path.write_text(TINY)
    return path


def _call(cohort: Path, out: Path, weights: Path, recipe: Path, *more: str) -> int:
    return train.main(
        [
            *(str(cohort), str(out), "--init", str(weights), "--recipe", str(recipe)),
            *("--jobs", "1", "--name", "mine", *more),
        ]
    )


def _only(cohort: Path, target: Path, *people: str) -> Path:
    """Copy some participants of a cohort."""
    shutil.copytree(cohort, target)
    for folder in (*target.glob("sub-*"), *target.glob("derivatives/manual/sub-*")):
        if folder.name not in people:
            shutil.rmtree(folder)
    return target


@pytest.fixture(scope="module")
def cohort(labelled_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("three") / "raw"
    return _only(labelled_cohort, root, "sub-01", "sub-03", "sub-05")


@pytest.fixture(scope="module")
def tuned(cohort: Path, weights: Path, recipe: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "out"
    assert _call(cohort, out, weights, recipe) == 0
    return out


def _files(cohort: Path, out: Path) -> list[LabelledFiles]:
    return find_labelled(cohort, cohort / "derivatives/manual", out / "consensus")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.slow
def test_every_patient_is_held_out_once(tuned: Path) -> None:
    assert [row["fold"] for row in _rows(tuned / "splits.tsv")] == ["0", "1", "2"]
    stages = {path.stem for path in (tuned / "checkpoints").glob("candidate-*.pt")}
    assert stages == {
        *(f"candidate-without-{fold}-net-0" for fold in range(3)),
        "candidate-ship-net-0",
    }
    rows = _rows(tuned / "before_after.tsv")
    assert {row["visit"]: row["seen_before"] for row in rows} == {
        "sub-01": "no",
        "sub-03": "yes",
        "sub-05": "no",
    }
    for row in rows:
        assert 0 <= float(row["dice_before"]) <= 1
        assert 0 <= float(row["dice_after"]) <= 1
    assert (tuned / "predictions" / "sub-01" / "anat").is_dir()


@pytest.mark.slow
def test_weights_that_are_not_better_say_so_in_their_name(tuned: Path, weights: Path) -> None:
    assert [path.name for path in tuned.glob("*.safetensors")] == ["mine-not-better.safetensors"]
    cascade = load_cascade(tuned / "mine-not-better.safetensors")
    given = load_cascade(weights)
    assert cascade.name == "mine-not-better"
    assert cascade.point == POINT
    assert (len(cascade.candidate), len(cascade.refinement), len(cascade.judges)) == (1, 1, 1)
    for new, old in (
        (cascade.candidate[0], given.candidate[0]),
        (cascade.judges[0], given.judges[0]),
    ):
        pairs = zip(new.state_dict().values(), old.state_dict().values(), strict=True)
        assert any(not torch.equal(*pair) for pair in pairs)
    notes = read_header(tuned / "mine-not-better.safetensors").notes
    assert notes["visits"] == ["sub-01", "sub-03", "sub-05"]
    assert set(notes["images"]) == set(notes["visits"])
    assert notes["tested"] is True
    assert notes["verdict"].startswith("not shown to be better: mean held-out Dice changed by")
    assert notes["init"] == {"name": "toy", "sha256": given.sha256, "visits": ["sub-03"]}


@pytest.mark.slow
def test_the_model_card_has_verdict_table_and_data(tuned: Path) -> None:
    card = (tuned / "mine-not-better.md").read_text()
    for words in (
        "# Model card: mine-not-better\n",
        "- goes on from: toy, SHA-256",
        "1 of 2 candidate nets and 1 of\n  1 refinement nets went on; 1 given nets are left out",
        "**not shown to be better: mean held-out Dice changed by",
        "(n = 2, too few for an interval)",
        "Keep using toy, not mine-not-better.safetensors.",
        "Patients marked *yes* were used to train the given weights",
        "| **mean, n = 2** |",
        "- dataset: toy",
    ):
        assert words in card


@pytest.mark.slow
def test_a_second_call_tunes_and_scores_nothing(
    tuned: Path, cohort: Path, weights: Path, recipe: Path, capsys
) -> None:
    kept = ["checkpoints/*", "given/*", "scores.tsv", "cohort/*"]
    before = {path: path.stat().st_mtime_ns for one in kept for path in tuned.glob(one)}
    content = (tuned / "mine-not-better.safetensors").read_bytes()
    assert _call(cohort, tuned, weights, recipe) == 0
    assert before == {path: path.stat().st_mtime_ns for one in kept for path in tuned.glob(one)}
    assert (tuned / "mine-not-better.safetensors").read_bytes() == content
    captured = capsys.readouterr()
    assert "nothing has changed since" in captured.err
    assert captured.out.endswith("keep using toy, not mine-not-better.safetensors\n")
    assert "| sub-03 | B | yes |" in captured.out


@pytest.mark.slow
def test_other_weights_in_the_same_folder_are_refused(
    tuned: Path, cohort: Path, recipe: Path, tmp_path: Path, capsys
) -> None:
    other = tmp_path / "other.safetensors"
    save_cascade(
        other,
        [CandidateNet((4, 8))],
        [RefinementNet((4, 8))],
        name="other",
        version="0",
        point=POINT,
    )
    assert _call(cohort, tuned, other, recipe) == 64
    assert "a training with another init" in capsys.readouterr().err


@pytest.mark.slow
def test_one_patient_gives_untested_weights(
    cohort: Path, weights: Path, recipe: Path, tmp_path: Path
) -> None:
    one = _only(cohort, tmp_path / "raw", "sub-01")
    out = tmp_path / "out"
    done = finetune(
        _files(one, out),
        out,
        given=read_given(weights),
        settings=read_tuning(recipe),
        name="mine",
        engine=Engine(),
    )
    assert str(done.verdict) == "cannot be told: no held-out patient"
    assert done.path == out / "mine.safetensors"
    assert done.advice.startswith("untested: keep using toy")
    assert read_header(done.path).notes["tested"] is False
    assert _rows(out / "before_after.tsv")[0]["dice_after"] == "n/a"
    assert not list((out / "checkpoints").glob("*without*"))
    assert "| **mean, n = 1** |" in done.table


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("widths: [4, 8]", "unknown keys: widths"),
        ("folds: 1", "folds is 1"),
        ("members: 0", "members is 0"),
        ("members: [1]", "members is"),
        ("candidate: {steps: 0}", "steps"),
        ("made: {steps: 1}", "unknown keys: made"),
    ],
)
def test_a_wrong_recipe(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_tuning(path)


def test_the_packaged_recipe_goes_on_gently() -> None:
    settings = read_tuning(None)
    assert json.loads(json.dumps(settings)) == settings
    assert settings["folds"] == 4
    assert float(settings["candidate"]["learning_rate"]) < 1e-3


def test_no_more_nets_go_on_than_there_are(weights: Path) -> None:
    cascade = load_cascade(weights)
    assert net_counts(cascade, {"members": 1}) == (1, 1, 1)
    assert net_counts(cascade, {"members": 9}) == (2, 1, 1)


def test_each_verdict_has_its_advice() -> None:
    from bids_msseg.evaluation.comparison import BETTER, NOT_BETTER, UNTOLD, Verdict

    none = estimate_mean([])
    lines = {
        word: advise(Verdict(word, "", none), "a.safetensors", "toy")
        for word in (BETTER, NOT_BETTER, UNTOLD)
    }
    assert lines[BETTER] == "use a.safetensors on this site's other patients"
    assert lines[NOT_BETTER] == "keep using toy, not a.safetensors"
    assert lines[UNTOLD].startswith("untested: keep using toy")


def test_what_is_wrong_is_told_before_anything_is_written(
    cohort: Path, weights: Path, recipe: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weights.read_bytes()[:200])
    assert _call(cohort, out, broken, recipe) == 65
    assert _call(cohort, out, tmp_path / "none.safetensors", recipe) == 66
    assert _call(cohort, out, weights, recipe, "--outer", "0") == 64
    assert _call(cohort, out, weights, recipe, "--split", "x.tsv") == 64
    assert _call(cohort, out, weights, recipe, "--preset", "valverde2017") == 64
    assert _call(cohort, out, weights, recipe, "--resume") == 66
    assert not out.exists()
    messages = capsys.readouterr().err
    assert "--outer has no meaning with --init" in messages
    assert "--init has no meaning with --preset" in messages
