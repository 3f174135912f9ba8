from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.check.rescan import RescanPlan, map_back, plan_rescans, pseudo_rescan
from bids_msseg.imaging.normalise import zscore

ALL = (True, True, True)
STILL = RescanPlan(degrees=0, shift=(0, 0, 0), noise=0)


@pytest.fixture(scope="module")
def ball() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth images, a spherical brain of 20 voxels, and an off-centre lesion of 7 voxels."""
    index = np.indices((28, 26, 24)).astype(float)
    far = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(index, (13, 12, 11), strict=True)))
    spot = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(index, (16, 10, 12), strict=True)))
    brain = far < 10
    shape = np.stack([np.sin(0.2 * axis) for axis in index]) + 3 * np.exp(-(spot**2) / 12)
    images = np.where(brain, [zscore(one, brain) for one in shape], -3).astype(np.float32)
    return images, brain, spot < 3.5


def test_whole_voxel_shift_is_exact(ball) -> None:
    images, brain, _ = ball
    plan = RescanPlan(degrees=0, shift=(2, -1, 3), noise=0)
    again = pseudo_rescan(images, ALL, brain, plan)
    rim = (again.brain.shape[0] - brain.shape[0]) // 2
    corner = [rim + by for by in (2, -1, 3)]
    box = tuple(slice(at, at + edge) for at, edge in zip(corner, brain.shape, strict=True))
    assert again.brain.sum() == brain.sum()
    np.testing.assert_array_equal(again.brain[box], brain)
    for channel in range(3):
        seen = again.images[channel][box]
        np.testing.assert_allclose(seen[brain], zscore(images[channel], brain)[brain], atol=1e-4)
        assert (again.images[channel][~again.brain] == -3).all()
    probability = np.zeros(again.brain.shape, np.float32)
    probability[box] = brain
    np.testing.assert_array_equal(map_back(probability, again, brain.shape), brain)


def test_quarter_turn_equals_array_rotation(ball) -> None:
    images, brain, _ = ball
    cube, inside = images[:, :24, :24, :24], brain[:24, :24, :24]
    plan = RescanPlan(degrees=90, turn_axis=(0, 0, 2), shift=(0, 0, 0), noise=0)
    again = pseudo_rescan(cube, ALL, inside, plan)
    rim = (again.brain.shape[0] - 24) // 2
    box = (slice(rim, rim + 24),) * 3
    # a right-handed turn about z brings x to y
    np.testing.assert_array_equal(again.brain[box], np.rot90(inside, 1, (0, 1)))
    turned = np.rot90(cube[0], 1, (0, 1))
    where = again.brain[box]
    np.testing.assert_allclose(
        again.images[0][box][where], zscore(turned, where)[where], atol=1e-3
    )


def test_map_back_returns_lesion_to_original_position(ball) -> None:
    images, brain, lesion = ball
    again = pseudo_rescan(images, ALL, brain, RescanPlan(noise=0))
    # the lesion is the brightest spot: its centre must be mapped back
    bright = np.where(again.brain, again.images[0], -9)
    marked = (bright >= np.sort(bright.ravel())[-30]).astype(np.float32)
    back = map_back(marked, again, brain.shape)
    centre = [(back * axis).sum() / back.sum() for axis in np.indices(brain.shape)]
    middle = [axis[lesion].mean() for axis in np.indices(brain.shape)]
    np.testing.assert_allclose(centre, middle, atol=0.7)
    kept = map_back(again.brain.astype(np.float32), again, brain.shape) >= 0.5
    assert 2 * (kept & brain).sum() / (kept.sum() + brain.sum()) > 0.97


def test_noise_has_requested_standard_deviation(ball) -> None:
    images, brain, _ = ball
    calm = pseudo_rescan(images, ALL, brain, STILL)
    noisy = pseudo_rescan(images, ALL, brain, RescanPlan(degrees=0, shift=(0, 0, 0), noise=0.2))
    for channel in range(3):
        pair = np.corrcoef(calm.images[channel][brain], noisy.images[channel][brain])[0, 1]
        # the correlation of x with x + noise is 1 / sqrt(1 + variance)
        assert pair == pytest.approx(1 / np.sqrt(1.04), abs=0.004)
    apart = (noisy.images - calm.images)[:, brain]
    assert abs(np.corrcoef(apart)[0, 1]) < 0.1


def test_noise_of_thick_slices_is_correlated_across_slices(ball) -> None:
    images, brain, _ = ball
    plan = RescanPlan(degrees=0, shift=(0, 0, 0), noise=0.2, slices=6.0)
    apart = (
        pseudo_rescan(images, ALL, brain, plan).images
        - pseudo_rescan(images, ALL, brain, STILL).images
    )[0]
    across = np.corrcoef(apart[10:16, 10:16, 10].ravel(), apart[10:16, 10:16, 11].ravel())[0, 1]
    along = np.corrcoef(apart[10:16, 10:16, 10].ravel(), apart[11:17, 10:16, 10].ravel())[0, 1]
    assert across > 0.8
    assert abs(along) < 0.5


def test_a_missing_contrast_stays_missing(ball) -> None:
    images, brain, _ = ball
    again = pseudo_rescan(images, (True, False, True), brain, RescanPlan())
    assert not again.images[1].any()
    assert (again.images[2][~again.brain] == -3).all()
    assert again.images[2][again.brain].std() > 0.9


def test_the_same_seed_gives_the_same_scan(ball) -> None:
    images, brain, _ = ball
    first, second, other = (
        pseudo_rescan(images, ALL, brain, RescanPlan(seed=seed)).images for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_each_contrast_has_its_own_noise(ball) -> None:
    images, brain, _ = ball
    calm = pseudo_rescan(images, ALL, brain, STILL)
    noisy = pseudo_rescan(images, ALL, brain, replace(STILL, noise=(0.0, 0.2, 0.0)))
    changed = [not np.array_equal(calm.images[c], noisy.images[c]) for c in range(3)]
    assert changed == [False, True, False]


def test_scalar_noise_equals_three_equal_values(ball) -> None:
    images, brain, _ = ball
    one, three = (
        pseudo_rescan(images, ALL, brain, RescanPlan(noise=noise)).images
        for noise in (0.1, (0.1, 0.1, 0.1))
    )
    np.testing.assert_array_equal(one, three)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_planned_movements_are_small_and_depend_on_seed(seed: int, count: int) -> None:
    plans, again = (
        plan_rescans((1.0, 1.0, 1.2), (0.1, 0.2, 0.3), np.random.default_rng(seed), count)
        for _ in range(2)
    )
    assert plans == again
    assert len(set(plans)) == count
    for plan in plans:
        assert 1 <= plan.degrees <= 5
        assert max(map(abs, plan.shift)) <= 2
        assert (plan.noise, plan.slices) == ((0.1, 0.2, 0.3), 1.0)


@pytest.mark.parametrize("axis", range(3))
def test_rescans_of_thick_slices_are_planned_in_plane(axis: int) -> None:
    spacing = [0.9, 0.9, 0.9]
    spacing[axis] = 5.0
    plans = plan_rescans(spacing, (0.1, 0.1, 0.1), np.random.default_rng(0), 3)
    for plan in plans:
        assert (plan.degrees, plan.shift[axis]) == (0, 0)
        assert (plan.slices, plan.slice_axis) == (5.0, axis)
        assert sum(by != 0 for by in plan.shift) == 2
    assert len({plan.seed for plan in plans}) == 3
