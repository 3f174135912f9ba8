from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.cascade.augment import (
    BACKGROUND,
    AugmentPlan,
    SubImage,
    augment,
    blur,
    drop_contrasts,
    move,
    recolour,
    thicken,
)

NOTHING = AugmentPlan(**dict.fromkeys(AugmentPlan.__dataclass_fields__, 0.0))


def _sample(edge: int = 10, seed: int = 0) -> SubImage:
    made = torch.Generator().manual_seed(seed)
    images = torch.randn(3, edge, edge, edge, generator=made)
    brain = torch.ones(edge, edge, edge)
    brain[0] = 0
    maps = torch.rand(2, edge, edge, edge, generator=made)
    return SubImage(images, torch.ones(3), brain, maps)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _same(one: SubImage, other: SubImage, **tolerance: float) -> None:
    for name in ("images", "present", "brain", "maps"):
        torch.testing.assert_close(
            getattr(one, name), getattr(other, name), **(tolerance or {"rtol": 0, "atol": 2e-5})
        )


@given(seed=st.integers(0, 50))
def test_a_plan_of_nothing_changes_nothing(seed: int) -> None:
    sample = _sample()
    _same(augment(sample, NOTHING, _rng(seed), size=10, thin=True), sample)


def test_a_larger_cut_is_cropped_to_its_middle() -> None:
    sample = _sample(10)
    done = augment(sample, NOTHING, _rng(), size=6, thin=True)
    inner = slice(2, 8)
    torch.testing.assert_close(
        done.images, sample.images[:, inner, inner, inner], rtol=0, atol=2e-5
    )
    torch.testing.assert_close(done.maps, sample.maps[:, inner, inner, inner], rtol=0, atol=2e-5)


def test_a_mirror_turns_images_brain_and_maps_left_to_right() -> None:
    sample = _sample()
    done = move(sample, replace(NOTHING, flip=1.0), _rng(), 10)
    mirrored = SubImage(
        sample.images.flip(1), sample.present, sample.brain.flip(0), sample.maps.flip(1)
    )
    _same(done, mirrored)


