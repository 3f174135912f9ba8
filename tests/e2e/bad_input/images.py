"""NIfTI files built byte by byte, so that each has exactly one fault."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Sequence
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (12, 10, 8)
OFFSETS = {
    "sizeof_hdr": (0, "i"),
    "dim": (40, "8h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "quatern": (256, "3f"),
    "qoffset": (268, "3f"),
    "srow": (280, "12f"),
    "magic": (344, "4s"),
}
"""Where fields of a NIfTI-1 header lie, and their types; https://nifti.nimh.nih.gov."""
AFFINE = np.array([[2.0, 0, 0, -11], [0, 2, 0, -9], [0, 0, 3, -12], [0, 0, 0, 1]])


def values(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """Whole numbers that are all different."""
    return np.arange(1, 1 + int(np.prod(shape)), dtype=np.int16).reshape(shape)


def nifti(
    data: np.ndarray | None = None, affine: np.ndarray = AFFINE, *, kind: type[Any] | None = None
) -> bytes:
    """Write an uncompressed file with both orientations set."""
    stored = values() if data is None else data
    # nibabel requires an explicit dtype for 64-bit integers
    dtype = stored.dtype if stored.dtype.kind in "iu" else None
    image = (kind or nib.Nifti1Image)(stored, affine, dtype=dtype)
    image.set_sform(affine, 1)
    try:
        image.set_qform(affine, 1)
    except np.linalg.LinAlgError:
        image.set_qform(None, 0)
    image.header.set_xyzt_units("mm", "sec")
    return bytes(image.to_bytes())


def field(content: bytes, name: str, *new: Any, order: str = "<") -> bytes:
    """Overwrite a header field."""
    place, kind = OFFSETS[name]
    packed = struct.pack(order + kind, *new)
    return content[:place] + packed + content[place + len(packed) :]


def header(**fields: Any) -> Callable[[], bytes]:
    """Make a file with some fields overwritten."""

    def make() -> bytes:
        content = nifti()
        for name, new in fields.items():
            content = field(content, name, *(new if isinstance(new, tuple) else (new,)))
        return content

    return make


def sform(rows: Sequence[Sequence[float]]) -> Callable[[], bytes]:
    """Make a file with this sform and no qform."""
    flat = tuple(float(number) for row in rows for number in row)
    return header(srow=flat, qform_code=0)


def typed(dtype: Any) -> Callable[[], bytes]:
    """Make a file of voxels of some type."""
    return lambda: nifti(np.zeros(SHAPE, dtype))


def filled(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[], bytes]:
    """Make a float32 file whose voxels were changed."""
    return lambda: nifti(make(values().astype(np.float32)))


def big_endian() -> bytes:
    """Store header and voxels in big-endian byte order."""
    swapped = nib.Nifti1Header(endianness=">")
    image = nib.Nifti1Image(values().astype(">i2"), AFFINE, swapped)
    content = bytes(image.to_bytes())
    assert content[:4] == b"\x00\x00\x01\x5c"
    return content


def zipped(content: bytes) -> bytes:
    """Compress, always to the same bytes."""
    return gzip.compress(content, mtime=0)


def bomb(megabytes: int) -> bytes:
    """Compress zeros to a thousandth: gzip members of 1 MB each, one after the other."""
    return zipped(bytes(2**20)) * megabytes
