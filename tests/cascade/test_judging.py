from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bids_msseg.cascade.augment import BACKGROUND
from bids_msseg.cascade.inference import fuse, judge_voxels
from bids_msseg.cascade.judge_patches import JudgePlan, judge_pool, vary_patches
from bids_msseg.cascade.judging import judge_stage, judges_of, train_judge
from bids_msseg.cascade.networks import JudgeNet
from bids_msseg.cascade.stages import (
    candidate_stage,
    operating_point,
    out_of_fold_path,
    refinement_stage,
)
from bids_msseg.errors import DataError
from bids_msseg.models.engine import Engine
from bids_msseg.models.weights import OperatingPoint

PLAN = JudgePlan(epochs=2, patches=64, batch=16, learning_rate=3e-3)
POOL = OperatingPoint(second=0.25, judge=0.4, verdict=0.2)
SEEN = (0.2, 0.5, 0.9)


def _patches(count: int = 40) -> np.ndarray:
    patches = np.random.default_rng(0).normal(0, 1, (count, 3, 4, 4, 4)).astype(np.float32)
    patches[:, :, 0] = BACKGROUND
    return patches


def test_patches_that_stay_as_they_are() -> None:
    plan = JudgePlan(as_is=1, drop=0)
    patches = _patches()
    np.testing.assert_array_equal(vary_patches(patches, np.random.default_rng(1), plan), patches)


def test_patches_vary_in_brightness_but_not_outside_the_brain() -> None:
    patches = _patches(400)
    varied = vary_patches(patches, np.random.default_rng(1), JudgePlan(as_is=0.5, drop=0.25))
    assert varied.dtype == np.float32
    assert (varied[:, :, 0] == BACKGROUND).all()
    inside = varied[:, :, 1:].reshape(400, 3, -1)
    before = patches[:, :, 1:].reshape(400, 3, -1)
    blank = (inside == 0).all(-1)
    assert not blank[:, 0].any()
    assert 0.15 < blank[:, 1].mean() < 0.35
    assert 0.15 < blank[:, 2].mean() < 0.35
    same = (inside == before).all(-1)[:, 0]
    assert 0.4 < same.mean() < 0.6
    # what changes a patch is a line: gain and shift
    for old, new in zip(before[~same][:, 0], inside[~same][:, 0], strict=True):
        gain, shift = np.polyfit(old, new, 1)
        assert gain > 0
        np.testing.assert_allclose(new, gain * old + shift, atol=1e-4)


def test_a_pool_holds_lesions_and_what_passes_wrongly(make_visit) -> None:
    visit = make_visit("sub-01", seed=1, edge=24, present=(True, False, True))
    opinion = np.zeros(visit.truth.shape, np.float32)
    opinion[visit.truth >= 0.5] = 0.9
    wrong = visit.brain & (visit.truth < 0.5)
    wrong[12:] = False
    opinion[wrong] = 0.3
    opinion[~visit.brain] = 0.9
    pool = judge_pool(visit, opinion, 0.3)
    np.testing.assert_array_equal(pool.lesions, np.flatnonzero(visit.brain & (visit.truth >= 0.5)))
    np.testing.assert_array_equal(pool.negatives, np.flatnonzero(wrong))
    missing = pool.surrounded[1][5:-5, 5:-5, 5:-5]
    assert (missing[visit.brain] == 0).all()
    assert (missing[~visit.brain] == BACKGROUND).all()
    assert judge_pool(visit, opinion, 0.31).negatives.size == 0


@pytest.fixture
def workshop(make_workshop):
    """A workshop in which CNN-1 calls bright voxels lesion, and half of the others."""
    shop = make_workshop()
    shop = replace(shop, recipe=replace(shop.recipe, judge=PLAN))
    rng = np.random.default_rng(0)
    for fold, seen in (*shop.split.sources(0), *shop.split.sources(None)):
        for name in shop.split.folds[fold]:
            visit = shop.visit(name)
            opinion = np.where(visit.truth >= 0.5, 0.9, 0.6 * rng.random(visit.truth.shape))
            path = out_of_fold_path(shop, name, seen)
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, (opinion * visit.brain).astype(np.float16))
    return shop


def test_a_judge_is_trained_once_and_learns(workshop) -> None:
    log: list[str] = []
    assert judges_of(workshop, 0) == ()
    shop = replace(
        workshop, recipe=replace(workshop.recipe, judge=replace(PLAN, epochs=40, spread=0))
    )
    train_judge(shop, 0, log=lambda stage, _line: log.append(stage))
    assert set(log) == {"judge-0"}
    (net,) = judges_of(shop, 0)
    assert not net.training
    visit = shop.visit("sub-00")
    judged = judge_voxels(
        [net], visit.images.astype(np.float32), visit.present, visit.brain, visit.brain, Engine()
    )
    assert judged is not None
    lesion = visit.truth >= 0.5
    assert judged[lesion].mean() > judged[visit.brain & ~lesion].mean() + 0.3
    assert (judged[~visit.brain] == 0).all()
    before = shop.checkpoint("judge-0").read_bytes()
    log.clear()
    train_judge(shop, 0, log=lambda stage, _line: log.append(stage))
    assert not log
    assert shop.checkpoint("judge-0").read_bytes() == before


