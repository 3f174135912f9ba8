"""Bias field correction by N4 (Tustison et al., IEEE TMI 2010, doi 10.1109/TMI.2010.2046908)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray

from bids_msseg.imaging.volume import Volume

__all__ = ["correct_bias"]

SHRINK_TO_MM = 6.0
ITERATIONS = (40, 40, 30)
# the filters inside N4 add up by thread and take their number from this setting of the process
ITK_THREADS = 1


def correct_bias(
    volume: Volume,
    mask: NDArray[np.bool_],
    *,
    threads: int = 1,  # noqa: ARG001
) -> Volume:
    """Divide an image by the smooth field that N4 finds inside a mask.

    Parameters
    ----------
    volume : Volume
        One contrast; values need not be positive.
    mask : ndarray of bool, shape (X, Y, Z)
        The brain, on the image's own grid.
    threads : int, default 1
        Kept for callers that count threads: N4 always runs on one here, because its field
        changes with their number in the last digits.

    Returns
    -------
    Volume
        float32, same grid. The field is scaled to a mean of one inside the mask, so intensities
        keep their level.
    """
    inside = np.asarray(mask, bool)
    data = volume.data.astype(np.float32)
    level = float(data[inside].mean())
    if level <= 0:
        return volume.with_data(data)
    scaled = np.maximum(data / level, 1e-3)
    # N4 needs two voxels along every axis
    factors = [
        max(1, min(round(SHRINK_TO_MM / edge), count // 2))
        for edge, count in zip(volume.spacing, volume.shape, strict=True)
    ]
    image, region = _to_itk(scaled, volume), _to_itk(inside.astype(np.uint8), volume)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    with single_itk_thread():
        n4.Execute(sitk.Shrink(image, factors), sitk.Shrink(region, factors))
        log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T
    field = np.exp(log_field - float(log_field[inside].mean()))
    return volume.with_data((data / field).astype(np.float32))


@contextmanager
def single_itk_thread() -> Iterator[None]:
    """Set the ITK threads of the process to one; concurrent corrections share one context."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(ITK_THREADS)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _to_itk(data: NDArray[np.generic], volume: Volume) -> sitk.Image:
    """Convert an array to an ITK image with its spacing; N4 ignores the position."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing([float(edge) for edge in volume.spacing])
    return image
