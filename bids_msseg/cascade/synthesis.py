"""Painting multiple-sclerosis lesions into images of brains, on arrays at 1 mm.

How large, how many, how bright and how sharp lesions are was measured on real patients:
:class:`LesionStatistics` holds those figures. Sampling comes in two steps, so that one set of
lesions can be painted into any image: :func:`sample_lesions` (or :func:`prepare_terrain` once and
:func:`place_lesions` many times) decides shape and place, :func:`sample_contrasts` and
:func:`paint` the look. :func:`resize` lets lesions grow between two visits.

Lesions are fractions of voxels with a soft edge. The label of a lesion is where its fraction is at
least one half, so label and partial volume say the same.

Every random choice comes from the NumPy generator that the caller hands in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

from bids_msseg.lesions.instances import bounding_box
from bids_msseg.lesions.regions import Region

Box = tuple[slice, slice, slice]
Index = tuple[int, int, int]
EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)
SEED_TRIES = 25
FAR_MM = 8.0
SHELL_MM = (2.0, 4.0)
"""Distance of the tissue that a lesion's contrast is measured against."""
FAINTEST = 0.15
"""Smallest contrast of a lesion in FLAIR, in SD of the brain."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """How lesions up to a size look; contrasts in the order FLAIR, T1w, T2w.

    Attributes
    ----------
    upper : float
        Largest volume of the class in mm³.
    contrast, spread : tuple of 3 floats
        Mean and SD over lesions of (mean of the lesion - median of its 2-4 mm shell), in SD of
        the brain.
    texture : float
        SD of FLAIR inside a lesion, in SD of the brain.
    """

    upper: float
    contrast: tuple[float, float, float]
    spread: tuple[float, float, float]
    texture: float


# 136 lesions of at least 3 mm³ of three patients, 3-D FLAIR, T1w and T2w at 1 mm.
MEASURED_CLASSES = (
    SizeClass(10.0, (0.77, -0.06, 0.26), (0.37, 0.28, 0.28), 0.26),
    SizeClass(100.0, (0.86, -0.18, 0.43), (0.28, 0.31, 0.25), 0.35),
    SizeClass(1000.0, (1.25, -0.62, 1.10), (0.30, 0.32, 0.43), 0.44),
    SizeClass(np.inf, (1.23, -0.83, 1.28), (0.16, 0.06, 0.17), 0.44),
)
MEASURED_PLACES: Mapping[Region, float] = {
    Region.PERIVENTRICULAR: 0.45,
    Region.DEEP_WHITE_MATTER: 0.25,
    Region.JUXTACORTICAL: 0.20,
    Region.INFRATENTORIAL: 0.10,
}


@dataclass(frozen=True, slots=True)
class LesionStatistics:
    """Figures that sampling and painting follow.

    The defaults describe 30 patients (sizes, counts) and three of them (looks) of the Ljubljana
    cohort (Lesjak et al. 2018, doi:10.1007/s12021-017-9348-7). Sizes follow a log-normal through
    the measured percentiles (5 %: 1.2, 25 %: 6.5, 50 %: 17, 75 %: 47, 95 %: 251 mm³) plus a few
    confluent lesions, which the log-normal lacks (99 %: 2217 mm³) and which hold half the load.

    Attributes
    ----------
    median_volume : float
        Median lesion volume in mm³.
    volume_sigma : float
        SD of the natural logarithm of the volume.
    confluent_share, confluent_volume, confluent_sigma : float
        Share of confluent lesions, their median volume in mm³ and its log SD.
    smallest, largest : float
        Volumes outside are drawn anew, in mm³.
    median_count, count_sigma : float
        Lesions of one brain: median and log SD.
    count_range : tuple of 2 ints
        Bounds of that number.
    places : mapping of Region to float
        Mixture of places by count; lesions above ``periventricular_from`` mm³ are periventricular.
    periventricular_from : float
        In mm³.
    classes : tuple of SizeClass
        Looks, by increasing size.
    correlation : tuple of 3 floats
        Of the contrasts about their class means: FLAIR-T1w, FLAIR-T2w, T1w-T2w.
    shared : float
        Share of the variance of the contrasts that all lesions of a brain have in common.
    edge_mm : tuple of 2 floats
        Range of the width w of the edge, whose fraction is (1 + erf(depth / w)) / 2.
    halo, halo_mm : float
        Faint rim around a lesion: its height as a share of the lesion's, its reach in mm.
    texture_mm : float
        SD of the kernel that makes the texture, in mm.
    """

    median_volume: float = 17.4
    volume_sigma: float = 1.55
    confluent_share: float = 0.02
    confluent_volume: float = 2500.0
    confluent_sigma: float = 0.7
    smallest: float = 1.0
    largest: float = 30000.0
    median_count: float = 85.0
    count_sigma: float = 0.9
    count_range: tuple[int, int] = (10, 400)
    places: Mapping[Region, float] = field(default_factory=lambda: dict(MEASURED_PLACES))
    periventricular_from: float = 1000.0
    classes: tuple[SizeClass, ...] = MEASURED_CLASSES
    correlation: tuple[float, float, float] = (-0.53, 0.25, -0.53)
    shared: float = 0.2
    edge_mm: tuple[float, float] = (0.8, 1.2)
    halo: float = 0.08
    halo_mm: float = 2.0
    texture_mm: float = 1.8


@dataclass(frozen=True, slots=True)
class Terrain:
    """Where lesions may begin and grow.

    Attributes
    ----------
    tissue : ndarray of bool, shape (X, Y, Z)
        White matter and one voxel of what borders it.
    fluid : ndarray of float32, shape (X, Y, Z)
        Fraction of ventricle in each voxel.
    to_ventricle : ndarray of float32, shape (X, Y, Z)
        Distance to the nearest ventricle in mm, at most 8.
    seeds : mapping of Region to ndarray of int64, shape (n, 3)
        Voxels in which a lesion of that region may begin; never all empty.
    openness : ndarray of float32, shape (X, Y, Z)
        Share of white matter within 6 mm along the axes: large lesions begin where there is much.
    """

    tissue: NDArray[np.bool_]
    fluid: NDArray[np.float32]
    to_ventricle: NDArray[np.float32]
    seeds: Mapping[Region, NDArray[np.int64]]
    openness: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion, kept in a form from which it can be made larger or smaller.

    Attributes
    ----------
    box : tuple of 3 slices
        The part of the image that it may reach.
    shape : ndarray of float32, shape of the box
        Height of the shape, roughly in mm, larger further inside; the lesion is what lies above
        some level.
    room : ndarray of bool, shape of the box
        Voxels that it may take.
    fluid : ndarray of float32, shape of the box
        Fraction of ventricle.
    seed : tuple of 3 ints
        Voxel of the box that it holds.
    volume : float
        Volume aimed at in mm³; it is smaller where the room did not suffice.
    edge : float
        Width of the edge in mm.
    region : Region
        Where it was placed.
    depth : ndarray of float32, shape of the box
        From :func:`lesion_depth`.
    """

    box: Box
    shape: NDArray[np.float32]
    room: NDArray[np.bool_]
    fluid: NDArray[np.float32]
    seed: Index
    volume: float
    edge: float
    region: Region
    depth: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LesionMap:
    """The lesions of one brain.

    Attributes
    ----------
    labels : ndarray of int32, shape (X, Y, Z)
        0 outside, i + 1 in ``lesions[i]``: where its fraction is at least one half, and larger
        than that of every other lesion.
    soft : ndarray of float32, shape (X, Y, Z)
        Fraction of each voxel that is lesion, 0 to 1.
    lesions : tuple of Lesion
    """

    labels: NDArray[np.int32]
    soft: NDArray[np.float32]
    lesions: tuple[Lesion, ...]

    @property
    def volumes(self) -> NDArray[np.float64]:
        """Volume of each label in mm³, shape (n,)."""
        sizes = np.bincount(self.labels.ravel(), minlength=len(self.lesions) + 1)
        return sizes[1:].astype(np.float64)


