"""Checks of NIfTI images, header first, and their conversion to 3-D float32 images near RAS+."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError, IoError
from bids_msseg.imaging.header import (
    MAX_EXPANSION,
    UNCHECKED_BYTES,
    HeaderInfo,
    check_header,
    damaged,
    image_label,
    open_image,
)
from bids_msseg.imaging.volume import Volume, replacing, save_volume


@dataclass(frozen=True, slots=True)
class Conformed:
    """An accepted image, float32 with axes closest to RAS+, and notes on what was unusual."""

    volume: Volume
    notes: tuple[str, ...]


def conform(path: Path, target: Path, *, contrast: str) -> Conformed:
    """Check a NIfTI file and write it as 3-D float32 near RAS+; MssegError if it is refused."""
    image = read_image(path, contrast=contrast)
    with replacing(target) as temporary:
        save_volume(image.volume, temporary)
    return image


def read_image(path: Path, *, contrast: str) -> Conformed:
    """Read and check a NIfTI file as :func:`conform` does, and write nothing."""
    info, data, notes = _read(path, contrast)
    return Conformed(canonical(Volume(data, info.affine)), info.notes + notes)


def check_image(path: Path, *, contrast: str = "") -> None:
    """Check a whole NIfTI file as :func:`conform` does, and return nothing."""
    _read(path, contrast)


def _read(path: Path, contrast: str) -> tuple[HeaderInfo, NDArray[np.float32], tuple[str, ...]]:
    """Read header and values; return them with notes on what was unusual."""
    info = check_header(path, contrast=contrast)
    label = image_label(path, contrast)
    data, notes = _finite(_scaled(_read_voxels(path, info, label), info), label)
    return info, data, notes


def canonical(volume: Volume) -> Volume:
    """Swap and flip axes to the order closest to RAS+, without interpolation."""
    axes = nib.io_orientation(volume.affine)
    data = np.ascontiguousarray(nib.apply_orientation(volume.data, axes))
    voxel_transform = nib.orientations.inv_ornt_aff(axes, volume.shape)
    # adding 0.0 turns the -0.0 that a flip leaves into 0.0
    return Volume(data, np.asarray(volume.affine @ voxel_transform, np.float64) + 0.0)


def _read_voxels(path: Path, info: HeaderInfo, label: str) -> NDArray[Any]:
    """Read the bytes that the header declares; DataError if too few, or implausibly many."""
    byte_count = int(np.prod(info.shape)) * info.dtype.itemsize
    file_size = path.stat().st_size
    if byte_count > max(UNCHECKED_BYTES, MAX_EXPANSION * file_size):
        raise damaged(
            label, f"its voxels need {byte_count / file_size:.0f} times as many bytes as it has"
        )
    try:
        with open_image(path) as stream:
            stream.read(info.offset)
            content = stream.read(byte_count)
            stream.read(1)  # at the end of a gzip stream this compares its checksum
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(label, str(error)) from error
    except OSError as error:
        raise IoError(f"{label} cannot be read: {error}", hint="check the disk") from error
    if len(content) < byte_count:
        raise damaged(label, f"it contains only {len(content)} of {byte_count} bytes of voxels")
    return np.frombuffer(content, info.dtype).reshape(info.shape, order="F")


def _scaled(stored: NDArray[Any], info: HeaderInfo) -> NDArray[np.float32]:
    """Apply slope and intercept; wide types are computed in double precision first."""
    wide = np.float64 if info.dtype.itemsize >= 4 else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        values: NDArray[Any] = stored.astype(wide)
        if info.slope != 1.0 or info.inter != 0.0:
            values = values * wide(info.slope) + wide(info.inter)
        return values.astype(np.float32)


def _finite(data: NDArray[np.float32], label: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Set non-finite values to zero, with a note; DataError if none is finite or all equal."""
    good = np.isfinite(data)
    values = data[good]
    if values.size == 0 or values.min() == values.max():
        what = "no finite value" if values.size == 0 else "the same value everywhere"
        raise DataError(f"{label} has {what}", hint="convert it again, or leave this visit out")
    if values.size == data.size:
        return data, ()
    count = data.size - values.size
    note = f"{count} voxels ({count / data.size:.2%}) were not finite and were set to 0"
    return np.where(good, data, np.float32(0.0)), (note,)
