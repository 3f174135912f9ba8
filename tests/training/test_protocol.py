from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_msseg.cascade.heads import Head, save_head
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.stages import save_visit
from bids_msseg.cascade.training import FitPlan
from bids_msseg.errors import NoInputError
from bids_msseg.models.engine import Engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig
from bids_msseg.training.protocol import (
    CascadeRecipe,
    TrainingContext,
    predict_unseen,
    read_seen,
    train_candidate,
    train_refinement,
)

RECIPE = CascadeRecipe(
    candidate=FitPlan(steps=2, batch=1, workers=0),
    refinement=FitPlan(steps=2, batch=2, workers=0),
    size=32,
    candidate_threshold=0.0,
    candidate_net=LesionAnatomyConfig(widths=(4, 8)),
    refinement_net=LesionRefinementConfig(widths=(4, 6, 8)),
)


@pytest.fixture
def cohort(tmp_path: Path, visit: LabelledVisit) -> Path:
    folder = tmp_path / "cohort"
    folder.mkdir()
    for name, site in (("sub-a1", "a"), ("sub-a2", "a"), ("sub-b1", "b")):
        save_visit(replace(visit, name=name, site=site), folder / f"{name}.npz")
    return folder


@pytest.fixture
def make_context(tmp_path: Path, cohort: Path, head: Head) -> Callable[..., TrainingContext]:
    maps = tmp_path / "label-maps"
    maps.mkdir()
    save_head(head, maps / "ball.npz")
    torch.manual_seed(0)
    init = tmp_path / "init.pt"
    torch.save(LesionAnatomyNet(RECIPE.candidate_net).state_dict(), init)
    out = tmp_path / "out"
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True)

    def make(*hold_out: str) -> TrainingContext:
        visits = read_seen(cohort, hold_out)
        return TrainingContext(out, visits, maps, init, None, Engine(), RECIPE)

    return make


def test_held_out_visits_are_not_read(cohort: Path) -> None:
    assert [visit.name for visit in read_seen(cohort, ["sub-a"])] == ["sub-b1"]
    assert [visit.name for visit in read_seen(cohort, ["sub-a1", "sub-b"])] == ["sub-a2"]
    with pytest.raises(NoInputError):
        read_seen(cohort, ["sub-"])


def test_both_networks_are_trained_and_resumed(
    make_context: Callable[..., TrainingContext],
) -> None:
    context = make_context("sub-b")
    predictions = predict_unseen(context)
    assert len(predictions) == 2
    net = train_candidate(context, "x", predictions)
    before = context.initial_net().state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in net.state_dict().items())
    again = train_candidate(context, "x", predictions)
    assert all(
        torch.equal(value, net.state_dict()[name]) for name, value in again.state_dict().items()
    )
    train_refinement(context, "x", predictions)
    kept = {path.name for path in (context.folder / "checkpoints").iterdir()}
    assert kept == {"candidate-x.pt", "refinement-x.pt"}


def test_predictions_are_made_once(
    make_context: Callable[..., TrainingContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_context()
    first = predict_unseen(context)
    monkeypatch.setattr("bids_msseg.training.protocol.predict", None)
    second = predict_unseen(context)
    for one, other in zip(first, second, strict=True):
        assert np.allclose(one.lesion, other.lesion, atol=1e-3)
        assert np.array_equal(one.anatomy, other.anatomy)
