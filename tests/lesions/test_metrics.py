"""Metrics compared with small examples and with an independent package."""

from __future__ import annotations

import math

import lesion_metrics.metrics as peer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from bids_msseg.lesions.comparison.detection import ANIMA_RULES
from bids_msseg.lesions.comparison.metrics import (
    detection,
    lesion_agreement,
    normalised_dice,
    overlap_table,
    voxel_agreement,
)
from bids_msseg.lesions.comparison.rules import AnimaRule, AnyOverlap, DetectionRule
from bids_msseg.lesions.instances import label_lesions

Mask = NDArray[np.bool_]
RULES = [AnyOverlap(), *ANIMA_RULES.values()]
PAIRS = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6).flatmap(
    lambda shape: st.tuples(
        hnp.arrays(bool, shape, elements=st.booleans(), fill=st.nothing()),
        hnp.arrays(bool, shape, elements=st.booleans(), fill=st.nothing()),
    )
)


def line(*runs: tuple[int, int], length: int = 60) -> Mask:
    """Lesions side by side on a line, each given as (start, stop)."""
    mask = np.zeros((length, 1, 1), bool)
    for start, stop in runs:
        mask[start:stop] = True
    return mask


def same(first: float, second: float) -> bool:
    return math.isclose(first, second) or (math.isnan(first) and math.isnan(second))


class TestVoxelAgreement:
    def test_voxel_agreement_of_small_example(self) -> None:
        scores = voxel_agreement(line((0, 8)), line((2, 12)), voxel_volume=2.0)
        assert scores.dice == pytest.approx(12 / 18)
        assert scores.jaccard == pytest.approx(6 / 12)
        assert scores.ppv == pytest.approx(6 / 8)
        assert scores.sensitivity == pytest.approx(6 / 10)
        assert (scores.volume_pred_ml, scores.volume_truth_ml) == (0.016, 0.020)
        assert scores.relative_volume_difference == pytest.approx(-0.2)

    def test_scores_of_two_empty_masks_are_nan(self) -> None:
        scores = voxel_agreement(line(), line(), voxel_volume=1)
        for value in (scores.dice, scores.jaccard, scores.ppv, scores.sensitivity):
            assert math.isnan(value)
        assert math.isnan(scores.relative_volume_difference)
        assert scores.volume_pred_ml == 0

    def test_empty_prediction_has_dice_zero_and_ppv_nan(self) -> None:
        scores = voxel_agreement(line(), line((0, 5)), voxel_volume=1)
        assert (scores.dice, scores.sensitivity, scores.relative_volume_difference) == (0, 0, -1)
        assert math.isnan(scores.ppv)

    def test_empty_truth_has_dice_zero_and_sensitivity_nan(self) -> None:
        scores = voxel_agreement(line((0, 5)), line(), voxel_volume=1)
        assert (scores.dice, scores.ppv) == (0, 0)
        assert math.isnan(scores.sensitivity)
        assert math.isnan(scores.relative_volume_difference)

    def test_specificity_needs_brain_mask(self) -> None:
        pred, truth = line((0, 8)), line((2, 12))
        assert math.isnan(voxel_agreement(pred, truth, voxel_volume=1).specificity)
        scores = voxel_agreement(pred, truth, voxel_volume=1, within=line((1, 21)))
        assert scores.specificity == pytest.approx(9 / 10)
        assert scores.ppv == pytest.approx(6 / 7)

    def test_field_of_view_changes_nothing(self) -> None:
        small = voxel_agreement(line((0, 8)), line((2, 12)), voxel_volume=1)
        large = voxel_agreement(
            line((0, 8), length=900), line((2, 12), length=900), voxel_volume=1
        )
        assert (small.dice, small.ppv, small.sensitivity) == (
            large.dice,
            large.ppv,
            large.sensitivity,
        )

    def test_other_grid(self) -> None:
        with pytest.raises(ValueError, match="different grids"):
            voxel_agreement(line(), line(length=61), voxel_volume=1)

    @given(PAIRS)
    def test_agrees_with_lesion_metrics(self, pair: tuple[Mask, Mask]) -> None:
        pred, truth = pair
        ours = voxel_agreement(pred, truth, voxel_volume=1)
        assert same(ours.dice, float(peer.dice(pred, truth)))
        assert same(ours.jaccard, float(peer.jaccard(pred, truth)))
        assert same(ours.ppv, float(peer.ppv(pred, truth)))
        assert same(ours.sensitivity, float(peer.tpr(pred, truth)))
        volumes = pred.astype(int), truth.astype(int)
        assert same(abs(ours.relative_volume_difference), float(peer.avd(*volumes)))


