from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bids_msseg.errors import DataError
from bids_msseg.models.engine import Engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig
from bids_msseg.trainer.fit_state import read_checkpoint
from bids_msseg.trainer.plan import FitPlan
from bids_msseg.training import protocol
from bids_msseg.training.context import TrainingContext
from bids_msseg.training.data.folds import Split
from bids_msseg.training.data.visits import LabelledVisit, save_visit
from bids_msseg.training.protocol import (
    Stage,
    candidate_net,
    plan_stages,
    read_output,
    read_refined,
    refinement_net,
    run_stage,
)
from bids_msseg.training.recipe import CascadeRecipe
from bids_msseg.training.start import write_pretrained
from bids_msseg.training.synthesis.tissues import LabelMap, save_label_map
from bids_msseg.training.validation import read_held_out

RECIPE = CascadeRecipe(
    candidate=FitPlan(steps=2, batch=1, workers=0),
    refinement=FitPlan(steps=2, batch=2, workers=0),
    size=32,
    candidate_threshold=0.0,
    candidate_net=LesionAnatomyConfig(widths=(4, 8)),
    refinement_net=LesionRefinementConfig(widths=(4, 6, 8)),
)
SPLIT = Split((("sub-a1",), ("sub-b1",)))


def _prepare_context(folder: Path, visit: LabelledVisit, label_map: LabelMap) -> TrainingContext:
    """Two visits of two sites, a label map, and a pretrained CNN-1."""
    out = folder / "out"
    for name in ("cohort", "checkpoints", "logs", "label-maps"):
        (out / name).mkdir(parents=True)
    for name, site in (("sub-a1", "a"), ("sub-b1", "b")):
        save_visit(replace(visit, name=name, site=site), out / "cohort" / f"{name}.npz")
    save_label_map(label_map, out / "label-maps" / "ball.npz")
    torch.manual_seed(0)
    start = folder / "start.pt"
    torch.save({"average": LesionAnatomyNet(RECIPE.candidate_net).state_dict()}, start)
    write_pretrained(start, start)
    maps = out / "label-maps"
    return TrainingContext(out, SPLIT, start, False, maps, None, Engine(), RECIPE)


@pytest.fixture(scope="module")
def reads() -> dict[str, set[str]]:
    """Names of the visits that each stage has read."""
    return {}


