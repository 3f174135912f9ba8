from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.utils.data import Dataset

from bids_msseg.cascade import heads
from bids_msseg.cascade.augment import AugmentPlan
from bids_msseg.cascade.generation import (
    TISSUES,
    Appearance,
    MadeSampler,
    MakePlan,
    MixedSampler,
    _cut_head,
    brain_scale,
    draw_appearance,
    find_horns,
    make,
    smooth_field,
    take_census,
)
from bids_msseg.cascade.heads import (
    FAR,
    HALO_STEPS,
    Head,
    LesionDraw,
    Tissue,
    prepare_anatomy,
)

EDGE = 60
NOTHING = AugmentPlan(**dict.fromkeys(AugmentPlan.__dataclass_fields__, 0.0))
PLAIN = MakePlan(
    any_contrast=0.0,
    halo=0.0,
    flow=0.0,
    patchy=0.0,
    margin_mm=(0.0, 0.0),
    mask_fault=0.0,
    misplaced=0.0,
)
"""As usual contrasts are, without what is bright and no lesion."""


def _labels() -> np.ndarray:
    """A ball of brain with two ventricles, fluid and skull; the ventricles point forwards."""
    axes = np.indices((EDGE, EDGE, EDGE)) - (EDGE - 1) / 2
    away = np.sqrt((axes**2).sum(0))
    labels = np.zeros(away.shape, np.int32)
    for radius, code in ((27, 515), (24, 24), (22, 3), (18, 2)):
        labels[away < radius] = code
    labels[25:28, 22:40, 28:32] = 4
    labels[32:35, 22:40, 28:32] = 43
    return labels


@pytest.fixture(scope="module")
def head() -> Head:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "LOAD_ML", (0.2, 1.0))
        made = prepare_anatomy("ball", _labels(), np.random.default_rng(3), draws=2)
    # one set of a known lesion: a cube of 6 mm with a rim of one half
    cube = np.zeros(made.tissue.shape, np.float32)
    cube[37:45, 27:35, 33:41] = 0.5
    cube[38:44, 28:34, 34:40] = 1
    owner = (cube == 1).astype(np.int16)
    at = np.flatnonzero(cube).astype(np.int32)
    share = np.rint(255 * cube.ravel()[at]).astype(np.uint8)
    known = LesionDraw(at, share, owner.ravel()[at], np.zeros(0, np.int32))
    return replace(made, draws=(known, *made.draws))