class TestAnyOverlap:
    def test_one_shared_voxel_is_a_detection(self) -> None:
        scores = lesion_agreement(line((9, 20), (50, 55)), line((0, 10), (30, 40)), voxel_volume=1)
        assert (scores.tp_truth, scores.n_truth) == (1, 2)
        assert (scores.tp_pred, scores.n_pred) == (1, 2)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (0.5, 0.5, 0.5)

    def test_split_and_merged_lesions_are_counted_per_mask(self) -> None:
        truth, pred = line((0, 10), (12, 20)), line((0, 3), (5, 8), (9, 20))
        scores = lesion_agreement(pred, truth, voxel_volume=1)
        assert (scores.tp_truth, scores.n_truth, scores.tp_pred, scores.n_pred) == (2, 2, 3, 3)

    @given(PAIRS)
    def test_agrees_with_lesion_metrics(self, pair: tuple[Mask, Mask]) -> None:
        pred, truth = pair
        ours = lesion_agreement(pred, truth, voxel_volume=1, min_volume=0)
        assert same(ours.sensitivity, float(peer.ltpr(pred, truth)))
        assert same(ours.ppv, 1 - float(peer.lfdr(pred, truth)))


class TestAnimaRule:
    def test_parameters_of_anima_rules(self) -> None:
        assert AnimaRule() == AnimaRule.code_defaults() == AnimaRule(0.05, 0.5, 0.5)
        assert ANIMA_RULES["paper"] == AnimaRule(0.10, 0.70, 0.65)

    @pytest.mark.parametrize(
        ("covered", "found"), [(1, [False, False]), (2, [True, False]), (3, [True, True])]
    )
    def test_alpha_is_strict_limit_of_covered_share(self, covered: int, found: list[bool]) -> None:
        table = np.array([[1000, 0], [20 - covered, covered]])
        assert [bool(rule.found(table)[0]) for rule in ANIMA_RULES.values()] == found

    @pytest.mark.parametrize(
        ("outside", "found"),
        [(10, [True, True]), (11, [False, True]), (23, [False, True]), (24, [False, False])],
    )
    def test_beta_limits_share_of_test_lesion_outside(
        self, outside: int, found: list[bool]
    ) -> None:
        table = np.array([[1000, outside], [0, 10]])
        assert [bool(rule.found(table)[0]) for rule in ANIMA_RULES.values()] == found

    def test_beta_counts_voxels_outside_all_reference_lesions(self) -> None:
        """A test lesion that only overlaps two reference lesions has no voxel outside."""
        table = np.array([[1000, 0], [0, 10], [0, 90]])
        assert AnimaRule().found(table).tolist() == [True, True]

    @pytest.mark.parametrize(("gamma", "found"), [(0.5, True), (0.6, True), (0.61, False)])
    def test_gamma_stops_before_lesion_that_exceeds_beta(self, gamma: float, found: bool) -> None:
        table = np.array([[1000, 0, 900], [0, 6, 4]])
        assert AnimaRule(0.05, 0.5, gamma).found(table).tolist() == [found]

    def test_lesions_are_checked_by_decreasing_overlap(self) -> None:
        table = np.array([[1000, 900, 0], [0, 4, 6]])
        assert AnimaRule().found(table).tolist() == [True]

    def test_lesion_without_overlap_is_not_detected(self) -> None:
        assert AnimaRule().found(np.array([[1000, 5], [7, 0]])).tolist() == [False]

    def test_anima_rule_of_small_example(self) -> None:
        """One lesion matched, one touched by a far too large component, one false."""
        truth, pred = line((0, 10), (20, 26)), line((1, 10), (25, 45), (50, 55))
        any_overlap = lesion_agreement(pred, truth, voxel_volume=1)
        anima = lesion_agreement(pred, truth, voxel_volume=1, rule=AnimaRule())
        assert (any_overlap.tp_truth, any_overlap.tp_pred) == (2, 2)
        assert (anima.tp_truth, anima.tp_pred) == (1, 1)
        assert anima.f1 == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))

    @given(PAIRS, st.sampled_from([*ANIMA_RULES.values()]))
    def test_never_finds_more_than_any_overlap(
        self, pair: tuple[Mask, Mask], rule: AnimaRule
    ) -> None:
        table = overlap_table(*(label_lesions(mask, voxel_volume=1) for mask in pair))
        assert not (rule.found(table) & ~AnyOverlap().found(table)).any()