@given(seed=st.integers(0, 200))
def test_geometry_moves_images_and_maps_together(seed: int) -> None:
    pattern = torch.zeros(12, 12, 12)
    pattern[4:8, 3:7, 5:10] = 1
    sample = SubImage(
        (pattern + BACKGROUND).expand(3, -1, -1, -1).clone(),
        torch.ones(3),
        pattern,
        pattern[None].clone(),
    )
    done = move(sample, AugmentPlan(), _rng(seed), 10)
    torch.testing.assert_close(done.images[0] - BACKGROUND, done.maps[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(done.brain, done.maps[0], rtol=0, atol=1e-5)
    assert float(done.maps.min()) >= 0
    assert float(done.maps.max()) <= 1 + 1e-6


@given(degrees=st.floats(1, 40), seed=st.integers(0, 30))
def test_rotation_keeps_volume_nearly(degrees: float, seed: int) -> None:
    pattern = torch.zeros(24, 24, 24)
    pattern[8:16, 9:15, 8:16] = 1
    sample = SubImage(pattern.expand(3, -1, -1, -1), torch.ones(3), pattern, pattern[None])
    done = move(sample, replace(NOTHING, rotate_deg=degrees), _rng(seed), 24)
    assert float(done.maps.sum()) == pytest.approx(float(pattern.sum()), rel=0.02)


@given(seed=st.integers(0, 100), slabs=st.just(420))
def test_thick_slices_average_images_and_maps_alike(seed: int, slabs: int) -> None:
    # 420 is a multiple of every thickness from 2 to 7, so no slab is cut off at the end
    pattern = torch.zeros(slabs, 1, 1)
    pattern[::5] = 1
    rng = _rng(seed)
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    turned = pattern.movedim(0, axis)
    sample = SubImage(
        turned.expand(3, -1, -1, -1), torch.ones(3), torch.ones_like(turned), turned[None]
    )
    done = thicken(sample, _rng(seed))
    torch.testing.assert_close(done.images[0], done.maps[0])
    torch.testing.assert_close(done.images[2], done.maps[0])
    assert done.maps.shape == sample.maps.shape
    assert float(done.maps.mean()) == pytest.approx(float(pattern.mean()), abs=1e-5)
    assert float(done.maps.max()) < 1
    _same(replace(done, images=sample.images, maps=sample.maps), sample)


def test_a_constant_stays_constant_when_thickened() -> None:
    sample = SubImage(
        torch.full((3, 11, 11, 11), 2.0),
        torch.ones(3),
        torch.ones(11, 11, 11),
        torch.ones(1, 11, 11, 11),
    )
    for seed in range(20):
        _same(thicken(sample, _rng(seed)), sample)


@given(seed=st.integers(0, 100))
def test_recolouring_by_nothing_is_identity(seed: int) -> None:
    image = torch.linspace(-3, 4.9, 6**3).reshape(6, 6, 6)
    changed = recolour(image, replace(NOTHING, intensity=1.0), _rng(seed))
    torch.testing.assert_close(changed, image, rtol=0, atol=1e-4)


@given(seed=st.integers(0, 100), width=st.floats(0.0, 1.2))
def test_any_width_of_blur_is_accepted(seed: int, width: float) -> None:
    plan = replace(NOTHING, intensity=1.0, blur_mm=width)
    assert torch.isfinite(recolour(torch.ones(5, 5, 5), plan, _rng(seed))).all()


def test_recolouring_changes_one_contrast_and_clips() -> None:
    image = torch.linspace(-5, 5, 6**3).reshape(6, 6, 6)
    for seed in range(20):
        changed = recolour(image, replace(AugmentPlan(), intensity=1.0), _rng(seed))
        assert float(changed.abs().max()) <= 5
        assert torch.isfinite(changed).all()
        assert not torch.equal(changed, image)


def test_recolouring_keeps_the_order_of_tissues_without_noise_and_blur() -> None:
    plan = AugmentPlan(intensity=1.0, bias=0.0, noise=0.0, blur_mm=0.0)
    image = torch.linspace(-3, 3, 7).view(7, 1, 1).expand(7, 9, 9).contiguous()
    for seed in range(10):
        middle = recolour(image, plan, _rng(seed))[1:-1, 4, 4]
        assert (middle.diff() >= 0).all()


def test_blur_keeps_the_mean_inside() -> None:
    image = torch.zeros(13, 13, 13)
    image[6, 6, 6] = 1
    blurred = blur(image, 0.9)
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    assert float(blurred[6, 6, 6]) == float(blurred.max()) < 0.2
    torch.testing.assert_close(blurred, blurred.flip(0))
    torch.testing.assert_close(blurred, blurred.permute(2, 1, 0))


@given(seed=st.integers(0, 1000))
def test_flair_is_never_dropped(seed: int) -> None:
    plan = AugmentPlan(drop_t1w=1.0, drop_t2w=0.0)
    present = torch.tensor([1.0, 1.0, 1.0])
    assert drop_contrasts(present, plan, _rng(seed)).tolist() == [1, 0, 1]
    assert present.tolist() == [1, 1, 1]
    assert drop_contrasts(present, AugmentPlan(), _rng(seed))[0] == 1


def test_what_is_missing_is_never_made_present() -> None:
    for seed in range(10):
        kept = drop_contrasts(torch.tensor([1.0, 0.0, 1.0]), AugmentPlan(), _rng(seed))
        assert kept[1] == 0


def test_input_of_a_net_says_what_is_there() -> None:
    brain = torch.zeros(4, 4, 4)
    brain[1:3] = 1
    sample = SubImage(
        torch.full((3, 4, 4, 4), 0.7),
        torch.tensor([1.0, 0.0, 1.0]),
        brain,
        torch.zeros(1, 4, 4, 4),
    )
    seen = sample.as_input()
    assert seen.shape == (6, 4, 4, 4)
    assert (seen[0][brain == 1] == 0.7).all()
    assert (seen[0][brain == 0] == -3).all()
    assert (seen[1] == 0).all()
    assert (seen[2] == seen[0]).all()
    assert [float(flag.unique()) for flag in seen[3:]] == [1, 0, 1]


def test_augmenting_is_a_function_of_its_stream() -> None:
    one, again = (augment(_sample(), AugmentPlan(), _rng(4), size=8, thin=True) for _ in range(2))
    other = augment(_sample(), AugmentPlan(), _rng(5), size=8, thin=True)
    _same(one, again, rtol=0, atol=0)
    assert not torch.equal(one.images, other.images)
