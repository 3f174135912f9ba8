"""Values of a comparison in small examples, and its behaviour at the thresholds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from bids_msseg.lesions.longitudinal.change import Comparison, compare_lesions
from bids_msseg.lesions.longitudinal.flair_change import VisitMaps, measure_flair_change
from bids_msseg.lesions.longitudinal.rows import ChangeRow, ChangeRule, Code, count_changes

SHAPE = (40, 30, 20)
INSIDE = np.ones(SHAPE, bool)


def cube(x: int, y: int, z: int, edge: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[x : x + edge, y : y + edge, z : z + edge] = True
    return mask


def visit(*masks: np.ndarray, bright: float = 3.0, seed: int = 1) -> VisitMaps:
    """A visit with bright lesions on noise with a standard deviation of 0.1."""
    labels = np.zeros(SHAPE, np.int32)
    for label, mask in enumerate(masks, start=1):
        labels[mask] = label
    flair = np.random.default_rng(seed).normal(0, 0.1, SHAPE) + bright * (labels > 0)
    volumes = {label: float(mask.sum()) for label, mask in enumerate(masks, start=1)}
    return VisitMaps(flair.astype(np.float32), 0.9 * (labels > 0), labels, volumes)


OLD = cube(4, 4, 4, 5)
FRESH = cube(24, 14, 8, 4)
SURE = ChangeRule(border_weight=1e6)
"""The border noise stays at its prior, independent of the lesions."""


def only(found: Comparison) -> ChangeRow:
    (row,) = found.rows
    return row


def test_codes_match_published_lookup_table() -> None:
    assert {code.label: int(code) for code in Code} == {
        "stable": 1,
        "new": 2,
        "gained": 3,
        "lost": 4,
        "resolved": 5,
        "unclear": 6,
    }
    assert len({code.description for code in Code}) == len(Code)


def test_change_counts_sum_volumes_of_both_visits() -> None:
    bigger = OLD | cube(4, 4, 9, 5)
    found = compare_lesions(visit(OLD), visit(bigger, FRESH, seed=2), INSIDE)
    counts = count_changes(found.rows)
    assert (counts["enlarging"].lesions, counts["new"].lesions) == (1, 1)
    assert counts["enlarging"].before_ml == pytest.approx(OLD.sum() / 1000)
    assert counts["enlarging"].after_ml == pytest.approx(bigger.sum() / 1000)
    assert (counts["new"].before_ml, counts["new"].after_ml) == (0, FRESH.sum() / 1000)


def test_border_shift_is_volume_change_over_surface() -> None:
    """A cube of 125 mm³ and 100 mm² (two thirds of its faces) that gains a row of 5 voxels."""
    wider = OLD | (cube(4, 4, 9, 5) & (np.indices(SHAPE)[1] == 4) & (np.indices(SHAPE)[2] == 9))
    found = compare_lesions(visit(OLD), visit(wider, seed=2), INSIDE)
    faces = (150 + 2 * 5 + 2) / 1.5, 150 / 1.5
    moved = 5 / (sum(faces) / 2)
    assert found.matched == 1
    assert found.border_sd_mm == pytest.approx(
        math.sqrt((10 * 0.25**2 + (1.4826 * moved) ** 2) / 11)
    )
    row = only(found)
    assert row.smallest_detectable_change_mm3 == pytest.approx(
        1.96 * found.border_sd_mm * sum(faces) / 2
    )


def test_flair_change_is_measured_in_changed_part() -> None:
    bigger = OLD | cube(4, 4, 9, 5)
    first, second = visit(OLD), visit(bigger, seed=2)
    found = measure_flair_change(first, second, INSIDE)
    for one, two, sign in ((first, second, 1), (second, first, -1)):
        row = only(compare_lesions(one, two, INSIDE))
        part = bigger & ~OLD
        expected = found.change[part].mean() / found.noise[part].mean()
        assert row.flair_change_sd == pytest.approx(sign * expected, rel=1e-4)


def test_probabilities_are_means_over_union_of_masks() -> None:
    bigger = visit(OLD | cube(4, 4, 9, 5), seed=2)
    row = only(compare_lesions(visit(OLD), bigger, INSIDE, rule=SURE))
    assert (row.change, row.reason) == ("enlarging", "")
    assert row.p_before == pytest.approx(0.45)
    assert row.p_after == pytest.approx(0.9)
    assert row.centre == pytest.approx((6, 6, 8.5))


@pytest.mark.parametrize(("factor", "fate"), [(0.9, "new"), (1.1, "unclear")])
def test_new_lesion_needs_flair_change_above_limit(factor: float, fate: str) -> None:
    first, second = visit(), visit(FRESH, seed=2)
    score = only(compare_lesions(first, second, INSIDE)).flair_change_sd
    rule = ChangeRule(flair_sd=factor * score)
    assert only(compare_lesions(first, second, INSIDE, rule=rule)).change == fate


@pytest.mark.parametrize(("least", "fate"), [(64.0, "new"), (64.5, "unclear")])
def test_new_lesion_minimum_volume_is_inclusive(least: float, fate: str) -> None:
    rule = ChangeRule(min_mm3=least)
    row = only(compare_lesions(visit(), visit(FRESH, seed=2), INSIDE, rule=rule))
    assert (row.change, row.smallest_detectable_change_mm3) == (fate, least)


@pytest.mark.parametrize(("seen", "fate"), [(2, "new"), (1, "unclear")])
def test_new_lesion_needs_half_inside_earlier_brain_mask(seen: int, fate: str) -> None:
    inside = INSIDE & (np.indices(SHAPE)[0] < 24 + seen)
    row = only(compare_lesions(visit(), visit(FRESH, seed=2), inside))
    assert row.change == fate
    assert row.reason == ("" if fate == "new" else "outside the brain mask of the earlier visit")


@pytest.mark.parametrize(("before", "fate"), [(0.25, "new"), (0.26, "unclear")])
def test_new_lesion_needs_low_earlier_probability(before: float, fate: str) -> None:
    first = visit()
    first = replace(first, probability=np.where(FRESH, before, 0))
    row = only(compare_lesions(first, visit(FRESH, seed=2), INSIDE))
    assert row.change == fate


@pytest.mark.parametrize(("share", "fate"), [(0.4, "new"), (0.6, "unclear")])
def test_new_lesion_needs_low_earlier_contrast(share: float, fate: str) -> None:
    first = visit()
    first = replace(first, flair=first.flair + np.float32(3 * share) * FRESH)
    assert only(compare_lesions(first, visit(FRESH, seed=2), INSIDE)).change == fate


BUD = cube(9, 5, 5, 3)
"""Grows 3 mm out of the side of ``OLD``: 27 voxels, the furthest 3 mm away."""


@pytest.mark.parametrize(
    ("thick", "late", "disagreement", "reason"),
    [
        (1.0, 1.0, 0.0, "part of the lesion is new"),
        (5.8, 1.0, 0.0, "part of the lesion is new"),
        (6.2, 1.0, 0.0, ""),
        (1.0, 6.2, 0.0, ""),
        (1.0, 1.0, 1.9, "part of the lesion is new"),
        (1.0, 1.0, 2.1, ""),
    ],
)
def test_new_part_must_exceed_slice_and_registration_error(
    thick: float, late: float, disagreement: float, reason: str
) -> None:
    first = replace(visit(OLD), edge_mm=thick)
    second = replace(visit(OLD | BUD, seed=2), edge_mm=late)
    # the volume change is below its limit, so that only the new part decides
    second = replace(second, volumes_mm3={1: 126.0})
    found = compare_lesions(first, second, INSIDE, disagreement_mm=disagreement)
    row = only(found)
    assert row.reason == (reason or row.reason)
    assert row.change == ("enlarging" if reason else "stable")
    assert row.gained_mm3 == (27 if reason else 0)


def test_changed_part_without_volume_change_is_reported() -> None:
    second = replace(visit(OLD | BUD, seed=2), volumes_mm3={1: 125.0})
    row = only(compare_lesions(visit(OLD), second, INSIDE))
    assert (row.change, row.change_mm3) == ("stable", 0)
    assert row.reason == "part of the lesion changed, but its volume did not change accordingly"


def test_volume_change_without_flair_change_is_reported() -> None:
    wide = OLD | cube(4, 4, 9, 5)
    first = visit(OLD)
    same = replace(first, labels=wide.astype(np.int32), volumes_mm3={1: 250.0})
    row = only(compare_lesions(first, same, INSIDE, rule=SURE))
    assert abs(row.change_mm3) > row.smallest_detectable_change_mm3
    assert (row.change, row.reason) == ("stable", "the FLAIR change is within its noise")


def test_shrinking_lesion_has_lost_but_no_gained_volume() -> None:
    bigger = OLD | cube(4, 4, 9, 5)
    found = compare_lesions(visit(bigger), visit(OLD, seed=2), INSIDE, rule=SURE)
    row = only(found)
    assert (row.change, row.reason, row.gained_mm3) == ("shrinking", "", 0)
    assert row.lost_mm3 == pytest.approx(125, abs=25)
    assert set(np.unique(found.codes)) == {0, Code.STABLE, Code.LOST}


def test_gained_volume_scales_with_voxel_size() -> None:
    """Edges of 2 mm: volumes eightfold, surfaces fourfold."""
    first, second = visit(), visit(FRESH, seed=2)
    second = replace(second, volumes_mm3={1: 512.0})
    row = only(compare_lesions(first, second, INSIDE, spacing=2.0))
    assert (row.change, row.gained_mm3) == ("new", 512)


@pytest.mark.parametrize("spacing", [1.0, 2.0])
def test_flair_change_is_relative_to_surrounding_tissue(spacing: float) -> None:
    """Mean over 1 mm minus mean over 6 mm of normal tissue, which excludes suspect voxels."""
    first, second = visit(OLD), visit(FRESH, seed=2)
    vague = np.zeros(SHAPE)
    vague[20, 4, 4], vague[30, 4, 4] = 0.2, 0.19  # 0.4 of the threshold, and less
    first = replace(first, probability=first.probability + vague)
    inside = INSIDE & (np.indices(SHAPE)[0] > 1)
    found = measure_flair_change(first, second, inside, spacing=spacing)
    suspect = OLD | FRESH | (vague == 0.2)
    normal = inside & ~ndimage.binary_dilation(suspect, np.ones((3, 3, 3)), iterations=2)
    assert np.array_equal(found.normal, normal)
    raw = (second.flair - first.flair).astype(np.float32)

    def mean(where: np.ndarray, sigma: float) -> np.ndarray:
        total = ndimage.gaussian_filter(raw * where, sigma, truncate=3)
        share = ndimage.gaussian_filter(where.astype(np.float32), sigma, truncate=3)
        return np.where(share > 1e-3, total / np.maximum(share, 1e-3), 0)

    change = np.where(inside, mean(inside, 1 / spacing) - mean(normal, 6 / spacing), 0)
    np.testing.assert_allclose(found.change, change, atol=1e-5)
    assert np.array_equal(found.score, found.change / found.noise)


def test_noise_is_estimated_in_ten_strata_of_edge_strength() -> None:
    first, second = visit(), visit(seed=2)
    found = measure_flair_change(first, second, INSIDE, spacing=2.0)
    edges = ndimage.gaussian_gradient_magnitude((first.flair + second.flair) / 2, 0.5)
    order = np.argsort(edges, axis=None)
    for stratum, places in enumerate(np.array_split(order, 10)):
        middle = places[10:-10]
        noise = 1.4826 * np.median(np.abs(found.change.ravel()[places]))
        np.testing.assert_allclose(
            found.noise.ravel()[middle], noise, rtol=0.01, err_msg=str(stratum)
        )
    assert len(np.unique(found.noise)) == 10


def test_noise_has_lower_limit() -> None:
    first = visit()
    found = measure_flair_change(first, first, INSIDE)
    assert np.array_equal(np.unique(found.noise), [np.float32(1e-3)])


def test_noise_is_infinite_without_normal_tissue() -> None:
    first = replace(visit(), probability=np.ones(SHAPE))
    found = measure_flair_change(first, visit(seed=2), INSIDE)
    assert not found.normal.any()
    assert np.isinf(found.noise).all()
    assert not found.score.any()


def test_rows_are_sorted_by_class_then_volume_change() -> None:
    small, middle, large = cube(20, 4, 4, 4), cube(20, 4, 12, 5), cube(20, 20, 4, 6)
    found = compare_lesions(visit(OLD), visit(OLD, small, large, middle, seed=2), INSIDE)
    assert [row.change for row in found.rows] == ["new", "new", "new", "stable"]
    assert [row.change_mm3 for row in found.rows] == [216, 125, 64, 0]
    assert [row.index for row in found.rows] == [1, 2, 3, 4]
    assert found.matched == 1


@pytest.mark.parametrize("corner", [(0, 0, 0), (35, 25, 15)])
def test_lesions_at_image_edge_are_classified(corner: tuple[int, int, int]) -> None:
    lesion = cube(*corner, 5)
    assert only(compare_lesions(visit(lesion), visit(lesion, seed=2), INSIDE)).change == "stable"
    row = only(compare_lesions(visit(), visit(lesion, seed=2), INSIDE))
    assert (row.change, row.gained_mm3) == ("new", 125)
    assert row.centre == pytest.approx(np.add(corner, 2))


def test_new_part_distance_includes_other_lesions() -> None:
    """A tube between two lesions is within 9 mm of either, but reaches 14 mm from its own."""
    old = cube(4, 4, 4, 5)
    tube = np.zeros(SHAPE, bool)
    tube[9:23, 5:8, 5:8] = True
    far = cube(27, 4, 4, 5)
    for others, part in (((), "part of the lesion is new"), ((far,), "")):
        second = visit(old | tube, *others, seed=2)
        second = replace(second, volumes_mm3={**second.volumes_mm3, 1: 126.0})
        found = compare_lesions(visit(old, *others), second, INSIDE, disagreement_mm=9.0)
        row = next(row for row in found.rows if row.lesions_before == (1,))
        assert row.reason == part
        assert row.change == ("enlarging" if part else "stable")


@pytest.mark.parametrize(
    ("spacing", "least", "fate"),
    [
        (1.0, 27.0, "enlarging"),
        (1.0, 27.5, "stable"),
        (0.5, 3.3, "enlarging"),
        (0.5, 3.5, "stable"),
    ],
)
def test_new_part_needs_minimum_volume_of_new_lesion(
    spacing: float, least: float, fate: str
) -> None:
    second = replace(visit(OLD | BUD, seed=2), volumes_mm3={1: 126.0})
    rule = ChangeRule(min_mm3=least)
    first = replace(visit(OLD), edge_mm=spacing)
    row = only(compare_lesions(first, second, INSIDE, rule=rule, spacing=spacing))
    assert row.gained_mm3 == (27 * spacing**3 if fate == "enlarging" else 0)
    assert row.change == fate


def test_default_voxel_edge_and_threshold_of_visit_maps() -> None:
    found = visit(OLD)
    assert (found.edge_mm, found.threshold) == (1.0, 0.5)
