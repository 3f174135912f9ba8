"""Distances between the surfaces of two masks, in mm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from bids_msseg.lesions.instances import bounding_box

__all__ = ["SurfaceAgreement", "surface_agreement"]

TOLERANCE_MM = 1.0
PERCENTILE = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SurfaceAgreement:
    """Distances between the surfaces of two masks.

    Attributes
    ----------
    hd95_mm : float
        Larger of the two 95th percentiles, by area, of the distances from one surface to the
        other; NaN where either mask is empty, since no distance is right for a surface that is
        not there.
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
    """Measure distances between surfaces, each triangle weighted by its area.

    Surfaces are those of marching cubes halfway between voxel centres; a distance is that from a
    triangle's centre to the nearest corner or centre of the other surface. The surface Dice is
    that of Nikolov et al. 2021 (doi:10.2196/26151) on these surfaces. Voxels of the border, which
    others measure between, are as thick as a slice: ``benchmarks/surfaces.py`` shows what that
    does to distances.

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
    has_pred, has_truth = bool(p.any()), bool(t.any())
    if not (has_pred and has_truth):
        return SurfaceAgreement(math.nan, math.nan, 0.0 if has_pred or has_truth else math.nan)
    box = bounding_box(p | t)
    edges = tuple(float(edge) for edge in spacing)
    first, second = (_Surface.of(mask[box], edges) for mask in (p, t))
    to_second, to_first = first.distances(second), second.distances(first)
    both = np.concatenate([to_second, to_first])
    areas = np.concatenate([first.areas, second.areas])
    return SurfaceAgreement(
        max(_percentile(to_second, first.areas), _percentile(to_first, second.areas)),
        float(np.average(both, weights=areas)),
        float(np.average(both <= tolerance_mm, weights=areas)),
    )


@dataclass(frozen=True, slots=True)
class _Surface:
    """Triangles: corners and centres in mm, shape (n, 3), and areas in mm², shape (n,)."""

    corners: Floats
    centres: Floats
    areas: Floats

    @classmethod
    def of(cls, mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> _Surface:
        # an extra, which only msseg-evaluate needs
        from skimage.measure import marching_cubes

        corners, faces, _, _ = marching_cubes(
            np.pad(mask, 1).astype(np.float32), 0.5, spacing=spacing
        )
        triangles = corners.astype(np.float64)[faces]
        sides = (triangles[:, side] - triangles[:, 0] for side in (1, 2))
        areas = np.linalg.norm(np.cross(*sides), axis=1) / 2
        return cls(corners.astype(np.float64), triangles.mean(axis=1), areas)

    def distances(self, other: _Surface) -> Floats:
        """Measure the distance in mm from each centre to the other surface."""
        distances, _ = KDTree(np.concatenate([other.corners, other.centres])).query(self.centres)
        return np.asarray(distances, np.float64)


def _percentile(distances: Floats, areas: Floats) -> float:
    """Return the smallest distance within which 95 % of the area is located."""
    order = np.argsort(distances)
    cumulative_area = np.cumsum(areas[order])
    index = int(np.searchsorted(cumulative_area, PERCENTILE * cumulative_area[-1]))
    return float(distances[order][min(index, len(order) - 1)])
