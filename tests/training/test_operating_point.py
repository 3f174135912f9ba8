from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.operating_point import HeldOutVisit, PointChooser, measure_agreement

SHAPE = (24, 24, 24)
LESION, FALSE = (slice(2, 8), slice(2, 8), slice(2, 8)), (slice(14, 20),) * 3


def _visit(name: str, site: str, *, refined: bool, halo: float = 0.0) -> HeldOutVisit:
    """Return a visit whose lesion and false candidate only CNN-2 separates, if ``refined``."""
    lesion = np.zeros(SHAPE, np.float32)
    lesion[LESION] = lesion[FALSE] = 0.8
    lesion[8:12, 2:8, 2:8] = halo
    right = 0.95 if refined else 0.05
    refinement = np.zeros(SHAPE, np.float32)
    refinement[LESION], refinement[FALSE] = right, 1 - right
    truth = np.zeros(SHAPE, bool)
    truth[LESION] = True
    return HeldOutVisit(name, site, lesion, refinement, truth, 1.0)


def test_agreement_of_mask_with_ground_truth() -> None:
    truth, mask = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[LESION] = mask[LESION] = mask[FALSE] = True
    found = measure_agreement(mask, truth)
    assert found.dice == pytest.approx(2 / 3)
    assert found.lesion_f1 == pytest.approx(2 / 3)
    assert found.false == 1
    assert measure_agreement(truth, truth).value == 1.5
    nothing = np.zeros(SHAPE, bool)
    assert measure_agreement(nothing, nothing).dice == 1
    assert measure_agreement(mask, nothing).lesion_f1 == 0


def test_small_components_count_in_dice_only() -> None:
    truth, mask = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[LESION] = truth[0, 0, 12:14] = True
    mask[LESION] = mask[20:22, 0, 0] = True
    found = measure_agreement(mask, truth)
    assert found.dice == pytest.approx(2 * 216 / (218 + 218))
    assert (found.false, found.lesion_f1) == (0, 1)


@given(st.integers(0, 2**32 - 1))
def test_agreement_follows_definitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, truth = rng.random((7, 6, 5)) < 0.15, rng.random((7, 6, 5)) < 0.15
    found = measure_agreement(mask, truth)
    cube = np.ones((3, 3, 3))
    sets = []
    for volume in (mask, truth):
        labels, count = ndimage.label(volume, cube)
        parts = [labels == number for number in range(1, count + 1)]
        sets.append([part for part in parts if part.sum() >= 3])
    true = sum((part & truth).any() for part in sets[0])
    detected = sum((part & mask).any() for part in sets[1])
    precision, recall = true / max(len(sets[0]), 1), detected / max(len(sets[1]), 1)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert found.lesion_f1 == pytest.approx(expected)
    assert found.false == len(sets[0]) - true
    total = mask.sum() + truth.sum()
    assert found.dice == pytest.approx(2 * (mask & truth).sum() / total if total else 1)


def test_visit_is_cropped_to_candidates_and_lesions() -> None:
    whole = _visit("sub-a_ses-1", "A", refined=True)
    labelled = SimpleNamespace(
        name=whole.name, site="A", truth=whole.truth.astype(np.float32), slice_mm=1.0
    )
    cropped = HeldOutVisit.of(labelled, whole.lesion, whole.refined)  # type: ignore[arg-type]
    assert cropped.truth.shape == (18, 18, 18)
    chooser = PointChooser([whole, cropped], 0.1)
    points = [CascadePoint(refinement_weight=weight, threshold=0.5) for weight in (0.0, 0.4)]
    for point in points:
        assert chooser.measure(0, point) == chooser.measure(1, point)
    nothing = np.zeros(SHAPE, np.float32)
    labelled.truth = nothing
    empty = HeldOutVisit.of(labelled, nothing, nothing)  # type: ignore[arg-type]
    assert empty.truth.shape == SHAPE


def test_accurate_refinement_gets_positive_weight() -> None:
    chooser = PointChooser([_visit("a", "A", refined=True), _visit("b", "B", refined=True)], 0.1)
    point = chooser.choose(["a", "b"])
    assert point.refinement_weight > 0
    assert point.candidate_threshold == 0.1
    assert chooser.measure(0, point).dice == 1


def test_misleading_refinement_gets_zero_weight() -> None:
    chooser = PointChooser([_visit("a", "A", refined=False)], 0.1)
    point = chooser.choose(["a"])
    assert point.refinement_weight == 0


def test_rim_below_one_half_is_excluded() -> None:
    chooser = PointChooser([_visit("a", "A", refined=True, halo=0.45)], 0.1)
    point = chooser.choose(["a"])
    assert chooser.measure(0, point).dice == 1


def test_point_is_chosen_on_named_visits_only() -> None:
    visits = [_visit("a", "A", refined=True), _visit("b", "B", refined=False)]
    chooser = PointChooser(visits, 0.1)
    helped = chooser.choose(["a"])
    assert helped.refinement_weight > 0
    alone = chooser.choose(["b"])
    assert alone.refinement_weight == 0


def test_slice_weight_removes_rim_of_thick_slices_only() -> None:
    def visit(name: str, core: float, rim: float, slice_mm: float) -> HeldOutVisit:
        lesion, truth = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool)
        lesion[LESION], truth[LESION], lesion[8:12, 2:8, 2:8] = core, True, rim
        return HeldOutVisit(name, name.upper(), lesion, lesion.copy(), truth, slice_mm)

    # one half is right for thin slices and too low for thick ones
    thin, thick = visit("a", 0.72, 0.0, 1.0), visit("b", 0.9, 0.75, 7.0)
    chooser = PointChooser([thin, thick], 0.1)
    point = chooser.choose(["a", "b"])
    assert point.slice_weight > 0
    assert [chooser.measure(row, point).dice for row in (0, 1)] == [1, 1]
    assert PointChooser([thin], 0.1).choose(["a"]).slice_weight == 0


def test_mean_weights_sites_and_participants_equally() -> None:
    many = [_visit(f"sub-a_ses-{n}", "A", refined=False) for n in range(3)]
    others = [_visit("sub-c", "A", refined=False), _visit("sub-b", "B", refined=True)]
    chooser = PointChooser([*many, *others], 0.1)
    values = np.array([[0.0], [0.0], [0.0], [0.5], [1.0]], np.float32)
    assert chooser._mean_over_sites([0, 1, 2, 3, 4], values).tolist() == [0.625]