def sample_lesions(
    rng: np.random.Generator,
    white_matter: NDArray[Any],
    ventricle: NDArray[Any],
    cortex: NDArray[Any],
    infratentorial: NDArray[Any],
    *,
    statistics: LesionStatistics | None = None,
    count: int | None = None,
    load: float | None = None,
) -> LesionMap:
    """Place lesions in one brain.

    Parameters
    ----------
    rng : Generator
        Source of every choice.
    white_matter, ventricle, cortex, infratentorial : ndarray, shape (X, Y, Z), 1 mm voxels
        Masks or fractions; ``white_matter`` includes that of brainstem and cerebellum, which
        ``infratentorial`` delimits.
    statistics : LesionStatistics, optional
        The measured ones where not given.
    count : int, optional
        How many lesions; drawn where neither this nor ``load`` is given.
    load : float, optional
        Volume of all lesions in mL, met within 5 % where the smallest lesion allows.

    Returns
    -------
    LesionMap
        Its lesions do not touch each other. There are fewer of them where the room did not
        suffice.

    Raises
    ------
    ValueError
        If grids differ, there is no white matter, or both ``count`` and ``load`` are given.
    """
    terrain = prepare_terrain(white_matter, ventricle, cortex, infratentorial)
    return place_lesions(rng, terrain, statistics=statistics, count=count, load=load)


