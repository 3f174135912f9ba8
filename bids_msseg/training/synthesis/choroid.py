"""Choroid plexus of the lateral ventricles, which label maps count as ventricle.

It is thin on the thalamus and the hippocampus; its thickest part, the glomus, is in the atrium.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

SHEET_MM = (0.3, 1.6)
GLOMUS_MM = ((1.5, 3.0, 2.5), (4.0, 8.0, 6.0))
"""Smallest and largest half axes of the glomus: left-right, back-front, down-up."""
ATRIUM_MM = (-14, 4)
"""Range of the atrium along the back-front axis, from the hindmost thalamus or hippocampus."""
ROUGH_MM, PATCH_MM = 1.2, 5.0
"""Widths of the random fields that shape its surface, and that thin the sheet out in places."""


@dataclass(frozen=True, slots=True)
class ChoroidTerrain:
    """Box around the lateral ventricles for placing choroid plexus (1 mm, RAS)."""

    shape: tuple[int, ...]  # of the whole label map
    corner: NDArray[np.int64]  # first voxel of the box
    lateral: NDArray[np.bool_]
    wall: Array  # distance to thalamus or hippocampus in mm, infinite without them
    depth: Array  # distance to the ventricle's wall from inside in mm
    atria: tuple[NDArray[np.int64], ...]  # voxels (n, 3) of each atrium in the box


def prepare_choroid_terrain(
    lateral: NDArray[np.bool_], fissure: NDArray[np.bool_]
) -> ChoroidTerrain | None:
    """Compute the terrain of plexus on ``fissure`` (thalamus, hippocampus), or return None."""
    places = np.argwhere(lateral)
    if not len(places):
        return None
    low = np.maximum(places.min(0) - 4, 0)
    box = tuple(slice(int(a), int(b) + 5) for a, b in zip(low, places.max(0), strict=True))
    inside, fissures = lateral[box], fissure[box]
    wall = np.full(inside.shape, np.inf, np.float32)
    if fissures.any():
        wall = ndimage.distance_transform_edt(~fissures).astype(np.float32)
    depth = ndimage.distance_transform_edt(inside).astype(np.float32)
    return ChoroidTerrain(
        lateral.shape, low.astype(np.int64), inside, wall, depth, _atria(inside, fissures)
    )


def _atria(
    lateral: NDArray[np.bool_], fissure: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], ...]:
    """Find the voxels of each atrium, near the posterior thalamus or hippocampus."""
    places = np.argwhere(lateral)
    middle = (places[:, 0].min() + places[:, 0].max()) / 2
    back = np.flatnonzero(fissure.any((0, 2)))
    sides: list[NDArray[np.int64]] = []
    for side in (places[:, 0] < middle, places[:, 0] > middle):
        half = places[side]
        if not len(half):
            continue
        at = back[0] if back.size else np.median(half[:, 1])
        near = (half[:, 1] >= at + ATRIUM_MM[0]) & (half[:, 1] <= at + ATRIUM_MM[1])
        sides.append(half[near] if near.any() else half)
    return tuple(sides)


def place_choroid(rng: np.random.Generator, terrain: ChoroidTerrain | None) -> NDArray[np.int32]:
    """Draw choroid plexus as flat indices into the label map; empty without terrain."""
    if terrain is None:
        return np.zeros(0, np.int32)
    rough, patchy = (_field(rng, terrain.lateral.shape, width) for width in (ROUGH_MM, PATCH_MM))
    plexus = terrain.wall + 0.5 * rough + 0.8 * patchy <= rng.uniform(*SHEET_MM)
    grids = np.ogrid[tuple(map(slice, plexus.shape))]
    for atrium in terrain.atria:
        deep = terrain.depth[tuple(atrium.T)]
        likely = atrium[deep >= np.quantile(deep, 0.8)]
        centre = likely[int(rng.integers(len(likely)))]
        axes = rng.uniform(*GLOMUS_MM)
        squared_distance = sum(
            ((grid - at) / axis) ** 2 for grid, at, axis in zip(grids, centre, axes, strict=True)
        )
        plexus |= np.sqrt(squared_distance) + 0.3 * rough <= 1
    voxels = np.argwhere(plexus & terrain.lateral) + terrain.corner
    flat: NDArray[np.int32] = np.ravel_multi_index(tuple(voxels.T), terrain.shape).astype(np.int32)
    return flat


def _field(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> Array:
    field = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), width)
    values: Array = field / field.std()
    return values
