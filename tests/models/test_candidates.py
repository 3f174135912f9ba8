from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.models.candidates import EPSILON, find_candidates, logit


def test_logit_is_bounded() -> None:
    found = logit(np.array([0.0, 0.5, 1.0]))
    limit = np.log((1 - EPSILON) / EPSILON)
    assert found.tolist() == pytest.approx([-limit, 0, limit], rel=1e-3)


def test_two_peaks_in_one_component_are_two_candidates() -> None:
    probability = np.zeros((30, 12, 12), np.float32)
    probability[4:26, 4:8, 4:8] = 0.2
    probability[4:10, 4:8, 4:8] = 0.9
    probability[20:26, 4:8, 4:8] = 0.9
    parts, boxes = find_candidates(probability, 0.1)
    assert len(boxes) == 2
    assert parts[5, 5, 5] != parts[25, 5, 5]
    assert np.array_equal(parts > 0, probability >= 0.1)
    assert len(find_candidates(np.minimum(probability, 0.2), 0.1)[1]) == 1


def test_candidates_below_three_voxels_are_left_out() -> None:
    probability = np.zeros((9, 9, 9), np.float32)
    probability[1, 1, 1:3] = 0.8
    probability[5, 5, 1:4] = 0.8
    parts, boxes = find_candidates(probability, 0.5)
    assert boxes == ((slice(5, 6), slice(5, 6), slice(1, 4)),)
    assert np.count_nonzero(parts) == 3
