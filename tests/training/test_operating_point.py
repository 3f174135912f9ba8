from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.models.cascade import Refinement
from bids_msseg.training.operating_point import HeldOutVisit, PointChooser, measure

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
    return HeldOutVisit(name, site, lesion, Refinement(voxels, voxels.copy()), truth)


def test_agreement_of_mask_with_ground_truth() -> None:
    truth, mask = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    truth[LESION] = mask[LESION] = mask[FALSE] = True
    found = measure(mask, truth)
    assert found.dice == pytest.approx(2 / 3)
    assert found.lesion_f1 == pytest.approx(2 / 3)
    assert found.false == 1
    assert measure(truth, truth).value == 1.5
    nothing = np.zeros(SHAPE, bool)
    assert measure(nothing, nothing).dice == 1
    assert measure(mask, nothing).lesion_f1 == 0


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


def test_chosen_threshold_excludes_false_rim() -> None:
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


def test_mean_weights_sites_and_participants_equally() -> None:
    many = [_visit(f"sub-a_ses-{n}", "A", refined=False) for n in range(3)]
    others = [_visit("sub-c", "A", refined=False), _visit("sub-b", "B", refined=True)]
    chooser = PointChooser([*many, *others], 0.1)
    values = np.array([[0.0], [0.0], [0.0], [0.5], [1.0]], np.float32)
    assert chooser._mean_over_sites([0, 1, 2, 3, 4], values).tolist() == [0.625]
