from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patch_stream import (
    PatchPlan,
    PatchSource,
    cube_symmetries,
    patch_batches,
    recolour_patches,
)

from bids_msseg.cascade.augmentation.sample import BACKGROUND
from bids_msseg.cascade.patches import cut
from bids_msseg.errors import DataError, UsageError

PLAIN = PatchPlan(symmetries="none", share=0.0)


@pytest.fixture
def visits(make_visit):
    return [
        make_visit("sub-01", seed=1, edge=24, lesions=3),
        make_visit("sub-02", seed=2, edge=28, lesions=1, present=(True, False, True)),
        make_visit("sub-03", seed=3, edge=22, lesions=0),
    ]


def _lesion_voxels(visits) -> int:
    return sum(int((visit.truth >= 0.5).sum()) for visit in visits)


def test_patches_are_what_a_cut_gives(visits) -> None:
    source = PatchSource(visits, 3, edge=7, batch=16, plan=PLAIN)
    for index in range(3):
        images, lesion = source[index]
        places = source.places(index)
        assert torch.equal(lesion, torch.from_numpy(places.lesion.astype(np.float32)))
        for row in range(16):
            visit = visits[places.visit[row]]
            centre = np.unravel_index(places.centre[row], visit.brain.shape)
            expected = cut(visit.images, centre, (7, 7, 7), fill=BACKGROUND).astype(np.float32)
            expected[~np.array(visit.present)] = 0
            assert np.array_equal(images[row].numpy(), expected)
            assert (visit.truth[centre] >= 0.5) == places.lesion[row]
            assert visit.brain[centre] or places.lesion[row]


def test_halves_are_balanced_and_matched_within_the_visit(visits) -> None:
    places = PatchSource(visits, 0, batch=64).places(5)
    assert places.lesion.sum() == 32
    assert np.array_equal(places.visit[:32], places.visit[32:])
    assert 2 not in places.visit


