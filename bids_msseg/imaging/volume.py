"""Images as arrays with affines: the type used throughout :mod:`bids_msseg.imaging`."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import DTypeLike, NDArray

from bids_msseg.errors import DataError, convert_os_error
from bids_msseg.io import atomic

__all__ = ["Volume", "load_volume", "save_volume"]

Affine = NDArray[np.float64]
GRID_TOLERANCE_MM: Final = 1e-2
"""By how much the affines of one grid may differ."""
UNREADABLE: Final[tuple[type[Exception], ...]] = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    OverflowError,
    zlib.error,
    ImageFileError,
    HeaderDataError,
)
"""Errors of nibabel for a file that is damaged or not an image."""


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
        """Return a volume with other values on the same grid."""
        return Volume(data, self.affine)


def is_same_grid(
    shape: tuple[int, ...], affine: Affine, other_shape: tuple[int, ...], other_affine: Affine
) -> bool:
    """Return whether two images have equal shapes, and affines equal within 0.01."""
    return shape == other_shape and np.allclose(
        affine, other_affine, rtol=0, atol=GRID_TOLERANCE_MM
    )


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


def load_or_raise(path: Path, problem: str, *, hint: str) -> Volume:
    """Read a NIfTI file; DataError, with the reason after ``problem``, if this fails."""
    try:
        return load_volume(path)
    except UNREADABLE as error:
        raise DataError(f"{problem}: {error}", hint=hint) from error


def load_if_readable(path: Path, dtype: DTypeLike = np.float32) -> Volume | None:
    """Read a NIfTI file; None if it is missing or damaged."""
    try:
        return load_volume(path, dtype)
    except UNREADABLE:
        return None


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
    nib.save(to_image(volume, dtype), path)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path with the same extension; rename it to the target on success."""
    hint = "make the folder writable and leave enough free space"
    with convert_os_error(f"cannot write {target}", hint=hint):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.replacing(target) as temporary:
            yield temporary


def to_image(volume: Volume, dtype: DTypeLike | None = None) -> nib.Nifti1Image:
    """Make the NIfTI-1 image that :func:`save_volume` writes."""
    data = volume.data
    if dtype is None:
        dtype = np.uint8 if data.dtype == bool else data.dtype
    image = nib.Nifti1Image(data.astype(dtype), volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    return image


def as_stored(volume: Volume, dtype: DTypeLike = np.float32) -> Volume:
    """Return a volume as it reads from a NIfTI file: float32 affine, Fortran order."""
    affine = volume.affine.astype(np.float32).astype(np.float64)
    return Volume(np.asfortranarray(volume.data.astype(dtype)), affine)


class StoredVolumes(Mapping[str, Volume]):
    """Volumes on disk by name, read at each access; ``labels`` as uint8, others as float32."""

    def __init__(self, files: Mapping[str, Path | str], labels: Collection[str] = ()) -> None:
        self._files, self._labels = dict(files), frozenset(labels)

    def __getitem__(self, name: str) -> Volume:
        return load_volume(self._files[name], np.uint8 if name in self._labels else np.float32)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)
