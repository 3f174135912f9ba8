from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.reports.strip import MARGIN, WIDTH, draw_strip, tick_step

loads = st.lists(st.floats(0, 300), min_size=1, max_size=60)


@given(loads)
def test_dots_stay_on_the_strip_in_the_order_of_their_loads(values: list[float]) -> None:
    strip = draw_strip([(v, str(i), "", False) for i, v in enumerate(values)], median=values[0])
    assert all(MARGIN <= dot.x <= WIDTH - MARGIN + 0.1 for dot in strip.dots)
    assert all(0 <= dot.y <= strip.baseline for dot in strip.dots)
    ordered = sorted(zip(values, strip.dots, strict=True), key=lambda pair: pair[0])
    assert all(a.x <= b.x for (_, a), (_, b) in itertools.pairwise(ordered))


@given(loads)
def test_ticks_reach_beyond_the_largest_load(values: list[float]) -> None:
    strip = draw_strip([(v, "", "", False) for v in values], median=0)
    last_x, last = strip.ticks[-1]
    assert last_x == pytest.approx(WIDTH - MARGIN)
    assert float(last) >= max(values) * (1 - 1e-6)
    assert 2 <= len(strip.ticks) <= 12


def test_equal_loads_are_stacked_apart() -> None:
    strip = draw_strip([(5.0, str(i), "", False) for i in range(5)], median=5)
    assert len({dot.y for dot in strip.dots}) == 5
    assert min(a.y - b.y for a, b in itertools.pairwise(strip.dots)) >= 2 * strip.radius - 0.1


def test_ten_thousand_visits_fit() -> None:
    strip = draw_strip([(1.0, "", "", False)] * 10_000, median=1)
    assert min(dot.y for dot in strip.dots) >= 0


@given(st.floats(1e-3, 1e6))
def test_a_tick_step_is_round(largest: float) -> None:
    step = tick_step(largest)
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(leading - round_one) for round_one in (1, 2, 5)) < 1e-6
    assert largest / step <= 8.001
