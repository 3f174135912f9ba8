"""Correction of a brain mask by the anatomy of CNN-1: removal of scalp, fat and orbits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.models.anatomy import Anatomy

Mask = NDArray[np.bool_]
OUTSIDE_PROBABILITY = 0.6
"""Probability of being outside the brain from which a voxel may be taken out."""
MAX_REMOVED_SHARE = 0.2
"""Largest share of the mask that is removed; for more, the anatomy is not used."""
MIN_REMOVED_ML = 0.5
"""Smaller volumes stay in the mask."""


@dataclass(frozen=True, slots=True)
class BrainMask:
    """Corrected brain mask at 1 mm."""

    mask: Mask
    removed_ml: float
    doubtful: bool  # the anatomy contradicts so much of the mask that nothing was changed


def correct_brain_mask(brain: Mask, anatomy: NDArray[np.floating]) -> BrainMask:
    """Remove regions that CNN-1's anatomy (2 mm) shows as extra-cerebral from a 1 mm mask."""
    # at 2 mm, only regions that reach the border of the mask and are thicker than 2 mm are certain
    outside = _at_1_mm(anatomy[[Anatomy.BACKGROUND, Anatomy.EXTRA_CEREBRAL]].sum(0), brain.shape)
    wrong = brain & (outside >= OUTSIDE_PROBABILITY)
    wrong = ndimage.binary_opening(wrong, iterations=1) & brain
    labels, count = ndimage.label(wrong, np.ones((3, 3, 3)))
    if not count:
        return BrainMask(brain, 0.0, doubtful=False)
    border = brain & ~ndimage.binary_erosion(brain)
    reaching = np.zeros(count + 1, bool)
    reaching[np.unique(labels[border & wrong])] = True
    reaching[0] = False
    wrong = reaching[labels]
    removed = float(np.count_nonzero(wrong)) / 1000
    if removed > MAX_REMOVED_SHARE * np.count_nonzero(brain) / 1000:
        return BrainMask(brain, 0.0, doubtful=True)
    if removed < MIN_REMOVED_ML:
        return BrainMask(brain, 0.0, doubtful=False)
    corrected = _largest(brain & ~wrong)
    return BrainMask(corrected, float(np.count_nonzero(brain & ~corrected)) / 1000, doubtful=False)


def _at_1_mm(coarse: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    fine = coarse
    for axis in range(3):
        fine = fine.repeat(2, axis)
    x, y, z = (slice(0, edge) for edge in shape)
    return fine[x, y, z]


def _largest(mask: Mask) -> Mask:
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: Mask = labels == sizes.argmax()
    return largest
