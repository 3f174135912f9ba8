"""A training that began with the plan of fixed form must go on with the very same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.cascade.augment import (
    AugmentPlan,
    SubImage,
    augment,
    blur,
    fade_lesions,
    thicken,
)
from bids_msseg.cascade.augmentation.catalogue import Standard, standard_program

# sums of images, brain and maps, and which contrasts are left, when trainings first used the plan
FROZEN = [
    (-585.25366, 879.32015, 864.88807, [1, 1, 1]),
    (-509.61630, 905.09551, 847.26621, [1, 1, 1]),
    (233.46322, 965.11457, 870.15352, [1, 1, 1]),
    (350.14138, 1052.13276, 882.25578, [1, 0, 1]),
    (-1262.48841, 1062.44286, 861.98832, [1, 1, 1]),
]


def _sums(sample: SubImage) -> list[float]:
    return [float(part.double().sum()) for part in (sample.images, sample.brain, sample.maps)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("plan", [AugmentPlan(), standard_program()], ids=["plan", "program"])
def test_the_plan_gives_what_it_always_gave(plan, seed: int, make_sample) -> None:
    rng = np.random.default_rng(seed)
    done = augment(make_sample(), plan, rng, size=12, thin=True)
    *sums, present = FROZEN[seed]
    assert _sums(done) == pytest.approx(sums, abs=2e-3)
    assert done.present.tolist() == present


@given(seed=st.integers(0, 500), thin=st.booleans(), flip=st.floats(0, 1))
def test_the_plan_as_a_program_is_the_plan(
    make_sample, seed: int, thin: bool, flip: float
) -> None:
    plan = AugmentPlan(flip=flip, thick=0.8)
    one, other = (
        augment(make_sample(10), way, np.random.default_rng(seed), size=8, thin=thin)
        for way in (plan, standard_program(plan))
    )
    for name in ("images", "present", "brain", "maps"):
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_a_plan_without_a_size_keeps_the_edge(make_sample) -> None:
    done = Standard(AugmentPlan())(make_sample(9), np.random.default_rng(0))
    assert done.images.shape == (3, 9, 9, 9)


def _lesion_in_tissue(value: float) -> SubImage:
    truth = torch.zeros(11, 11, 11)
    truth[4:7, 4:7, 4:7] = 1
    images = torch.stack([torch.full((11, 11, 11), level) for level in (0.5, 0.0, -0.5)])
    return SubImage(images + value * truth, torch.ones(3), torch.ones(11, 11, 11), truth[None])


def test_fading_changes_lesions_by_one_share_and_nothing_else() -> None:
    sample = _lesion_in_tissue(2.0)
    inside = sample.maps[0] == 1
    shares = []
    for seed in range(60):
        done = fade_lesions(sample, AugmentPlan(lesion=0.6), np.random.default_rng(seed))
        assert torch.equal(done.images[:, ~inside], sample.images[:, ~inside])
        change = (done.images - sample.images)[:, inside] / 2.0
        torch.testing.assert_close(change, change[:1, :1].expand_as(change), rtol=0, atol=1e-5)
        shares.append(float(change[0, 0]))
        assert torch.equal(done.maps, sample.maps)
    assert -0.6 <= min(shares) < -0.3
    assert 0.1 < max(shares) <= 0.3
    # every other sub-image is left alone
    assert 15 <= shares.count(0.0) <= 45


def test_fading_leaves_images_without_lesions_and_plans_without_amount() -> None:
    sample = _lesion_in_tissue(2.0)
    healthy = replace(sample, maps=torch.zeros_like(sample.maps))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert fade_lesions(healthy, AugmentPlan(), rng) is healthy
        done = fade_lesions(sample, AugmentPlan(lesion=0.0), rng)
        assert torch.equal(done.images, sample.images)


@given(value=st.floats(-4, 4), sigma=st.floats(0, 2))
def test_blurring_a_constant_leaves_it_up_to_the_border(value: float, sigma: float) -> None:
    image = torch.full((7, 8, 9), value)
    torch.testing.assert_close(blur(image, sigma), image, rtol=0, atol=1e-5)


@given(edge=st.integers(9, 40), seed=st.integers(0, 100))
def test_thick_slices_keep_a_ramp_where_slices_are_whole(edge: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    axis, slab = int(rng.choice(3, p=(0.15, 0.15, 0.7))), int(rng.integers(2, 8))
    shape = [1, 1, 1]
    shape[axis] = edge
    ramp = torch.arange(edge, dtype=torch.float32).view(shape).expand(edge, edge, edge)
    sample = SubImage(
        ramp.expand(3, -1, -1, -1), torch.ones(3), torch.ones(edge, edge, edge), ramp[None]
    )
    done = thicken(sample, np.random.default_rng(seed))
    # from the middle of the first slab to the middle of the last whole one
    first, last = (slab + 1) // 2, edge // slab * slab - (slab + 1) // 2
    inner = done.maps[0].narrow(axis, first, max(last - first, 0))
    torch.testing.assert_close(
        inner, ramp.narrow(axis, first, max(last - first, 0)), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(done.images[1], done.maps[0])
    assert float(done.maps.min()) >= 0
    assert float(done.maps.max()) <= edge - 1 + 1e-4
