"""Conversion of affines and images to ITK, which uses LPS+, and ITK's text transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.volume import Affine, Volume, replacing

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_itk_affine(affine: Affine, path: Path) -> None:
    """Write an affine (fixed to moving world mm, RAS+) atomically as an ITK text transform."""
    lps = LPS @ affine @ LPS
    numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    text = "\n".join(
        (
            "#Insight Transform File V1.0",
            "#Transform 0",
            "Transform: AffineTransform_double_3_3",
            "Parameters: " + " ".join(repr(float(number)) for number in numbers),
            "FixedParameters: 0 0 0",
            "",
        )
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="ascii")


def read_itk_affine(path: Path) -> Affine:
    """Read a linear 3-D ITK transform as fixed to moving world mm, RAS+; DataError if not one."""
    if not path.is_file():
        raise NoInputError(f"the transform {path} does not exist", hint="check the path")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise _unreadable(path) from error
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise _unreadable(path)
    return from_itk(transform)


def as_stored_affine(affine: Affine) -> Affine:
    """Return an affine with the rounding of writing and reading an ITK transform."""
    lps = LPS @ affine @ LPS
    transform = sitk.AffineTransform(3)
    transform.SetParameters([float(number) for number in (*lps[:3, :3].ravel(), *lps[:3, 3])])
    return from_itk(transform)


def _unreadable(path: Path) -> DataError:
    return DataError(
        f"{path} is not a linear 3-D ITK transform", hint="save it again as an ITK affine"
    )


def to_itk(volume: Volume, dtype: type = np.float32) -> sitk.Image:
    """Convert a volume with perpendicular axes to ITK: (Z, Y, X) in memory, LPS+ in space."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.data.T.astype(dtype)))
    affine = LPS @ volume.affine
    image.SetSpacing([float(edge) for edge in volume.spacing])
    image.SetOrigin([float(x) for x in affine[:3, 3]])
    image.SetDirection([float(x) for x in (affine[:3, :3] / volume.spacing).ravel()])
    return image


def from_itk(transform: sitk.Transform) -> Affine:
    """Derive an affine from where a transform moves the origin and the unit vectors."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    affine = np.eye(4)
    for axis in range(3):
        affine[:3, axis] = np.array(transform.TransformPoint(tuple(np.eye(3)[axis]))) - origin
    affine[:3, 3] = origin
    return LPS @ affine @ LPS
