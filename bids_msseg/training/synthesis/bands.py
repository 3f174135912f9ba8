"""Periventricular bands: confluent lesions that follow the wall of the lateral ventricles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.training.synthesis.shapes import smooth_noise
from bids_msseg.training.synthesis.tissues import (
    HALO_STEPS,
    LesionDraw,
    Tissue,
    sparse_lesions,
)

REACH_MM = 8.0
WIDTH_MM = (1.2, 4.0)
"""Mean width of a band."""
COVERED = (0.25, 0.9)
"""Share of the wall along which the band runs."""
EDGE_MM = (0.8, 1.6)


def add_bands(
    rng: np.random.Generator, tissue: NDArray[np.uint8], halo: NDArray[np.uint8], draw: LesionDraw
) -> LesionDraw:
    """Add bands of white-matter lesion beside the lateral ventricles to a set of lesions."""
    soft = np.zeros(tissue.shape, np.float32)
    soft.ravel()[draw.voxels] = draw.fraction / np.float32(255)
    owner = np.zeros(tissue.shape, np.int32)
    owner.ravel()[draw.voxels] = draw.owner
    near = halo < REACH_MM * HALO_STEPS
    if not near.any():
        return draw
    box = ndimage.find_objects(near.astype(np.int8))[0]
    share = _band_fraction(rng, halo[box], tissue[box] == Tissue.WHITE)
    bands, _ = ndimage.label((share >= 0.5) & (owner[box] == 0), np.ones((3, 3, 3)))
    free = bands > 0
    owner[box][free] = bands[free] + owner.max()
    soft[box] = np.maximum(soft[box], share)
    return sparse_lesions(owner, soft, draw.choroid)


def _band_fraction(
    rng: np.random.Generator, halo: NDArray[np.uint8], white: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the lesion fraction of each voxel; width and extent of the band vary smoothly."""
    width = rng.uniform(*WIDTH_MM) * (1 + 0.5 * smooth_noise(rng, halo.shape, 5.0))
    extent = smooth_noise(rng, halo.shape, 12.0)
    near = white & (halo < REACH_MM * HALO_STEPS)
    if not near.any():
        return np.zeros(halo.shape, np.float32)
    limit = np.quantile(extent[near], 1 - rng.uniform(*COVERED))
    width = np.where(extent > limit, width, 0)
    # the surface lies half a voxel before the centre of the first voxel outside
    depth = width - (halo / np.float32(HALO_STEPS) - 0.5)
    share = np.clip(0.5 + depth / rng.uniform(*EDGE_MM), 0, 1) * near
    fraction: NDArray[np.float32] = ndimage.gaussian_filter(share.astype(np.float32), 0.5) * white
    return fraction
