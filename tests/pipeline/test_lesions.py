"""Lesions on the grid of the FLAIR, from maps in memory and from maps in files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.imaging.volume import StoredVolumes, Volume, save_volume
from bids_msseg.lesions.load import rows_to_table
from bids_msseg.lesions.regions import RegionAnatomy
from bids_msseg.pipeline.lesions import MAPS, Grid, contrast_on_grid, find_lesions, mask_on_grid

SHAPE = (24, 20, 16)
BLOBS = (np.s_[3:8, 3:7, 3:6], np.s_[14:17, 10:13, 8:11], np.s_[19:22, 3:6, 11:14])


def _maps() -> dict[str, Volume]:
    """Three lesions on a grid of 1 mm, the second one outside the brain."""
    lesion = np.zeros(SHAPE, np.float32)
    for place in BLOBS:
        lesion[place] = 0.9
    candidates = (lesion > 0).astype(np.uint8)
    outside = np.zeros(SHAPE, np.uint8)
    outside[12:, 8:, 6:11] = 1
    anatomy = np.full(SHAPE, RegionAnatomy.SUPRATENTORIAL, np.uint8)
    maps = {
        "probability": lesion,
        "candidate": lesion / 2,
        "lesion": lesion,
        "candidates": candidates,
        "mask": np.ones(SHAPE, np.uint8),
        "extracerebral": outside,
        "regions": anatomy,
    }
    return {name: Volume(data, np.eye(4)) for name, data in maps.items()}


@pytest.fixture
def grid() -> Grid:
    """Grid with a flipped z axis and slices of 2 mm."""
    affine = np.diag([1.0, 1.0, -2.0, 1.0])
    affine[2, 3] = SHAPE[2] - 1
    return Grid(Volume(np.zeros((SHAPE[0], SHAPE[1], SHAPE[2] // 2), np.uint8), affine))


def test_candidate_and_lesion_maps_are_optional(grid: Grid) -> None:
    """As for other segmenters, candidates are then the voxels that reach the threshold."""
    maps = _maps()
    alone = {
        name: volume
        for name, volume in maps.items()
        if name not in ("candidate", "lesion", "candidates")
    }
    whole, found = (
        find_lesions(grid, given, np.eye(4), threshold=0.5, min_volume=3.0)
        for given in (maps, alone)
    )
    for name in ("mask", "labels", "probseg", "brain"):
        np.testing.assert_array_equal(found.maps[name], whole.maps[name])
    kept = [row for row in found.rows if row.status == "kept"]
    assert len(kept) == found.maps["labels"].max() == 2
    for row in kept:
        assert math.isnan(row.p_cnn1)
        assert row.p_cnn2_lesion is None
        assert row.p_final >= 0.5
    assert (found.maps["mask"] <= found.maps["candidates"]).all()
    # the lesion outside the brain
    assert found.maps["rejected"].max() == 1


def test_maps_in_files_and_in_memory_give_the_same(grid: Grid, tmp_path: Path) -> None:
    maps = _maps()
    for name, volume in maps.items():
        save_volume(volume, tmp_path / f"{name}.nii.gz")
    stored = StoredVolumes(
        {name: tmp_path / f"{name}.nii.gz" for name in maps}, ["extracerebral", "regions"]
    )
    one, other = (
        find_lesions(grid, given, np.eye(4), threshold=0.5, min_volume=3.0)
        for given in (maps, stored)
    )
    assert set(one.maps) == set(other.maps)
    for name, data in one.maps.items():
        np.testing.assert_array_equal(data, other.maps[name])
        assert data.dtype == other.maps[name].dtype
    assert rows_to_table(one.rows) == rows_to_table(other.rows)
    assert one.cleared is not None
    assert other.cleared is not None
    np.testing.assert_array_equal(one.cleared.data, other.cleared.data)


def test_every_lesion_and_candidate_has_a_row(grid: Grid) -> None:
    found = find_lesions(grid, _maps(), np.eye(4), threshold=0.5, min_volume=3.0)
    rows = [(row.status, row.reason) for row in found.rows]
    assert rows == [("kept", ""), ("kept", ""), ("rejected", "extracerebral")]
    assert found.maps["labels"].max() == 2
    assert found.cleared is not None
    assert not found.cleared.data[BLOBS[1]].any()
    assert (found.cleared.data[BLOBS[0]] > 0).all()


def test_without_optional_maps_nothing_is_cleared(grid: Grid) -> None:
    maps = {name: volume for name, volume in _maps().items() if name in MAPS}
    found = find_lesions(grid, maps, np.eye(4), threshold=0.5, min_volume=3.0)
    assert found.cleared is None
    assert [row.status for row in found.rows] == ["kept"] * 3


@pytest.fixture
def excluded(grid: Grid) -> np.ndarray:
    """The whole third lesion, and two of five planes of the first one."""
    inside = np.zeros(grid.frame.shape, bool)
    inside[19:22, 3:6] = True
    inside[3:5, 3:7] = True
    return inside


def test_excluded_lesion_voxels_are_removed(grid: Grid, excluded: np.ndarray) -> None:
    plain, found = (
        find_lesions(grid, _maps(), np.eye(4), threshold=0.5, min_volume=3.0, excluded=one)
        for one in (None, excluded)
    )
    # voxels of 2 mm³, two of the slices through each lesion are stored
    assert found.excluded_ml == pytest.approx((2 * 4 * 2 + 3 * 3 * 2) * 2 / 1000)
    assert plain.excluded_ml is None
    rows = [(row.status, row.reason) for row in found.rows]
    assert rows == [("kept", ""), ("rejected", "excluded"), ("rejected", "extracerebral")]
    # the row of an excluded lesion keeps its probability
    assert found.rows[1].p_final > 0.5
    for name in ("mask", "probseg"):
        np.testing.assert_array_equal(found.maps[name], np.where(excluded, 0, plain.maps[name]))
    np.testing.assert_array_equal(found.maps["candidates"], plain.maps["candidates"])
    assert found.cleared is not None
    assert not found.cleared.data[BLOBS[2]].any()
    assert not found.cleared.data[3:5, 3:7, 3:6].any()
    assert (found.cleared.data[5:8, 3:7, 3:6] > 0.5).all()


def test_empty_exclusion_mask_does_not_change_lesions(grid: Grid) -> None:
    nothing = np.zeros(grid.frame.shape, bool)
    plain, found = (
        find_lesions(grid, _maps(), np.eye(4), threshold=0.5, min_volume=3.0, excluded=one)
        for one in (None, nothing)
    )
    assert found.excluded_ml == 0.0
    for name, data in plain.maps.items():
        np.testing.assert_array_equal(data, found.maps[name])
    assert rows_to_table(plain.rows) == rows_to_table(found.rows)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.85])
def test_mask_on_grid_thresholds_resampled_probability(grid: Grid, threshold: float) -> None:
    probability = _maps()["probability"]
    mask = mask_on_grid(grid, probability, threshold=threshold, min_volume=0.0)
    np.testing.assert_array_equal(mask > 0, grid.take(probability) >= threshold)


def test_left_out_contrast_is_blurred(grid: Grid) -> None:
    image = _maps()["probability"]
    sharp, blurred = (contrast_on_grid(grid, image, left_out=one) for one in (False, True))
    np.testing.assert_array_equal(sharp, grid.take(image))
    assert blurred.max() < sharp.max()
