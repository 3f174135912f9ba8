from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from bids_msseg.bids.query import find_visits
from bids_msseg.errors import UsageError
from bids_msseg.evaluation.labels import LabelledFiles, find_truth, read_sites
from bids_msseg.imaging.volume import Volume, load_volume
from bids_msseg.models.engine import Engine
from bids_msseg.training.data.folds import Split
from bids_msseg.training.valverde import stages
from bids_msseg.training.valverde.run import (
    VALVERDE_RECIPE,
    Point,
    _threshold_mask,
    read_settings,
    run_valverde,
)

RECIPE = Path(__file__).parents[3] / "training" / "valverde2017.yaml"
SMALL = {"epochs": 1, "patches": 64, "batch": 16}


def _files(root: Path) -> list[LabelledFiles]:
    labels = root / "derivatives" / "manual"
    sites = read_sites(root, "site")
    found = []
    for visit in find_visits(root, derivatives={"labels": labels}).visits:
        truth = find_truth(labels, visit)
        assert truth is not None
        assert visit.brain_mask is not None
        found.append(LabelledFiles(visit, visit.brain_mask, truth, sites[visit.participant]))
    return found


@pytest.fixture(scope="module")
def trained(labelled_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    run_valverde(_files(labelled_cohort), out, name="toy", engine=Engine(), settings=SMALL)
    return out


def _rows(path: Path) -> list[dict[str, str]]:
    head, *lines = path.read_text().splitlines()
    return [dict(zip(head.split("\t"), line.split("\t"), strict=True)) for line in lines]


def test_every_visit_is_scored_for_both_nets_at_both_points(trained: Path) -> None:
    rows = _rows(trained / "scores.tsv")
    visits = {row["visit"] for row in rows}
    assert len(visits) == 6
    methods = [
        f"{net}, {point}"
        for net in ("CNN-1", "cascade")
        for point in ("0.5 / 3 mm³", "0.8 / 20 mm³")
    ]
    for visit in visits:
        assert [row["method"] for row in rows if row["visit"] == visit] == methods


def test_a_participants_visits_share_a_fold(trained: Path) -> None:
    folds = {row["visit"]: row["fold"] for row in _rows(trained / "splits.tsv")}
    assert len(set(folds.values())) == 3
    assert folds["sub-04_ses-1"] == folds["sub-04_ses-2"]


def test_saved_mask_is_cascade_at_first_operating_point(
    trained: Path, labelled_cohort: Path
) -> None:
    for item in _files(labelled_cohort):
        who, _, session = item.visit.key.partition("_")
        stem = trained / "predictions" / who / session / "anat" / f"{item.visit.key}_space-FLAIR"
        mask = load_volume(Path(f"{stem}_label-L_mask.nii.gz"))
        probability = load_volume(Path(f"{stem}_label-L_probseg.nii.gz"))
        expected = _threshold_mask(probability, Point(0.5, 3))
        np.testing.assert_array_equal(mask.data > 0, expected)
        assert mask.shape == load_volume(item.truth).shape


def test_weights_of_all_folds_and_model_card_are_written(trained: Path) -> None:
    with safe_open(trained / "toy.safetensors", framework="pt") as file:
        names = set(file.keys())
        header = json.loads(file.metadata()["valverde2017"])
    assert {name.split(".")[0] for name in names} == {"fold0", "fold1", "fold2"}
    assert {name.split(".")[1] for name in names} == {"candidate", "refinement"}
    assert header["recipe"]["candidate_threshold"] == 0.5
    card = (trained / "toy.md").read_text()
    assert "| sub-04_ses-2 | A | cascade, 0.5 / 3 mm³ |" in card
    assert not list(trained.rglob("*.part"))


def test_second_call_does_not_train_again(
    trained: Path, labelled_cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (trained / "scores.tsv").read_bytes()
    monkeypatch.delattr(stages, "fit")
    run_valverde(_files(labelled_cohort), trained, name="toy", engine=Engine(), settings=SMALL)
    assert (trained / "scores.tsv").read_bytes() == before


def test_operating_points_can_change_after_training(trained: Path, labelled_cohort: Path) -> None:
    before = (trained / "scores.tsv").read_text()
    points = [{"threshold": 0.25, "min_volume_mm3": 0}]
    settings = {**SMALL, "points": points}
    files = _files(labelled_cohort)
    scores = run_valverde(files, trained, name="toy", engine=Engine(), settings=settings)
    assert {one.method for one in scores} == {"CNN-1, 0.25 / 0 mm³", "cascade, 0.25 / 0 mm³"}
    run_valverde(files, trained, name="toy", engine=Engine(), settings=SMALL)
    assert (trained / "scores.tsv").read_text() == before


def test_another_recipe_or_seed_or_split_is_refused(trained: Path, labelled_cohort: Path) -> None:
    files = _files(labelled_cohort)
    keys = sorted(item.visit.key for item in files)
    split = Split((tuple(keys[:2]), tuple(keys[2:3]), tuple(keys[3:])))
    changes: list[dict[str, Any]] = [
        {"settings": {**SMALL, "candidate_threshold": 0.8}},
        {"settings": SMALL, "seed": 8},
        {"settings": SMALL, "split": split},
    ]
    for change in changes:
        with pytest.raises(UsageError, match="another recipe or other folds"):
            run_valverde(files, trained, name="toy", engine=Engine(), **change)


def test_too_few_participants_are_refused(labelled_cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 labelled participants cannot be divided into 3"):
        run_valverde(_files(labelled_cohort)[:2], tmp_path, name="toy", engine=Engine())


def test_the_recipe_file_names_every_setting() -> None:
    content = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    assert set(content) == set(VALVERDE_RECIPE)
    recipe, points = read_settings(content)
    assert recipe.plan.epochs * recipe.plan.patches == 64_000
    assert points == (Point(0.5, 3), Point(0.8, 20))


def test_default_settings_of_recipe_and_operating_points() -> None:
    recipe, points = read_settings({})
    assert (recipe.padding, recipe.mining, recipe.candidate_threshold) == (
        "valid",
        "out-of-fold",
        0.5,
    )
    assert [str(point) for point in points] == ["0.5 / 3 mm³", "0.8 / 20 mm³"]


def test_settings_of_published_method_are_accepted() -> None:
    recipe, _ = read_settings(
        {"padding": "same", "mining": "training", "optimiser": "adadelta", "patches": "1e9"}
    )
    assert (recipe.padding, recipe.mining) == ("same", "training")
    assert (recipe.plan.optimiser, recipe.plan.patches) == ("adadelta", 10**9)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"steps": 5}, "unknown keys: steps"),
        ({"padding": "reflect"}, "padding 'reflect' is not one of valid, same"),
        ({"mining": "none"}, "mining 'none'"),
        ({"optimiser": "sgd"}, "optimiser 'sgd'"),
        ({"epochs": 0}, "epochs is not a whole number"),
        ({"batch": 1.5}, "batch is not a whole number"),
        ({"learning_rate": "fast"}, "could not convert"),
        ({"candidate_threshold": 1}, "candidate_threshold is not at least 0 and below 1"),
        ({"dropout": -0.1}, "dropout is not at least 0"),
        ({"points": [{"threshold": 0.5}]}, "min_volume_mm3"),
        ({"points": []}, "no operating point"),
        ({"points": 3}, "not iterable"),
    ],
)
def test_invalid_recipe_is_refused(settings: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_settings(settings)


def test_minimum_component_volume_is_in_mm3() -> None:
    data = np.zeros((9, 3, 3), np.float32)
    data[0, 0, 0], data[3:5, 0, 0], data[7, 0, 0] = 0.9, 0.9, 0.4
    found = _threshold_mask(Volume(data, np.diag([1.0, 1, 3, 1])), Point(0.5, 5))
    assert np.flatnonzero(found[:, 0, 0]).tolist() == [3, 4]
