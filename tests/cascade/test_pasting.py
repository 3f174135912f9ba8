from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_msseg.cascade.augment import AugmentPlan, SubImage
from bids_msseg.cascade.pasting import (
    KEEP_AWAY,
    MARGIN,
    TRACE,
    WIDEST,
    BankedLesion,
    LesionBank,
    Room,
    fill_bank,
    find_corner,
    find_room,
    mirror,
    paste,
    paste_some,
    surroundings,
)
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.sampling import CandidateSampler

NOTHING = AugmentPlan(**dict.fromkeys(AugmentPlan.__dataclass_fields__, 0.0))
GROUND = np.array([0.25, 0.75, -0.5], np.float32)
ADDED = np.array([1.5, -0.75, 1.0], np.float32)


def visit(
    name: str = "sub-01",
    *,
    boxes: tuple[tuple[slice, slice, slice], ...] = (
        (slice(20, 24), slice(18, 25), slice(22, 26)),
    ),
    present: tuple[bool, bool, bool] = (True, True, True),
    thick: bool = False,
    ground: np.ndarray = GROUND,
) -> LabelledVisit:
    """Even white matter with lesions that add 1.5, -0.75 and 1.0, and half of it in their rim."""
    brain = np.zeros((48, 48, 48), bool)
    brain[4:44, 4:44, 4:44] = True
    truth = np.zeros(brain.shape, np.float32)
    for box in boxes:
        body = np.zeros(brain.shape, bool)
        body[box] = True
        truth[ndimage.binary_dilation(body)] = 0.25
    for box in boxes:
        truth[box] = 1
    images = ground[:, None, None, None] + ADDED[:, None, None, None] * truth
    images[:, ~brain] = -3
    images[~np.array(present)] = 0
    return LabelledVisit(
        name, "X", images.astype(np.float16), present, brain, truth.astype(np.float16), thick
    )


def _target(edge: int = 40, ground: tuple[float, float, float] = (0.5, 1.0, 0.25)):
    images = np.empty((3, edge, edge, edge), np.float32)
    images[:] = np.array(ground, np.float32)[:, None, None, None]
    return images, np.zeros((edge, edge, edge), np.float32)


