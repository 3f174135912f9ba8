"""Scores against hand-made cases and against an independent package."""

from __future__ import annotations

import math

import lesion_metrics.metrics as peer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

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
RULES = [AnyOverlap(), AnimaRule.code_defaults(), AnimaRule.challenge()]
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
    def test_by_hand(self) -> None:
        scores = voxel_agreement(line((0, 8)), line((2, 12)), voxel_volume=2.0)
        assert scores.dice == pytest.approx(12 / 18)
        assert scores.jaccard == pytest.approx(6 / 12)
        assert scores.ppv == pytest.approx(6 / 8)
        assert scores.sensitivity == pytest.approx(6 / 10)
        assert (scores.volume_pred_ml, scores.volume_truth_ml) == (0.016, 0.020)
        assert scores.relative_volume_difference == pytest.approx(-0.2)
        assert scores.absolute_volume_difference == pytest.approx(0.2)

    def test_empty_against_empty_is_undefined_not_perfect(self) -> None:
        scores = voxel_agreement(line(), line(), voxel_volume=1)
        for value in (scores.dice, scores.jaccard, scores.ppv, scores.sensitivity):
            assert math.isnan(value)
        assert math.isnan(scores.absolute_volume_difference)
        assert scores.volume_pred_ml == 0

    def test_nothing_predicted(self) -> None:
        scores = voxel_agreement(line(), line((0, 5)), voxel_volume=1)
        assert (scores.dice, scores.sensitivity, scores.relative_volume_difference) == (0, 0, -1)
        assert math.isnan(scores.ppv)

    def test_nothing_to_find(self) -> None:
        scores = voxel_agreement(line((0, 5)), line(), voxel_volume=1)
        assert (scores.dice, scores.ppv) == (0, 0)
        assert math.isnan(scores.sensitivity)
        assert math.isnan(scores.relative_volume_difference)

    def test_specificity_needs_a_brain(self) -> None:
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
        assert same(ours.absolute_volume_difference, float(peer.avd(*volumes)))


class TestAnyOverlap:
    def test_one_voxel_is_enough(self) -> None:
        scores = lesion_agreement(line((9, 20), (50, 55)), line((0, 10), (30, 40)), voxel_volume=1)
        assert (scores.tp_truth, scores.n_truth) == (1, 2)
        assert (scores.tp_pred, scores.n_pred) == (1, 2)
        assert (scores.sensitivity, scores.ppv, scores.f1) == (0.5, 0.5, 0.5)

    def test_split_and_merged_lesions_count_each_in_its_own_mask(self) -> None:
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
    def test_the_two_parameter_sets(self) -> None:
        assert AnimaRule() == AnimaRule.code_defaults() == AnimaRule(0.05, 0.5, 0.5)
        assert AnimaRule.challenge() == AnimaRule(0.10, 0.70, 0.65)

    @pytest.mark.parametrize(
        ("covered", "found"), [(1, [False, False]), (2, [True, False]), (3, [True, True])]
    )
    def test_alpha_is_a_strict_limit_on_what_is_covered(
        self, covered: int, found: list[bool]
    ) -> None:
        table = np.array([[1000, 0], [20 - covered, covered]])
        rules = (AnimaRule.code_defaults(), AnimaRule.challenge())
        assert [bool(rule.found(table)[0]) for rule in rules] == found

    @pytest.mark.parametrize(
        ("outside", "found"),
        [(10, [True, True]), (11, [False, True]), (23, [False, True]), (24, [False, False])],
    )
    def test_beta_is_the_share_of_the_test_lesion_outside(
        self, outside: int, found: list[bool]
    ) -> None:
        table = np.array([[1000, outside], [0, 10]])
        rules = (AnimaRule.code_defaults(), AnimaRule.challenge())
        assert [bool(rule.found(table)[0]) for rule in rules] == found

    def test_beta_counts_what_is_outside_all_reference_lesions(self) -> None:
        """A test lesion over two reference lesions spills over neither."""
        table = np.array([[1000, 0], [0, 10], [0, 90]])
        assert AnimaRule().found(table).tolist() == [True, True]

    @pytest.mark.parametrize(("gamma", "found"), [(0.5, True), (0.6, True), (0.61, False)])
    def test_gamma_ends_the_walk_before_the_lesion_that_spills(
        self, gamma: float, found: bool
    ) -> None:
        table = np.array([[1000, 0, 900], [0, 6, 4]])
        assert AnimaRule(0.05, 0.5, gamma).found(table).tolist() == [found]

    def test_walk_goes_by_overlap_not_by_label(self) -> None:
        table = np.array([[1000, 900, 0], [0, 4, 6]])
        assert AnimaRule().found(table).tolist() == [True]

    def test_missed_lesion(self) -> None:
        assert AnimaRule().found(np.array([[1000, 5], [7, 0]])).tolist() == [False]

    def test_on_masks(self) -> None:
        """One lesion matched, one touched by a far too large component, one false."""
        truth, pred = line((0, 10), (20, 26)), line((1, 10), (25, 45), (50, 55))
        any_overlap = lesion_agreement(pred, truth, voxel_volume=1)
        anima = lesion_agreement(pred, truth, voxel_volume=1, rule=AnimaRule())
        assert (any_overlap.tp_truth, any_overlap.tp_pred) == (2, 2)
        assert (anima.tp_truth, anima.tp_pred) == (1, 1)
        assert anima.f1 == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))

    @given(PAIRS, st.sampled_from([AnimaRule.code_defaults(), AnimaRule.challenge()]))
    def test_never_finds_more_than_any_overlap(
        self, pair: tuple[Mask, Mask], rule: AnimaRule
    ) -> None:
        table = overlap_table(*(label_lesions(mask, voxel_volume=1) for mask in pair))
        assert not (rule.found(table) & ~AnyOverlap().found(table)).any()


