from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bids_msseg.lesions.raters.union import FLOOR, Votes, collect_votes, dilate, local_weights

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


def _votes(n: int = 5, margin: int = 0) -> Votes:
    rng = np.random.default_rng(3)
    return collect_votes(list(rng.random((n, 8, 9, 7)) > 0.6), margin=margin)


@pytest.mark.parametrize("margin", [0, 2])
def test_weights_have_mean_one_at_every_voxel(margin: int) -> None:
    votes = _votes(margin=margin)
    weights = local_weights(votes, (1, 1, 2))
    assert weights.shape == votes.drawn.shape
    np.testing.assert_allclose(weights.mean(axis=0), 1)
    assert (weights > 0).all()


def test_one_or_two_raters_have_weight_one() -> None:
    for n in (1, 2):
        assert (local_weights(_votes(n), (1, 1, 1)) == 1).all()


def test_contradicting_rater_has_low_weight_only_locally() -> None:
    masks = np.zeros((4, 40, 6, 6), bool)
    masks[:, 2:8] = True
    masks[:, 30:36] = True
    masks[3, 30:36] = False
    votes = collect_votes(list(masks))
    weights = local_weights(votes, (1, 1, 1))
    half = weights.shape[1] // 2
    np.testing.assert_allclose(weights[:, :half], 1)
    # three raters agree with two of three others each, the fourth with none
    expected = np.array([2 / 3] * 3 + [FLOOR])
    np.testing.assert_allclose(
        weights[:, half:], np.repeat((expected / expected.mean())[:, None], half, axis=1)
    )


def test_neighbourhood_is_measured_in_mm() -> None:
    masks = np.zeros((3, 20, 1, 1), bool)
    masks[:, :10] = True
    masks[:2, 10:] = True
    votes = collect_votes(list(masks))
    sharp = local_weights(votes, (100, 1, 1))
    smooth = local_weights(votes, (1, 1, 1))
    assert sharp[2, 9] == 1
    assert FLOOR < smooth[2, 9] < 1
    assert smooth[2, 0] == pytest.approx(1)