@pytest.fixture(scope="module")
def trained(
    visit: LabelledVisit,
    label_map: LabelMap,
    reads: dict[str, set[str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> TrainingContext:
    """Training with all stages finished."""
    context = _prepare_context(tmp_path_factory.mktemp("trained"), visit, label_map)
    load, stage_name = TrainingContext.visit, ""

    def note(self: TrainingContext, name: str) -> LabelledVisit:
        reads.setdefault(stage_name, set()).add(name)
        return load(self, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingContext, "visit", note)
        for stage in plan_stages(SPLIT):
            stage_name = stage.name
            assert run_stage(context, stage) == stage.name
    return context


@pytest.fixture
def untrained(trained: TrainingContext, tmp_path: Path) -> TrainingContext:
    """Copy of the cohort and the predictions of the starting network, without checkpoints."""
    out = tmp_path / "out"
    shutil.copytree(trained.folder, out, ignore=shutil.ignore_patterns("held-out*"))
    for path in (out / "checkpoints").iterdir():
        path.unlink()
    return replace(trained, folder=out, label_maps=out / "label-maps")


def _weights(context: TrainingContext, stage: str) -> dict[str, torch.Tensor]:
    average: dict[str, torch.Tensor] = read_checkpoint(context.checkpoint(stage))["average"]
    return average


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


NETS_OF_FOLD_0 = ("candidate-without-0", "refinement-without-0")


def _train_fold_0(context: TrainingContext, *, again: str) -> None:
    """Predict the visit ``again`` anew, and train the networks of fold 0."""
    (context.folder / "unseen" / f"{again}.npz").unlink()
    for stage in plan_stages(SPLIT, [0], release=False):
        if stage.visit == again or stage.trains:
            run_stage(context, stage)


def _replace_images_and_truth(context: TrainingContext, name: str) -> None:
    """Replace the images of a visit by noise, and shift its ground truth."""
    visit = context.visit(name)
    noise = np.random.default_rng(8).normal(size=visit.images.shape).astype(np.float16)
    truth = np.roll(visit.truth, 9, 0)
    path = context.folder / "cohort" / f"{name}.npz"
    save_visit(replace(visit, images=noise, truth=truth), path)


def test_changed_held_out_visit_does_not_change_fold_weights(
    trained: TrainingContext, untrained: TrainingContext
) -> None:
    _replace_images_and_truth(untrained, "sub-a1")
    for stage in plan_stages(SPLIT, [0], release=False):
        if stage.trains:
            run_stage(untrained, stage)
    for name in NETS_OF_FOLD_0:
        assert _same(_weights(untrained, name), _weights(trained, name))


def test_missing_held_out_visit_does_not_change_fold_weights(
    trained: TrainingContext, untrained: TrainingContext
) -> None:
    for folder in ("cohort", "unseen"):
        (untrained.folder / folder / "sub-a1.npz").unlink()
    _train_fold_0(untrained, again="sub-b1")
    for name in NETS_OF_FOLD_0:
        assert _same(_weights(untrained, name), _weights(trained, name))


def test_changed_training_visit_changes_fold_weights(
    trained: TrainingContext, untrained: TrainingContext
) -> None:
    """Positive control: a changed training visit changes both networks."""
    _replace_images_and_truth(untrained, "sub-b1")
    _train_fold_0(untrained, again="sub-b1")
    for name in NETS_OF_FOLD_0:
        assert not _same(_weights(untrained, name), _weights(trained, name))


def test_training_stages_do_not_read_held_out_patients(
    trained: TrainingContext, reads: dict[str, set[str]]
) -> None:
    assert trained.folder.is_dir()
    for kind in ("candidate", "refinement"):
        assert reads[f"{kind}-without-0"] == {"sub-b1"}
        assert reads[f"{kind}-without-1"] == {"sub-a1"}
        assert reads[f"{kind}-release"] == {"sub-a1", "sub-b1"}
    assert reads["unseen-sub-a1"] == reads["held-out-sub-a1"] == {"sub-a1"}


def test_training_visits_exclude_test_fold(trained: TrainingContext) -> None:
    assert [one.name for one in trained.training_visits(0)] == ["sub-b1"]
    assert [one.name for one in trained.training_visits(1)] == ["sub-a1"]
    assert [one.name for one in trained.training_visits(None)] == ["sub-a1", "sub-b1"]


def test_plan_stages_of_two_folds() -> None:
    stages = {stage.name: stage for stage in plan_stages(SPLIT)}
    assert list(stages) == [
        *("unseen-sub-a1", "unseen-sub-b1"),
        *("candidate-without-0", "candidate-without-1", "candidate-release"),
        *("refinement-without-0", "refinement-without-1", "refinement-release"),
        *("held-out-sub-a1", "held-out-sub-b1"),
    ]
    assert stages["candidate-without-0"].needs == ("unseen-sub-b1",)
    assert stages["held-out-sub-b1"].needs == ("candidate-without-1", "refinement-without-1")
    assert {stage.kind for stage in stages.values() if stage.trains} == {
        "candidate",
        "refinement",
    }
    asked = plan_stages(SPLIT, [1], release=False)
    assert {stage.fold for stage in asked if stage.kind != "unseen"} == {1}


def test_single_fold_has_no_held_out_stage() -> None:
    names = [stage.name for stage in plan_stages(Split((("a",),)))]
    assert names == ["unseen-a", "candidate-release", "refinement-release"]


def _files(context: TrainingContext) -> dict[str, int]:
    found = context.folder.rglob("*.[np][pt]*")
    return {str(path): path.stat().st_mtime_ns for path in found if path.is_file()}


def test_finished_stages_are_not_trained_again(trained: TrainingContext) -> None:
    start = trained.networks().candidate.state_dict()
    assert not _same(candidate_net(trained, 0).state_dict(), start)
    assert not _same(
        candidate_net(trained, 0).state_dict(), candidate_net(trained, 1).state_dict()
    )
    assert not _same(
        refinement_net(trained, 0).state_dict(), refinement_net(trained, None).state_dict()
    )
    lesion, refined = read_refined(trained.folder / "held-out", "sub-a1")
    assert lesion.shape == refined.shape == trained.visit("sub-a1").brain.shape
    assert refined.max() > 0
    before = _files(trained)
    for stage in plan_stages(SPLIT):
        run_stage(trained, stage)
    assert _files(trained) == before


def test_held_out_results_have_thick_copies_of_thin_visits(trained: TrainingContext) -> None:
    run_stage(trained, Stage("copy", "held-out-thick", 0, "sub-a1"))
    run_stage(trained, Stage("copy", "held-out-thick", 1, "sub-b1"))
    visits = read_held_out(trained, (0, 1))
    assert [(one.name, one.slice_mm, one.averaged) for one in visits] == [
        ("sub-a1", 1.0, False),
        ("sub-a1", 6.0, True),
        ("sub-b1", 1.0, False),
        ("sub-b1", 6.0, True),
    ]
    assert not np.array_equal(visits[0].lesion, visits[1].lesion)
    shutil.rmtree(trained.folder / "held-out-thick")


def test_thick_copies_are_planned_from_three_test_folds_on() -> None:
    three = Split((("a",), ("b",), ("c",)))
    kinds = [stage.kind for stage in plan_stages(three)]
    assert kinds.count("held-out-thick") == 3
    assert not any(stage.kind == "held-out-thick" for stage in plan_stages(three, [0, 1]))


def test_pretrained_start_has_no_refinement_output(trained: TrainingContext) -> None:
    prediction, refinement = read_output(trained.folder / "unseen" / "sub-a1.npz")
    assert refinement is None
    assert prediction.anatomy.dtype == np.float16
    with pytest.raises(DataError):
        read_refined(trained.folder / "unseen", "sub-a1")


def test_refinement_is_not_trained_without_candidates(untrained: TrainingContext) -> None:
    strict = replace(untrained, recipe=replace(RECIPE, candidate_threshold=1.0))
    protocol.train_refinement(strict, 0)
    assert not list((untrained.folder / "checkpoints").iterdir())


def test_without_label_maps_every_sub_image_is_real(trained: TrainingContext) -> None:
    alone = replace(trained, label_maps=None)
    item: Callable[[int], object] = protocol._sub_images(alone, 0, 3).__getitem__
    images = item(0)[0]  # type: ignore[index]
    assert images.shape == (6, 32, 32, 32)
    # the visit has no T2w; synthetic images have one
    assert all(float(item(n)[0][5].max()) == 0 for n in range(6))  # type: ignore[index]
