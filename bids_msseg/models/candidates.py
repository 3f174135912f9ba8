"""Candidates of CNN-1: components above a threshold, one per peak of the probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.basins import split_at_saddles
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.boxes import split_into_pieces
from bids_msseg.models.inference import Array

MIN_VOXELS = 3
"""Smaller components could not become a lesion of 3 mm³."""
PROMINENCE = 1.0
"""Height of a peak above the saddle to a higher peak, in logits, from which it is separate."""
SMOOTHING = 0.7
"""SD of the smoothing before peaks are found, in voxels."""
EPSILON = 1e-4
"""Probabilities are kept this far from 0 and 1 before logits are taken."""

Boxes = tuple[tuple[slice, slice, slice], ...]


def logit(probability: NDArray[np.floating]) -> Array:
    """Return the logit of probabilities, bounded by that of ``EPSILON``."""
    bounded = np.clip(probability.astype(np.float32), EPSILON, 1 - EPSILON)
    value: Array = np.log(bounded / (1 - bounded))
    return value


def find_candidates(
    probability: NDArray[np.floating], threshold: float
) -> tuple[NDArray[np.int32], Boxes]:
    """Return labels 1..n of the candidates of a probability map (X, Y, Z), 1 mm, and their boxes.

    Components are split at the saddles between peaks, and where they are too wide for a crop.
    """
    components = label_lesions(probability >= threshold, voxel_volume=1.0, min_volume=MIN_VOXELS)
    height = ndimage.gaussian_filter(logit(probability), SMOOTHING)
    return split_into_pieces(split_at_saddles(components, height, PROMINENCE))
