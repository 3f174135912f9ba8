"""Headers of NIfTI files: reading, and checks of their plausibility."""

from __future__ import annotations

import gzip
import itertools
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from bids_msseg.errors import DataError, IoError, NoInputError
from bids_msseg.imaging.volume import Affine

SPACING_RANGE_MM = (0.2, 15.0)
LONGEST_AXIS = 2048
MIN_SLICES = 5
UNCHECKED_BYTES = 64 * 2**20
MAX_EXPANSION = 300
"""Compression ratio that the noise of an image prevents."""
MAX_VOXELS = 1_000_000_000
MAX_HEADER_BYTES = 16 * 2**20
SHEAR_TOLERANCE = 0.01
FORM_TOLERANCE_MM = 1.0
FARTHEST_MM = 10_000.0
NO_FORM_NOTE = (
    "neither qform nor sform is set: voxel sizes alone were used, axes taken as "
    "left-anterior-superior; LEFT AND RIGHT CANNOT BE VERIFIED"
)
ANNEX_POINTERS = (b"/annex/objects/", b".git/annex/objects/", b"version https://git-lfs")


@dataclass(frozen=True, slots=True)
class HeaderInfo:
    """Content of a NIfTI header that passed the checks."""

    shape: tuple[int, int, int]  # without trailing axes of length one
    spacing: tuple[float, float, float]  # mm
    affine: Affine  # stored voxel index to world mm, RAS+
    dtype: np.dtype[np.generic]
    slope: float  # value = slope × stored + inter
    inter: float
    offset: int  # bytes before the first voxel
    notes: tuple[str, ...]


class FewSlicesError(DataError):
    """An image with too few slices to be a volume, such as a localizer."""


def image_label(path: Path, contrast: str) -> str:
    """Return the name of an image for messages."""
    return f"the {contrast} image {path}" if contrast else f"the image {path}"


def check_header(path: Path, *, contrast: str = "", series: bool = False) -> HeaderInfo:
    """Check a header; NoInputError if missing, IoError if unreadable, DataError if refused.

    ``series`` allows several volumes.
    """
    label = image_label(path, contrast)
    header = _parse(_read_start(path, label), label)
    shape, notes = _shape(header, label, series=series)
    dtype = _dtype(header, label)
    slope, inter = header.get_slope_inter()
    offset = float(header["vox_offset"])
    if not header.sizeof_hdr <= offset <= MAX_HEADER_BYTES:
        raise damaged(label, f"invalid data offset {offset} in the header")
    affine, affine_notes = _affine(header, shape, label)
    spacing = tuple(float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0))
    return HeaderInfo(
        shape=shape,
        spacing=cast(tuple[float, float, float], spacing),
        affine=affine,
        dtype=dtype,
        slope=1.0 if slope is None else float(slope),
        inter=0.0 if inter is None else float(inter),
        offset=int(offset),
        notes=notes + affine_notes,
    )