class TestLesionAgreement:
    def test_minimum_volume_in_mm3_applies_to_both_masks(self) -> None:
        pred, truth = line((0, 4), (20, 22)), line((0, 4), (30, 32))
        thin = lesion_agreement(pred, truth, voxel_volume=1)
        assert (thin.n_truth, thin.n_pred, thin.f1) == (1, 1, 1.0)
        thick = lesion_agreement(pred, truth, voxel_volume=1.5)
        assert (thick.n_truth, thick.n_pred, thick.f1) == (2, 2, 0.5)

    @pytest.mark.parametrize("rule", RULES)
    def test_rates_of_empty_masks_are_zero_or_nan(self, rule: DetectionRule) -> None:
        none = lesion_agreement(line(), line(), voxel_volume=1, rule=rule)
        assert all(math.isnan(value) for value in (none.sensitivity, none.ppv, none.f1))
        missed = lesion_agreement(line(), line((0, 5)), voxel_volume=1, rule=rule)
        assert (missed.sensitivity, missed.f1) == (0, 0)
        assert math.isnan(missed.ppv)
        false = lesion_agreement(line((0, 5)), line(), voxel_volume=1, rule=rule)
        assert (false.ppv, false.f1) == (0, 0)
        assert math.isnan(false.sensitivity)

    def test_other_grid(self) -> None:
        with pytest.raises(ValueError, match="different grids"):
            lesion_agreement(line(), line(length=61), voxel_volume=1)

    @given(PAIRS, st.sampled_from(RULES))
    def test_swapping_the_masks_swaps_the_rates(
        self, pair: tuple[Mask, Mask], rule: DetectionRule
    ) -> None:
        one = lesion_agreement(*pair, voxel_volume=1, min_volume=0, rule=rule)
        other = lesion_agreement(*pair[::-1], voxel_volume=1, min_volume=0, rule=rule)
        assert (one.tp_truth, one.n_truth) == (other.tp_pred, other.n_pred)
        assert same(one.sensitivity, other.ppv)
        assert same(one.f1, other.f1)

    @given(PAIRS, st.sampled_from(RULES))
    def test_f1_of_equal_masks_is_one(self, pair: tuple[Mask, Mask], rule: DetectionRule) -> None:
        mask = pair[0]
        scores = lesion_agreement(mask, mask, voxel_volume=1, min_volume=0, rule=rule)
        assert same(scores.f1, 1.0 if mask.any() else float("nan"))


class TestOverlapTable:
    @given(PAIRS)
    def test_table_margins_are_lesion_sizes(self, pair: tuple[Mask, Mask]) -> None:
        rows, columns = (label_lesions(mask, voxel_volume=1) for mask in pair)
        table = overlap_table(rows, columns)
        assert table.sum(axis=1).tolist() == np.bincount(rows.ravel()).tolist()
        assert table.sum(axis=0).tolist() == np.bincount(columns.ravel()).tolist()

    def test_one_table_serves_several_rules(self) -> None:
        table = np.array([[500, 14], [4, 6]])
        assert [detection(table, rule).tp_truth for rule in RULES] == [1, 0, 1]


class TestNormalisedDice:
    def test_normalised_dice_equals_dice_at_reference_load(self) -> None:
        truth, pred = line((0, 6)), line((2, 12))
        brain = np.ones_like(truth)
        plain = voxel_agreement(pred, truth, voxel_volume=1).dice
        assert normalised_dice(pred, truth, within=brain, reference_load=0.1) == pytest.approx(
            plain
        )

    @given(PAIRS)
    def test_scales_false_positives_only(self, pair: tuple[Mask, Mask]) -> None:
        """The definition of Shifts, with rates instead of a factor."""
        pred, truth = pair
        brain = np.ones_like(truth)
        found = normalised_dice(pred, truth, within=brain, reference_load=0.02)
        lesion, healthy = truth.sum(), (~truth).sum()
        if not (pred & truth).any():
            assert same(found, 0.0 if pred.any() or truth.any() else math.nan)
            return
        if not healthy:
            assert math.isnan(found)
            return
        true_rate, false_rate = (pred & truth).sum() / lesion, (pred & ~truth).sum() / healthy
        precision = 0.02 * true_rate / (0.02 * true_rate + 0.98 * false_rate)
        assert found == pytest.approx(2 / (1 / precision + 1 / true_rate))

    def test_voxels_outside_brain_are_ignored(self) -> None:
        brain = line((0, 30))
        inside = normalised_dice(line((2, 8)), line((0, 6)), within=brain)
        outside = normalised_dice(line((2, 8), (40, 50)), line((0, 6)), within=brain)
        assert inside == outside
        padded = (np.pad(one, 9) for one in (line((2, 8)), line((0, 6)), brain))
        pred, truth, within = padded
        assert normalised_dice(pred, truth, within=within) == inside


def test_overlap_table_of_small_example() -> None:
    rows, columns = np.array([[[0, 1, 1, 2]]]), np.array([[[1, 1, 0, 0]]])
    assert overlap_table(rows, columns).tolist() == [[0, 1], [1, 1], [1, 0]]
