"""Pairs of synthetic visits: all simulated changes are found, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.longitudinal.change import Comparison, compare_lesions
from bids_msseg.lesions.longitudinal.flair_change import VisitMaps, measure_flair_change
from bids_msseg.lesions.longitudinal.rows import ChangeRow, ChangeRule, Code, count_changes

SHAPE = (64, 60, 56)
Ball = tuple[tuple[int, int, int], float]
OLD: Sequence[Ball] = (
    ((16, 16, 28), 4.2),
    ((48, 16, 28), 3.4),
    ((16, 44, 28), 5.1),
    ((48, 44, 28), 2.9),
)
FRESH: Ball = ((32, 30, 40), 3.3)


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    places = np.indices(SHAPE) - np.array(centre).reshape(3, 1, 1, 1)
    return (places**2).sum(0) <= radius**2


BRAIN = ball((32, 30, 28), 27)


def visit(
    *balls: Ball,
    seed: int,
    seen: Sequence[Ball] | None = None,
    bright: float = 2.5,
    noise: float = 0.2,
    edge_mm: float = 1.0,
) -> VisitMaps:
    """A brain with lesions; ``seen`` lists the lesions in the mask (default: all)."""
    rng = np.random.default_rng(seed)
    texture = ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 4, SHAPE), 2)
    there = np.any([ball(*one) for one in balls], axis=0) if balls else np.zeros(SHAPE, bool)
    soft = ndimage.gaussian_filter(there.astype(float), 0.6)
    flair = texture + bright * soft + rng.normal(0, noise, SHAPE)
    shown = balls if seen is None else seen
    mask = np.any([ball(*one) for one in shown], axis=0) if shown else np.zeros(SHAPE, bool)
    return masked(flair, mask, edge_mm)


def masked(flair: np.ndarray, mask: np.ndarray, edge_mm: float = 1.0) -> VisitMaps:
    labels = label_lesions(mask & BRAIN, voxel_volume=1)
    sizes = np.bincount(labels.ravel())
    volumes = {label: float(sizes[label]) for label in range(1, len(sizes))}
    soft = 0.9 * ndimage.gaussian_filter(mask.astype(float), 0.5)
    return VisitMaps(flair.astype(np.float32), soft, labels, volumes, edge_mm=edge_mm)


def change_classes(found: Comparison) -> list[str]:
    return [row.change for row in found.rows]


def only(found: Comparison, change: str) -> ChangeRow:
    (row,) = (row for row in found.rows if row.change == change)
    return row


def test_same_lesions_in_another_scan_are_stable() -> None:
    found = compare_lesions(visit(*OLD, seed=1), visit(*OLD, seed=2), BRAIN)
    assert change_classes(found) == ["stable"] * 4
    assert found.matched == 4
    assert set(np.unique(found.codes)) == {0, Code.STABLE}
    # no border moved: the prior, worth ten lesions, is averaged with zero for four lesions
    assert found.border_sd_mm == pytest.approx(0.25 * np.sqrt(10 / 14))
    assert all(row.change_mm3 == 0 and row.gained_mm3 == 0 for row in found.rows)


def test_added_lesion_is_new() -> None:
    found = compare_lesions(visit(*OLD, seed=1), visit(*OLD, FRESH, seed=2), BRAIN)
    assert sorted(change_classes(found)) == ["new"] + ["stable"] * 4
    row = only(found, "new")
    volume = float(ball(*FRESH).sum())
    assert (row.before_mm3, row.after_mm3, row.gained_mm3) == (0, volume, volume)
    assert (row.lesions_before, row.index) == ((), 1)
    assert row.flair_change_sd > 5
    assert row.centre == pytest.approx(FRESH[0])
    assert np.array_equal(found.codes == Code.NEW, ball(*FRESH))


def test_removed_lesion_is_resolved() -> None:
    found = compare_lesions(visit(*OLD, FRESH, seed=1), visit(*OLD, seed=2), BRAIN)
    row = only(found, "resolved")
    assert (row.lesions_after, row.after_mm3) == ((), 0)
    assert row.flair_change_sd < -5
    assert np.array_equal(found.codes == Code.RESOLVED, ball(*FRESH))
    counts = count_changes(found.rows)
    assert counts["resolved"].before_ml == pytest.approx(ball(*FRESH).sum() / 1000)
    assert counts["new"].lesions == 0


def test_grown_lesion_is_enlarging_by_added_volume() -> None:
    centre, radius = OLD[0]
    grown = [(centre, radius + 2), *OLD[1:]]
    found = compare_lesions(visit(*OLD, seed=1), visit(*grown, seed=2), BRAIN)
    assert sorted(change_classes(found)) == ["enlarging"] + ["stable"] * 3
    row = only(found, "enlarging")
    added = ball(centre, radius + 2) & ~ball(centre, radius) & BRAIN
    assert row.change_mm3 == added.sum()
    assert row.smallest_detectable_change_mm3 < row.change_mm3
    assert 0.8 * added.sum() <= row.gained_mm3 <= added.sum()
    assert not (found.codes == Code.GAINED)[~added].any()


@pytest.mark.parametrize("step", [-0.4, 0.4])
def test_lesions_with_border_jitter_are_stable(step: float) -> None:
    moved = [(centre, radius + step * (-1) ** i) for i, (centre, radius) in enumerate(OLD)]
    earlier, later = visit(*OLD, seed=1), visit(*OLD, seed=2, seen=moved)
    assert change_classes(compare_lesions(earlier, later, BRAIN)) == ["stable"] * 4


def test_lesion_missed_by_earlier_mask_is_unclear() -> None:
    everything = (*OLD, FRESH)
    earlier = visit(*everything, seed=1, seen=OLD)
    found = compare_lesions(earlier, visit(*everything, seed=2), BRAIN)
    row = only(found, "unclear")
    assert row.reason == "the FLAIR change is within its noise"
    assert (found.codes == Code.UNCLEAR).sum() == ball(*FRESH).sum()


def test_lesion_below_minimum_volume_is_unclear() -> None:
    speck: Ball = (FRESH[0], 1.4)
    found = compare_lesions(visit(*OLD, seed=1), visit(*OLD, speck, seed=2), BRAIN)
    assert only(found, "unclear").reason == "smaller than 14 mm³"


def test_lesion_with_high_earlier_probability_is_unclear() -> None:
    earlier = visit(*OLD, seed=1)
    unsure = np.maximum(earlier.probability, 0.4 * ball(FRESH[0], 5))
    found = compare_lesions(
        replace(earlier, probability=unsure), visit(*OLD, FRESH, seed=2), BRAIN
    )
    assert only(found, "unclear").reason == "lesion probability above 0.25 at the earlier visit"


def test_lesion_bright_on_earlier_flair_is_unclear() -> None:
    earlier = visit(*OLD, FRESH, seed=1, seen=OLD, bright=2.5)
    later = visit(*OLD, FRESH, seed=2, bright=4.0)
    found = compare_lesions(earlier, later, BRAIN)
    assert only(found, "unclear").reason.startswith("FLAIR brighter than surrounding tissue")


def test_lesion_outside_earlier_brain_mask_is_unclear() -> None:
    inside = BRAIN & ~ball(FRESH[0], 6)
    found = compare_lesions(visit(*OLD, seed=1), visit(*OLD, FRESH, seed=2), inside)
    assert only(found, "unclear").reason == "outside the brain mask of the earlier visit"


def test_large_lesion_with_new_part_is_enlarging() -> None:
    """The volume grows by less than the border noise, but one part is clearly new."""
    large: Ball = ((24, 30, 28), 13)
    bud: Ball = ((39, 30, 28), 3.3)
    rule = ChangeRule(border_sd_mm=0.4)
    found = compare_lesions(visit(large, seed=1), visit(large, bud, seed=2), BRAIN, rule=rule)
    row = only(found, "enlarging")
    assert row.reason == "part of the lesion is new"
    assert row.change_mm3 < row.smallest_detectable_change_mm3
    fresh = ball(*bud) & ~ball(*large)
    assert np.mean((found.codes == Code.GAINED)[fresh]) > 0.8


def test_lesions_that_merge_are_one_row() -> None:
    one, two = ((26, 30, 28), 4.0), ((38, 30, 28), 4.0)
    bridge: Ball = ((32, 30, 28), 4.0)
    found = compare_lesions(visit(one, two, seed=1), visit(one, two, bridge, seed=2), BRAIN)
    row = only(found, "enlarging")
    assert (row.lesions_before, row.lesions_after) == ((1, 2), (1,))


def test_flair_offset_does_not_change_classes() -> None:
    later = visit(*OLD, FRESH, seed=2)
    bright = replace(later, flair=later.flair + 0.7)
    one = compare_lesions(visit(*OLD, seed=1), later, BRAIN)
    other = compare_lesions(visit(*OLD, seed=1), bright, BRAIN)
    assert change_classes(one) == change_classes(other)
    assert np.array_equal(one.codes, other.codes)


def test_noise_is_larger_at_misregistered_edges() -> None:
    earlier = visit(seed=1)
    cavity = ball((32, 30, 28), 9)
    with_hole = earlier.flair - 5 * cavity
    shifted = np.roll(with_hole, 1, axis=0) + np.random.default_rng(3).normal(0, 0.2, SHAPE)
    found = measure_flair_change(
        replace(earlier, flair=with_hole), replace(earlier, flair=shifted), BRAIN
    )
    rim = ndimage.binary_dilation(cavity) & ~ndimage.binary_erosion(cavity)
    flat = BRAIN & ~ball((32, 30, 28), 14) & ball((32, 30, 28), 22)
    assert found.noise[rim].mean() > 2 * found.noise[flat].mean()


def test_visits_without_lesions_have_no_rows() -> None:
    found = compare_lesions(visit(seed=1), visit(seed=2), BRAIN)
    assert (found.rows, found.matched, found.codes.any()) == ((), 0, False)


def test_different_grids_are_refused() -> None:
    earlier = visit(*OLD, seed=1)
    with pytest.raises(ValueError, match="different grids"):
        compare_lesions(earlier, replace(earlier, flair=earlier.flair[:-1]), BRAIN)


MIRROR = {
    "new": "resolved",
    "resolved": "new",
    "enlarging": "shrinking",
    "shrinking": "enlarging",
    "unclear": "unclear",
    "stable": "stable",
}
PLACES = [(16, 16, 28), (48, 16, 28), (16, 44, 28), (48, 44, 28), (32, 30, 40), (32, 30, 14)]
RADII = st.lists(st.sampled_from([0.0, 1.4, 2.5, 3.5, 5.0]), min_size=6, max_size=6)


@settings(max_examples=12, deadline=None)
@given(before=RADII, after=RADII, seed=st.integers(0, 99))
def test_exchanging_the_visits_mirrors_every_class(
    before: list[float], after: list[float], seed: int
) -> None:
    visits = [
        visit(*((p, r) for p, r in zip(PLACES, radii, strict=True) if r), seed=seed + k)
        for k, radii in enumerate((before, after))
    ]
    there = compare_lesions(visits[0], visits[1], BRAIN)
    back = compare_lesions(visits[1], visits[0], BRAIN)
    assert there.border_sd_mm == back.border_sd_mm
    forward = {(row.lesions_before, row.lesions_after): row for row in there.rows}
    reverse = {(row.lesions_after, row.lesions_before): row for row in back.rows}
    assert forward.keys() == reverse.keys()
    for key, row in forward.items():
        other = reverse[key]
        assert other.change == MIRROR[row.change]
        assert other.change_mm3 == -row.change_mm3
        assert (other.gained_mm3, other.lost_mm3) == (row.lost_mm3, row.gained_mm3)
        if row.before_mm3 != row.after_mm3:
            assert other.flair_change_sd == pytest.approx(-row.flair_change_sd, abs=1e-3)
    assert np.array_equal(there.codes == Code.NEW, back.codes == Code.RESOLVED)
