from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bids_msseg.lesions.longitudinal.match import carry_labels, match_lesions, surface_mm2

LABELS = arrays.arrays(np.int32, (6, 5, 4), elements=st.sampled_from([0, 0, 0, 1, 2, 5]))


@given(LABELS, LABELS)
def test_matching_is_complete_and_symmetric(before: np.ndarray, after: np.ndarray) -> None:
    groups = match_lesions(before, after)
    assert sorted(label for one in groups for label in one.before) == [
        label for label in np.unique(before) if label
    ]
    assert sorted(label for one in groups for label in one.after) == [
        label for label in np.unique(after) if label
    ]
    back = {(one.after, one.before): one.box for one in match_lesions(after, before)}
    assert back == {(one.before, one.after): one.box for one in groups}
    for one in groups:
        inside = np.zeros(before.shape, bool)
        inside[one.box] = True
        assert not (np.isin(before, one.before) & (before > 0) & ~inside).any()


def line(*values: int) -> np.ndarray:
    return np.array(values).reshape(-1, 1, 1)


def test_touching_lesions_without_overlap_are_matched() -> None:
    groups = match_lesions(line(1, 0, 0, 0), line(0, 3, 0, 0))
    assert [(one.before, one.after) for one in groups] == [((1,), (3,))]


def test_lesion_adjacent_to_matched_lesion_is_unmatched() -> None:
    groups = match_lesions(line(1, 1, 0, 0), line(0, 1, 0, 0))
    assert [(one.before, one.after) for one in groups] == [((1,), (1,))]
    groups = match_lesions(line(1, 1, 0, 0), line(4, 4, 0, 0) + line(0, 0, 7, 0))
    assert [(one.before, one.after) for one in groups] == [((1,), (4,)), ((), (7,))]


def test_surface_of_ball_is_close_to_analytic_area() -> None:
    places = np.indices((41, 41, 41)) - 20
    labels = ((places**2).sum(0) <= 12.5**2).astype(int) * 3
    assert surface_mm2(labels)[3] == pytest.approx(4 * np.pi * 12.5**2, rel=0.05)
    assert surface_mm2(labels, spacing=0.5)[3] == pytest.approx(np.pi * 12.5**2, rel=0.05)


def test_carry_labels_smooths_borders_and_keeps_all_lesions() -> None:
    blocky = np.zeros((12, 12, 12), int)
    blocky[2:6, 2:6, 2:6] = 2
    probability = np.zeros(blocky.shape)
    probability[3:6, 2:6, 2:7] = 0.8
    probability[9, 9, 9] = 0.8  # no label there: removed as too small
    carried = carry_labels(blocky, probability, 0.5, {2: (4, 4, 4), 3: (8, 1, 1)})
    assert np.array_equal(carried == 2, probability * (np.indices(blocky.shape)[0] < 9) > 0.5)
    assert np.argwhere(carried == 3).tolist() == [[8, 1, 1]]


def test_merged_lesions_form_one_group() -> None:
    groups = match_lesions(line(0, 1, 1, 0, 0, 2, 0, 0, 0), line(0, 0, 4, 4, 4, 4, 0, 0, 7))
    assert [(one.before, one.after) for one in groups] == [((1, 2), (4,)), ((), (7,))]


def test_surface_of_cube_is_two_thirds_of_its_faces() -> None:
    cube = np.zeros((6, 6, 6), int)
    cube[1:4, 1:4, 1:4] = 5
    assert surface_mm2(cube) == {5: 36.0}
