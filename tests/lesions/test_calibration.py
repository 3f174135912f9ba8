"""Probabilities against truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binned_statistic

from bids_msseg.lesions.confidence.calibration import pool, reliability


def test_reliability_of_small_example() -> None:
    """Three voxels at .25 of which one is lesion, two at .75 of which both are."""
    p = np.array([0.0, 0.25, 0.25, 0.25, 0.75, 0.75]).reshape(6, 1, 1)
    t = np.array([1, 1, 0, 0, 1, 1]).reshape(6, 1, 1)
    found = reliability(p, t, bins=4)
    assert found.count.tolist() == [0, 3, 0, 2]
    assert found.mean_probability.tolist()[1::2] == [0.25, 0.75]
    assert found.share_lesion.tolist()[1::2] == [pytest.approx(1 / 3), 1]
    assert np.isnan(found.mean_probability[::2]).all()
    assert found.ece == pytest.approx(3 / 5 * (1 / 3 - 1 / 4) + 2 / 5 * 1 / 4)


def test_within_mask_replaces_probability_floor() -> None:
    p, t = np.array([[[0.0, 0.0, 0.5, 0.9]]]), np.array([[[0, 1, 1, 1]]])
    found = reliability(p, t, within=np.array([[[1, 1, 1, 0]]]))
    assert found.count.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert found.ece == pytest.approx(2 / 3 * 0.5 + 1 / 3 * 0.5)


def test_floor_and_lower_bin_edges_are_inclusive() -> None:
    p = np.array([[[0.01, 0.1, 1.0, 0.0099, 1.2]]], np.float64)
    assert reliability(p, p > 0).count.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]


@given(st.integers(0, 1000))
def test_reliability_equals_scipy_binned_statistic(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.random((5, 6, 7))
    t = rng.random(p.shape) < p**2
    found = reliability(p, t, floor=0.0)
    edges = np.linspace(0, 1, 11)
    share, mean, count = (
        binned_statistic(p.ravel(), values.ravel(), kind, edges).statistic
        for values, kind in ((t.astype(float), "mean"), (p, "mean"), (p, "count"))
    )
    np.testing.assert_allclose(found.share_lesion, share)
    np.testing.assert_allclose(found.mean_probability, mean)
    expected = np.nansum(np.abs(share - mean) * count) / count.sum()
    assert found.ece == pytest.approx(expected)


def test_perfect_calibration_has_no_error() -> None:
    p = np.repeat([0.25, 0.75], 4).reshape(8, 1, 1)
    t = np.array([1, 0, 0, 0, 1, 1, 1, 0]).reshape(8, 1, 1)
    assert reliability(p, t).ece == pytest.approx(0)


def test_pool_of_parts_equals_reliability_of_whole() -> None:
    rng = np.random.default_rng(0)
    p, t = rng.random((8, 4, 4)), rng.random((8, 4, 4)) < 0.5
    whole = reliability(p, t)
    halves = pool([reliability(p[:3], t[:3]), reliability(p[3:], t[3:])])
    assert halves.count.tolist() == whole.count.tolist()
    assert halves.ece == pytest.approx(whole.ece)
    assert math.isnan(pool([]).ece)


def test_grids_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        reliability(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))


def test_bin_edges_range_from_zero_to_one() -> None:
    found = reliability(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_empty_bin_does_not_divide_by_zero() -> None:
    found = reliability(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)), floor=0.0, bins=2)
    with np.errstate(all="raise"):
        assert np.isnan(found.mean_probability).tolist() == [False, True]
