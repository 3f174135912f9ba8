"""An image as an array with its affine: the value that travels through the imaging room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import DTypeLike, NDArray

Affine = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Volume:
    """A 3-D image in world coordinates.

    Attributes
    ----------
    data : ndarray, shape (X, Y, Z)
        Voxel values.
    affine : ndarray of float64, shape (4, 4)
        Voxel index to world position in mm, RAS+ (NIfTI convention).
    """

    data: NDArray[Any]
    affine: Affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """Grid size (X, Y, Z) in voxels."""
        x, y, z = self.data.shape
        return (x, y, z)

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel edge lengths in mm, shape (3,)."""
        lengths: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return lengths

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def with_data(self, data: NDArray[Any]) -> Volume:
        """Return the same grid holding other values."""
        return Volume(data, self.affine)


def load_volume(path: Path | str, dtype: DTypeLike = np.float32) -> Volume:
    """Read a NIfTI file that :mod:`bids_msseg.imaging.conform` has already accepted.

    Parameters
    ----------
    path : path
        A 3-D ``.nii`` or ``.nii.gz`` file.
    dtype : dtype, default float32
        Type of the returned values; scaling in the header is applied.

    Returns
    -------
    Volume
    """
    image: Any = nib.load(path)
    return Volume(np.asarray(image.dataobj).astype(dtype), np.asarray(image.affine, np.float64))


def as_ras(volume: Volume) -> Volume:
    """Flip and permute axes so that they point right, anterior, superior; nothing is resampled."""
    image = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine))
    return Volume(np.asarray(image.dataobj), np.asarray(image.affine, np.float64))


def save_volume(volume: Volume, path: Path | str, dtype: DTypeLike | None = None) -> None:
    """Write a NIfTI-1 file, qform and sform equal to the affine, codes 1 (scanner).

    Parameters
    ----------
    volume : Volume
        What to write. Booleans are stored as uint8.
    path : path
        Name of the file; its ending chooses compression.
    dtype : dtype, optional
        Type on disk; the array's own where not given.
    """
    data = volume.data
    if dtype is None:
        dtype = np.uint8 if data.dtype == bool else data.dtype
    image = nib.Nifti1Image(data.astype(dtype), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    nib.save(image, path)
