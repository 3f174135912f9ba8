from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.cascade import Refinement, require_peak
from bids_msseg.training.operating_point import Agreement, Components, HeldOutVisit, PointChooser

SHAPE = (24, 24, 24)
LESION, FALSE = (slice(2, 8), slice(2, 8), slice(2, 8)), (slice(14, 20),) * 3


def _visit(name: str, site: str, *, refined: bool, halo: float = 0.0) -> HeldOutVisit:
    """Return a visit whose lesion and false candidate only CNN-2 separates, if ``refined``."""
    lesion = np.zeros(SHAPE, np.float32)
    lesion[LESION] = lesion[FALSE] = 0.8
    lesion[8:12, 2:8, 2:8] = halo
    right = 0.95 if refined else 0.05
    voxels = np.zeros(SHAPE, np.float32)
    voxels[LESION], voxels[FALSE] = right, 1 - right
    truth = np.zeros(SHAPE, bool)
    truth[LESION] = True
    return HeldOutVisit(name, site, lesion, Refinement(voxels, voxels.copy()), truth, 1.0)


def _agreement(mask: np.ndarray, truth: np.ndarray) -> Agreement:
    return Components.find(mask.astype(np.float32), 0.5, truth).agreement(0.0)


def test_agreement_of_mask_with_ground_truth() -> None:
    truth, mask = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[LESION] = mask[LESION] = mask[FALSE] = True
    found = _agreement(mask, truth)
    assert found.dice == pytest.approx(2 / 3)
    assert found.lesion_f1 == pytest.approx(2 / 3)
    assert found.false == 1
    assert _agreement(truth, truth).value == 1.5
    nothing = np.zeros(SHAPE, bool)
    assert _agreement(nothing, nothing).dice == 1
    assert _agreement(mask, nothing).lesion_f1 == 0


def test_components_below_peak_threshold_do_not_count() -> None:
    truth = np.zeros(SHAPE, bool)
    truth[LESION] = truth[0, 0, 12:14] = True
    probability = np.where(truth, np.float32(0.6), np.float32(0))
    probability[FALSE] = 0.5
    probability[4, 4, 4], probability[20:22, 0, 0] = 0.9, 0.95
    components = Components.find(probability, 0.4, truth)
    every, sure = components.agreement(0.0), components.agreement(0.8)
    # 216 of 218 voxels are one lesion; two voxels count in Dice, but are no lesion
    assert every.dice == pytest.approx(2 * 218 / (218 + 216 + 2 + 218))
    assert (every.false, every.lesion_f1) == (1, pytest.approx(2 / 3))
    assert sure.dice == pytest.approx(2 * 216 / (216 + 2 + 218))
    assert (sure.false, sure.lesion_f1) == (0, 1)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 0.8]))
def test_agreement_is_that_of_mask_that_the_cascade_writes(seed: int, peak: float) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.random((7, 6, 5)).astype(np.float32) * (rng.random((7, 6, 5)) < 0.4)
    truth = rng.random((7, 6, 5)) < 0.2
    mask = require_peak(probability, 0.3, peak) >= 0.3
    found = Components.find(probability, 0.3, truth).agreement(peak)
    labels = label_lesions(mask, voxel_volume=1.0, min_volume=3.0)
    assert found.false == labels.max() - len(np.unique(labels[truth & (labels > 0)]))
    lesions = label_lesions(truth, voxel_volume=1.0, min_volume=3.0)
    precision = 1 - found.false / labels.max() if labels.max() else 0.0
    recall = len(np.unique(lesions[mask & (lesions > 0)])) / max(int(lesions.max()), 1)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    assert found.lesion_f1 == pytest.approx(f1)
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    assert found.dice == pytest.approx(2 * np.count_nonzero(mask & truth) / total if total else 1)


def test_accurate_refinement_gets_positive_weight() -> None:
    chooser = PointChooser([_visit("a", "A", refined=True), _visit("b", "B", refined=True)], 0.1)
    point = chooser.choose(["a", "b"])
    assert point.voxel_weight + point.lesion_weight > 0
    assert point.candidate_threshold == 0.1
    assert chooser.measure(0, point).dice == 1


def test_misleading_refinement_gets_zero_weight() -> None:
    chooser = PointChooser([_visit("a", "A", refined=False)], 0.1)
    point = chooser.choose(["a"])
    assert point.voxel_weight == point.lesion_weight == 0


def test_rim_below_one_half_is_excluded() -> None:
    chooser = PointChooser([_visit("a", "A", refined=True, halo=0.45)], 0.1)
    point = chooser.choose(["a"])
    assert chooser.measure(0, point).dice == 1


def test_point_is_chosen_on_named_visits_only() -> None:
    visits = [_visit("a", "A", refined=True), _visit("b", "B", refined=False)]
    chooser = PointChooser(visits, 0.1)
    helped = chooser.choose(["a"])
    assert helped.voxel_weight + helped.lesion_weight > 0
    alone = chooser.choose(["b"])
    assert alone.voxel_weight == alone.lesion_weight == 0


def test_slice_weight_removes_rim_of_thick_slices_only() -> None:
    def visit(name: str, core: float, rim: float, slice_mm: float) -> HeldOutVisit:
        lesion, truth = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, bool)
        lesion[LESION], truth[LESION], lesion[8:12, 2:8, 2:8] = core, True, rim
        refinement = Refinement(lesion.copy(), lesion.copy())
        return HeldOutVisit(name, name.upper(), lesion, refinement, truth, slice_mm)

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
