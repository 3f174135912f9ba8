"""Volumes in memory have the precision of files; files are written atomically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bids_msseg.errors import CannotCreateError
from bids_msseg.imaging.registration.itk import as_stored_affine, read_itk_affine, write_itk_affine
from bids_msseg.imaging.volume import (
    StoredVolumes,
    Volume,
    as_stored,
    is_same_grid,
    load_volume,
    replacing,
    save_volume,
    to_image,
)

from .conftest import rigid

ODD = rigid((3, -7, 11), (0.1, -63.7, 1e3 / 3)) @ np.diag([0.9375, 0.9375, 3.3, 1.0])


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float32])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_as_stored_equals_saved_and_loaded_volume(
    tmp_path: Path, kind: type, dtype: type, order: str
) -> None:
    values = np.random.default_rng(1).integers(0, 3, (5, 4, 3))
    given = Volume(np.array(values, kind, order=order), ODD)
    save_volume(given, tmp_path / "one.nii.gz")
    read, ours = load_volume(tmp_path / "one.nii.gz", dtype), as_stored(given, dtype)
    np.testing.assert_array_equal(ours.data, read.data)
    np.testing.assert_array_equal(ours.affine, read.affine)
    assert (ours.affine != ODD).any()
    assert ours.data.dtype == read.data.dtype
    assert ours.data.flags.f_contiguous == read.data.flags.f_contiguous


@pytest.mark.parametrize("angles", [(0, 0, 0), (3, -7, 11), (170, 1, -2)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (1 / 3, -63.7, 1e3 / 7)])
def test_as_stored_affine_equals_written_and_read_affine(
    tmp_path: Path, angles: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    affine = rigid(angles, shift) @ np.diag([0.97, 1.03, 1 / 0.9, 1.0])
    write_itk_affine(affine, tmp_path / "one.txt")
    np.testing.assert_array_equal(as_stored_affine(affine), read_itk_affine(tmp_path / "one.txt"))


def test_stored_volumes_are_read_on_access(tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("image", "labels")}
    stored = StoredVolumes(files, labels=["labels"])
    assert (set(stored), len(stored)) == ({"image", "labels"}, 2)
    assert "image" in stored
    assert "other" not in stored
    for path in files.values():
        save_volume(Volume(np.full((2, 2, 2), 3, np.uint8), np.eye(4)), path)
    assert (stored["image"].data.dtype, stored["labels"].data.dtype) == (np.float32, np.uint8)
    save_volume(Volume(np.full((2, 2, 2), 5, np.uint8), np.eye(4)), files["image"])
    assert (stored["image"].data == 5).all()


def test_image_in_memory_has_same_bytes_as_saved_file(tmp_path: Path) -> None:
    volume = Volume(np.ones((3, 2, 2), bool), ODD)
    save_volume(volume, tmp_path / "one.nii")
    assert to_image(volume).to_bytes() == (tmp_path / "one.nii").read_bytes()


def test_same_grid_allows_rounding_of_affine() -> None:
    shape, affine = (2, 3, 4), np.eye(4)
    assert is_same_grid(shape, affine, shape, affine + 0.005)
    assert not is_same_grid(shape, affine, shape, np.diag([1, 1, 1.1, 1]))
    assert not is_same_grid(shape, affine, (2, 3, 5), affine)


def test_target_appears_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "image.nii.gz"
    with replacing(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        assert temporary.parent == target.parent
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert [p.name for p in target.parent.iterdir()] == ["image.nii.gz"]


def test_failure_keeps_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise ValueError("broke off")

    with pytest.raises(ValueError, match="broke off"):
        write_half()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_file_in_place_of_folder_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(CannotCreateError) as caught,
        replacing(tmp_path / "out" / "a.txt") as temporary,
    ):
        temporary.write_text("x")
    assert str(tmp_path / "out") in caught.value.message
