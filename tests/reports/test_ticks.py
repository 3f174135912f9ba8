from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.reports.images.ticks import tick_step


@given(st.floats(1e-3, 1e6))
def test_a_tick_step_is_round(largest: float) -> None:
    step = tick_step(largest)
    leading = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(leading - round_one) for round_one in (1, 2, 5)) < 1e-6
    assert largest / step <= 8.001
