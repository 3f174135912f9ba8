from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from thresholds import (
    GRID,
    best_dice_threshold,
    cautious_threshold,
    choose_threshold,
    counts_by_threshold,
)

STEPS = (0.2, 0.4, 0.6, 0.8)


def _line(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


# PPV at the four steps: 2/5, 2/4, 2/3, 1/1; Dice: 4/7, 4/6, 4/5, 2/3
P = _line(0.9, 0.7, 0.65, 0.5, 0.3, 0.1)
T = _line(1, 1, 0, 0, 0, 0)


def test_counts_of_small_example() -> None:
    called, right = counts_by_threshold(P, T, STEPS)
    assert called.tolist() == [5, 4, 3, 1]
    assert right.tolist() == [2, 2, 2, 1]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_voxel_equal_to_threshold_is_counted(kind: type) -> None:
    probability = np.array(GRID, kind).reshape(-1, 1, 1)
    called, _ = counts_by_threshold(probability, np.ones(probability.shape), GRID)
    assert called.tolist() == [int((probability >= kind(step)).sum()) for step in GRID]
    assert called[0] == len(GRID)


@given(
    arrays(np.float32, (3, 4, 2), elements=st.floats(0, 1, width=32)),
    arrays(np.bool_, (3, 4, 2)),
)
def test_counts_equal_those_of_thresholded_masks(
    probability: np.ndarray, truth: np.ndarray
) -> None:
    called, right = counts_by_threshold(probability, truth, STEPS)
    for number, step in enumerate(STEPS):
        mask = probability >= np.float32(step)
        assert (called[number], right[number]) == (mask.sum(), (mask & truth).sum())


@pytest.mark.parametrize(
    ("ppv", "threshold"), [(0.3, 0.2), (0.45, 0.4), (0.6, 0.6), (0.9, 0.8), (1.01, 0.8)]
)
def test_choose_threshold_returns_lowest_that_reaches_ppv(ppv: float, threshold: float) -> None:
    assert choose_threshold([P], [T], ppv=ppv, grid=STEPS) == threshold


def test_the_ppv_is_a_mean_over_visits_not_over_voxels() -> None:
    # the second visit, one right voxel at every step, has the PPV 1
    one = _line(0.9)
    assert choose_threshold([P, one], [T, one > 0], ppv=0.7, grid=STEPS) == 0.2
    assert choose_threshold([P, one], [T, one > 0], ppv=0.72, grid=STEPS) == 0.4


def test_visits_without_predicted_voxels_are_excluded_from_ppv() -> None:
    quiet = _line(0.05, 0.01)
    assert choose_threshold([P, quiet], [T, _line(1, 0)], ppv=0.6, grid=STEPS) == 0.6
    assert choose_threshold([quiet], [_line(1, 0)], ppv=0.1, grid=STEPS) == 0.8


def test_default_ppv_is_0_859_and_grid_step_is_0_01() -> None:
    # of 100 voxels above the threshold, 85 or 86 are lesion: 0.859 lies between
    image = np.concatenate([np.full(86, 0.9), np.full(14, 0.4), np.full(1, 0.02)])
    truth = np.arange(101) < 86
    p, t = image.reshape(1, 1, -1), truth.reshape(1, 1, -1)
    assert choose_threshold([p], [t]) == 0.03
    t[..., 85] = False
    assert choose_threshold([p], [t]) == 0.41


def test_best_dice_threshold_of_small_example() -> None:
    assert best_dice_threshold([P], [T], grid=STEPS) == 0.6


def test_cautious_threshold_is_lowest_within_allowed_dice_loss() -> None:
    # 100 lesion voxels; fewer false positives at higher thresholds: Dice .667, .952, .971, .889
    image = np.concatenate(
        [np.full(100, 0.95), np.full(94, 0.2), np.full(4, 0.45), np.full(2, 0.65)]
    )
    image[:20] = 0.85
    truth = np.arange(200) < 100
    p, t = image.reshape(1, 1, -1), truth.reshape(1, 1, -1)
    grid = (0.1, 0.3, 0.5, 0.7, 0.9)
    assert best_dice_threshold([p], [t], grid=grid) == 0.7
    assert cautious_threshold([p], [t], may_lose=0.0, grid=grid) == 0.7
    assert cautious_threshold([p], [t], may_lose=0.02, grid=grid) == 0.5
    assert cautious_threshold([p], [t], may_lose=0.05, grid=grid) == 0.3


def test_cautious_threshold_without_lesions_is_one_half() -> None:
    nothing = np.zeros((1, 1, 3))
    assert cautious_threshold([nothing], [nothing]) == 0.5


def test_visits_without_lesions_are_excluded_from_mean_dice() -> None:
    nothing = _line(0.0, 0.0)
    assert best_dice_threshold([P, nothing], [T, nothing], grid=STEPS) == 0.6


def test_equal_dice_prefers_threshold_nearest_one_half() -> None:
    clear = _line(0.95, 0.01)
    assert best_dice_threshold([clear], [_line(1, 0)]) == 0.5
    nothing = _line(0.0, 0.0)
    assert best_dice_threshold([nothing], [nothing], grid=(0.2, 0.5, 0.8)) == 0.5


@pytest.mark.parametrize("grid", [(), (0.5, 0.4), (0.5, 0.5), (0.2, 0.8, 0.5)])
def test_unsorted_or_empty_threshold_grid_is_refused(grid: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="rise"):
        choose_threshold([P], [T], grid=grid)


def test_mismatched_or_missing_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        counts_by_threshold(P, T[:3], STEPS)
    with pytest.raises(ValueError, match="no visit"):
        best_dice_threshold([], [])
    with pytest.raises(ValueError, match="zip"):
        choose_threshold([P, P], [T])
