"""Counts of two challenges, by hand and against independent implementations."""

from __future__ import annotations

import math

import lesion_metrics.metrics as peer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.comparison.detection import (
    ANIMA_RULES,
    anima_agreement,
    isbi_agreement,
    isbi_score,
)

Mask = NDArray[np.bool_]
MASKS = hnp.arrays(bool, (6, 5, 4), elements=st.booleans(), fill=st.nothing())


def line(*runs: tuple[int, int]) -> Mask:
    mask = np.zeros((60, 1, 1), bool)
    for start, stop in runs:
        mask[start:stop] = True
    return mask


class TestIsbi:
    def test_isbi_agreement_of_small_example(self) -> None:
        """Two of three lesions found, one of three predictions false; 6 of 10 and 9 voxels."""
        truth = line((0, 4), (10, 14), (20, 22))
        pred = line((1, 5), (11, 15), (30, 31))
        found = isbi_agreement(pred, truth, voxel_volume=1.0)
        assert found.ltpr == pytest.approx(2 / 3)
        assert found.lfpr == pytest.approx(1 / 3)
        dice, ppv = 12 / 19, 6 / 9
        assert found.score == pytest.approx((dice / 8 + ppv / 8 + 1 / 3) * 4 / 3)

    def test_single_voxel_lesions_are_counted(self) -> None:
        assert isbi_agreement(line((5, 6)), line((5, 6)), voxel_volume=0.1).ltpr == 1

    @given(MASKS, MASKS)
    def test_isbi_agreement_equals_lesion_metrics(self, pred: Mask, truth: Mask) -> None:
        if not (pred.any() and truth.any()):
            return
        found = isbi_agreement(pred, truth, voxel_volume=1.0)
        assert found.ltpr == pytest.approx(peer.ltpr(pred, truth))
        assert found.lfpr == pytest.approx(peer.lfdr(pred, truth))
        assert found.score == pytest.approx(peer.isbi15_score(pred, truth))

    def test_score_is_zero_for_one_empty_mask_and_nan_for_two(self) -> None:
        nothing, something = line(), line((3, 9))
        assert isbi_agreement(nothing, something, voxel_volume=1.0).score == 0
        assert isbi_agreement(something, nothing, voxel_volume=1.0).score == 0
        assert math.isnan(isbi_agreement(nothing, nothing, voxel_volume=1.0).score)

    def test_correlation_contributes_one_quarter_of_score(self) -> None:
        parts = {"dice": 0.7, "ppv": 0.6, "ltpr": 0.5, "lfpr": 0.2}
        alone = isbi_score(**parts)
        assert isbi_score(**parts, correlation=0.9) == pytest.approx(0.75 * alone + 0.225)
        assert math.isnan(isbi_score(**parts, correlation=math.nan))


class TestAnima:
    def test_components_are_connected_by_faces_only(self) -> None:
        mask = np.zeros((9, 9, 9), bool)
        mask[0:2, 0:2, 0] = True
        mask[2:4, 2:4, 0] = True
        found = anima_agreement(mask, mask, voxel_volume=1.0)["default"]
        assert (found.n_truth, found.f1) == (2, 1.0)

    @pytest.mark.parametrize(
        ("voxel_volume", "counted"), [(1.0, 0), (0.9999999, 0), (1.1, 1), (0.99, 0)]
    )
    def test_lesion_volume_must_exceed_minimum(self, voxel_volume: float, counted: int) -> None:
        three = line((0, 3))
        assert anima_agreement(three, three, voxel_volume=voxel_volume)["paper"].n_pred == counted

    def test_default_and_paper_thresholds_differ(self) -> None:
        """Covered by 8 %: enough for the program, not for the paper."""
        truth, pred = line((0, 50)), line((0, 4))
        found = anima_agreement(pred, truth, voxel_volume=1.0)
        assert found["default"].sensitivity == 1
        assert found["paper"].sensitivity == 0
        # 60 % outside the reference: too much for the program, not for the paper
        found = anima_agreement(line((6, 16)), line((0, 10)), voxel_volume=1.0)
        assert found["default"].sensitivity == 0
        assert found["paper"].sensitivity == 1

    @given(MASKS, MASKS)
    def test_anima_agreement_equals_brute_force(self, pred: Mask, truth: Mask) -> None:
        found = anima_agreement(pred, truth, voxel_volume=1.0)
        for name, rule in ANIMA_RULES.items():
            hits, total = brute_force_counts(truth, pred, rule.alpha, rule.beta, rule.gamma)
            assert (found[name].tp_truth, found[name].n_truth) == (hits, total)
            hits, total = brute_force_counts(pred, truth, rule.alpha, rule.beta, rule.gamma)
            assert (found[name].tp_pred, found[name].n_pred) == (hits, total)


def brute_force_counts(
    reference: Mask, test: Mask, alpha: float, beta: float, gamma: float
) -> tuple[int, int]:
    """Numbers of detected and of all lesions, computed from masks lesion by lesion."""
    lesions, others = components(reference), components(test)
    everything = np.any(lesions, axis=0) if lesions else np.zeros_like(reference)
    hits = 0
    for lesion in lesions:
        shared = sorted(
            ((int((lesion & other).sum()), index) for index, other in enumerate(others)),
            key=lambda pair: -pair[0],
        )
        covered = sum(count for count, _ in shared)
        good, explained = covered / lesion.sum() > alpha, 0
        for count, index in shared:
            if not good or not count or explained >= gamma * covered:
                break
            outside = (others[index] & ~everything).sum() / others[index].sum()
            good = outside <= beta
            explained += count
        hits += bool(good)
    return hits, len(lesions)


def components(mask: Mask) -> list[Mask]:
    """Face-connected components of more than three voxels."""
    labels, count = ndimage.label(mask)
    found = [labels == number for number in range(1, count + 1)]
    return [one for one in found if one.sum() > 3]


def test_grids_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="different grids"):
        anima_agreement(np.ones((2, 2, 2)), np.ones((2, 2, 3)), voxel_volume=1.0)
    with pytest.raises(ValueError, match="different grids"):
        isbi_agreement(np.ones((2, 2, 2)), np.ones((2, 2, 3)), voxel_volume=1.0)
