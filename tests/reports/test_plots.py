from __future__ import annotations

import pytest

from bids_msseg.reports.images.plots import Mark, bland_altman, plot, round_up


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
