from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.reports.images.ticks import tick_step


def test_tick_step_of_small_examples() -> None:
    steps = [tick_step(largest) for largest in (0.0, 0.9, 7, 40, 1000)]
    assert steps == [1.0, 0.2, 1.0, 5.0, 200.0]


@given(st.floats(1e-3, 1e6))
def test_tick_step_is_1_2_or_5_times_power_of_ten(largest: float) -> None:
    step = tick_step(largest)
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(leading - round_one) for round_one in (1, 2, 5)) < 1e-6
    assert largest / step <= 8.001