def prepare_terrain(
    white_matter: NDArray[Any],
    ventricle: NDArray[Any],
    cortex: NDArray[Any],
    infratentorial: NDArray[Any],
) -> Terrain:
    """Find where lesions may begin: the slow part, done once for a brain.

    Parameters
    ----------
    white_matter, ventricle, cortex, infratentorial : ndarray, shape (X, Y, Z), 1 mm voxels
        As for :func:`sample_lesions`.

    Returns
    -------
    Terrain

    Raises
    ------
    ValueError
        If grids differ or there is no white matter.
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
    """Distance to a target in mm, given up on at 8; computed only where it is shorter."""
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
    """Place lesions on prepared terrain.

    Parameters
    ----------
    rng : Generator
    terrain : Terrain
    statistics, count, load
        As for :func:`sample_lesions`.
    beside : LesionMap, optional
        Lesions that are there already; the new ones keep away from them and follow them in the
        result.

    Returns
    -------
    LesionMap

    Raises
    ------
    ValueError
        If both ``count`` and ``load`` are given.
    """
    figures = statistics or LesionStatistics()
    volumes = _volumes_for(rng, figures, count, load)
    regions = sample_regions(rng, volumes, figures)
    taken = np.zeros(terrain.tissue.shape, bool)
    old = beside.lesions if beside else ()
    for lesion in old:
        _take(taken, lesion)
    new = []
    for volume, region in zip(volumes, regions, strict=True):
        begun = _begin(rng, terrain, taken, float(volume), region, figures)
        if begun is not None:
            _take(taken, begun)
            new.append(begun)
    return compose((*old, *new), terrain.tissue.shape)


def _volumes_for(
    rng: np.random.Generator, figures: LesionStatistics, count: int | None, load: float | None
) -> NDArray[np.float64]:
    """Draw volumes, largest first: they find a place only while there is one."""
    if count is not None and load is not None:
        raise ValueError("give a count or a load, not both")
    if load is not None:
        volumes = _volumes_of_load(rng, figures, 1000.0 * load)
    else:
        number = sample_count(rng, figures) if count is None else count
        volumes = sample_volumes(rng, number, figures)
    return np.sort(volumes)[::-1]


def sample_count(rng: np.random.Generator, statistics: LesionStatistics) -> int:
    """Draw the number of lesions of one brain."""
    drawn = statistics.median_count * np.exp(statistics.count_sigma * rng.standard_normal())
    return int(np.clip(round(float(drawn)), *statistics.count_range))


def sample_volumes(
    rng: np.random.Generator, count: int, statistics: LesionStatistics
) -> NDArray[np.float64]:
    """Draw lesion volumes.

    Parameters
    ----------
    rng : Generator
    count : int
    statistics : LesionStatistics

    Returns
    -------
    ndarray, shape (count,)
        mm³, between ``smallest`` and ``largest``.

    Examples
    --------
    >>> volumes = sample_volumes(np.random.default_rng(1), 10_000, LesionStatistics())
    >>> np.percentile(volumes, [25, 50, 75]).round()
    array([ 7., 19., 53.])
    """
    volumes = np.empty(0)
    while len(volumes) < count:
        confluent = rng.random(count) < statistics.confluent_share
        median = np.where(confluent, statistics.confluent_volume, statistics.median_volume)
        sigma = np.where(confluent, statistics.confluent_sigma, statistics.volume_sigma)
        drawn = median * np.exp(sigma * rng.standard_normal(count))
        fits = (drawn >= statistics.smallest) & (drawn <= statistics.largest)
        volumes = np.concatenate([volumes, drawn[fits]])
    return volumes[:count]


def _volumes_of_load(
    rng: np.random.Generator, figures: LesionStatistics, total: float
) -> NDArray[np.float64]:
    """Draw volumes until they add up to the load, passing over those that are too large."""
    chosen: list[float] = []
    left = total
    for volume in sample_volumes(rng, 5000, figures):
        if left <= max(0.05 * total, figures.smallest):
            break
        if volume <= left:
            chosen.append(float(volume))
            left -= float(volume)
    return np.array(chosen)


def sample_regions(
    rng: np.random.Generator, volumes: NDArray[np.floating], statistics: LesionStatistics
) -> list[Region]:
    """Draw the region of each lesion; the largest are periventricular.

    Parameters
    ----------
    rng : Generator
    volumes : ndarray, shape (n,)
        mm³.
    statistics : LesionStatistics

    Returns
    -------
    list of Region
    """
    weights = np.array(list(statistics.places.values()))
    drawn = rng.choice(list(statistics.places), size=len(volumes), p=weights / weights.sum())
    large = volumes >= statistics.periventricular_from
    return [
        Region.PERIVENTRICULAR if is_large else Region(code)
        for code, is_large in zip(drawn, large, strict=True)
    ]


def _take(taken: NDArray[np.bool_], lesion: Lesion) -> None:
    """Mark a lesion and a rim of two voxels, so that the next one stays a component of its own."""
    label = lesion_fraction(lesion) >= 0.5
    taken[lesion.box] |= ndimage.binary_dilation(label, EVERY_NEIGHBOUR, iterations=2)


def _begin(
    rng: np.random.Generator,
    terrain: Terrain,
    taken: NDArray[np.bool_],
    volume: float,
    region: Region,
    figures: LesionStatistics,
) -> Lesion | None:
    """Find a free voxel of the region, or else of any, and grow a lesion there."""
    compared = 1 + int(_radius(volume) ** 2 / 8.0)
    others = [other for other in terrain.seeds if other != region]
    for place in (region, *others):
        candidates = terrain.seeds.get(place, np.empty((0, 3), np.int64))
        if not len(candidates):
            continue
        drawn = candidates[rng.integers(len(candidates), size=SEED_TRIES)]
        free = drawn[~taken[tuple(drawn.T)]][:compared]
        if len(free):
            seed = free[terrain.openness[tuple(free.T)].argmax()]
            return _grow(rng, terrain, taken, seed, volume, place, figures)
    return None


def _grow(
    rng: np.random.Generator,
    terrain: Terrain,
    taken: NDArray[np.bool_],
    seed: NDArray[np.int64],
    volume: float,
    region: Region,
    figures: LesionStatistics,
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
    room = terrain.tissue[box] & (fluid < 0.5) & ~taken[box]
    middle = np.clip(np.round(centres[0] - start).astype(int), 0, np.array(room.shape) - 1)
    x, y, z = (int(i) for i in (middle if room[tuple(middle)] else seed - start))
    edge = float(rng.uniform(*figures.edge_mm))
    unknown = np.empty(0, np.float32)
    lesion = Lesion(box, shape, room, fluid, (x, y, z), volume, edge, region, unknown)
    return replace(lesion, depth=lesion_depth(lesion))


def _radius(volume: float) -> float:
    """Radius in mm of the ball of a volume in mm³."""
    return float((3.0 * volume / (4.0 * np.pi)) ** (1 / 3))


def _part_centres(
    rng: np.random.Generator,
    terrain: Terrain,
    seed: NDArray[np.int64],
    radius: float,
    region: Region,
) -> NDArray[np.float64]:
    """Choose centres of one to four ellipsoids, among the voxels where the region may begin.

    Beside the ventricles this makes large lesions follow the wall instead of crossing it.
    """
    more = int(rng.integers(0, 4 if radius > 1.5 else 2))
    near = terrain.seeds[region]
    near = near[np.abs(near - seed).max(axis=1) <= _spread(radius, region)]
    if not more or len(near) < 2:
        return seed[None].astype(np.float64)
    chosen = near[rng.integers(len(near), size=more)]
    return np.concatenate([seed[None], chosen]).astype(np.float64)


def _spread(radius: float, region: Region) -> float:
    """Largest distance in mm between parts: small beside ventricles, unless confluent."""
    is_finger = region is Region.PERIVENTRICULAR and radius < 6.0
    return 0.6 * radius if is_finger else 1.3 * radius


def _long_axis(
    rng: np.random.Generator, terrain: Terrain, centre: NDArray[np.float64], region: Region
) -> NDArray[np.float64]:
    """Point away from the ventricle (Dawson's fingers), or anywhere where there is none near."""
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
    """Height of a union of elongated ellipsoids with a smooth random surface, roughly in mm."""
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    height = np.full(size, -np.inf)
    for centre, axis in zip(centres, axes, strict=True):
        own = radius * rng.uniform(0.55, 1.0)
        ratio = rng.uniform(*stretch)
        across, along = own * ratio ** (-1 / 3), own * ratio ** (2 / 3)
        offset = grid - centre
        parallel = offset @ axis
        sideways = np.maximum((offset**2).sum(axis=-1) - parallel**2, 0.0)
        reached = np.sqrt((parallel / along) ** 2 + sideways / across**2)
        height = np.maximum(height, across * (1.0 - reached))
    bumps = _smooth_noise(rng, size, max(1.0, 0.5 * radius))
    return np.asarray(height + (0.15 + 0.13 * radius) * bumps, np.float32)


def _smooth_noise(
    rng: np.random.Generator, size: tuple[int, ...], sigma: float
) -> NDArray[np.float32]:
    """Gaussian noise through a Gaussian kernel, SD 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(size, np.float32), sigma, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)


def lesion_depth(lesion: Lesion) -> NDArray[np.float32]:
    """Find the depth below the surface of a lesion in mm, negative outside.

    Parameters
    ----------
    lesion : Lesion

    Returns
    -------
    ndarray of float32, shape of ``lesion.box``
        At least ``lesion.volume`` voxels of the room are at depth 0 or deeper, all connected,
        unless the room is smaller.
    """
    body = _body(lesion)
    level = float(lesion.shape[body].min())
    height = np.asarray(lesion.shape - level, np.float64)
    steepness = np.sqrt(sum(slope**2 for slope in np.gradient(height)))
    depth = height / np.clip(steepness, 0.4, 1.6)
    # fluid is no wall to the depth: a lesion keeps its full brightness up to the ventricle
    inside = body | (lesion.room & (height < 0)) | (lesion.fluid >= 0.5)
    return np.asarray(np.minimum(depth, _signed_distance(inside)), np.float32)


def _signed_distance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Distance to the surface between voxels in mm, negative outside; infinite without one."""
    if inside.all():
        return np.full(inside.shape, np.inf)
    within = ndimage.distance_transform_edt(inside) - 0.5
    beyond = ndimage.distance_transform_edt(~inside) - 0.5
    return np.asarray(np.where(inside, within, -beyond), np.float64)


def _body(lesion: Lesion) -> NDArray[np.bool_]:
    """Raise the water until the island around the seed has the volume of the lesion."""
    wanted = max(1, round(lesion.volume))
    free = lesion.room.copy()
    free[lesion.seed] = True
    heights = np.sort(lesion.shape[free])[::-1]
    count = wanted
    for _ in range(12):
        count = min(count, len(heights))
        level = min(float(heights[count - 1]), float(lesion.shape[lesion.seed]))
        islands, _ = ndimage.label(free & (lesion.shape >= level), EVERY_NEIGHBOUR)
        body = islands == islands[lesion.seed]
        missing = wanted - int(np.count_nonzero(body))
        if missing <= 0 or count == len(heights):
            break
        count += missing
    return np.asarray(body, bool)


def lesion_fraction(lesion: Lesion) -> NDArray[np.float32]:
    """Fraction of each voxel that is lesion.

    Parameters
    ----------
    lesion : Lesion

    Returns
    -------
    ndarray of float32, shape of ``lesion.box``
        Error function of the depth, less the fraction that is ventricle.
    """
    share = 0.5 * (1.0 + erf(lesion.depth / lesion.edge))
    return np.asarray(share * (1.0 - lesion.fluid), np.float32)


def compose(lesions: Sequence[Lesion], shape: tuple[int, ...]) -> LesionMap:
    """Put lesions on one grid.

    Parameters
    ----------
    lesions : sequence of Lesion
    shape : tuple of int, (X, Y, Z)

    Returns
    -------
    LesionMap
        Where lesions overlap, the larger fraction counts.
    """
    labels = np.zeros(shape, np.int32)
    soft = np.zeros(shape, np.float32)
    for number, lesion in enumerate(lesions, start=1):
        fraction = lesion_fraction(lesion)
        wins = fraction > soft[lesion.box]
        labels[lesion.box][wins & (fraction >= 0.5)] = number
        soft[lesion.box][wins] = fraction[wins]
    return LesionMap(labels, soft, tuple(lesions))


def resize(lesions: LesionMap, factors: NDArray[np.floating]) -> LesionMap:
    """Let lesions grow or shrink, each about its own centre and in its own shape.

    Parameters
    ----------
    lesions : LesionMap
    factors : ndarray, shape (n,)
        Volume of each lesion relative to what it is now; sensible up to about 3, for which the
        lesions have kept room.

    Returns
    -------
    LesionMap
        The same lesions in the same order.
    """
    resized = list(lesions.lesions)
    for index in np.flatnonzero(np.asarray(factors) != 1.0):
        lesion = resized[index]
        lesion = replace(lesion, volume=lesion.volume * float(factors[index]))
        resized[index] = replace(lesion, depth=lesion_depth(lesion))
    return compose(resized, lesions.labels.shape)


def sample_contrasts(
    rng: np.random.Generator, volumes: NDArray[np.floating], statistics: LesionStatistics
) -> NDArray[np.float64]:
    """Draw how bright each lesion is.

    Parameters
    ----------
    rng : Generator
    volumes : ndarray, shape (n,)
        mm³.
    statistics : LesionStatistics

    Returns
    -------
    ndarray, shape (n, 3)
        FLAIR, T1w and T2w: mean of the lesion less the median of its shell, in SD of the brain.
        Contrasts of one lesion are correlated, and part of their spread is common to all. FLAIR
        is never below 0.15.
    """
    flair_t1w, flair_t2w, t1w_t2w = statistics.correlation
    matrix = [[1, flair_t1w, flair_t2w], [flair_t1w, 1, t1w_t2w], [flair_t2w, t1w_t2w, 1]]
    mixing = np.linalg.cholesky(np.array(matrix, np.float64)).T
    common = rng.standard_normal(3) @ mixing * np.sqrt(statistics.shared)
    own = rng.standard_normal((len(volumes), 3)) @ mixing * np.sqrt(1.0 - statistics.shared)
    classes = _classes_of(volumes, statistics)
    mean = np.array([c.contrast for c in classes]).reshape(-1, 3)
    spread = np.array([c.spread for c in classes]).reshape(-1, 3)
    contrasts = mean + spread * (common + own)
    contrasts[:, 0] = np.maximum(contrasts[:, 0], FAINTEST)
    return np.asarray(contrasts, np.float64)


def _classes_of(volumes: NDArray[np.floating], statistics: LesionStatistics) -> list[SizeClass]:
    uppers = [c.upper for c in statistics.classes[:-1]]
    return [statistics.classes[i] for i in np.searchsorted(uppers, volumes, side="right")]


def paint(
    images: NDArray[np.floating],
    lesions: LesionMap,
    contrasts: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    within: NDArray[np.bool_] | None = None,
    statistics: LesionStatistics | None = None,
) -> NDArray[np.float32]:
    """Add lesions to images of a brain.

    A contrast is what the figures it is drawn from are: mean of the lesion less the median of the
    shell around it. So what is added makes up for a difference that the tissues have without the
    lesion, such as white matter in a shell of grey; up to half an SD of the brain, which keeps a
    lesion among fluid bright.

    Parameters
    ----------
    images : ndarray, shape (C, X, Y, Z)
        Contrasts in SD of the brain; the first C of FLAIR, T1w, T2w.
    lesions : LesionMap
        On the same grid.
    contrasts : ndarray, shape (n, C) or wider
        From :func:`sample_contrasts`, to be met over each label.
    rng : Generator
        Makes the texture, which all contrasts of a lesion share.
    within : ndarray of bool, shape (X, Y, Z), optional
        The brain; shells end there.
    statistics : LesionStatistics, optional
        The measured ones where not given.

    Returns
    -------
    ndarray of float32, shape (C, X, Y, Z)

    Raises
    ------
    ValueError
        If the grids, or the numbers of lesions or contrasts, do not match.
    """
    channels = len(images)
    if images.shape[1:] != lesions.labels.shape:
        raise ValueError(f"images {images.shape[1:]} and lesions differ in grid")
    if contrasts.shape[0] != len(lesions.lesions) or contrasts.shape[1] < channels:
        raise ValueError(f"{contrasts.shape} contrasts for {len(lesions.lesions)} lesions")
    figures = statistics or LesionStatistics()
    weight = np.zeros(lesions.labels.shape, np.float32)
    top = np.zeros_like(weight)
    added = np.zeros(images.shape, np.float32)
    healthy = lesions.labels == 0 if within is None else (lesions.labels == 0) & within
    for lesion, drawn in zip(lesions.lesions, contrasts[:, :channels], strict=True):
        contrast = drawn - _step(images[(slice(None), *lesion.box)], lesion, healthy[lesion.box])
        contrast[0] = max(float(contrast[0]), FAINTEST)
        profile, look = _look(rng, lesion, float(drawn[0]), figures)
        weight[lesion.box] += profile
        top[lesion.box] = np.maximum(top[lesion.box], profile)
        added[(slice(None), *lesion.box)] += contrast[:, None, None, None] * (profile * look)
    # where lesions overlap, their looks are averaged and not summed
    added *= top / np.maximum(weight, 1e-6)
    return np.asarray(images + added, np.float32)


def _step(
    images: NDArray[np.floating], lesion: Lesion, healthy: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Measure how the tissue under a lesion differs from that of its shell, at most 0.5; (C,)."""
    label = lesion_fraction(lesion) >= 0.5
    distance = ndimage.distance_transform_edt(~label)
    shell = healthy & (distance > SHELL_MM[0]) & (distance <= SHELL_MM[1])
    if not label.any() or not shell.any():
        return np.zeros(len(images))
    step = images[:, label].mean(axis=1) - np.median(images[:, shell], axis=1)
    return np.asarray(np.clip(step, -0.5, 0.5), np.float64)


def _look(
    rng: np.random.Generator, lesion: Lesion, flair: float, figures: LesionStatistics
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make profile and texture of a lesion whose product averages 1 over its label.

    What of the measured SD inside a lesion its soft edge does not explain is texture.
    """
    fraction = lesion_fraction(lesion)
    label = fraction >= 0.5
    halo = figures.halo * np.exp(-((np.minimum(lesion.depth, 0.0) / figures.halo_mm) ** 2))
    profile = fraction + halo * (1.0 - fraction) * (1.0 - lesion.fluid)
    if not label.any():
        return np.asarray(profile, np.float32), np.ones_like(fraction)
    inside = profile[label]
    (figures_of_size,) = _classes_of(np.array([label.sum()]), figures)
    wanted = (figures_of_size.texture / max(flair, FAINTEST)) ** 2 - float(
        np.var(inside / inside.mean())
    )
    noise = _smooth_noise(rng, label.shape, figures.texture_mm)
    values = noise[label]
    centred = (noise - np.average(values, weights=inside)) / max(float(values.std()), 0.3)
    texture = 1.0 + np.sqrt(np.clip(wanted, 0.0, 0.25)) * centred
    look = np.clip(texture, 0.2, 1.8) / inside.mean()
    return np.asarray(profile, np.float32), np.asarray(look, np.float32)