def test_every_lesion_voxel_comes_once_before_any_comes_again(visits) -> None:
    total = _lesion_voxels(visits)
    source = PatchSource(visits, 0, batch=10, plan=PLAIN)
    assert len(source) == -(-2 * total // 10)
    seen = []
    for index in range(-(-2 * total // 5)):
        places = source.places(index)
        seen += [*zip(places.visit[:5].tolist(), places.centre[:5].tolist(), strict=True)]
    first, second = seen[:total], seen[total : 2 * total]
    assert len(set(first)) == total
    assert set(first) == set(second)
    assert first != second


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_with_any_number_of_workers(visits, workers: int) -> None:
    source = PatchSource(visits, 9, batch=8, plan=PatchPlan(share=1.0, symmetries="all"))
    alone = [source[index] for index in range(2, 7)]
    helped = list(patch_batches(source, first=2, last=7, workers=workers))
    assert len(helped) == 5
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_batches_do_not_depend_on_what_was_asked_for_before(visits) -> None:
    source, fresh = (PatchSource(visits, 4, batch=30) for _ in range(2))
    far = 3 * len(source)
    wanted = [source[index] for index in (far, 0, 1)]
    for index, (images, _) in zip((1, far, 0), (wanted[2], wanted[0], wanted[1]), strict=True):
        assert torch.equal(fresh[index][0], images)
    assert not torch.equal(wanted[1][0], wanted[2][0])
    assert not torch.equal(PatchSource(visits, 5, batch=30)[0][0], wanted[1][0])


@pytest.mark.parametrize("name", ["mirror", "axial", "turns", "all"])
def test_turned_patches_are_turned_about_their_middle(visits, name: str) -> None:
    source = PatchSource(visits, 1, edge=5, batch=128, plan=replace(PLAIN, symmetries=name))
    # the places come first in the stream, so that they are those of the plain plan
    plain = PatchSource(visits, 1, edge=5, batch=128, plan=PLAIN)[0][0]
    images = source[0][0]
    line = np.arange(5) - 2
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij")).reshape(3, -1)
    ways = [
        np.ravel_multi_index(tuple(turn @ grid + 2), (5, 5, 5)) for turn in cube_symmetries(name)
    ]
    drawn = set()
    for before, after in zip(plain.flatten(2), images.flatten(2), strict=True):
        fits = [number for number, way in enumerate(ways) if torch.equal(before[:, way], after)]
        assert fits
        drawn.update(fits)
    assert len(drawn) > 0.8 * len(ways)


def test_symmetries_are_groups_with_the_identity_first() -> None:
    for name in ("none", "mirror", "axial", "turns", "all"):
        turns = cube_symmetries(name)
        members = {turn.tobytes() for turn in turns}
        assert len(members) == len(turns)
        assert np.array_equal(turns[0], np.eye(3))
        assert all((a @ b).tobytes() in members for a in turns for b in turns)
    assert np.array_equal(cube_symmetries("mirror")[1], np.diag([-1, 1, 1]))


def test_hard_negatives_take_the_place_of_the_brain(visits) -> None:
    hard = [np.zeros(visit.brain.shape, bool) for visit in visits]
    hard[0][10, 11, 12] = True
    hard[0][visits[0].truth >= 0.5] = True
    visits[0].truth[10, 11, 12] = 0
    places = PatchSource(visits, 0, batch=64, negatives=hard).places(0)
    mine = ~places.lesion & (places.visit == 0)
    only = np.ravel_multi_index((10, 11, 12), visits[0].brain.shape)
    assert set(places.centre[mine].tolist()) == {int(only)}
    assert len(set(places.centre[~places.lesion & (places.visit == 1)].tolist())) > 1


@given(seed=st.integers(0, 100), share=st.floats(0, 1))
def test_recolouring_spares_the_background_and_stays_in_range(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.uniform(-2.9, 4.9, (6, 3, 27)).astype(np.float32))
    images[:, :, :5] = BACKGROUND
    before = images.clone()
    done = recolour_patches(images, PatchPlan(share=share), rng)
    assert torch.equal(images, before)
    assert (done[:, :, :5] == BACKGROUND).all()
    assert float(done.abs().max()) <= 5
    if share == 1:
        assert (done[:, :, 5:] != before[:, :, 5:]).any(-1).all()


def test_recolouring_by_nothing_changes_nothing() -> None:
    images = torch.linspace(-2.9, 4.9, 300).view(4, 3, 25)
    plan = PatchPlan(share=1.0, gain=0.0, shift=0.0, gamma=0.0, noise=0.0)
    done = recolour_patches(images, plan, np.random.default_rng(0))
    torch.testing.assert_close(done, images, rtol=0, atol=1e-4)
    assert recolour_patches(images, replace(plan, share=0.0), np.random.default_rng(0)) is images


def test_contrasts_of_a_patch_change_each_by_its_own_gain() -> None:
    images = torch.ones(5, 3, 9)
    plan = PatchPlan(share=1.0, shift=0.0, gamma=0.0, noise=0.0)
    gains = recolour_patches(images, plan, np.random.default_rng(0))[:, :, 0]
    assert len(set(gains.ravel().tolist())) == 15
    assert float((gains - 1).abs().max()) <= 0.25 + 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"edge": 10}, "no middle"),
        ({"batch": 7}, "no halves"),
        ({"plan": PatchPlan(symmetries="some")}, "no symmetries called some"),
    ],
)
def test_wrong_options(visits, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PatchSource(visits, 0, **options)


def test_a_cohort_without_lesions_and_a_visit_of_nothing_else(make_visit) -> None:
    with pytest.raises(DataError, match="no visit holds a lesion"):
        PatchSource([make_visit(lesions=0)], 0)
    visit = make_visit()
    with pytest.raises(DataError, match="lesion all over"):
        PatchSource([replace(visit, truth=np.ones_like(visit.truth))], 0)
