from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from bids_msseg.lesions.basins import split_at_saddles

LINE = np.array([0, 3, 1, 2.5, 0, 0, 5, 4.5, 5], np.float32)


def _split(height: np.ndarray, inside: np.ndarray, prominence: float) -> list[int]:
    components, _ = ndimage.label(inside[:, None, None], np.ones((3, 3, 3)))
    parts = split_at_saddles(
        components.astype(np.int32), height[:, None, None].astype(np.float32), prominence
    )
    return [int(part) for part in parts.ravel()]


@pytest.mark.parametrize(
    ("prominence", "expected"),
    [
        # the saddle belongs to the basin of the higher peak
        (1.0, [0, 1, 1, 2, 0, 0, 3, 3, 3]),
        (2.0, [0, 1, 1, 1, 0, 0, 2, 2, 2]),
    ],
)
def test_components_are_split_at_deep_saddles_only(prominence: float, expected: list[int]) -> None:
    found = _split(LINE, LINE > 0, prominence)
    # numbers depend on the library: compare the partition
    assert [found.index(part) for part in found] == [expected.index(part) for part in expected]
    assert [part > 0 for part in found] == [part > 0 for part in expected]
    assert max(found) == max(expected)


def test_plateau_stays_whole() -> None:
    inside = np.array([False, True, True, True, False])
    assert _split(np.full(5, 0.3), inside, 1.0) == [0, 1, 1, 1, 0]


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=27, max_size=27),
    st.lists(st.booleans(), min_size=27, max_size=27),
)
def test_parts_divide_components_and_are_connected(
    heights: list[float], inside: list[bool]
) -> None:
    cube = np.ones((3, 3, 3))
    components, count = ndimage.label(np.reshape(inside, (3, 3, 3)), cube)
    height = np.reshape(heights, (3, 3, 3)).astype(np.float32)
    parts = split_at_saddles(components.astype(np.int32), height, 1.0)
    assert np.array_equal(parts > 0, components > 0)
    numbers = range(1, int(parts.max()) + 1)
    assert len(numbers) >= count
    for number in numbers:
        assert np.unique(components[parts == number]).size == 1
        assert ndimage.label(parts == number, cube)[1] == 1