def test_the_same_judge_again_and_another_for_another_fold(workshop) -> None:
    train_judge(workshop, 0, log=lambda *_: None)
    (one,) = judges_of(workshop, 0)
    workshop.checkpoint(judge_stage(0)).unlink()
    train_judge(workshop, 0, log=lambda *_: None)
    (again,) = judges_of(workshop, 0)
    train_judge(workshop, 0, log=lambda *_: None, inner=1)
    (inner,) = judges_of(workshop, 0, 1)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(again.state_dict()[key], value, rtol=0, atol=0)
    assert not torch.equal(inner.state_dict()["0.weight"], one.state_dict()["0.weight"])


def test_a_recipe_without_a_judge_trains_none(make_workshop) -> None:
    shop = make_workshop()
    train_judge(shop, 0, log=lambda *_: None)
    assert not list((shop.folder / "checkpoints").iterdir())
    assert judges_of(shop, 0) == ()
    assert judge_voxels((), np.zeros((3, 2, 2, 2), np.float32), (True,) * 3, *([None] * 3)) is None  # type: ignore[arg-type]


def test_too_few_lesion_voxels_are_refused(workshop) -> None:
    shop = replace(workshop, recipe=replace(workshop.recipe, judge=replace(PLAN, batch=10**6)))
    with pytest.raises(DataError, match="too few lesion voxels"):
        train_judge(shop, 0, log=lambda *_: None)


def test_weights_of_the_pool_where_none_were_chosen(workshop) -> None:
    path = workshop.checkpoint(refinement_stage(0)).with_suffix(".json")
    path.write_text('{"gate": 0.25}')
    point = operating_point(workshop, 0)
    assert (point.second, point.judge, point.verdict) == (0.1, 0.4, 0.1)
    plain = replace(workshop, recipe=replace(workshop.recipe, judge=None))
    point = operating_point(plain, 0)
    assert (point.second, point.judge, point.verdict) == (0.5, 0, 0)
    assert candidate_stage((1,)) != judge_stage(1)


def _pooled(*opinions: float, point: OperatingPoint = POOL) -> float:
    """Candidate net, refinement net's voxel, whole candidate, judge."""
    candidate, voxel, lesion, judged = (np.full((1, 1, 1), p, np.float32) for p in opinions)
    return float(fuse(candidate, voxel, lesion, point, None, judged)[0, 0, 0])


def test_a_pool_by_hand() -> None:
    assert _pooled(0.5, 0.5, 0.5, 0.5) == pytest.approx(0.5)
    logit = 0.3 * np.log(0.8 / 0.2) + 0.1 * np.log(0.4 / 0.6)
    logit += 0.4 * np.log(0.9 / 0.1) + 0.2 * np.log(0.2 / 0.8)
    assert _pooled(0.8, 0.4, 0.2, 0.9) == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
    # nobody has a veto, and no candidate is none
    assert _pooled(0.95, 0.95, 1e-12, 0.95) > 0.5
    assert _pooled(0.95, 0.95, 0, 0.95) == 0


def test_without_a_judge_the_others_have_its_weight() -> None:
    one = np.full((1, 1, 1), 0.8, np.float32)
    alone = float(fuse(one, one, one, POOL)[0, 0, 0])
    assert alone == pytest.approx(0.8, abs=1e-6)


@given(
    hnp.arrays(np.float64, (4,), elements=st.floats(0.01, 0.99)),
    st.integers(0, 3),
    st.floats(0.0, 0.5),
)
def test_more_belief_of_anybody_never_lowers_the_pool(opinions, who: int, more: float) -> None:
    raised = opinions.copy()
    raised[who] = min(raised[who] + more, 0.999)
    assert _pooled(*raised) >= _pooled(*opinions) - 1e-6


def test_judges_are_averaged_and_lack_of_a_contrast_is_the_brains_mean() -> None:
    torch.manual_seed(0)
    nets = [JudgeNet().eval(), JudgeNet().eval()]
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (3, 14, 14, 14)).astype(np.float32)
    brain = np.ones((14, 14, 14), bool)
    where = np.zeros_like(brain)
    where[6:8, 6:8, 6:8] = True
    both = judge_voxels(nets, images, (True, True, True), brain, where, Engine())
    single = [
        judge_voxels([net], images, (True, True, True), brain, where, Engine()) for net in nets
    ]
    np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-6)
    blank = images.copy()
    blank[2] = 0
    np.testing.assert_array_equal(
        judge_voxels(nets, images, (True, True, False), brain, where, Engine()),
        judge_voxels(nets, blank, (True, True, True), brain, where, Engine()),
    )
