"""Random shape and placement of lesions in a brain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import bounding_box
from bids_msseg.lesions.regions import Region
from bids_msseg.training.synthesis.shapes import (
    EVERY_NEIGHBOUR,
    Box,
    Lesion,
    LesionMap,
    compose,
    lesion_depth,
    lesion_fraction,
    smooth_noise,
)
from bids_msseg.training.synthesis.statistics import (
    LesionStatistics,
    sample_count,
    sample_regions,
    sample_volumes,
    volumes_of_load,
)

SEED_TRIES = 25
FAR_MM = 8.0


@dataclass(frozen=True, slots=True)
class Terrain:
    """Places where lesions may begin and grow, on a 1 mm grid."""

    tissue: NDArray[np.bool_]  # white matter plus one voxel around it
    fluid: NDArray[np.float32]  # ventricle fraction
    to_ventricle: NDArray[np.float32]  # distance in mm, at most 8
    seeds: Mapping[Region, NDArray[np.int64]]  # voxels (n, 3) where lesions may begin
    openness: NDArray[np.float32]  # share of white matter within 6 mm along the axes


def prepare_terrain(
    white_matter: NDArray[Any],
    ventricle: NDArray[Any],
    cortex: NDArray[Any],
    infratentorial: NDArray[Any],
) -> Terrain:
    """Find where lesions may begin, from masks or fractions at 1 mm; slow, once per brain.

    White matter includes that of brainstem and cerebellum; raises ValueError if there is none.
    """
    if len({m.shape for m in (white_matter, ventricle, cortex, infratentorial)}) != 1:
        raise ValueError("the tissue maps differ in grid")
    fluid = np.asarray(ventricle, np.float32)
    white = (np.asarray(white_matter) >= 0.5) & (fluid < 0.5)
    if not white.any():
        raise ValueError("there is no white matter to place lesions in")
    below = np.asarray(infratentorial) >= 0.5
    to_ventricle = _distance(fluid >= 0.5)
    # 2 mm along each axis: a distance transform of the whole cortex would take most of the time
    by_cortex = ndimage.maximum_filter((np.asarray(cortex) >= 0.5).view(np.uint8), 5) > 0
    above, around = white & ~below, to_ventricle > 6.0
    masks = {
        Region.PERIVENTRICULAR: above & (to_ventricle <= 3.5),
        Region.JUXTACORTICAL: above & around & by_cortex,
        Region.DEEP_WHITE_MATTER: above & around & ~by_cortex,
        Region.INFRATENTORIAL: ndimage.binary_erosion(white & below),
    }
    seeds = {region: np.argwhere(mask) for region, mask in masks.items()}
    if not any(map(len, seeds.values())):
        seeds[Region.DEEP_WHITE_MATTER] = np.argwhere(white)
    openness = ndimage.uniform_filter(white.astype(np.float32), 13)
    return Terrain(ndimage.binary_dilation(white), fluid, to_ventricle, seeds, openness)


def _distance(target: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance to a target in mm, at most 8."""
    distance = np.full(target.shape, FAR_MM, np.float32)
    box = bounding_box(target, margin=int(FAR_MM))
    if target[box].size:
        near = ndimage.distance_transform_edt(~target[box])
        distance[box] = np.minimum(near, FAR_MM)
    return distance


def place_lesions(
    rng: np.random.Generator,
    terrain: Terrain,
    *,
    statistics: LesionStatistics | None = None,
    count: int | None = None,
    load: float | None = None,
    beside: LesionMap | None = None,
) -> LesionMap:
    """Place lesions of a random or given count, or of a load (mL), after those of ``beside``."""
    statistics = statistics or LesionStatistics()
    volumes = _volumes_for(rng, statistics, count, load)
    regions = sample_regions(rng, volumes, statistics)
    return place_volumes(
        rng, terrain, volumes.tolist(), regions, statistics=statistics, beside=beside
    )


def place_volumes(
    rng: np.random.Generator,
    terrain: Terrain,
    volumes: Sequence[float],
    regions: Sequence[Region],
    *,
    statistics: LesionStatistics | None = None,
    beside: LesionMap | None = None,
) -> LesionMap:
    """Place lesions of given volumes (mm³, largest first); leave out those without room."""
    statistics = statistics or LesionStatistics()
    occupied = np.zeros(terrain.tissue.shape, bool)
    old = beside.lesions if beside else ()
    for lesion in old:
        _mark_occupied(occupied, lesion)
    new = []
    for volume, region in zip(volumes, regions, strict=True):
        placed = _start_lesion(rng, terrain, occupied, volume, region, statistics)
        if placed is not None:
            _mark_occupied(occupied, placed)
            new.append(placed)
    return compose((*old, *new), terrain.tissue.shape)


def _volumes_for(
    rng: np.random.Generator, statistics: LesionStatistics, count: int | None, load: float | None
) -> NDArray[np.float64]:
    """Draw volumes, largest first, while there is most space for them."""
    if count is not None and load is not None:
        raise ValueError("give a count or a load, not both")
    if load is not None:
        volumes = volumes_of_load(rng, statistics, 1000.0 * load)
    else:
        number = sample_count(rng, statistics) if count is None else count
        volumes = sample_volumes(rng, number, statistics)
    return np.sort(volumes)[::-1]


def _mark_occupied(occupied: NDArray[np.bool_], lesion: Lesion) -> None:
    """Mark a lesion and a rim of two voxels as taken, so that lesions do not touch."""
    label = lesion_fraction(lesion) >= 0.5
    occupied[lesion.box] |= ndimage.binary_dilation(label, EVERY_NEIGHBOUR, iterations=2)