@given(level=st.floats(-3, 3, width=32), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_even_surroundings_are_found_exactly(level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    known = rng.random((9, 9, 9)) < 0.4
    known[0, 0, 0] = True
    image = np.where(known, np.float32(level), rng.normal(size=known.shape)).astype(np.float32)
    assert (surroundings(image, known) == np.float32(level)).all()


def test_surroundings_follow_what_is_near() -> None:
    image = np.zeros((40, 9, 9), np.float32)
    image[20:] = 1
    found = surroundings(image, np.ones(image.shape, bool))
    assert found[0, 4, 4] < 0.01
    assert found[39, 4, 4] > 0.99
    assert (np.diff(found[:, 4, 4]) >= -1e-6).all()
    assert not surroundings(image, np.zeros(image.shape, bool)).any()


def test_a_banked_lesion_is_what_it_adds() -> None:
    (lesion,) = fill_bank([visit()]).lesions
    assert lesion.share.shape == (4 + 2 * MARGIN, 7 + 2 * MARGIN, 4 + 2 * MARGIN)
    assert (lesion.visit, lesion.present, lesion.thick) == ("sub-01", (True, True, True), False)
    share = lesion.share.astype(np.float32)
    assert np.count_nonzero(share == 1) == 4 * 7 * 4
    np.testing.assert_allclose(
        lesion.change.astype(np.float32), ADDED[:, None, None, None] * share, atol=2e-3
    )
    assert (lesion.weight[share >= TRACE] == 1).all()
    # it fades over 2.5 mm and is nothing at the border of its box
    assert lesion.weight[0].max() == lesion.weight[:, 0].max() == lesion.weight[..., 0].max() == 0
    beside = lesion.weight[MARGIN - 3 : MARGIN, MARGIN + 3, MARGIN + 2]
    np.testing.assert_allclose(beside.astype(float), [0.2, 0.6, 1.0], atol=1e-3)


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_contrast_is_carried_over_to_the_surroundings_of_the_target(gain: float) -> None:
    (lesion,) = fill_bank([visit()]).lesions
    images, truth = _target()
    known = np.ones(truth.shape, bool)
    kept = images.copy()
    made, marked = paste(images, (True, True, True), known, truth, lesion, (10, 12, 8), gain=gain)
    expected = np.zeros(truth.shape, np.float32)
    x, y, z = (slice(a, a + n) for a, n in zip((10, 12, 8), lesion.share.shape, strict=True))
    expected[x, y, z] = lesion.share
    np.testing.assert_array_equal(marked, expected)
    np.testing.assert_allclose(
        made, kept + gain * ADDED[:, None, None, None] * expected, atol=3e-3
    )
    # arrays that were handed in stay what they were
    np.testing.assert_array_equal(images, kept)
    assert not truth.any()


def test_what_is_already_lesion_becomes_the_soft_union() -> None:
    (lesion,) = fill_bank([visit()]).lesions
    images, truth = _target()
    truth[:] = 0.5
    _, marked = paste(
        images, (True, True, True), np.ones(truth.shape, bool), truth, lesion, (9, 9, 9)
    )
    x, y, z = (slice(9, 9 + n) for n in lesion.share.shape)
    share = lesion.share.astype(np.float32)
    np.testing.assert_allclose(marked[x, y, z], 1 - 0.5 * (1 - share))
    assert marked.min() == 0.5
    assert marked.max() == 1


def test_a_contrast_that_is_not_there_stays_away() -> None:
    (lesion,) = fill_bank([visit()]).lesions
    images, truth = _target()
    images[2] = 0
    made, _ = paste(
        images, (True, True, False), np.ones(truth.shape, bool), truth, lesion, (9, 9, 9)
    )
    assert not made[2].any()
    assert made[1].min() < 0.3


@pytest.mark.parametrize("corner", [(-1, 5, 5), (5, 34, 5), (60, 0, 0)])
def test_a_lesion_beyond_the_image_is_refused(corner: tuple[int, int, int]) -> None:
    (lesion,) = fill_bank([visit()]).lesions
    images, truth = _target()
    with pytest.raises(ValueError, match="does not lie in an image"):
        paste(images, (True,) * 3, np.ones(truth.shape, bool), truth, lesion, corner)


def test_the_target_keeps_its_grain_beside_the_lesion_and_gets_the_source_s_on_it() -> None:
    (lesion,) = fill_bank([visit()]).lesions
    images, truth = _target()
    images += np.random.default_rng(0).normal(0, 0.2, images.shape).astype(np.float32)
    made, marked = paste(
        images, (True, True, True), np.ones(truth.shape, bool), truth, lesion, (10, 10, 10)
    )
    x, y, z = (slice(10, 10 + n) for n in lesion.share.shape)
    outside = np.ones(truth.shape, bool)
    outside[x, y, z] = False
    np.testing.assert_array_equal(made[:, outside], images[:, outside])
    # the source is without grain
    assert made[0][marked == 1].std() < 0.05


def test_a_neighbour_does_not_come_along() -> None:
    near = (slice(27, 31), slice(18, 25), slice(22, 26))
    first, second = fill_bank(
        [visit(boxes=((slice(20, 24), slice(18, 25), slice(22, 26)), near))]
    ).lesions
    for lesion in (first, second):
        share = lesion.share.astype(np.float32)
        assert np.count_nonzero(share == 1) == 4 * 7 * 4
        assert np.count_nonzero(share) == np.count_nonzero(share[share > 0])
        labels, count = ndimage.label(share > 0)
        assert count == 1
        assert labels.any()
        # and leaves no trace of brightness where it was
        moved = lesion.weight.astype(np.float32) * np.abs(lesion.change.astype(np.float32)[0])
        assert moved[share < TRACE].max() < 0.02


def test_specks_and_confluent_lesions_stay_where_they_are() -> None:
    speck = (slice(20, 22), slice(20, 21), slice(20, 21))
    long = (slice(6, 6 + WIDEST + 1), slice(30, 33), slice(30, 33))
    fair = (slice(20, 23), slice(10, 11), slice(10, 11))
    bank = fill_bank([visit(boxes=(speck, long, fair))])
    assert [np.count_nonzero(lesion.share == 1) for lesion in bank.lesions] == [3]


def test_a_bank_holds_lesions_of_its_visits_and_of_nobody_else() -> None:
    visits = [visit("sub-01"), visit("sub-02_ses-1"), visit("sub-03", boxes=())]
    assert [lesion.visit for lesion in fill_bank(visits).lesions] == ["sub-01", "sub-02_ses-1"]
    sampler = CandidateSampler(visits[1:], 0, size=16, paste=1.0)
    assert {lesion.visit for lesion in sampler.bank.lesions} == {"sub-02_ses-1"}
    assert CandidateSampler(visits, 0, size=16).bank == LesionBank(())


@pytest.mark.parametrize(
    ("present", "thick", "expected"),
    [
        ((True, True, True), False, ["all"]),
        ((True, False, True), False, ["all", "no T1w"]),
        ((True, False, False), False, ["all", "no T1w"]),
        ((True, True, True), True, ["thick"]),
    ],
)
def test_a_lesion_must_have_been_seen_in_every_contrast_of_the_target(
    present: tuple[bool, bool, bool], thick: bool, expected: list[str]
) -> None:
    bank = fill_bank(
        [visit("all"), visit("no T1w", present=(True, False, True)), visit("thick", thick=True)]
    )
    assert [lesion.visit for lesion in bank.fitting(present, thick=thick)] == expected


def test_a_mirrored_lesion_is_mirrored_whole() -> None:
    source = visit()
    source.images[0, 20:22] += np.float16(0.5)
    (lesion,) = fill_bank([source]).lesions
    turned = mirror(lesion, [0, 2])
    np.testing.assert_array_equal(turned.share, lesion.share[::-1, :, ::-1])
    np.testing.assert_array_equal(turned.weight, lesion.weight[::-1, :, ::-1])
    np.testing.assert_array_equal(turned.change, lesion.change[:, ::-1, :, ::-1])
    for field in dataclasses.fields(lesion):
        again = getattr(mirror(turned, [0, 2]), field.name)
        np.testing.assert_array_equal(again, getattr(lesion, field.name))


def test_room_is_normal_white_matter_away_from_lesions_and_from_outside() -> None:
    images, truth = _target()
    brain = np.ones(truth.shape, bool)
    brain[:5] = False
    truth[20, 20, 20] = 1
    images[0, :, :10] = -2
    images[1, :, 30:] = -1
    images[0, :, :, 35:] = 3
    room = find_room(images, (True, True, True), brain, truth)
    assert not room.free[: 5 + KEEP_AWAY].any()
    assert room.free[5 + KEEP_AWAY].any()
    assert not room.free[20 - KEEP_AWAY : 21 + KEEP_AWAY, 20, 20].any()
    assert room.free[20 - KEEP_AWAY - 1, 20, 20]
    # fluid, grey matter and what is too bright are free, not normal
    assert room.free[30, 2, 2]
    assert not room.normal[:, :10].any()
    assert not room.normal[:, 30:].any()
    assert not room.normal[:, :, 35:].any()
    assert room.normal[30, 15:28, 5:30].all()
    assert not find_room(images, (False, True, True), brain, truth).normal.any()
    # without T1w what is dark there is not known to be grey
    assert find_room(images, (True, False, True), brain, truth).normal[30, 35, 20]


def test_a_place_is_inside_and_free() -> None:
    (lesion,) = fill_bank([visit()]).lesions
    free = np.ones((30, 36, 34), bool)
    free[:, 16:18] = False
    normal = free.copy()
    normal[:, :, :8] = False
    room = Room(free, normal)
    found = [find_corner(room, lesion, np.random.default_rng(seed)) for seed in range(40)]
    corners = [corner for corner in found if corner is not None]
    assert len(corners) > 30
    assert len(set(corners)) > 25
    for corner in corners:
        x, y, z = (slice(a, a + n) for a, n in zip(corner, lesion.share.shape, strict=True))
        assert min(corner) >= 0
        assert free[x, y, z].shape == lesion.share.shape
        assert free[x, y, z][lesion.share >= TRACE].all()
    # there is room on both sides of the wall
    assert {corner[1] + lesion.share.shape[1] // 2 > 17 for corner in corners} == {True, False}


def test_no_place_is_no_place() -> None:
    (lesion,) = fill_bank([visit()]).lesions
    full = np.ones((40, 40, 40), bool)
    none = np.zeros_like(full)
    rng = np.random.default_rng(0)
    assert find_corner(Room(full, none), lesion, rng) is None
    assert find_corner(Room(none, full), lesion, rng) is None
    small = np.ones((10, 10, 10), bool)
    assert find_corner(Room(small, small), lesion, rng) is None


def _sample(present: tuple[bool, bool, bool] = (True, True, True)) -> SubImage:
    images, truth = _target()
    images[~np.array(present)] = 0
    return SubImage(
        torch.from_numpy(images),
        torch.tensor(present, dtype=torch.float32),
        torch.ones(truth.shape),
        torch.from_numpy(truth)[None],
    )


def test_pasted_lesions_are_in_image_and_truth_alike() -> None:
    bank = fill_bank([visit()])
    sample = _sample()
    done = paste_some(sample, bank, np.random.default_rng(5), thick=False)
    truth = done.maps[0].numpy()
    core = truth == 1
    assert core.sum() in {112 * count for count in range(1, 5)}
    change = (done.images - sample.images).numpy()
    for channel in range(3):
        assert (np.abs(change[channel][truth == 0]) < 0.03).all()
        relative = change[channel][core] / ADDED[channel]
        assert 0.78 < relative.min() <= relative.max() < 1.22
    assert not sample.maps.any()


def test_nothing_is_pasted_where_nothing_fits() -> None:
    sample = _sample()
    rng = np.random.default_rng(0)
    assert paste_some(sample, LesionBank(()), rng, thick=False) is sample
    assert paste_some(sample, fill_bank([visit()]), rng, thick=True) is sample
    blind = _sample(present=(False, True, True))
    kept = paste_some(blind, fill_bank([visit()]), rng, thick=False)
    assert torch.equal(kept.images, blind.images)


def test_streams_without_pasting_stay_what_they_were() -> None:
    visits = [visit("sub-01"), visit("sub-02", boxes=())]
    plain, never, always = (
        CandidateSampler(visits, 3, size=16, plan=NOTHING, **extra)
        for extra in ({}, {"paste": 0.0}, {"paste": 1.0})
    )
    for index in range(4):
        assert all(torch.equal(a, b) for a, b in zip(plain[index], never[index], strict=True))
    differ = [not torch.equal(plain[index][1], always[index][1]) for index in range(8)]
    assert any(differ)


def test_an_item_with_pasted_lesions_depends_on_seed_and_index_alone() -> None:
    visits = [visit("sub-01"), visit("sub-02", boxes=())]
    one = CandidateSampler(visits, 3, size=24, plan=NOTHING, paste=1.0)
    fresh = CandidateSampler(visits, 3, size=24, plan=NOTHING, paste=1.0)[2]
    for before in (5, 2, 0):
        one[before]
    assert all(torch.equal(a, b) for a, b in zip(one[2], fresh, strict=True))


def test_a_lesion_is_pasted_into_a_visit_without_any() -> None:
    empty = visit("sub-02", boxes=())
    sampler = CandidateSampler([visit("sub-01"), empty], 3, size=24, plan=NOTHING, paste=1.0)
    assert isinstance(sampler.bank.lesions[0], BankedLesion)
    rng = np.random.default_rng(1)
    sample = SubImage(
        torch.from_numpy(empty.images.astype(np.float32)),
        torch.ones(3),
        torch.from_numpy(empty.brain.astype(np.float32)),
        torch.zeros(1, 48, 48, 48),
    )
    done = paste_some(sample, sampler.bank, rng, thick=False)
    assert done.maps.max() == 1
    assert float(done.images[0][done.maps[0] == 1].min()) > 1.2
