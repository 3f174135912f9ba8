from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bids_msseg.lesions.raters.union import collect_votes, dilate

MASKS = hnp.arrays(bool, st.tuples(st.integers(1, 3), *[st.integers(1, 5)] * 3))


@given(MASKS, st.integers(0, 3))
def test_votes_lie_where_the_masks_are(masks: np.ndarray, margin: int) -> None:
    votes = collect_votes(list(masks), margin=margin)
    for mask, row in zip(masks, votes.drawn, strict=True):
        np.testing.assert_array_equal(votes.on_grid(row), mask)


@given(MASKS, st.integers(0, 3))
def test_the_union_is_dilated_beyond_the_grid(masks: np.ndarray, margin: int) -> None:
    votes = collect_votes(list(masks), margin=margin)
    padded = np.pad(masks, [(0, 0), *[(margin, margin)] * 3])
    assert votes.drawn.shape[1] == dilate(padded.any(axis=0), margin).sum()


def test_without_a_margin_somebody_drew_every_voxel() -> None:
    masks = np.random.default_rng(0).random((3, 6, 6, 6)) > 0.8
    votes = collect_votes(list(masks))
    assert votes.drawn.any(axis=0).all()
    assert votes.drawn.shape[1] == masks.any(axis=0).sum()


def test_a_mask_grows_along_diagonals_too() -> None:
    mask = np.zeros((7, 7, 7), bool)
    mask[3, 3, 3] = True
    grown = np.zeros_like(mask)
    grown[1:6, 1:6, 1:6] = True
    np.testing.assert_array_equal(dilate(mask, 2), grown)


def test_masks_have_to_share_a_grid() -> None:
    with pytest.raises(ValueError, match="different grids"):
        collect_votes([np.zeros((2, 2, 2)), np.zeros((2, 2, 3))])
    with pytest.raises(ValueError, match="no mask"):
        collect_votes([])
