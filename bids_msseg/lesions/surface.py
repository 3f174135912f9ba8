"""How far the surfaces of two masks are apart, in mm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from surface_distance import metrics as surfaces

TOLERANCE_MM = 1.0
PERCENTILE = 95.0


@dataclass(frozen=True, slots=True)
class SurfaceAgreement:
    """Distances between the surfaces of two masks.

    Attributes
    ----------
    hd95_mm : float
        Larger of the two 95th percentiles of the distances from one surface to the other; NaN
        where either mask is empty, since no distance is right for a surface that is not there.
    assd_mm : float
        Mean distance over both surfaces by area; NaN where either mask is empty.
    surface_dice : float
        Share of both surfaces that lies within the tolerance of the other; 0 where one mask is
        empty, NaN where both are.
    """

    hd95_mm: float
    assd_mm: float
    surface_dice: float


def surface_agreement(
    pred: NDArray[Any],
    truth: NDArray[Any],
    *,
    spacing: Sequence[float],
    tolerance_mm: float = TOLERANCE_MM,
) -> SurfaceAgreement:
    """Measure distances between surfaces, each surface element weighted by its area.

    Surface elements are those of marching cubes (Nikolov et al. 2021, doi:10.2196/26151), so that
    neither thick slices nor the number of border voxels weigh more than their share.

    Parameters
    ----------
    pred, truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    spacing : sequence of 3 floats
        Voxel edges in mm.
    tolerance_mm : float, default 1
        Of the surface Dice.

    Returns
    -------
    SurfaceAgreement

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> mask = np.zeros((9, 9, 9), bool)
    >>> mask[2:6, 2:6, 2:6] = True
    >>> surface_agreement(mask, mask, spacing=(1, 1, 3))
    SurfaceAgreement(hd95_mm=0.0, assd_mm=0.0, surface_dice=1.0)
    >>> surface_agreement(mask * 0, mask, spacing=(1, 1, 3))
    SurfaceAgreement(hd95_mm=nan, assd_mm=nan, surface_dice=0.0)
    """
    if pred.shape != truth.shape:
        raise ValueError(f"masks lie on different grids: {pred.shape} and {truth.shape}")
    p, t = pred != 0, truth != 0
    called, true = bool(p.any()), bool(t.any())
    if not (called and true):
        return SurfaceAgreement(math.nan, math.nan, 0.0 if called or true else math.nan)
    with warnings.catch_warnings():
        # it asks SciPy for functions where they no longer live
        warnings.simplefilter("ignore", DeprecationWarning)
        found = surfaces.compute_surface_distances(t, p, tuple(float(edge) for edge in spacing))
    return SurfaceAgreement(
        float(surfaces.compute_robust_hausdorff(found, PERCENTILE)),
        _mean_distance(found),
        float(surfaces.compute_surface_dice_at_tolerance(found, tolerance_mm)),
    )


def _mean_distance(found: dict[str, NDArray[np.float64]]) -> float:
    """Average over the elements of both surfaces."""
    distances = np.concatenate([found["distances_gt_to_pred"], found["distances_pred_to_gt"]])
    areas = np.concatenate([found["surfel_areas_gt"], found["surfel_areas_pred"]])
    return float(np.average(distances, weights=areas))
