"""Images that keep the type and the scale of their stored voxels."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

WIDER = {
    np.dtype(bool): np.dtype(np.uint8),
    np.dtype(np.float16): np.dtype(np.float32),
    np.dtype(np.longdouble): np.dtype(np.float64),
}
"""Types that NIfTI files lack, and those that take their place."""


def as_nifti(image: Any) -> Any:
    """Make a NIfTI image of the same values: those of a file stay as stored, with their scale.

    Parameters
    ----------
    image : nibabel image
        From a file or in memory, of any format.

    Returns
    -------
    Nifti1Image, or the image's own class of NIfTI images
    """
    proxy, slope, inter = image.dataobj, 1.0, 0.0
    if type(proxy) is ArrayProxy:
        data, slope, inter = proxy.get_unscaled(), proxy.slope, proxy.inter
    else:
        data = np.asanyarray(proxy)
    data = data.astype(WIDER.get(data.dtype, data.dtype), copy=False)
    is_nifti = isinstance(image, nib.Nifti1Image)
    header = image.header.copy() if is_nifti else nib.Nifti1Header()
    header.set_data_dtype(data.dtype)
    stored = (type(image) if is_nifti else nib.Nifti1Image)(data, image.affine, header)
    if not is_nifti:
        stored.set_sform(image.affine, code=1)
    stored.header.set_slope_inter(slope, inter)
    return stored


def with_values(image: Any, changed: NDArray[np.bool_], values: NDArray[Any]) -> Any:
    """Copy a NIfTI image and give some of its voxels other values.

    Parameters
    ----------
    image : nibabel image
        From a file or in memory.
    changed : ndarray of bool, shape (X, Y, Z)
        Voxels that get another value; all others stay as stored, bit for bit.
    values : ndarray of float, shape (X, Y, Z)
        Scaled. Where the image stores integers, the nearest one that it can hold is taken.

    Returns
    -------
    Nifti1Image, or the image's own class of NIfTI images
        Header, type and scale are those of the image.
    """
    stored = as_nifti(image)
    slope, inter = stored.header.get_slope_inter()
    data = np.array(stored.dataobj)
    wanted = (values[changed].astype(np.float64) - inter) / slope
    if np.issubdtype(data.dtype, np.integer):
        limits = np.iinfo(data.dtype)
        wanted = np.clip(np.round(wanted), limits.min, limits.max)
    data[changed.reshape(data.shape)] = wanted.astype(data.dtype)
    copied = type(stored)(data, stored.affine, stored.header)
    copied.header.set_slope_inter(slope, inter)
    return copied
