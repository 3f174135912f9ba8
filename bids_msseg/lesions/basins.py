"""Division of components into the basins of their peaks."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage


def split_at_saddles(
    components: NDArray[np.int32], height: NDArray[np.floating], prominence: float
) -> NDArray[np.int32]:
    """Divide components (X, Y, Z) with labels 1..n by a watershed of their height.

    Each part has one peak that is at least ``prominence`` above the saddle to a higher peak.
    """
    parts = np.zeros_like(components)
    count = 0
    for number, box in enumerate(ndimage.find_objects(components), start=1):
        if box is None:
            continue
        inside = components[box] == number
        basins = _find_basins(height[box], inside, prominence)
        parts[box][inside] = np.unique(basins, return_inverse=True)[1] + count + 1
        count = int(parts[box].max())
    return parts


def _find_basins(
    height: NDArray[np.floating], inside: NDArray[np.bool_], prominence: float
) -> NDArray[np.integer]:
    """Return the number of the basin of each voxel inside; the numbers have gaps."""
    outside = prominence - float(height.min())
    depth = np.where(inside, -height, outside).astype(np.float32)
    # a border of one voxel keeps peaks at the border of the box apart
    image = sitk.GetImageFromArray(np.pad(depth, 1, constant_values=outside))
    basins = sitk.MorphologicalWatershed(
        image, level=prominence, markWatershedLine=False, fullyConnected=True
    )
    found: NDArray[np.integer] = sitk.GetArrayFromImage(basins)[1:-1, 1:-1, 1:-1][inside]
    return found
