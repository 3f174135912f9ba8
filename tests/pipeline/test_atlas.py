"""Lesion volumes per region of an atlas on another grid."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.imaging.atlas import Atlas, embedded_atlas
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.pipeline.atlas import load_atlas, measure_regions, outside_note
from bids_msseg.spaces import AtlasChoice

NAMES = {1: "front", 2: "back"}


def lesions() -> Volume:
    """Eight voxels of 1 mm along x: lesion 1 in the voxels 2 and 3, lesion 2 in voxel 6."""
    data = np.zeros((8, 1, 1), np.int32)
    data[2:4], data[6] = 1, 2
    return Volume(data, np.eye(4))


def atlas() -> Atlas:
    """Voxels of 4 mm along x: region 1, then region 2, between two without a label."""
    affine = np.diag([4.0, 1, 1, 1])
    affine[0, 3] = -2.5
    labels = np.array([0, 1, 2, 0], np.int32).reshape(4, 1, 1)
    return Atlas("parts", Volume(labels, affine), NAMES)


def moved(x: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = x
    return affine


@pytest.mark.parametrize(
    ("shift", "front", "back", "outside"),
    [(0.0, 0.002, 0.001, 0.0), (-4.0, 0.001, 0.0, 0.002), (4.0, 0.0, 0.002, 0.001)],
)
def test_transform_maps_flair_to_atlas(
    shift: float, front: float, back: float, outside: float
) -> None:
    rows = measure_regions(lesions(), atlas(), moved(shift) if shift else None)
    assert [row.name for row in rows] == ["front", "back", "outside"]
    assert [row.lesion_ml for row in rows] == pytest.approx([front, back, outside])
    assert sum(row.lesion_count for row in rows) == 2


def test_non_overlapping_atlas_is_noted() -> None:
    assert outside_note("parts", measure_regions(lesions(), atlas())) == ""
    rows = measure_regions(lesions(), atlas(), moved(100))
    assert math.isnan(rows[-1].region_ml)
    assert "parts" in outside_note("parts", rows)


def test_load_embedded_atlas() -> None:
    found = load_atlas(AtlasChoice.parse("sides"))
    np.testing.assert_array_equal(found.volume.data, embedded_atlas().volume.data)


def test_load_atlas_from_file(tmp_path: Path) -> None:
    path = tmp_path / "seg-parts_dseg.nii.gz"
    save_volume(atlas().volume, path)
    found = load_atlas(AtlasChoice.parse(f"{path}:FLAIR"))
    np.testing.assert_array_equal(found.volume.data, atlas().volume.data)
    assert found.names == {1: "label 1", 2: "label 2"}


def test_load_atlas_from_templateflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    path = tmp_path / "atlas-DiFuMo_dseg.nii.gz"
    save_volume(atlas().volume, path)

    def find(*words: object, **more: object) -> Path:
        asked.extend([*words, *more.values()])
        return path

    monkeypatch.setattr("bids_msseg.pipeline.atlas.find_label_image", find)
    found = load_atlas(AtlasChoice.parse("DiFuMo:MNI152NLin6Asym:desc-64:res-2"))
    np.testing.assert_array_equal(found.volume.data, atlas().volume.data)
    assert asked == ["MNI152NLin6Asym", "DiFuMo", "64", 2]
