"""Which values of a mask are lesion."""

from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.errors import DataError
from bids_msseg.lesions.mask_values import MaskValues, lesion_voxels


def taken(values: list[float], wanted: MaskValues = None, **how: bool) -> tuple[list[int], bool]:
    """Indices of the lesion voxels, and whether there is a note."""
    data = np.array(values, np.float32).reshape(-1, 1, 1)
    lesions, note = lesion_voxels(data, "m.nii", wanted, **how)
    assert lesions.shape == data.shape
    assert lesions.dtype == bool
    return np.flatnonzero(lesions).tolist(), bool(note)


@pytest.mark.parametrize(
    ("values", "places", "noted"),
    [
        ([0, 0, 0], [], False),
        ([0, 1, 0], [1], False),
        ([0, 255, 255], [1, 2], False),
        ([0, 1, 5, 7], [1, 2, 3], True),
        ([0, 2, 0, 3], [1, 3], True),
        (list(range(20)), list(range(1, 20)), True),
        # stored with a slope, as 1/255
        ([0, 0.25, 0.25], [1, 2], True),
        ([0, 1.00001, 2], [1, 2], True),
        ([0, 0.4, 0.6, 1], [2, 3], False),
    ],
)
def test_values_above_zero_are_lesion_by_default(
    values: list[float], places: list[int], noted: bool
) -> None:
    assert taken(values) == (places, noted)


@pytest.mark.parametrize(
    ("values", "wanted", "places", "noted"),
    [
        ([0, 1, 5, 7], (1,), [1], False),
        ([0, 1, 5, 7], (5, 7), [2, 3], False),
        ([0, 1, 5, 7], (7, 9), [3], False),
        ([0, 1, 5, 7], (9,), [], True),
        ([0, 255, 0], (1,), [], True),
        ([0, 0, 0], (1,), [], False),
        ([0, 0.6, 1.00001], (1,), [2], False),
    ],
)
def test_only_requested_values_are_lesion(
    values: list[float], wanted: tuple[int, ...], places: list[int], noted: bool
) -> None:
    assert taken(values, wanted) == (places, noted)
    assert taken(values, wanted, fractions=False) == (places, noted)


@pytest.mark.parametrize("values", [[0.1, 0.2, 0], [0.5, 0.25, 0.125], [0.01, 0.4999, 0.3]])
def test_fractions_up_to_one_half_are_refused(values: list[float]) -> None:
    with pytest.raises(DataError, match=r"exceeds 0\.5"):
        taken(values)


@pytest.mark.parametrize("values", [[-1, -1], [np.nan, 1], [-1, 1, 2], [np.inf, 0], [np.nan]])
def test_negative_and_non_finite_values_are_refused(values: list[float]) -> None:
    for how in (True, False):
        with pytest.raises(DataError, match="not a binary mask"):
            taken(values, fractions=how)


def test_fractions_are_refused_if_disabled() -> None:
    with pytest.raises(DataError, match="not a binary mask"):
        taken([0.3, 0.7], fractions=False)
    assert taken([0.3, 0.3], fractions=False) == ([0, 1], True)
