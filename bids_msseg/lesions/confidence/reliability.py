"""Local reliability weights of raters for LOP-STAPLE, from their masks instead of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.raters.union import Votes

SIGMA_MM = 2.0
"""Width of the neighbourhood: about one median lesion."""
FLOOR = 0.05
"""Smallest agreement, so that a rater who contradicts all others keeps a weight."""

Spacing = Sequence[float] | NDArray[np.float64]


def local_weights(
    votes: Votes, spacing: Spacing, *, sigma_mm: float = SIGMA_MM
) -> NDArray[np.float64]:
    """Weight each rater by local agreement with the others, shape (raters, voxels), mean one."""
    n = len(votes.drawn)
    if n <= 2:
        return np.ones(votes.drawn.shape)
    total = votes.drawn.sum(axis=0, dtype=np.float64)
    widths = [sigma_mm / edge for edge in spacing]
    cover = _smooth(votes, np.ones(len(total)), widths)
    agreement = np.empty(votes.drawn.shape)
    for row, vote in zip(agreement, votes.drawn, strict=True):
        closeness = 1 - np.abs(vote - (total - vote) / (n - 1))
        row[:] = np.maximum(_smooth(votes, closeness, widths) / cover, FLOOR)
    weights: NDArray[np.float64] = agreement / agreement.mean(axis=0)
    return weights


def _smooth(
    votes: Votes, values: NDArray[np.float64], widths: Sequence[float]
) -> NDArray[np.float64]:
    box = votes.on_box(values)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(box, widths, mode="constant")
    return smooth[votes.inside]