class TestLesionAgreement:
    def test_smallest_volume_holds_for_both_masks_in_mm3(self) -> None:
        pred, truth = line((0, 4), (20, 22)), line((0, 4), (30, 32))
        thin = lesion_agreement(pred, truth, voxel_volume=1)
        assert (thin.n_truth, thin.n_pred, thin.f1) == (1, 1, 1.0)
        thick = lesion_agreement(pred, truth, voxel_volume=1.5)
        assert (thick.n_truth, thick.n_pred, thick.f1) == (2, 2, 0.5)

    @pytest.mark.parametrize("rule", RULES)
    def test_empty_masks(self, rule: DetectionRule) -> None:
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
    def test_a_mask_agrees_with_itself(self, pair: tuple[Mask, Mask], rule: DetectionRule) -> None:
        mask = pair[0]
        scores = lesion_agreement(mask, mask, voxel_volume=1, min_volume=0, rule=rule)
        assert same(scores.f1, 1.0 if mask.any() else float("nan"))


class TestOverlapTable:
    @given(PAIRS)
    def test_margins_are_the_sizes(self, pair: tuple[Mask, Mask]) -> None:
        rows, columns = (label_lesions(mask, voxel_volume=1) for mask in pair)
        table = overlap_table(rows, columns)
        assert table.sum(axis=1).tolist() == np.bincount(rows.ravel()).tolist()
        assert table.sum(axis=0).tolist() == np.bincount(columns.ravel()).tolist()

    def test_one_table_serves_several_rules(self) -> None:
        table = np.array([[500, 14], [4, 6]])
        assert [detection(table, rule).tp_truth for rule in RULES] == [1, 0, 1]


class TestNormalisedDice:
    def test_is_the_dice_where_the_load_is_the_reference(self) -> None:
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

    def test_counts_inside_the_brain_only(self) -> None:
        brain = line((0, 30))
        inside = normalised_dice(line((2, 8)), line((0, 6)), within=brain)
        outside = normalised_dice(line((2, 8), (40, 50)), line((0, 6)), within=brain)
        assert inside == outside
        padded = (np.pad(one, 9) for one in (line((2, 8)), line((0, 6)), brain))
        pred, truth, within = padded
        assert normalised_dice(pred, truth, within=within) == inside
