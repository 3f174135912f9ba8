"""Comparison of one-dimensional masks before and after painting of lesions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.check.measures import compare_masks

LENGTH = 14


def line(**labels: slice) -> np.ndarray:
    """Label voxels of a line; ``_2=slice(4, 6)`` sets label 2."""
    values = np.zeros(LENGTH, np.int32)
    for name, place in labels.items():
        values[place] = int(name[1:])
    return values.reshape(-1, 1, 1)


def test_predicted_lesion_over_two_painted_ones_is_divided() -> None:
    painted = line(_1=slice(2, 4), _2=slice(8, 10))
    found = compare_masks(painted, line(), line(_1=slice(2, 10)))
    assert found.found.tolist() == [True, True]
    # voxels 4 and 5 are nearer to the first, 6 and 7 to the second
    assert found.volumes.tolist() == [4, 4]
    assert found.false == ()


def test_lesions_present_before_painting_are_not_counted() -> None:
    painted, before = line(_1=slice(10, 12)), line(_1=slice(0, 3))
    grown = compare_masks(painted, before, line(_1=slice(0, 4)))
    assert (grown.found.tolist(), grown.volumes.tolist(), grown.false) == ([False], [0], ())
    gone = compare_masks(painted, before, line())
    assert (gone.found.tolist(), gone.volumes.tolist(), gone.false) == ([False], [0], ())


def test_only_new_voxels_of_merged_lesion_count() -> None:
    painted, before = line(_1=slice(6, 9)), line(_1=slice(2, 4))
    found = compare_masks(painted, before, line(_1=slice(2, 9)))
    assert (found.found.tolist(), found.volumes.tolist(), found.false) == ([True], [5], ())


@pytest.mark.parametrize(
    ("after", "false"),
    [
        (line(_1=slice(4, 7)), (3,)),
        (line(_1=slice(4, 5), _2=slice(12, 14)), (2, 1)),
        # a lesion beside a painted one does not overlap it
        (line(_1=slice(2, 3)), (1,)),
        (line(_1=slice(1, 3)), ()),
    ],
)
def test_false_positives_touch_no_painted_or_earlier_lesion(
    after: np.ndarray, false: tuple[int, ...]
) -> None:
    painted, before = line(_1=slice(0, 2)), line(_1=slice(9, 10))
    assert compare_masks(painted, before, after).false == false


def test_without_painted_lesions_all_new_ones_are_false() -> None:
    found = compare_masks(line(), line(), line(_1=slice(3, 5)))
    assert (found.found.tolist(), found.volumes.tolist(), found.false) == ([], [], (2,))


@given(st.lists(st.integers(0, 3), min_size=LENGTH, max_size=LENGTH))
def test_every_new_voxel_on_a_painted_lesion_is_counted_once(values: list[int]) -> None:
    painted = line(_1=slice(0, 3), _2=slice(6, 9))
    after = np.unique(values, return_inverse=True)[1] if 0 in values else np.array(values)
    mask = after.astype(np.int32).reshape(-1, 1, 1)
    found = compare_masks(painted, line(), mask)
    touching = set(mask[painted > 0].tolist()) - {0}
    assert found.volumes.sum() == np.isin(mask, list(touching)).sum()
    assert sum(found.false) == (mask > 0).sum() - found.volumes.sum()
    assert (found.volumes[found.found] > 0).all()
