"""Images that keep the type and the scale of their stored voxels."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

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