def _read_start(path: Path, label: str) -> bytes:
    """Return the first bytes of the uncompressed file."""
    if not path.exists():
        raise _missing(path, label)
    if path.is_dir():
        raise DataError(
            f"{label} is a folder", hint="put a NIfTI file there, or rename the folder"
        )
    if not path.is_file():
        # reading from a pipe could block forever
        raise DataError(f"{label} is not a regular file", hint="put a NIfTI file there")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(
            f"{label} is not named *.nii or *.nii.gz", hint="convert it, e.g. with dcm2niix"
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
        if not start:
            raise damaged(label, "the file is empty")
        if start.startswith(ANNEX_POINTERS):
            raise _missing(path, label)
        zipped = start.startswith(b"\x1f\x8b")
        if zipped != path.name.endswith(".gz"):
            raise DataError(
                f"{label} is {'' if zipped else 'not '}compressed, contrary to its name",
                hint="rename it: .nii.gz if compressed, .nii if not",
            )
        with open_image(path) as stream:
            return stream.read(nib.Nifti2Header.sizeof_hdr)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(label, str(error)) from error
    except OSError as error:
        raise IoError(
            f"{label} cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error


def open_image(path: Path) -> BinaryIO:
    """Open a file, compressed or not, at its first byte."""
    return cast(BinaryIO, gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb"))


def _missing(path: Path, label: str) -> NoInputError:
    if path.is_symlink() or path.exists():
        return NoInputError(
            f"{label} is a placeholder whose content was not fetched", hint=f"datalad get {path}"
        )
    return NoInputError(f"{label} does not exist", hint="check the path, or leave this visit out")


def damaged(label: str, reason: str) -> DataError:
    """Create the error for a file that is damaged or not NIfTI."""
    return DataError(
        f"{label} is damaged or not NIfTI: {reason}",
        hint="copy or convert it again from its source",
    )


def _parse(head: bytes, label: str) -> Any:
    """Make a header object from the bytes of a single-file NIfTI-1 or NIfTI-2."""
    kinds: dict[int, tuple[Any, bytes, int]] = {
        348: (nib.Nifti1Header, b"n+1\0", 344),
        540: (nib.Nifti2Header, b"n+2\0", 4),
    }
    sizes = (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big"))
    size = next((number for number in sizes if number in kinds), None)
    if size is None or len(head) < size:
        raise damaged(label, "it does not start with a complete header")
    kind, magic, magic_offset = kinds[size]
    if head[magic_offset : magic_offset + 4] != magic:
        raise damaged(label, "the NIfTI signature is missing")
    stored = kind(head[:size], check=False)
    if not stored["sform_code"] and not stored["pixdim"][1:4].all():
        # nibabel would read it as 1 mm
        raise damaged(label, "the header declares a voxel size of 0 mm")
    try:
        return kind(head[:size])
    except (HeaderDataError, ValueError, OverflowError) as error:
        raise damaged(label, str(error)) from error


def _shape(
    header: Any, label: str, *, series: bool
) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return the size along three axes, and notes; raise DataError for other images."""
    full = tuple(int(n) for n in header.get_data_shape())
    text = " × ".join(map(str, full))
    if any(n < 1 or n > LONGEST_AXIS for n in full) or np.prod(full, dtype=float) > MAX_VOXELS:
        raise DataError(
            f"{label} declares {text} voxels in its header",
            hint=f"check the header; at most {LONGEST_AXIS} voxels along an axis are supported",
        )
    if not series and any(n > 1 for n in full[3:]):
        raise DataError(
            f"{label} has {len(full)} dimensions ({text})",
            hint="keep one 3-D volume, e.g. with nibabel.funcs.four_to_three",
        )
    if len(full) < 3 or min(full[:3]) < MIN_SLICES:
        raise FewSlicesError(
            f"{label} is not a volume ({text} voxels)",
            hint=f"use the whole 3-D series; at least {MIN_SLICES} slices are required",
        )
    notes = (f"stored with {len(full)} axes; axes of length one were dropped",) * (len(full) > 3)
    return (full[0], full[1], full[2]), notes


def _dtype(header: Any, label: str) -> np.dtype[np.generic]:
    """Return the type on disk; raise DataError unless it is one real number per voxel."""
    try:
        dtype: np.dtype[np.generic] = header.get_data_dtype()
        header.get_slope_inter()
    except (HeaderDataError, KeyError) as error:
        raise damaged(label, str(error)) from error
    if dtype.kind not in "iuf":
        raise DataError(
            f"{label} contains {'complex numbers' if dtype.kind == 'c' else 'colours or bits'}",
            hint="use the magnitude image, with one number per voxel",
        )
    return dtype


def _affine(
    header: Any, shape: tuple[int, int, int], label: str
) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine on which qform and sform agree, and notes."""
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
        affine = np.asarray(header.get_best_affine(), np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        raise damaged(label, f"its orientation cannot be read ({error})") from error
    _check_axes(affine, label)
    if sform is not None and qform is not None:
        gap_mm = _corner_distance(sform, qform, shape)
        if not gap_mm <= FORM_TOLERANCE_MM:
            raise DataError(
                f"{label} has two orientations (qform and sform) that differ by {gap_mm:.1f} mm",
                hint="find out which is right and copy it over the other: `fslorient "
                "-copysform2qform FILE` or `fslorient -copyqform2sform FILE`",
            )
    if sform is None and qform is None:
        return affine, (NO_FORM_NOTE,)
    zooms = np.asarray(header.get_zooms()[:3], float)
    if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0), zooms, rtol=0.01):
        return affine, ("pixdim contradicts the sform; the sform's voxel sizes were used",)
    return affine, ()


def _check_axes(affine: Affine, label: str) -> None:
    """Raise DataError unless the axes are perpendicular and have plausible lengths."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not edges.all():
        raise DataError(
            f"{label} has an affine that cannot be inverted", hint="convert it again from DICOM"
        )
    if np.abs(affine[:3, 3]).max() > FARTHEST_MM:
        raise DataError(
            f"{label} lies more than {FARTHEST_MM / 1000:.0f} m from the scanner's centre",
            hint="correct the origin in its header, or convert it again from DICOM",
        )
    low, high = SPACING_RANGE_MM
    # header fields are float32: 0.2 mm may be read as 0.2 - 3e-9
    if (edges < low * (1 - 1e-5)).any() or (edges > high * (1 + 1e-5)).any():
        sizes = " × ".join(f"{edge:.3g}" for edge in edges)
        raise DataError(
            f"{label} has voxels of {sizes} mm",
            hint=f"use voxels of {low}-{high} mm; check that the header's unit is mm",
        )
    axes = affine[:3, :3] / edges
    max_cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if max_cosine > SHEAR_TOLERANCE:
        raise DataError(
            f"{label} has axes that are not perpendicular (cosine {max_cosine:.3f})",
            hint="resample it onto perpendicular axes, or convert it again from DICOM",
        )


def _corner_distance(first: Affine, second: Affine, shape: tuple[int, int, int]) -> float:
    """Return the largest distance in mm between corners of a grid under two affines."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape))), float)
    offsets = corners @ (first - second)[:3, :3].T + (first - second)[:3, 3]
    return float(np.linalg.norm(offsets, axis=1).max())
