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
    """Convert a nibabel image to NIfTI; values of a file keep their type and scale."""
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
    """Copy a NIfTI image and replace the voxels in ``changed``; all else is bit-identical."""
    stored = as_nifti(image)
    slope, inter = stored.header.get_slope_inter()
    data = np.array(stored.dataobj)
    new_values = (values[changed].astype(np.float64) - inter) / slope
    if np.issubdtype(data.dtype, np.integer):
        limits = np.iinfo(data.dtype)
        new_values = np.clip(np.round(new_values), limits.min, limits.max)
    data[changed.reshape(data.shape)] = new_values.astype(data.dtype)
    copied = type(stored)(data, stored.affine, stored.header)
    copied.header.set_slope_inter(slope, inter)
    return copied
