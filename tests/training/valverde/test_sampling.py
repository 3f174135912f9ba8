from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.valverde.inference import cut_patches
from bids_msseg.training.valverde.sampling import (
    PatchStream,
    Pool,
    draw_epoch,
    fill_missing,
    find_candidates,
    hard_pool,
    mirror_half,
    random_pool,
)

MakeVisit = Callable[..., LabelledVisit]


def _pool(lesions: int, negatives: int) -> Pool:
    """Lesions are voxels 0, 1, ...; negatives 100, 101, ..."""
    padded = np.zeros((3, 20, 20, 20), np.float16)
    return Pool(padded, np.arange(lesions), 100 + np.arange(negatives))


def test_candidates_are_bright_in_flair_inside_the_brain(make_visit: MakeVisit) -> None:
    visit = make_visit()
    visit.images[0] = 0
    visit.images[0, 16, 16, 14:18] = (0.5, 0.75, 2, -1)
    visit.images[0, 0, 0, 0] = 5
    assert np.argwhere(find_candidates(visit, 0.5)).tolist() == [[16, 16, 15], [16, 16, 16]]


def test_random_pool_contains_all_lesion_voxels(make_visit: MakeVisit) -> None:
    visit = make_visit()
    visit.images[0, :16] = 0
    pool = random_pool(visit, 0.5)
    np.testing.assert_array_equal(pool.lesions, np.flatnonzero(visit.truth))
    candidates = find_candidates(visit, 0.5).ravel()
    assert candidates[pool.negatives].all()
    assert not visit.truth.ravel()[pool.negatives].any()
    assert pool.negatives.size == np.count_nonzero(candidates & (visit.truth.ravel() == 0))


def test_lesion_voxels_outside_brain_are_excluded(make_visit: MakeVisit) -> None:
    visit = make_visit(lesions=0)
    visit.truth[0, 0, 0] = visit.truth[16, 16, 16] = 1
    assert random_pool(visit, 0.5).lesions.tolist() == [16 * 32 * 32 + 16 * 32 + 16]


def test_hard_negatives_are_candidates_above_the_threshold(make_visit: MakeVisit) -> None:
    visit = make_visit(lesions=1)
    prediction = np.random.default_rng(0).random(visit.brain.shape)
    pool = hard_pool(visit, 0.5, prediction, 0.3)
    wrong = find_candidates(visit, 0.5) & (visit.truth == 0) & (prediction > 0.3)
    assert wrong.sum() > pool.lesions.size
    np.testing.assert_array_equal(pool.negatives, np.flatnonzero(wrong))


def test_hard_negatives_are_filled_with_most_probable(make_visit: MakeVisit) -> None:
    visit = make_visit(lesions=1)
    prediction = np.random.default_rng(0).random(visit.brain.shape)
    pool = hard_pool(visit, 0.5, prediction, 1.0)
    assert pool.negatives.size == pool.lesions.size > 0
    others = random_pool(visit, 0.5).negatives
    left_out = np.setdiff1d(others, pool.negatives)
    assert prediction.ravel()[pool.negatives].min() > prediction.ravel()[left_out].max()


def test_missing_contrast_is_filled_with_brain_mean(make_visit: MakeVisit) -> None:
    visit = make_visit(present=(True, True, False))
    filled = fill_missing(visit)
    assert (filled.images[2][visit.brain] == 0).all()
    assert (filled.images[2][~visit.brain] == -3).all()
    np.testing.assert_array_equal(filled.images[:2], visit.images[:2])


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(30, 60)), min_size=1, max_size=4),
    st.integers(2, 300),
)
def test_epoch_is_balanced_in_every_visit(sizes: list[tuple[int, int]], most: int) -> None:
    pools = [_pool(*size) for size in sizes]
    draw = draw_epoch(pools, np.random.default_rng(0), limit=most)
    assert draw.voxel.size <= most
    for index, pool in enumerate(pools):
        mine = draw.visit == index
        chosen, kind = draw.voxel[mine], draw.lesion[mine]
        assert (kind == 1).sum() == (kind == 0).sum() == mine.sum() / 2
        assert len(set(chosen.tolist())) == chosen.size
        assert set(chosen[kind == 1]) <= set(pool.lesions.tolist())
        assert set(chosen[kind == 0]) <= set(pool.negatives.tolist())


def test_epoch_without_limit_has_twice_the_lesion_voxels() -> None:
    draw = draw_epoch([_pool(7, 50), _pool(5, 9)], np.random.default_rng(0), limit=10_000)
    assert sorted(draw.voxel[draw.lesion == 1]) == sorted([*range(7), *range(5)])
    assert draw.voxel.size == 2 * 12


def test_epoch_is_shuffled() -> None:
    draw = draw_epoch([_pool(500, 900)], np.random.default_rng(0), limit=10_000)
    assert 200 < draw.lesion[:500].sum() < 300


def test_half_of_batch_is_mirrored_in_axial_plane() -> None:
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(20, 3, 4, 4, 4)).astype(np.float32)
    turned = mirror_half(patches, rng)
    kinds = []
    for before, after in zip(patches, turned, strict=True):
        views = [before, before[:, ::-1, ::-1], before[:, ::-1], before[:, :, ::-1]]
        kinds.append([np.array_equal(after, view) for view in views].index(True))
    assert kinds.count(0) == 10
    assert set(kinds) == {0, 1, 2, 3}


def test_batch_depends_only_on_seed_and_step(make_visit: MakeVisit) -> None:
    pools = [random_pool(make_visit(seed=seed), 0.5) for seed in range(2)]
    first = PatchStream(pools, 3, batch=16, limit=200)
    again = PatchStream(pools, 3, batch=16, limit=200)
    steps = range(2 * first.steps)
    kept = {step: first.at(step) for step in steps}
    for step in reversed(steps):
        patches, lesion = again.at(step)
        assert torch.equal(patches, kept[step][0])
        assert torch.equal(lesion, kept[step][1])
    other = PatchStream(pools, 4, batch=16, limit=200).at(0)[0]
    assert not torch.equal(other, kept[0][0])


def test_epochs_have_different_negatives() -> None:
    pools = [_pool(64, 5000)]
    source = PatchStream(pools, 0, batch=32, limit=128)
    negatives = [set(source._epoch(epoch).voxel.tolist()) for epoch in range(2)]
    assert negatives[0] != negatives[1]


def test_patch_label_is_that_of_central_voxel(make_visit: MakeVisit) -> None:
    visit = make_visit()
    pool = random_pool(visit, 0.5)
    patches, lesion = PatchStream([pool], 0, batch=32, limit=100).at(0)
    # the phantom's lesions are 3 brighter than its noise of 0.4
    np.testing.assert_array_equal(patches[:, 0, 5, 5, 5] > 1.8, lesion == 1)
    assert cut_patches(pool.padded, pool.lesions[:1]).shape == (1, 3, 11, 11, 11)


@pytest.mark.parametrize("pools", [[], [_pool(0, 50)], [_pool(3, 50)]])
def test_too_few_voxels_give_no_steps(pools: list[Pool]) -> None:
    assert PatchStream(pools, 0, batch=8, limit=100).steps == 0