def _start_lesion(
    rng: np.random.Generator,
    terrain: Terrain,
    occupied: NDArray[np.bool_],
    volume: float,
    region: Region,
    statistics: LesionStatistics,
) -> Lesion | None:
    """Find a free voxel of the region, or else of any region, and grow a lesion there."""
    compared = 1 + int(_radius(volume) ** 2 / 8.0)
    fallback_regions = [fallback for fallback in terrain.seeds if fallback != region]
    for start_region in (region, *fallback_regions):
        candidates = terrain.seeds.get(start_region, np.empty((0, 3), np.int64))
        if not len(candidates):
            continue
        drawn_seeds = candidates[rng.integers(len(candidates), size=SEED_TRIES)]
        free = drawn_seeds[~occupied[tuple(drawn_seeds.T)]][:compared]
        if len(free):
            seed = free[terrain.openness[tuple(free.T)].argmax()]
            return _grow(rng, terrain, occupied, seed, volume, start_region, statistics)
    return None


def _grow(
    rng: np.random.Generator,
    terrain: Terrain,
    occupied: NDArray[np.bool_],
    seed: NDArray[np.int64],
    volume: float,
    region: Region,
    statistics: LesionStatistics,
) -> Lesion:
    radius = _radius(volume)
    reach = int(np.ceil(2.5 * radius)) + 5
    start = np.maximum(seed - reach, 0)
    stop = np.minimum(seed + reach + 1, terrain.tissue.shape)
    box: Box = tuple(map(slice, start, stop))  # type: ignore[assignment]
    centres = _part_centres(rng, terrain, seed, radius, region)
    axes = np.array([_long_axis(rng, terrain, centre, region) for centre in centres])
    stretch = (1.0, 1.7)
    if region is Region.PERIVENTRICULAR:
        stretch = (1.5, 2.6)
        # the inner end touches the wall
        centres += 0.7 * radius * axes
    shape = _bumpy_union(rng, centres - start, axes, radius, stretch, terrain.tissue[box].shape)
    fluid = terrain.fluid[box]
    room = terrain.tissue[box] & (fluid < 0.5) & ~occupied[box]
    middle = np.clip(np.round(centres[0] - start).astype(int), 0, np.array(room.shape) - 1)
    x, y, z = (int(i) for i in (middle if room[tuple(middle)] else seed - start))
    edge = float(rng.uniform(*statistics.edge_mm))
    unknown = np.empty(0, np.float32)
    lesion = Lesion(box, shape, room, fluid, (x, y, z), volume, edge, region, unknown)
    return replace(lesion, depth=lesion_depth(lesion))


def _radius(volume: float) -> float:
    """Return the radius in mm of a ball with a volume in mm³."""
    return float((3.0 * volume / (4.0 * np.pi)) ** (1 / 3))


def _part_centres(
    rng: np.random.Generator,
    terrain: Terrain,
    seed: NDArray[np.int64],
    radius: float,
    region: Region,
) -> NDArray[np.float64]:
    """Choose centres of one to four ellipsoids, among the voxels where the region may begin."""
    extra = int(rng.integers(0, 4 if radius > 1.5 else 2))
    # beside the ventricles, large lesions thus follow the wall instead of crossing it
    near = terrain.seeds[region]
    near = near[np.abs(near - seed).max(axis=1) <= _max_part_distance(radius, region)]
    if not extra or len(near) < 2:
        return seed[None].astype(np.float64)
    chosen = near[rng.integers(len(near), size=extra)]
    return np.concatenate([seed[None], chosen]).astype(np.float64)


def _max_part_distance(radius: float, region: Region) -> float:
    """Return the largest distance in mm between parts, small for fingers beside ventricles."""
    is_finger = region is Region.PERIVENTRICULAR and radius < 6.0
    return 0.6 * radius if is_finger else 1.3 * radius


def _long_axis(
    rng: np.random.Generator, terrain: Terrain, centre: NDArray[np.float64], region: Region
) -> NDArray[np.float64]:
    """Return a direction away from the ventricle (Dawson's fingers), else a random one."""
    axis = rng.standard_normal(3)
    axis /= np.linalg.norm(axis)
    if region is not Region.PERIVENTRICULAR:
        return axis
    low = np.clip(centre.astype(int) - 2, 0, np.array(terrain.tissue.shape) - 5)
    around = terrain.to_ventricle[tuple(slice(i, i + 5) for i in low)]
    outward = np.array([slope.mean() for slope in np.gradient(around)]) + 0.15 * axis
    length = max(float(np.linalg.norm(outward)), 1e-6)
    return np.asarray(outward / length, np.float64)


def _bumpy_union(
    rng: np.random.Generator,
    centres: NDArray[np.float64],
    axes: NDArray[np.float64],
    radius: float,
    stretch: tuple[float, float],
    size: tuple[int, ...],
) -> NDArray[np.float32]:
    """Return the height of a union of elongated ellipsoids with random surface, roughly in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    height = np.full(size, -np.inf)
    for centre, axis in zip(centres, axes, strict=True):
        part_radius = radius * rng.uniform(0.55, 1.0)
        ratio = rng.uniform(*stretch)
        across, along = part_radius * ratio ** (-1 / 3), part_radius * ratio ** (2 / 3)
        offset = grid - centre
        parallel = offset @ axis
        sideways = np.maximum((offset**2).sum(axis=-1) - parallel**2, 0.0)
        reached = np.sqrt((parallel / along) ** 2 + sideways / across**2)
        height = np.maximum(height, across * (1.0 - reached))
    bumps = smooth_noise(rng, size, max(1.0, 0.5 * radius))
    return np.asarray(height + (0.15 + 0.13 * radius) * bumps, np.float32)
