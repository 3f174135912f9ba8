from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_msseg.lesions.delineate import (
    REJECTED_BY_MASK,
    REJECTED_BY_PLACE,
    REJECTED_BY_REFINEMENT,
    REJECTED_BY_SIZE,
    clear_extracerebral,
    delineate,
    excluded_voxels,
)
from bids_msseg.lesions.instances import label_lesions

shapes = st.shared(st.tuples(*[st.integers(1, 7)] * 3), key="shape")
# few values, and many zeros, so that separate components are common
probabilities = shapes.flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0, 0, 0, 0.3, 0.5, 0.9]))
)
candidates = shapes.flatmap(lambda shape: arrays(bool, shape, elements=st.booleans()))


@given(
    probability=probabilities,
    seen=candidates,
    volume=st.sampled_from([0.5, 1.0, 3.6]),
    smallest=st.sampled_from([0.0, 1.0, 3.0]),
)
def test_every_candidate_is_kept_or_rejected_with_a_reason(
    probability: np.ndarray, seen: np.ndarray, volume: float, smallest: float
) -> None:
    found = delineate(probability, seen, voxel_volume=volume, threshold=0.5, min_volume=smallest)
    assert not ((found.lesions > 0) & (found.rejected > 0)).any()
    assert len(found.reasons) == found.rejected.max(initial=0)
    blobs = label_lesions(seen, voxel_volume=volume)
    for number in range(1, blobs.max(initial=0) + 1):
        blob = blobs == number
        inside = np.unique(found.rejected[blob])
        kept = (found.lesions[blob] > 0).any()
        if not kept and (inside == 0).any():
            # no lesion voxel inside, but connected to a lesion by voxels above the threshold
            wide = label_lesions(seen | (probability >= 0.5), voxel_volume=volume)
            joined = wide == wide[blob][0]
            kept = (found.lesions[joined] > 0).any()
        assert kept == (inside == 0).all()
        assert kept or len(inside) == 1


@given(probability=probabilities, seen=candidates, smallest=st.sampled_from([0.0, 2.0, 3.0]))
def test_lesions_reach_threshold_and_minimum_volume(
    probability: np.ndarray, seen: np.ndarray, smallest: float
) -> None:
    found = delineate(probability, seen, voxel_volume=1.0, threshold=0.5, min_volume=smallest)
    expected = label_lesions(probability >= 0.5, voxel_volume=1.0, min_volume=smallest)
    np.testing.assert_array_equal(found.lesions, expected)
    volumes = np.bincount(found.lesions.ravel())[1:]
    assert (volumes >= smallest).all()
    assert (np.diff(volumes) <= 0).all()


@given(probability=probabilities, seen=candidates)
def test_reason_is_size_if_threshold_was_reached(
    probability: np.ndarray, seen: np.ndarray
) -> None:
    found = delineate(probability, seen, voxel_volume=1.0, threshold=0.5, min_volume=3.0)
    for number, reason in enumerate(found.reasons, start=1):
        over = (probability[found.rejected == number] >= 0.5).any()
        assert reason == (REJECTED_BY_SIZE if over else REJECTED_BY_REFINEMENT)


def test_candidate_rim_of_lesion_is_not_rejected() -> None:
    probability = np.array([0.2, 0.9, 0.9, 0.9, 0.2, 0.0, 0.2]).reshape(7, 1, 1)
    found = delineate(
        probability, probability > 0.1, voxel_volume=1.0, threshold=0.5, min_volume=3.0
    )
    assert found.lesions.ravel().tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert found.rejected.ravel().tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert found.reasons == (REJECTED_BY_REFINEMENT,)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int32, np.float32])
def test_candidates_may_have_any_type(kind: type) -> None:
    seen = np.zeros((4, 4, 4), kind)
    seen[1, 1, 1] = 1
    found = delineate(np.zeros(seen.shape), seen, voxel_volume=1.0, threshold=0.5, min_volume=3.0)
    assert found.rejected.sum() == 1
    assert not found.lesions.any()