def _middle(head: Head) -> list[int]:
    return [extent // 2 for extent in head.tissue.shape]


def _whole(head: Head, number: int, plan: MakePlan, seed: int):
    edge = max(head.tissue.shape) + 2
    rng = np.random.default_rng(seed)
    return make(head, take_census(head), number, _middle(head), edge, plan, rng)


def test_all_that_is_made_is_finite_and_of_the_shape_asked_for(head: Head) -> None:
    plan = MakePlan(caps=0.5)
    for seed in range(4):
        sample = make(
            head, take_census(head), 1, (3, 30, 55), 20, plan, np.random.default_rng(seed)
        )
        assert sample.images.shape == (3, 20, 20, 20)
        assert sample.maps.shape == (1, 20, 20, 20)
        assert sample.present.tolist() == [1, 1, 1]
        assert torch.isfinite(sample.images).all()
        assert sample.images.abs().max() <= 5
        assert set(sample.brain.unique().tolist()) <= {0.0, 1.0}
        assert 0 <= sample.maps.min() <= sample.maps.max() <= 1


@pytest.mark.parametrize("index", [0, 3])
def test_an_item_is_the_same_whatever_came_before(head: Head, index: int) -> None:
    plan = MakePlan(caps=0.3)
    fresh = MadeSampler([head], 5, size=16, plan=plan)[index]
    used = MadeSampler([head], 5, size=16, plan=plan)
    for before in (7, 1, index, 2):
        used[before]
    np.random.seed(0)
    torch.manual_seed(0)
    again = used[index]
    assert all(torch.equal(a, b) for a, b in zip(fresh, again, strict=True))
    other = MadeSampler([head], 6, size=16, plan=plan)[index]
    assert not torch.equal(fresh[0], other[0])


def test_caps_that_are_not_asked_for_draw_no_number(head: Head) -> None:
    """What was trained before there were caps can be made again."""
    plain, asked = (
        make(head, take_census(head), 1, _middle(head), 24, plan, np.random.default_rng(2))
        for plan in (MakePlan(), MakePlan(caps=0.0))
    )
    assert torch.equal(plain.images, asked.images)


def test_truth_and_lesion_lie_on_each_other(head: Head) -> None:
    """Two heads that differ in nothing but the lesion differ where it is, by its fraction."""
    bare = replace(head, draws=(replace(head.draws[0], fraction=head.draws[0].fraction * 0),))
    plan = SHARP
    centre = (36, 31, 38)
    with_it, without = (
        make(one, replace(take_census(head), lesions=(0.0,)), 0, centre, 22, plan,
             np.random.default_rng(9))
        for one in (head, bare)
    )  # fmt: skip
    truth = with_it.maps[0].numpy()
    assert truth.sum() == pytest.approx(6**3 + (8**3 - 6**3) / 2, rel=0.01)
    for channel, sign in ((0, 1), (1, -1), (2, 1)):
        change = (with_it.images[channel] - without.images[channel]).numpy()
        assert (change[truth == 0] == 0).all()
        core, rim = change[truth == 1], change[(truth > 0) & (truth < 1)]
        assert (sign * core >= 0).all()
        # blur of a hundredth of a voxel changes nothing; the rim has the average look
        assert np.ptp(core) == pytest.approx(0, abs=1e-4)
        assert np.ptp(rim) == pytest.approx(0, abs=1e-4)


def test_a_cut_shows_the_right_place(head: Head) -> None:
    draw = head.draws[0]
    tissue, fraction, owner = _cut_head(head, draw, (40, 30, 36), 12)
    np.testing.assert_array_equal(tissue, head.tissue[34:46, 24:36, 30:42])
    assert fraction[4:10, 4:10, 4:10].min() == 1
    assert fraction.sum() == pytest.approx((draw.fraction / np.float32(255)).sum(), rel=1e-5)
    assert owner.sum() == 6**3
    nowhere = _cut_head(head, draw, (-30, -30, -30), 12)
    assert all(not part.any() for part in nowhere)


def test_choroid_plexus_is_drawn_into_the_ventricle_and_is_no_lesion(head: Head) -> None:
    draw = head.draws[1]
    assert draw.choroid.size
    tissue, fraction, _ = _cut_head(head, draw, _middle(head), max(head.tissue.shape))
    start = [middle - max(head.tissue.shape) // 2 for middle in _middle(head)]
    at = tuple(
        place - low
        for place, low in zip(
            np.unravel_index(draw.choroid, head.tissue.shape), start, strict=True
        )
    )
    assert (tissue[at] == Tissue.CHOROID).all()
    assert np.count_nonzero(tissue == Tissue.CHOROID) == draw.choroid.size
    assert fraction[at].max() < 0.5


def test_lesions_are_brighter_than_what_is_around_them_in_flair(head: Head) -> None:
    """In the usual order of tissues, whatever is drawn; darker in T1w, brighter in T2w."""
    for seed in range(6):
        sample = _whole(head, 0, PLAIN, seed)
        truth = sample.maps[0].numpy()
        near = ndimage.binary_dilation(truth > 0, iterations=4) & (truth == 0)
        edge = max(head.tissue.shape) + 2
        tissue = _cut_head(head, head.draws[0], _middle(head), edge)[0]
        around = near & (tissue == Tissue.WHITE)
        lesion = ndimage.binary_erosion(truth == 1)
        flair, t1w, t2w = (
            float(np.mean(image[lesion]) - np.mean(image[around]))
            for image in sample.images.numpy()
        )
        assert flair > 0
        assert t1w < 0.2
        assert t2w > 0


def test_usual_contrasts_have_the_order_of_tissues() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        flair, t1w, t2w = draw_appearance(rng, PLAIN, 3).mean
        assert flair[Tissue.VENTRICLE] < flair[Tissue.WHITE] < flair[Tissue.CORTEX]
        assert t1w[Tissue.VENTRICLE] < t1w[Tissue.CORTEX] < t1w[Tissue.WHITE]
        assert t2w[Tissue.WHITE] < t2w[Tissue.CORTEX] < t2w[Tissue.VENTRICLE]


def test_unknown_contrasts_come_as_often_as_asked() -> None:
    def strange(share: float) -> int:
        rng = np.random.default_rng(1)
        looks = [draw_appearance(rng, replace(PLAIN, any_contrast=share), 1) for _ in range(400)]
        return sum(look.mean[0, Tissue.WHITE] != 1 for look in looks)

    assert strange(0.0) == 0
    assert strange(1.0) == 400
    assert abs(strange(0.15) - 60) < 25


def test_every_lesion_has_a_look_of_its_own_and_the_rim_the_average() -> None:
    look = draw_appearance(np.random.default_rng(4), PLAIN, 200)
    assert look.lesion.shape == (3, 201)
    for row in look.lesion:
        relative = row[1:] / row[0]
        assert 0.2999 < relative.min() < relative.max() < 2.0001
        assert relative.mean() == pytest.approx(1, abs=0.08)


def test_brain_scale_is_the_mean_and_deviation_of_the_voxels() -> None:
    """White matter 1, ventricle 0, a lesion of +1 in a tenth of the voxels."""
    mean = np.zeros((3, TISSUES), np.float32)
    mean[:, Tissue.WHITE] = 1
    look = Appearance(mean, np.zeros_like(mean), np.array([[0, 1]] * 3, np.float32))
    count = np.zeros(TISSUES)
    count[[Tissue.WHITE, Tissue.VENTRICLE]] = 80, 20
    found, spread = brain_scale(look, count, 0.0)
    np.testing.assert_allclose(found, 0.8)
    np.testing.assert_allclose(spread, 0.4, rtol=1e-4)
    found, _ = brain_scale(look, count, 10.0)
    np.testing.assert_allclose(found, 0.9)


SHARP = replace(PLAIN, texture=0.0, blur_mm=(0.01, 0.01), margin_mm=(2.0, 2.0))


@pytest.mark.parametrize("seed", range(5))
def test_a_whole_made_head_has_mean_zero_and_deviation_one(head: Head, seed: int) -> None:
    """Brightness is worked out from counts, never measured; it must come out right.

    Within 0.01 in the mean and 0.03 in the deviation; lesions are taken to lie in any tissue.
    """
    sample = _whole(head, 0, SHARP, seed)
    inside = sample.brain > 0
    for image in sample.images:
        assert float(image[inside].mean()) == pytest.approx(0, abs=0.01)
        assert float(image[inside].std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_blur_takes_up_to_two_fifths_of_the_deviation(head: Head, seed: int) -> None:
    """The scale does not allow for it: what counts keep apart, blur mixes."""
    sample = _whole(head, 0, replace(PLAIN, margin_mm=(2.0, 2.0)), seed)
    inside = sample.brain > 0
    for image in sample.images:
        assert float(image[inside].mean()) == pytest.approx(0, abs=0.15)
        assert 0.6 < float(image[inside].std()) < 1


def test_a_census_counts_brain_and_fluid_up_to_each_distance(head: Head) -> None:
    census = take_census(head)
    brain = np.isin(head.tissue, (Tissue.AIR, Tissue.OUTSIDE, Tissue.FLUID), invert=True)
    fluid = head.tissue == Tissue.FLUID
    for tenths in (0, 10, 255):
        within = census.within[tenths]
        assert within[Tissue.FLUID] == np.count_nonzero(fluid & (head.rim <= tenths))
        assert within[[Tissue.AIR, Tissue.OUTSIDE]].tolist() == [0, 0]
        assert within.sum() - within[Tissue.FLUID] == np.count_nonzero(brain)
    assert census.lesions[0] == pytest.approx(6**3 + (8**3 - 6**3) * 128 / 255)


def test_the_mask_ends_where_asked_and_holds_skull_only_by_fault(head: Head) -> None:
    edge = max(head.tissue.shape) + 2
    tissue = _cut_head(head, head.draws[0], _middle(head), edge)[0]
    for margin in (0.0, 1.0, 4.0):
        for fault in (0.0, 1.0):
            plan = replace(PLAIN, margin_mm=(margin, margin), mask_fault=fault)
            brain = _whole(head, 0, plan, 1).brain.numpy() > 0
            kept = np.bincount(tissue[brain], minlength=TISSUES)
            assert kept[Tissue.CORTEX] == np.count_nonzero(tissue == Tissue.CORTEX)
            assert (kept[Tissue.OUTSIDE] > 0) == (fault == 1 and margin == 4)
            assert (kept[Tissue.FLUID] > 0) == (margin > 0)


def test_the_halo_is_in_white_matter_by_the_ventricles_only(head: Head) -> None:
    plain = replace(PLAIN, texture=0.0)
    seen = 0
    for seed in range(6):
        with_it, without = (
            _flair_in_white_units(head, replace(plain, halo=amount), seed) for amount in (0.4, 0.0)
        )
        change = with_it - without
        far = head.halo > 12 * HALO_STEPS
        assert np.abs(change[far]).max() < 0.02
        seen += bool(change[(head.tissue == Tissue.WHITE) & (head.halo <= 30)].mean() > 0.02)
    assert 0 < seen < 6


def _flair_in_white_units(head: Head, plan: MakePlan, seed: int) -> np.ndarray:
    """FLAIR of the whole head as it lies in the head's arrays."""
    edge = max(head.tissue.shape) + 2
    sample = make(
        head, take_census(head), 0, _middle(head), edge, plan, np.random.default_rng(seed)
    )
    low = [edge // 2 - middle for middle in _middle(head)]
    box = tuple(slice(a, a + n) for a, n in zip(low, head.tissue.shape, strict=True))
    return sample.images[0].numpy()[box]


def test_horns_are_the_ends_of_both_ventricles(head: Head) -> None:
    lateral = np.argwhere(head.tissue == Tissue.VENTRICLE)
    front, back = lateral[:, 1].max(), lateral[:, 1].min()
    horns = find_horns(head)
    assert horns[:, 1].tolist() == [front, back, front, back]
    assert horns[0, 0] == horns[1, 0] < horns[2, 0] == horns[3, 0]
    assert find_horns(replace(head, halo=np.full_like(head.halo, FAR))).shape == (0, 3)


def test_caps_are_bright_white_matter_at_the_horns_and_no_lesion(head: Head) -> None:
    bare = replace(head, draws=(replace(head.draws[0], fraction=head.draws[0].fraction * 0),))
    # of one sharpness, so that what is drawn after the caps changes nothing
    plan = replace(PLAIN, texture=0.0, blur_mm=(0.5, 0.5))
    made = [_flair_in_white_units(bare, replace(plan, caps=0.8), seed) for seed in range(8)]
    plain = [_flair_in_white_units(bare, plan, seed) for seed in range(8)]
    changes = [one - other for one, other in zip(made, plain, strict=True)]
    shown = [change for change in changes if change.max() > 0.1]
    assert 2 <= len(shown) < 8
    white = head.tissue == Tissue.WHITE
    tips = find_horns(head)
    off = np.stack([np.abs(np.indices(head.tissue.shape).T - tip).max(-1).T for tip in tips]).min(
        0
    )
    for change in shown:
        peak = np.unravel_index(np.argmax(change), change.shape)
        assert off[peak] <= 8
        assert change[white & (off <= 3) & (head.halo <= 40)].mean() > 0.1
        assert np.abs(change[head.halo > 11 * HALO_STEPS]).max() < 0.05


@pytest.mark.parametrize("width", [3.0, 12.0, 500.0])
def test_a_smooth_field_is_smooth(width: float) -> None:
    field = smooth_field(np.random.default_rng(0), 40, width)
    assert field.shape == (40, 40, 40)
    assert field.dtype == np.float32
    steps = np.abs(np.diff(field, axis=0)).max()
    assert 0 < steps < 8 / min(width, 40)


def test_sub_images_are_centred_on_lesions_as_often_as_asked(head: Head) -> None:
    one = replace(head, draws=head.draws[:1])
    hits = []
    for share in (0.0, 1.0):
        plan = replace(PLAIN, lesion_share=share)
        sampler = MadeSampler([one], 1, size=12, plan=plan, augment_plan=NOTHING)
        hits.append(sum(float(sampler[i][1].max()) > 0.4 for i in range(20)))
    assert hits[1] >= 18 > 12 > hits[0]


def test_every_head_and_every_set_of_lesions_is_used(head: Head) -> None:
    dark = replace(
        head, name="dark", tissue=np.where(head.tissue > 0, Tissue.CORTEX, 0).astype(np.uint8)
    )
    sampler = MadeSampler([head, dark], 1, size=8, plan=PLAIN, augment_plan=NOTHING)
    assert [census.within[0][Tissue.WHITE] > 0 for census in sampler.censuses] == [True, False]
    images, truth = sampler[0]
    assert images.shape == (6, 8, 8, 8)
    assert truth.shape == (1, 8, 8, 8)


class _Constant(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __init__(self, value: float) -> None:
        self.value = value

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.value), torch.tensor(float(index))


def test_sources_are_mixed_in_their_shares_by_seed_and_index_alone() -> None:
    sources = [_Constant(value) for value in (0.0, 1.0, 2.0)]
    mixed = MixedSampler(sources, (3, 1, 0), 4)
    drawn = [(float(value), int(index)) for value, index in map(mixed.__getitem__, range(600))]
    assert [index for _, index in drawn] == list(range(600))
    counts = np.bincount([int(value) for value, _ in drawn], minlength=3)
    assert counts[2] == 0
    assert abs(counts[0] / 600 - 0.75) < 0.06
    again = MixedSampler(sources, (0.6, 0.2, 0.0), 4)
    assert [float(again[index][0]) for index in (5, 2, 9)] == [drawn[i][0] for i in (5, 2, 9)]
