from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bids_msseg.lesions.raters.union import collect_votes, dilate

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 3), *[st.integers(1, 5)] * 3))


@given(MASKS, st.integers(0, 3))
def test_votes_on_grid_equal_masks(masks: np.ndarray, margin: int) -> None:
    votes = collect_votes(list(masks), margin=margin)
    for mask, row in zip(masks, votes.drawn, strict=True):
        np.testing.assert_array_equal(votes.on_grid(row), mask)


@given(MASKS, st.integers(0, 3))
def test_union_is_dilated_beyond_grid(masks: np.ndarray, margin: int) -> None:
    votes = collect_votes(list(masks), margin=margin)
    padded = np.pad(masks, [(0, 0), *[(margin, margin)] * 3])
    assert votes.drawn.shape[1] == dilate(padded.any(axis=0), margin).sum()


def test_union_without_margin_contains_only_drawn_voxels() -> None:
    masks = np.random.default_rng(0).random((3, 6, 6, 6)) > 0.8
    votes = collect_votes(list(masks))
    assert votes.drawn.any(axis=0).all()
    assert votes.drawn.shape[1] == masks.any(axis=0).sum()


def test_dilate_includes_diagonals() -> None:
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    grown = np.zeros_like(mask)
    grown[1:6, 1:6, 1:6] = True
    np.testing.assert_array_equal(dilate(mask, 2), grown)


def test_different_grids_and_missing_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="different grids"):
        collect_votes([np.zeros((2, 2, 2)), np.zeros((2, 2, 3))])
    with pytest.raises(ValueError, match="no mask"):
        collect_votes([])


def test_votes_of_small_example() -> None:
    first, second = np.zeros((2, 9, 1, 1), bool)
    first[0], second[1] = True, True
    assert collect_votes([first, second]).drawn.tolist() == [[True, False], [False, True]]
    votes = collect_votes([first, second], margin=1)
    assert (votes.drawn.shape, votes.origin) == ((2, 36), (-1, -1, -1))
    assert votes.on_grid(votes.drawn.mean(axis=0)).ravel().tolist() == [0.5, 0.5, *[0.0] * 7]
