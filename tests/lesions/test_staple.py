from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.lesions.raters.staple import pooled_staple, share_of_raters, staple

SENSITIVITY = np.array([0.9, 0.8, 0.7, 0.95, 0.6])
SPECIFICITY = np.array([0.95, 0.8, 0.9, 0.7, 0.98])


def _simulated(voxels: int = 40_000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masks of raters with independent errors, and the true mask."""
    rng = np.random.default_rng(seed)
    truth = rng.random(voxels) < 0.3
    chance = np.where(truth, SENSITIVITY[:, None], 1 - SPECIFICITY[:, None])
    return rng.random(chance.shape) < chance, truth


@pytest.mark.parametrize("pooled", [False, True])
def test_known_sensitivity_and_specificity_are_estimated(pooled: bool) -> None:
    drawn, truth = _simulated()
    found = pooled_staple(drawn, np.ones(drawn.shape)) if pooled else staple(drawn)
    np.testing.assert_allclose(found.sensitivity, SENSITIVITY, atol=0.02)
    np.testing.assert_allclose(found.specificity, SPECIFICITY, atol=0.02)
    assert np.mean((found.probability >= 0.5) == truth) > 0.97


@pytest.mark.parametrize("pooled", [False, True])
def test_two_good_raters_outweigh_three_poor_raters(pooled: bool) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(20_000) < 0.5
    wrong = rng.random((5, truth.size)) < np.array([0.05, 0.05, 0.4, 0.4, 0.4])[:, None]
    drawn = truth ^ wrong
    found = pooled_staple(drawn, np.ones(drawn.shape)) if pooled else staple(drawn)
    fused = np.mean((found.probability >= 0.5) == truth)
    majority = np.mean((drawn.mean(axis=0) >= 0.5) == truth)
    assert fused > majority + 0.05


def test_pooled_staple_with_equal_weights_equals_simpleitk() -> None:
    drawn, _ = _simulated(5000)
    ours, theirs = pooled_staple(drawn, np.ones(drawn.shape)), staple(drawn)
    np.testing.assert_allclose(ours.sensitivity, theirs.sensitivity, atol=1e-4)
    np.testing.assert_allclose(ours.specificity, theirs.specificity, atol=1e-4)
    np.testing.assert_allclose(ours.probability, theirs.probability, atol=2e-3)


def test_staple_of_voxel_list_equals_staple_of_volume() -> None:
    drawn, _ = _simulated(20 * 25 * 10)
    volumes = [row.reshape(10, 25, 20).astype(np.uint8) for row in drawn]
    filter_ = sitk.STAPLEImageFilter()
    volume = filter_.Execute([sitk.GetImageFromArray(one) for one in volumes])
    found = staple(drawn)
    np.testing.assert_array_equal(found.probability, sitk.GetArrayFromImage(volume).ravel())
    np.testing.assert_array_equal(found.sensitivity, filter_.GetSensitivity())
    np.testing.assert_array_equal(found.specificity, filter_.GetSpecificity())


def test_rater_with_zero_weight_does_not_change_probability() -> None:
    drawn, _ = _simulated(4000)
    weights = np.ones(drawn.shape)
    weights[2] = 0
    other = drawn.copy()
    # the prior, which is the share over all raters, stays the same
    other[2] = np.random.default_rng(1).permutation(drawn[2])
    first, second = pooled_staple(drawn, weights), pooled_staple(other, weights)
    np.testing.assert_allclose(first.probability, second.probability, atol=1e-12)
    assert not np.allclose(
        pooled_staple(drawn, weights + 1).probability,
        pooled_staple(other, weights + 1).probability,
        atol=1e-2,
    )


def test_local_weights_act_only_locally() -> None:
    """One rater has nearly all the weight in the first half and determines only that half."""
    drawn, _ = _simulated(4000)
    weights = np.ones(drawn.shape)
    weights[1:, :2000], weights[0, :2000] = 0.01, 5
    found = pooled_staple(drawn, weights)
    np.testing.assert_array_equal(found.probability[:2000] > 0.5, drawn[0, :2000])
    assert ((found.probability[2000:] > 0.5) != drawn[0, 2000:]).any()


@given(st.permutations(range(5)))
def test_rater_order_does_not_change_pooled_staple(order: list[int]) -> None:
    drawn, _ = _simulated(500)
    weights = np.random.default_rng(0).uniform(0.5, 1.5, drawn.shape)
    first, second = pooled_staple(drawn, weights), pooled_staple(drawn[order], weights[order])
    np.testing.assert_allclose(first.probability, second.probability, atol=1e-6)
    np.testing.assert_allclose(first.sensitivity[order], second.sensitivity, atol=1e-6)


def test_likelihood_increases_with_iterations() -> None:
    drawn, _ = _simulated(2000)
    steps = [pooled_staple(drawn, np.ones(drawn.shape), max_iterations=n) for n in (1, 2, 5, 100)]
    fits = [_log_likelihood(drawn, one.sensitivity, one.specificity) for one in steps]
    assert fits == sorted(fits)
    assert fits[0] < fits[-1] - 1
    assert steps[-1].iterations < 100


def _log_likelihood(drawn: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    prior = drawn.mean()
    lesion = np.where(drawn, p[:, None], 1 - p[:, None]).prod(axis=0)
    other = np.where(drawn, 1 - q[:, None], q[:, None]).prod(axis=0)
    return float(np.log(prior * lesion + (1 - prior) * other).sum())


def test_invalid_weights_are_refused() -> None:
    drawn = np.ones((2, 3), bool)
    for weights in (np.ones((3, 2)), -np.ones((2, 3))):
        with pytest.raises(ValueError, match="weight"):
            pooled_staple(drawn, weights)


def test_share_of_raters_estimates_no_performance() -> None:
    found = share_of_raters(np.array([[1, 1, 0], [1, 0, 0]], bool))
    np.testing.assert_array_equal(found.probability, [1, 0.5, 0])
    assert np.isnan([found.sensitivity, found.specificity]).all()
