"""Distances between two spheres: exact, and as measured by this and other programs.

usage: python benchmarks/surfaces.py

The spheres have a radius of 18 mm and centres 4 mm apart along the first axis, and are drawn into
voxels of several shapes. surface-distance uses the corners around border voxels as the surface,
most other programs the border voxels themselves (here each counts once); either surface is thicker
than it should be if slices are thick, and two thick surfaces are closer to each other than two
thin ones.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from surface_distance import metrics as peer

from bids_msseg.lesions.comparison.surface import surface_agreement

RADIUS, SHIFT = 18.0, 4.0
VOXELS = ((1.0, 1.0, 1.0), (1.0, 1.0, 3.0), (1.0, 1.0, 6.5))
Mask = NDArray[np.bool_]
Figures = tuple[float, float, float]


def main() -> int:
    """Print one row per voxel shape and method of measurement."""
    warnings.simplefilter("ignore", DeprecationWarning)
    print("| voxel mm | measured by | ASSD mm | HD95 mm | surface Dice at 1 mm |")
    print("|---|---|---|---|---|")
    for spacing in VOXELS:
        pair = sphere(SHIFT, spacing), sphere(0, spacing)
        agreement = surface_agreement(*pair, spacing=spacing)
        rows = {
            "geometry": geometry(),
            "this package": (agreement.assd_mm, agreement.hd95_mm, agreement.surface_dice),
            "surface-distance 0.1": by_corners(*pair, spacing),
            "border voxels": by_border_voxels(*pair, spacing),
        }
        size = " × ".join(f"{edge:g}" for edge in spacing)
        for name, figures in rows.items():
            print(f"| {size} | {name} | {' | '.join(f'{value:.2f}' for value in figures)} |")
    return 0


def sphere(centre: float, spacing: tuple[float, ...]) -> Mask:
    axes = (np.arange(-26, 26 + edge / 2, edge) for edge in spacing)
    x, y, z = np.meshgrid(*axes, indexing="ij")
    return np.asarray((x - centre) ** 2 + y**2 + z**2 <= RADIUS**2)


def geometry() -> Figures:
    cosine = np.linspace(-1, 1, 200_001)
    distances = np.abs(np.sqrt(RADIUS**2 + SHIFT**2 + 2 * RADIUS * SHIFT * cosine) - RADIUS)
    return (
        float(distances.mean()),
        float(np.quantile(distances, 0.95)),
        float((distances <= 1).mean()),
    )


def by_corners(first: Mask, second: Mask, spacing: tuple[float, ...]) -> Figures:
    surface_distances = peer.compute_surface_distances(second, first, spacing)
    distances = np.concatenate(
        [surface_distances["distances_gt_to_pred"], surface_distances["distances_pred_to_gt"]]
    )
    areas = np.concatenate(
        [surface_distances["surfel_areas_gt"], surface_distances["surfel_areas_pred"]]
    )
    return (
        float(np.average(distances, weights=areas)),
        float(peer.compute_robust_hausdorff(surface_distances, 95)),
        float(peer.compute_surface_dice_at_tolerance(surface_distances, 1)),
    )


def by_border_voxels(first: Mask, second: Mask, spacing: tuple[float, ...]) -> Figures:
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    distances = [
        ndimage.distance_transform_edt(~borders[1 - index], sampling=spacing)[borders[index]]
        for index in (0, 1)
    ]
    both = np.concatenate(distances)
    end = max(float(np.quantile(part, 0.95)) for part in distances)
    return float(both.mean()), end, float((both <= 1).mean())


if __name__ == "__main__":
    raise SystemExit(main())
