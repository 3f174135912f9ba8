from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_msseg.cascade.folds import Split
from bids_msseg.cascade.heads import Head, save_head
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.stages import save_visit
from bids_msseg.cascade.training import FitPlan
from bids_msseg.errors import DataError
from bids_msseg.models.engine import Engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig
from bids_msseg.training import protocol
from bids_msseg.training.protocol import (
    TrainingContext,
    candidate_net,
    plan_stages,
    read_output,
    read_refined,
    refinement_net,
    run_stage,
)
from bids_msseg.training.recipe import CascadeRecipe
from bids_msseg.training.start import write_pretrained

RECIPE = CascadeRecipe(
    candidate=FitPlan(steps=2, batch=1, workers=0),
    refinement=FitPlan(steps=2, batch=2, workers=0),
    size=32,
    candidate_threshold=0.0,
    candidate_net=LesionAnatomyConfig(widths=(4, 8)),
    refinement_net=LesionRefinementConfig(widths=(4, 6, 8)),
)
SPLIT = Split((("sub-a1",), ("sub-b1",)))


@pytest.fixture
def context(tmp_path: Path, visit: LabelledVisit, head: Head) -> TrainingContext:
    out = tmp_path / "out"
    for folder in ("cohort", "checkpoints", "logs", "label-maps"):
        (out / folder).mkdir(parents=True)
    for name, site in (("sub-a1", "a"), ("sub-b1", "b")):
        save_visit(replace(visit, name=name, site=site), out / "cohort" / f"{name}.npz")
    save_head(head, out / "label-maps" / "ball.npz")
    torch.manual_seed(0)
    start = tmp_path / "start.pt"
    torch.save({"average": LesionAnatomyNet(RECIPE.candidate_net).state_dict()}, start)
    write_pretrained(start, start)
    maps = out / "label-maps"
    return TrainingContext(out, SPLIT, start, False, maps, None, Engine(), RECIPE)


def test_no_picture_of_a_held_out_patient_reaches_a_network(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every visit that training reads is written down by stage."""
    read: dict[str, set[str]] = {}
    stage_name = ""
    load = TrainingContext.visit

    def visit(self: TrainingContext, name: str) -> LabelledVisit:
        read.setdefault(stage_name, set()).add(name)
        return load(self, name)

    monkeypatch.setattr(TrainingContext, "visit", visit)
    for stage in plan_stages(SPLIT):
        stage_name = stage.name
        run_stage(context, stage)
    for kind in ("candidate", "refinement"):
        assert read[f"{kind}-without-0"] == {"sub-b1"}
        assert read[f"{kind}-without-1"] == {"sub-a1"}


def _changed(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return any(not torch.equal(*pair) for pair in pairs)


def _files(context: TrainingContext) -> dict[str, int]:
    found = context.folder.rglob("*.[np][pt]*")
    return {str(path): path.stat().st_mtime_ns for path in found if path.is_file()}


def test_no_network_learns_from_the_fold_that_it_is_tested_on(context: TrainingContext) -> None:
    assert [one.name for one in context.training_visits(0)] == ["sub-b1"]
    assert [one.name for one in context.training_visits(1)] == ["sub-a1"]
    assert [one.name for one in context.training_visits(None)] == ["sub-a1", "sub-b1"]


def test_stages_of_two_folds() -> None:
    stages = {stage.name: stage for stage in plan_stages(SPLIT)}
    assert list(stages) == [
        *("unseen-sub-a1", "unseen-sub-b1"),
        *("candidate-without-0", "refinement-without-0", "held-out-sub-a1"),
        *("candidate-without-1", "refinement-without-1", "held-out-sub-b1"),
        *("candidate-release", "refinement-release"),
    ]
    assert stages["candidate-without-0"].needs == ("unseen-sub-b1",)
    assert stages["held-out-sub-b1"].needs == ("candidate-without-1", "refinement-without-1")
    asked = plan_stages(SPLIT, [1], release=False)
    assert {stage.fold for stage in asked if stage.kind != "unseen"} == {1}


def test_everything_is_trained_once(context: TrainingContext) -> None:
    stages = plan_stages(SPLIT)
    assert [run_stage(context, stage) for stage in stages] == [stage.name for stage in stages]
    start = context.networks().candidate
    assert _changed(candidate_net(context, 0), start)
    assert _changed(candidate_net(context, 0), candidate_net(context, 1))
    assert _changed(refinement_net(context, 0), refinement_net(context, None))
    lesion, refinement = read_refined(context.folder / "held-out", "sub-a1")
    assert lesion.shape == refinement.voxels.shape == context.visit("sub-a1").brain.shape
    assert refinement.lesion.max() > 0
    before = _files(context)
    for stage in stages:
        run_stage(context, stage)
    assert _files(context) == before


def test_the_output_of_a_start_without_refinement(context: TrainingContext) -> None:
    run_stage(context, plan_stages(SPLIT)[0])
    prediction, refinement = read_output(context.folder / "unseen" / "sub-a1.npz")
    assert refinement is None
    assert prediction.anatomy.dtype == np.float16
    with pytest.raises(DataError):
        read_refined(context.folder / "unseen", "sub-a1")


def test_without_candidates_the_refinement_stays(context: TrainingContext) -> None:
    strict = replace(context, recipe=replace(RECIPE, candidate_threshold=1.0))
    run_stage(strict, plan_stages(SPLIT)[1])
    protocol.train_refinement(strict, 0)
    assert not list((context.folder / "checkpoints").iterdir())


def test_without_label_maps_every_sub_image_is_real(context: TrainingContext) -> None:
    run_stage(context, plan_stages(SPLIT)[1])
    alone = replace(context, label_maps=None)
    item: Callable[[int], object] = protocol._sub_images(alone, 0, 3).__getitem__
    images = item(0)[0]  # type: ignore[index]
    assert images.shape == (6, 32, 32, 32)
    # the visit has no T2w, which synthetic images have
    assert all(float(item(n)[0][5].max()) == 0 for n in range(6))  # type: ignore[index]
