"""Copies of NIfTI images in which only selected voxels change."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.imaging.stored import with_values


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("<i2", 25.5, 8),
        (">i2", 24.5, 7),
        ("<u1", 1000.0, 255),
        ("<u1", -4.0, 0),
        ("<f4", 25.5, 7.75),
        (">f8", 25.5, 7.75),
    ],
)
def test_one_voxel_changes_and_all_others_stay_as_stored(
    tmp_path: Path, dtype: str, value: float, expected: float
) -> None:
    """The value is 10 + 2 × the stored one; the file has a fourth axis of length 1."""
    data = np.arange(60).reshape(3, 4, 5, 1).astype(dtype)
    header = nib.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(data.dtype)
    header["descrip"] = b"scanner 7"
    image = nib.Nifti1Image(data, np.diag([2.0, 2, 2, 1]), header)
    image.header.set_slope_inter(2, 10)
    nib.save(image, tmp_path / "given.nii.gz")
    changed = np.zeros((3, 4, 5), bool)
    changed[1, 2, 3] = True
    copied = with_values(
        nib.load(tmp_path / "given.nii.gz"), changed, np.full(changed.shape, value)
    )
    nib.save(copied, tmp_path / "copied.nii.gz")
    found = nib.load(tmp_path / "copied.nii.gz")
    wanted = data.copy()
    wanted[1, 2, 3] = expected
    np.testing.assert_array_equal(found.dataobj.get_unscaled(), wanted)
    assert found.get_data_dtype() == data.dtype
    assert (found.dataobj.slope, found.dataobj.inter) == (2, 10)
    assert found.header.endianness == dtype[0]
    assert found.header["descrip"] == b"scanner 7"