def test_empty_probability_gives_no_lesions() -> None:
    nothing = np.zeros((3, 3, 3))
    found = delineate(nothing, nothing, voxel_volume=1.0, threshold=0.5, min_volume=3.0)
    assert not found.lesions.any()
    assert not found.rejected.any()
    assert found.reasons == ()


@pytest.mark.parametrize(
    ("outside", "cleared", "reasons"),
    [
        # a row of a lesion of four voxels, a gap, a candidate of two, a gap, a lesion of two
        ([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], [1, 0], (REJECTED_BY_PLACE, REJECTED_BY_REFINEMENT)),
        ([0, 0, 1, 1, 1, 0, 0, 0, 0, 0], [1, 0], (REJECTED_BY_PLACE, REJECTED_BY_REFINEMENT)),
        ([0, 0, 0, 1, 1, 1, 1, 1, 0, 0], [0, 0], (REJECTED_BY_PLACE,)),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 1], (REJECTED_BY_REFINEMENT, REJECTED_BY_PLACE)),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], [0, 0], (REJECTED_BY_REFINEMENT,)),
    ],
)
def test_lesion_half_outside_brain_is_rejected(
    outside: list[int], cleared: list[int], reasons: tuple[str, ...]
) -> None:
    line = np.array([0.9] * 4 + [0] + [0.2] * 2 + [0] + [0.9] * 2).reshape(10, 1, 1)
    region = np.array(outside, bool).reshape(10, 1, 1)
    left = clear_extracerebral(line, region, threshold=0.5)
    assert [not left[:4].any(), not left[8:].any()] == [bool(one) for one in cleared]
    assert (left is line) == (not any(cleared))
    found = delineate(
        left, line > 0, voxel_volume=1.0, threshold=0.5, min_volume=1.0, extracerebral=region
    )
    assert sorted(found.reasons) == sorted(reasons)
    assert found.lesions.max() == 2 - sum(cleared)


@given(probability=probabilities, mask=candidates, smallest=st.sampled_from([0.0, 2.0, 3.0]))
def test_voxels_in_exclusion_mask_are_not_lesion(
    probability: np.ndarray, mask: np.ndarray, smallest: float
) -> None:
    cut = {"voxel_volume": 1.0, "threshold": 0.5, "min_volume": smallest}
    over = probability >= 0.5
    before = label_lesions(over, voxel_volume=1.0, min_volume=smallest) > 0
    np.testing.assert_array_equal(excluded_voxels(probability, mask, **cut), before & mask)
    left = np.where(mask, np.float32(0), probability)
    found = delineate(left, over, extracerebral=None, removed=over & mask, **cut)
    assert not (found.lesions > 0)[mask | ~before].any()
    for number, reason in enumerate(found.reasons, start=1):
        taken = (over & mask)[found.rejected == number].any()
        assert reason == (REJECTED_BY_MASK if taken else REJECTED_BY_SIZE)


@pytest.mark.parametrize(
    ("mask", "lesions", "reasons"),
    [
        # a row of a lesion of four voxels, a gap, a lesion of three, a gap, a rejected candidate
        ([1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 1, (REJECTED_BY_MASK, REJECTED_BY_REFINEMENT)),
        ([1, 0, 0, 0, 1, 1, 0, 0, 0, 0], 2, (REJECTED_BY_REFINEMENT,)),
        ([0, 0, 0, 0, 0, 0, 0, 0, 1, 1], 2, (REJECTED_BY_REFINEMENT,)),
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 0, (REJECTED_BY_MASK,) * 2 + (REJECTED_BY_REFINEMENT,)),
    ],
)
def test_lesion_left_by_exclusion_mask_needs_minimum_volume(
    mask: list[int], lesions: int, reasons: tuple[str, ...]
) -> None:
    line = np.array([0.9] * 4 + [0] + [0.9] * 3 + [0] + [0.2]).reshape(10, 1, 1)
    excluded = np.array(mask, bool).reshape(10, 1, 1)
    found = delineate(
        np.where(excluded, 0, line),
        line > 0,
        voxel_volume=1.0,
        threshold=0.5,
        min_volume=2.0,
        removed=excluded & (line >= 0.5),
    )
    assert found.lesions.max() == lesions
    assert found.reasons == reasons
