from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.lesions.comparison.bootstrap import FEWEST, draw_patients, estimate_mean


def test_interval_matches_exhaustive_resampling() -> None:
    values = [0.1, 0.2, 0.4, 0.7, 1.1]
    every = [sum(draw) / 5 for draw in product(values, repeat=5)]
    found = estimate_mean(values, draws=40_000)
    assert found.mean == pytest.approx(0.5)
    assert found.low == pytest.approx(np.quantile(every, 0.025), abs=0.02)
    assert found.high == pytest.approx(np.quantile(every, 0.975), abs=0.02)
    assert (found.n_patients, found.n_visits, found.has_interval) == (5, 5, True)


def test_four_patients_have_no_interval() -> None:
    found = estimate_mean([0.2, 0.4, 0.6, 0.8])
    assert found.mean == pytest.approx(0.5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.has_interval


def test_visits_of_one_patient_count_as_one_patient() -> None:
    values = [0.0, 1.0, 2.0, 3.0, 4.0]
    alone = estimate_mean(values)
    twice = estimate_mean(values * 2, [f"p{n}" for n in range(5)] * 2)
    assert (twice.n_patients, twice.n_visits) == (5, 10)
    assert (twice.low, twice.high) == (alone.low, alone.high)
    assert not estimate_mean(values, ["a", "a", "b", "b", "c"]).has_interval


def test_mean_weights_visits_equally() -> None:
    assert estimate_mean([0.0, 0.0, 0.0, 1.0], ["a", "a", "a", "b"]).mean == 0.25


def test_nan_values_are_ignored() -> None:
    found = estimate_mean([math.nan, 0.25, 0.75, math.nan])
    assert (found.mean, found.n_patients, found.n_visits) == (0.5, 2, 2)
    nothing = estimate_mean([math.nan])
    assert math.isnan(nothing.mean)
    assert nothing.n_visits == 0
    assert math.isnan(estimate_mean([]).mean)


def test_interval_is_reproducible_for_same_seed() -> None:
    values = list(np.random.default_rng(0).normal(size=9))
    assert estimate_mean(values, seed=3) == estimate_mean(values, seed=3)
    assert estimate_mean(values, seed=3).low != estimate_mean(values, seed=4).low


def test_wrong_number_of_patients_is_refused() -> None:
    with pytest.raises(ValueError, match="2 values, but 1 patients"):
        estimate_mean([0.1, 0.2], ["a"])


@given(st.lists(st.floats(0, 1), min_size=FEWEST, max_size=12))
def test_interval_is_within_range_of_values(values: list[float]) -> None:
    found = estimate_mean(values, draws=200)
    assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12


def test_default_number_of_draws_is_ten_thousand() -> None:
    values = list(np.random.default_rng(1).normal(size=9))
    assert estimate_mean(values) == estimate_mean(values, draws=10_000)
    assert estimate_mean(values) != estimate_mean(values, draws=10_001)


def test_draws_are_yielded_in_chunks_of_a_thousand() -> None:
    parts = list(draw_patients(4, 2500, np.random.default_rng(0)))
    assert [part.shape for part in parts] == [(1000, 4), (1000, 4), (500, 4)]
    assert set(np.unique(np.concatenate(parts))) == {0, 1, 2, 3}
