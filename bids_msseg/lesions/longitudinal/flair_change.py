"""Change of FLAIR against its noise (Schmidt et al. 2019, doi 10.1016/j.nicl.2019.101849)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.longitudinal.match import TOUCHING

Mask = NDArray[np.bool_]
SMOOTHING_MM = 1.0
AROUND_MM = 6.0
SUSPECT_SHARE = 0.4
"""Share of the threshold from which tissue is not taken for normal."""
STRATA = 10  # of edge strength: a slight misregistration shows at edges
MIN_NOISE = 1e-3
NORMAL_MAD = 1.4826


@dataclass(frozen=True, slots=True)
class VisitMaps:
    """One visit on the grid shared by both visits, arrays of shape (X, Y, Z)."""

    flair: NDArray[np.floating]  # in standard deviations of the brain
    probability: NDArray[np.floating]
    labels: NDArray[np.integer]  # numbers in the lesion table of the visit
    volumes_mm3: Mapping[int, float]  # from that table
    threshold: float = 0.5  # of the probability
    edge_mm: float = 1.0  # longest edge of the acquired voxels


@dataclass(frozen=True, slots=True)
class FlairChange:
    """Change of FLAIR between two visits in SDs of the brain, arrays of shape (X, Y, Z)."""

    change: NDArray[np.float32]  # later minus earlier, minus that of surrounding normal tissue
    noise: NDArray[np.float32]  # its SD in normal tissue with equally strong edges
    normal: Mask

    @property
    def score(self) -> NDArray[np.float32]:
        """Change in units of its noise."""
        ratio: NDArray[np.float32] = self.change / self.noise
        return ratio


def measure_flair_change(
    before: VisitMaps, after: VisitMaps, inside: Mask, *, spacing: float = 1.0
) -> FlairChange:
    """Measure the change of FLAIR and its noise inside both brain masks; cubic voxels in mm."""
    suspect = (before.labels > 0) | (after.labels > 0)
    for visit in (before, after):
        suspect |= visit.probability >= SUSPECT_SHARE * visit.threshold
    normal = inside & ~ndimage.binary_dilation(suspect, TOUCHING, iterations=2)
    raw = (after.flair - before.flair).astype(np.float32)
    near = _mean_around(raw, inside, SMOOTHING_MM / spacing)
    far = _mean_around(raw, normal, AROUND_MM / spacing)
    change = np.where(inside, near - far, 0).astype(np.float32)
    mean = np.asarray((before.flair + after.flair) / 2, np.float32)
    edges = ndimage.gaussian_gradient_magnitude(mean, SMOOTHING_MM / spacing)
    return FlairChange(change, _noise(change, edges, normal), normal)


def _mean_around(image: NDArray[np.float32], mask: Mask, sigma: float) -> NDArray[np.float32]:
    """Average the voxels of a mask with Gaussian weights; 0 far from all of them."""
    weight = mask.astype(np.float32)
    total = ndimage.gaussian_filter(image * weight, sigma, truncate=3)
    share = ndimage.gaussian_filter(weight, sigma, truncate=3)
    mean: NDArray[np.float32] = np.where(share > 1e-3, total / np.maximum(share, 1e-3), 0)
    return mean


def _noise(
    change: NDArray[np.float32], edges: NDArray[np.float32], normal: Mask
) -> NDArray[np.float32]:
    """Estimate the robust spread of the change in normal tissue by edge strength."""
    if not normal.any():
        return np.full(change.shape, np.inf, np.float32)
    values, strength = change[normal], edges[normal]
    borders = np.quantile(strength, np.linspace(0, 1, STRATA + 1)[1:-1])
    strata = np.searchsorted(borders, strength)
    spread = np.full(STRATA, np.float32(MIN_NOISE))
    for stratum in range(STRATA):
        members = values[strata == stratum]
        if members.size:
            mad = NORMAL_MAD * float(np.median(np.abs(members)))
            spread[stratum] = max(mad, MIN_NOISE)
    noise: NDArray[np.float32] = spread[np.searchsorted(borders, edges)]
    return noise
