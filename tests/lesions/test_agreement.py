"""Agreement of volumes over a cohort."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bids_msseg.lesions.comparison import agreement
from bids_msseg.lesions.comparison.agreement import Statistic, estimate
from bids_msseg.lesions.comparison.bootstrap import estimate_mean

STATISTICS: list[Statistic] = [
    agreement.pearson,
    agreement.icc_2_1,
    agreement.bias,
    agreement.lower_limit,
    agreement.upper_limit,
]


def pairs(seed: int, n: int = 8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    first = rng.gamma(2, 6, n)
    return np.column_stack([first, first * rng.normal(1, 0.2, n) + rng.normal(1, 1, n)])


def test_icc_of_shrout_fleiss_example() -> None:
    """Shrout & Fleiss 1979, table 2: four judges, six targets, ICC(2,1) = 0.29."""
    table = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]],
        float,
    )
    assert float(agreement.icc_2_1(table, np.ones(6))) == pytest.approx(0.2898, abs=1e-4)


@given(st.integers(0, 500))
def test_icc_equals_analysis_of_variance(seed: int) -> None:
    values = pairs(seed)
    n = len(values)
    rows = stats.f_oneway(*values).statistic
    within = values.var(axis=1, ddof=1).mean()
    between = rows * within
    columns = n * values.mean(0).var(ddof=1)
    rest = (within * n - columns) / (n - 1)
    expected = (between - rest) / (between + rest + 2 * (columns - rest) / n)
    assert float(agreement.icc_2_1(values, np.ones(n))) == pytest.approx(expected)


@given(st.integers(0, 500))
def test_pearson_equals_scipy(seed: int) -> None:
    values = pairs(seed)
    expected = stats.pearsonr(values[:, 0], values[:, 1]).statistic
    assert float(agreement.pearson(values, np.ones(8))) == pytest.approx(expected)


def test_limits_of_agreement_of_small_example() -> None:
    """Differences 1, 3, 5: mean 3, standard deviation 2."""
    values, ones = np.array([[2.0, 1], [5, 2], [9, 4]]), np.ones(3)
    assert float(agreement.bias(values, ones)) == 3
    assert float(agreement.lower_limit(values, ones)) == pytest.approx(3 - 3.92)
    assert float(agreement.upper_limit(values, ones)) == pytest.approx(3 + 3.92)


REPEATS = np.array([[1.2, 1.0, 0.02, 2], [3.1, 3.0, 0.08, 3], [2.0, 2.0, 0.0, 1]])
"""Mean of the first measurements, the second one, sum of squares of the first, their number."""


def test_limits_of_repeated_measurements_of_small_example() -> None:
    """Mean differences 0.2, 0.1 and 0, with a variance of 0.01.

    Within visits it is 0.1 / 3, of which means of two, three and one measurements keep
    (1/2 + 1/3 + 1) / 3 = 11/18 on average, and have lost 7/18.
    """
    apart = 1.96 * math.sqrt(0.01 + 7 / 18 * 0.1 / 3)
    ones = np.ones(3)
    lower = float(agreement.lower_limit_of_repeats(REPEATS, ones))
    upper = float(agreement.upper_limit_of_repeats(REPEATS, ones))
    assert (lower, upper) == pytest.approx((0.1 - apart, 0.1 + apart))


@given(st.integers(0, 500))
def test_limits_without_repeats_equal_standard_limits(seed: int) -> None:
    values = pairs(seed)
    rows, ones = np.column_stack([values, np.zeros(8), np.ones(8)]), np.ones(8)
    for usual, repeated in (
        (agreement.lower_limit, agreement.lower_limit_of_repeats),
        (agreement.upper_limit, agreement.upper_limit_of_repeats),
    ):
        assert float(repeated(rows, ones)) == pytest.approx(float(usual(values, ones)))


@pytest.mark.parametrize(
    ("statistic", "rows"),
    [
        (agreement.lower_limit_of_repeats, REPEATS),
        (agreement.upper_limit_of_repeats, REPEATS),
        (agreement.smallest_change, REPEATS[:, 2:]),
    ],
)
def test_weighted_repeats_equal_duplicated_rows(statistic: Statistic, rows: np.ndarray) -> None:
    weights = np.array([2, 1, 3])
    both = np.stack([weights, np.ones(3, int)]).astype(float)
    often = np.repeat(rows, weights, axis=0)
    expected = [statistic(often, np.ones(6)), statistic(rows, np.ones(3))]
    np.testing.assert_allclose(statistic(rows, both), expected)


def test_smallest_change_of_small_example() -> None:
    """Sums of squares 0.02 and 0.06 with 1 and 3 degrees of freedom: a variance of 0.02."""
    found = agreement.smallest_change(np.array([[0.02, 1], [0.06, 3]]), np.ones(2))
    assert float(found) == pytest.approx(1.96 * 0.2)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_weighted_statistic_equals_duplicated_rows(statistic: Statistic) -> None:
    values, weights = pairs(3, 4), np.array([2, 0, 1, 3])
    repeated = np.repeat(values, weights, axis=0)
    both = np.stack([weights, np.ones(4, int)]).astype(float)
    expected = [statistic(repeated, np.ones(6)), statistic(values, np.ones(4))]
    np.testing.assert_allclose(statistic(values, both), expected)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_fewer_than_three_visits_have_no_statistic(statistic: Statistic) -> None:
    found = estimate(pairs(0, 2), ["a", "b"], statistic)
    assert math.isnan(found.value)
    assert (found.n_patients, found.n_visits) == (2, 2)


def test_fewer_than_five_patients_have_no_interval() -> None:
    names = ["a", "a", "b", "b", "c", "c", "d", "d"]
    found = estimate(pairs(0), names, agreement.pearson)
    assert not math.isnan(found.value)
    assert math.isnan(found.low)
    assert (found.n_patients, found.n_visits) == (4, 8)


def test_bias_interval_equals_interval_of_mean_difference() -> None:
    values, names = pairs(1), [f"p{number // 2}" for number in range(8)] + ["p4", "p5"]
    values = np.vstack([values, [[1.0, 4.0], [2.0, 2.0]]])
    found = estimate(values, names, agreement.bias)
    mean = estimate_mean((values[:, 0] - values[:, 1]).tolist(), names)
    assert (found.low, found.high) == pytest.approx((mean.low, mean.high))
    assert found.value == pytest.approx(mean.mean)


def test_rows_with_nan_are_ignored() -> None:
    values = np.vstack([pairs(0), [[1.0, math.nan]]])
    names = list("abcdefghi")
    assert estimate(values, names, agreement.pearson).n_visits == 8


def test_correlation_with_constant_values_is_nan() -> None:
    values = np.column_stack([np.ones(6), np.arange(6.0)])
    assert math.isnan(estimate(values, list("abcdef"), agreement.pearson).value)


def test_bias_is_defined_for_three_visits() -> None:
    found = estimate(pairs(0, 3), list("aab"), agreement.bias)
    assert found.value == pytest.approx(float(np.diff(pairs(0, 3)).mean() * -1))
    assert (found.n_patients, found.n_visits) == (2, 3)


def test_five_patients_have_an_interval() -> None:
    found = estimate(pairs(0, 5), list("abcde"), agreement.bias)
    assert found.low < found.value < found.high
