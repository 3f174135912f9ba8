"""Local reliability weights of raters, estimated from the raters' masks alone.

LOP-STAPLE was published for atlases registered to an image, with the local similarity of the two
images as reliability. Raters draw on the same image, so their weight here is the local agreement
with the other raters instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.raters.union import Votes

SIGMA_MM = 2.0
"""Width of the neighbourhood: about one median lesion."""
FLOOR = 0.05
"""Agreement of a rater who contradicts all others: nobody is silenced."""

Spacing = Sequence[float] | NDArray[np.float64]


def local_weights(
    votes: Votes, spacing: Spacing, *, sigma_mm: float = SIGMA_MM
) -> NDArray[np.float64]:
    """Weight each rater by local agreement with the others, shape (raters, voxels).

    Agreement is one minus the distance of a vote to the mean of the others' votes, smoothed by a
    Gaussian over the union and divided by its mean over raters. ``spacing`` and ``sigma_mm`` are
    in mm. All weights are one for one or two raters.

    Examples
    --------
    >>> from bids_msseg.lesions.raters.union import collect_votes
    >>> small, large = np.zeros((9, 9, 9), bool), np.ones((9, 9, 9), bool)
    >>> votes = collect_votes([small, small, large])
    >>> weights = local_weights(votes, (1, 1, 1))
    >>> weights[:, votes.drawn[2]].mean(axis=1).round(2)
    array([1.43, 1.43, 0.14])
    """
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
