from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.reports.images.plots import Mark, bland_altman, plot, round_up, tick_step


def test_plot_maps_values_to_pixels() -> None:
    chart = plot("t", "d", ("x", "y"), ((0, 10), (0, 1)), [Mark(5, 1, "middle")])
    assert (chart.x(5), chart.y(1), chart.x.ticks[1]) == (231.0, 14.0, (126.0, "2"))


def test_bland_altman_has_margins_and_labelled_lines() -> None:
    lines = {"upper": (2.0, "2 mL")}
    chart = bland_altman("t", "d", ("x", "y"), [Mark(4.3, -1, "one")], lines)
    assert (chart.x.high, chart.y.low, chart.y.high) == pytest.approx((5.0, -1.36, 2.36))
    assert [stroke.words for stroke in chart.strokes] == ["", "upper limit 2 mL"]


def test_round_up_gives_a_multiple_of_the_tick_step() -> None:
    assert [round_up(value) for value in (0.0, 4.3, 50.1)] == [1.0, 5.0, 60.0]


def test_tick_step_of_small_examples() -> None:
    steps = [tick_step(largest) for largest in (0.0, 0.9, 7, 40, 1000)]
    assert steps == [1.0, 0.2, 1.0, 5.0, 200.0]


@given(st.floats(1e-3, 1e6))
def test_tick_step_is_1_2_or_5_times_power_of_ten(largest: float) -> None:
    step = tick_step(largest)
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(leading - round_one) for round_one in (1, 2, 5)) < 1e-6
    assert largest / step <= 8.001
