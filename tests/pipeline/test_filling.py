"""Lesion filling changes only voxels inside lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform

from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.pipeline.filling import fill_image

SHAPE = (12, 11, 10)
WHITE, LESION, CORTEX = 200, 120, 50
"""Stored values."""


def anatomy(*, white: Anatomy = Anatomy.WHITE_MATTER) -> Volume:
    """Voxels of 1 mm: white matter, cortex from x = 8 mm on."""
    labels = np.full(SHAPE, white, np.uint8)
    labels[8:] = Anatomy.CORTEX
    return Volume(labels, np.eye(4))


def moved(x: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = x
    return affine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.nii.gz"


def write(path: Path, axes: str = "RAS", shift: float = 0.0) -> Any:
    """Write constant white matter with a darker lesion, and read it again."""
    data = np.full(SHAPE, WHITE, np.int16)
    data[3:5, 4:7, 4:6] = LESION
    data[8:] = CORTEX
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    image = nib.Nifti1Image(data, moved(shift)).as_reoriented(turn)
    image.header["descrip"] = b"scanner 7"
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, path)
    return nib.load(path)


def unscaled(image: Any) -> np.ndarray:
    return np.asarray(image.dataobj.get_unscaled())


@pytest.mark.parametrize("axes", ["RAS", "LAS", "PSR"])
@pytest.mark.parametrize("shift", [0.0, 8.0, -8.0])
def test_only_lesions_change(tmp_path: Path, path: Path, axes: str, shift: float) -> None:
    """Without the transform, a shift of 8 mm puts cortex or background on white matter."""
    given = write(path, axes, shift)
    stored = unscaled(given)
    move = moved(-shift) if shift else None
    filled = fill_image(path, stored == LESION, anatomy(), transform=move)
    nib.save(filled, tmp_path / "filled.nii.gz")
    found = nib.load(tmp_path / "filled.nii.gz")
    np.testing.assert_array_equal(unscaled(found), np.where(stored == LESION, WHITE, stored))
    np.testing.assert_array_equal(found.affine, given.affine)
    assert (found.dataobj.slope, found.dataobj.inter) == (0.5, 10)
    for field in ("datatype", "sform_code", "qform_code", "descrip"):
        assert found.header[field] == given.header[field]


@pytest.mark.parametrize("white", [Anatomy.CEREBELLAR_WHITE, Anatomy.BRAINSTEM])
def test_cerebellar_and_brainstem_white_matter_is_used(path: Path, white: Anatomy) -> None:
    lesions = unscaled(write(path)) == LESION
    filled = fill_image(path, lesions, anatomy(white=white))
    assert LESION not in np.asarray(filled.dataobj)


def test_image_without_lesions_is_unchanged(path: Path) -> None:
    stored = unscaled(write(path))
    filled = fill_image(path, np.zeros(SHAPE, np.uint8), anatomy(white=Anatomy.CORTEX))
    np.testing.assert_array_equal(filled.dataobj, stored)


def test_lesions_without_white_matter_raise_data_error(path: Path) -> None:
    lesions = unscaled(write(path)) == LESION
    with pytest.raises(DataError) as error:
        fill_image(path, lesions, anatomy(white=Anatomy.CORTEX))
    assert "--fill-lesions" in error.value.hint


def test_nonfinite_voxels_change_only_inside_lesions(path: Path) -> None:
    data = np.full(SHAPE, 100, np.float32)
    lesions = np.zeros(SHAPE, bool)
    lesions[3:5, 4:7, 4:6] = True
    data[3, 4, 4] = data[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    filled = np.asarray(fill_image(path, lesions, anatomy()).dataobj)
    assert filled[3, 4, 4] == 100
    assert np.argwhere(np.isnan(filled)).tolist() == [[0, 0, 0]]
