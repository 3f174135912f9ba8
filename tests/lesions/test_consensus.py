from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bids_msseg.lesions.raters.consensus import (
    METHODS,
    crop_to_union,
    fuse_masks,
    leave_one_out,
    score_raters,
)

GRID = (14, 12, 10)
SPACING = (1.0, 1.0, 1.0)
SIDES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=3)


def _block(*corner: int, edge: int = 4) -> np.ndarray:
    mask = np.zeros(GRID, bool)
    mask[tuple(slice(low, low + edge) for low in corner)] = True
    return mask


def _raters(n: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Masks of two lesions with random errors; the last rater misses one lesion."""
    rng = np.random.default_rng(seed)
    truth = _block(2, 2, 2) | _block(8, 5, 4)
    masks = [truth ^ (rng.random(GRID) < 0.05) for _ in range(n)]
    masks[-1] = masks[-1] & ~_block(8, 5, 4)
    return masks


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("margin", [0, 2])
@settings(max_examples=15)
@given(sides=SIDES, seed=st.integers(0, 20))
def test_padding_does_not_change_consensus_or_scores(
    method: str, margin: int, sides: list[tuple[int, int]], seed: int
) -> None:
    masks = _raters(seed=seed)
    first = fuse_masks(masks, method, SPACING, margin=margin)
    second = fuse_masks([np.pad(m, sides) for m in masks], method, SPACING, margin=margin)
    np.testing.assert_array_equal(second.probability, np.pad(first.probability, sides))
    np.testing.assert_array_equal(second.mask, np.pad(first.mask, sides))
    np.testing.assert_array_equal(second.sensitivity, first.sensitivity)
    np.testing.assert_array_equal(second.specificity, first.specificity)
    scores = [
        score_raters({str(i): m for i, m in enumerate(ms)}, fused, 1.0)
        for ms, fused in ((masks, first), ([np.pad(m, sides) for m in masks], second))
    ]
    assert scores[0] == scores[1]


@settings(max_examples=5)
@given(SIDES)
def test_padding_does_not_change_leave_one_out(sides: list[tuple[int, int]]) -> None:
    masks = dict(zip("abcd", _raters(), strict=True))
    padded = {name: np.pad(mask, sides) for name, mask in masks.items()}
    assert leave_one_out(padded, SPACING) == leave_one_out(masks, SPACING)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(order=st.permutations(range(5)), seed=st.integers(0, 20))
def test_rater_order_does_not_change_consensus(method: str, order: list[int], seed: int) -> None:
    masks = _raters(5, seed)
    first = fuse_masks(masks, method, SPACING)
    second = fuse_masks([masks[i] for i in order], method, SPACING)
    np.testing.assert_allclose(second.probability, first.probability, atol=1e-5)
    np.testing.assert_array_equal(second.mask, first.mask)
    np.testing.assert_allclose(second.sensitivity, first.sensitivity[order], atol=1e-5)
    np.testing.assert_allclose(second.weight, first.weight[order])


@pytest.mark.parametrize("method", METHODS)
@given(
    masks=hnp.arrays(bool, st.tuples(st.integers(1, 4), *[st.integers(1, 4)] * 3)),
    margin=st.integers(0, 2),
)
def test_consensus_is_inside_union_of_masks(method: str, masks: np.ndarray, margin: int) -> None:
    fused = fuse_masks(list(masks), method, SPACING, margin=margin)
    assert np.isfinite(fused.probability).all()
    assert fused.probability.min() >= 0
    assert fused.probability.max() <= 1
    assert fused.probability.dtype == np.float32
    np.testing.assert_array_equal(fused.mask, fused.probability >= 0.5)
    assert not fused.probability[~masks.any(axis=0)].any()
    if len(masks) == 1 or (masks == masks[0]).all():
        np.testing.assert_array_equal(fused.mask, masks[0])


def test_majority_ties_are_lesion() -> None:
    masks = [_block(0, 0, 0), _block(0, 0, 0), _block(5, 5, 5), _block(5, 5, 5)]
    fused = fuse_masks(masks, "majority", SPACING)
    np.testing.assert_array_equal(fused.mask, masks[0] | masks[2])
    fused = fuse_masks(masks[:3], "majority", SPACING)
    np.testing.assert_array_equal(fused.mask, masks[0])
    np.testing.assert_allclose(fused.probability[masks[2]], 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("method", ["staple", "lopstaple"])
def test_staple_of_two_raters_is_their_union(method: str) -> None:
    masks = [_block(2, 2, 2), _block(3, 2, 2)]
    fused = fuse_masks(masks, method, SPACING)
    np.testing.assert_array_equal(fused.mask, masks[0] | masks[1])
    np.testing.assert_array_equal(fused.probability, np.mean(masks, axis=0, dtype=np.float32))
    assert np.isnan(fused.sensitivity).all()


@pytest.mark.parametrize("method", ["staple", "lopstaple"])
def test_rater_missing_a_lesion_has_low_sensitivity(method: str) -> None:
    masks = _raters(5)
    fused = fuse_masks(masks, method, SPACING)
    assert fused.sensitivity[-1] < 0.7 < fused.sensitivity[:-1].min()
    truth = _block(2, 2, 2) | _block(8, 5, 4)
    assert 2 * (fused.mask & truth).sum() / (fused.mask.sum() + truth.sum()) > 0.95


def test_rater_missing_a_lesion_has_low_weight() -> None:
    weight = fuse_masks(_raters(5), "lopstaple", SPACING).weight
    assert weight[-1] < weight[:-1].min()
    assert weight.mean() == pytest.approx(1)
    assert (fuse_masks(_raters(5), "staple", SPACING).weight == 1).all()


@pytest.mark.parametrize("method", METHODS)
def test_consensus_of_empty_masks_is_empty(method: str) -> None:
    empty = np.zeros(GRID, bool)
    fused = fuse_masks([empty, empty], method, SPACING)
    assert not fused.mask.any()
    assert not fused.probability.any()
    score = score_raters({"a": empty}, fused, 1.0)["a"]
    assert np.isnan([score.voxel.dice, score.voxel.specificity, score.lesion.f1]).all()


def test_raters_are_scored_by_voxels_and_lesions() -> None:
    first, second, third = _block(2, 2, 2), _block(2, 2, 2) | _block(8, 5, 4), _block(2, 2, 2)
    fused = fuse_masks([first, second, third], "majority", SPACING)
    scores = score_raters({"a": first, "b": second}, fused, 1.0)
    assert scores["a"].voxel.dice == 1
    assert scores["b"].voxel.ppv == 0.5
    assert scores["b"].lesion.ppv == 0.5
    assert scores["b"].lesion.sensitivity == 1
    # two cubes of 8 voxels, the smallest box around them less the first lesion
    region = np.zeros(tuple(n + 4 for n in GRID), bool)
    region[2:10, 2:10, 2:10] = region[8:16, 5:13, 4:12] = True
    healthy = region.sum() - 64
    assert scores["b"].voxel.specificity == pytest.approx((healthy - 64) / healthy)


def test_rater_is_compared_with_consensus_of_others() -> None:
    good, odd = _block(2, 2, 2), _block(8, 5, 4)
    rows = leave_one_out({"a": good, "b": good, "c": odd}, SPACING, methods=["majority"])
    found = {row.assessed: row for row in rows}
    assert set(found) == {"a", "b", "c"}
    assert found["c"].score.voxel.dice == 0
    assert found["c"].score.voxel.volume_truth_ml == 0.064
    # the raters other than a are b and c; their ties are lesion
    assert found["a"].score.voxel.ppv == 1
    assert found["a"].score.voxel.sensitivity == 0.5
    assert all(row.n_raters == 2 and row.left_out == row.assessed for row in rows)


def test_algorithm_is_compared_but_has_no_vote() -> None:
    raters = dict(zip("abc", _raters(3), strict=True))
    alone = leave_one_out(raters, SPACING)
    rows = leave_one_out(raters, SPACING, algorithms={"net": _block(2, 2, 2)})
    assert [row for row in rows if not row.algorithm] == alone
    by_algorithm = [row for row in rows if row.algorithm]
    assert {(row.left_out, row.n_raters) for row in by_algorithm} == {
        ("a", 2), ("b", 2), ("c", 2), (None, 3),
    }  # fmt: skip
    assert len(by_algorithm) == 4 * len(METHODS)
    consensus = fuse_masks(list(raters.values()), "staple", SPACING)
    for row in by_algorithm:
        if row.method == "staple" and row.left_out is None:
            truth = consensus.mask
            expected = 2 * (truth & _block(2, 2, 2)).sum() / (truth.sum() + 64)
            assert row.score.voxel.dice == pytest.approx(expected)


def test_leave_one_out_of_one_rater_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two raters"):
        leave_one_out({"a": _block(0, 0, 0)}, SPACING)


def test_crop_to_union_keeps_margin_for_specificity() -> None:
    cut = crop_to_union([_block(0, 0, 0), _block(1, 0, 0)])
    assert [one.shape for one in cut] == [(9, 8, 8)] * 2
    assert [one.sum() for one in cut] == [64, 64]
