"""Ventricles and cortex of a brain, found from its own fluid with a template as guide.

Fast marching (Sethian 1996, doi 10.1073/pnas.93.4.1591) separates ventricles from sulci: fluid
belongs to the front that arrives first, from the template's ventricles or from the surface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import bounding_box
from bids_msseg.lesions.regions import RegionAnatomy, near

WEIGHTS = {"FLAIR": 2.0, "T1w": 1.0, "T2w": 1.0}
"""FLAIR counts most: its grid is that of the lesions, and the others are moved onto it."""
BRIGHT_FLUID = frozenset({"T2w"})
PURE_FLUID_PERCENTILE = 10.0
MIN_CONTRAST = 0.25
FLUID_FROM = 0.25
"""Where raters draw the border of a ventricle; 0.2 to 0.4 agree about as well."""
SURE_FLUID = 0.6
CORE_MM = 1.5
FAR_MM = 8.0
REACH_MM = 30.0
SLOWEST = 0.02
LATEST = 100.0
"""Time at which a front stops: after 100 mm of pure fluid or 2 mm of tissue."""
RIBBON_MM = 3.0
"""Cortex is 2 to 4.5 mm thick."""
ASTRAY_MM = 5.0
"""Largest error of the template's cortex after an affine alignment."""
MIN_ML = 0.5
MAX_OF_BRAIN = 0.2

Array = NDArray[Any]
Mask = NDArray[np.bool_]
Spacing = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class OwnAnatomy:
    """``RegionAnatomy`` codes (X, Y, Z); ``note`` states why they are those of the template."""

    labels: NDArray[np.uint8]
    from_own_fluid: bool
    note: str = ""


def own_anatomy(
    images: Mapping[str, Array], brain: Mask, prior: NDArray[np.integer], spacing: Spacing
) -> OwnAnatomy:
    """Refine a template's region map with the fluid on FLAIR, and on T1w and T2w if given."""
    _check_grids(brain, prior, images)
    box = bounding_box(brain, margin=1)
    cut = {name: np.asarray(image[box], np.float32) for name, image in images.items()}
    inside, guess = brain[box], prior[box]
    fluid = fluidity(cut, inside, guess)
    if fluid is None:
        return _template_only(prior, "fluid is not darker than tissue on FLAIR")
    ventricles = _ventricles(fluid, inside, guess, np.asarray(spacing, float))
    voxel_ml = float(np.prod(spacing)) / 1000
    if ventricles.sum() * voxel_ml < MIN_ML:
        return _template_only(prior, "no fluid where the template has ventricles")
    if ventricles.sum() > MAX_OF_BRAIN * inside.sum():
        return _template_only(prior, "the ventricles found extend too far into the brain")
    labels = np.zeros(brain.shape, np.uint8)
    labels[box] = _compose(ventricles, fluid, inside, guess, np.asarray(spacing, float))
    return OwnAnatomy(labels, from_own_fluid=True)


def fluidity(
    images: Mapping[str, Array], brain: Mask, prior: NDArray[np.integer]
) -> NDArray[np.float32] | None:
    """Map how fluid-like voxels are, from 0 to 1; None if FLAIR shows no fluid contrast."""
    maps = {}
    for name, image in images.items():
        fluid_map = _fluidity_in_contrast(image, brain, prior, bright=name in BRIGHT_FLUID)
        if fluid_map is not None:
            maps[name] = fluid_map
    if "FLAIR" not in maps:
        return None
    total = sum(WEIGHTS[name] for name in maps)
    mean = sum(WEIGHTS[name] * fluid_map for name, fluid_map in maps.items()) / total
    # voxels brighter than tissue on FLAIR are lesion
    return np.where(brain & (maps["FLAIR"] > 0), mean, 0).astype(np.float32)


def _fluidity_in_contrast(
    image: Array, brain: Mask, prior: NDArray[np.integer], *, bright: bool
) -> Array | None:
    """Scale intensities from tissue (0) to fluid (1); None if their contrast is too low."""
    tissue, pool = (
        image[brain & (prior == code)]
        for code in (RegionAnatomy.SUPRATENTORIAL, RegionAnatomy.VENTRICLE)
    )
    if not tissue.size or not pool.size:
        return None
    level = float(np.median(tissue))
    rank = 100 - PURE_FLUID_PERCENTILE if bright else PURE_FLUID_PERCENTILE
    fluid = float(np.percentile(pool, rank))
    contrast = (fluid - level) * (1 if bright else -1)
    if contrast <= MIN_CONTRAST * level:
        return None
    return np.clip((image - level) / (fluid - level), 0, 1)


def _ventricles(
    fluid: NDArray[np.float32], brain: Mask, prior: NDArray[np.integer], spacing: Array
) -> Mask:
    """Find ventricles by two competing fronts around those of the template."""
    ventricles = np.zeros(brain.shape, bool)
    margin = int(np.ceil(REACH_MM / spacing.min()))
    box = bounding_box(prior == RegionAnatomy.VENTRICLE, margin=margin)
    ventricles[box] = _reached_by_ventricle_front(fluid[box], brain[box], prior[box], spacing)
    return ventricles


def _reached_by_ventricle_front(
    fluid: NDArray[np.float32], brain: Mask, prior: NDArray[np.integer], spacing: Array
) -> Mask:
    core = prior == RegionAnatomy.VENTRICLE
    depth = ndimage.distance_transform_edt(core, spacing)
    distance = ndimage.distance_transform_edt(~core, spacing)
    nearby = distance < REACH_MM
    outside_ventricles = np.isin(prior, (RegionAnatomy.CORTEX, RegionAnatomy.INFRATENTORIAL))
    outside_seeds = ~brain | (outside_ventricles & (fluid > 0.5) & (distance > FAR_MM))
    speed = np.where(brain & nearby, fluid**2 + SLOWEST, 1e-3)
    ventricle_seeds = core & (fluid > SURE_FLUID) & (depth > CORE_MM)
    outside_front = outside_seeds & nearby & ndimage.binary_dilation(~outside_seeds)
    first = _arrival(speed, ventricle_seeds, spacing) < _arrival(speed, outside_front, spacing)
    ventricles: Mask = first & (fluid > FLUID_FROM) & (prior != RegionAnatomy.INFRATENTORIAL)
    return ventricles


def _arrival(speed: Array, seeds: Mask, spacing: Array) -> NDArray[np.float64]:
    """Compute arrival times of a front from the seeds; LATEST where it does not arrive."""
    if not seeds.any():
        return np.full(speed.shape, LATEST)
    image = sitk.GetImageFromArray(np.ascontiguousarray(speed.T.astype(np.float32)))
    image.SetSpacing([float(edge) for edge in spacing])
    points = [[int(coordinate) for coordinate in index] for index in np.argwhere(seeds)]
    times: Array = sitk.GetArrayFromImage(sitk.FastMarching(image, points, 1.0, LATEST)).T
    return np.minimum(times, LATEST).astype(np.float64)


def _compose(
    ventricles: Mask,
    fluid: NDArray[np.float32],
    brain: Mask,
    prior: NDArray[np.integer],
    spacing: Array,
) -> NDArray[np.uint8]:
    """Put together ventricles, the ribbon along sulci and the template's posterior fossa."""
    posterior = prior == RegionAnatomy.INFRATENTORIAL
    sulci = (fluid > FLUID_FROM) & ~posterior & ~ventricles & (prior != RegionAnatomy.VENTRICLE)
    ribbon = near(sulci | ~brain, RIBBON_MM, spacing)
    ribbon &= near(prior == RegionAnatomy.CORTEX, ASTRAY_MM, spacing)
    labels = np.full(brain.shape, RegionAnatomy.SUPRATENTORIAL, np.uint8)
    labels[ribbon] = RegionAnatomy.CORTEX
    labels[posterior] = RegionAnatomy.INFRATENTORIAL
    labels[ventricles] = RegionAnatomy.VENTRICLE
    labels[~brain] = RegionAnatomy.OUTSIDE
    return labels


def _template_only(prior: NDArray[np.integer], reason: str) -> OwnAnatomy:
    note = f"regions follow the template, not this brain's ventricles: {reason}"
    return OwnAnatomy(prior.astype(np.uint8), from_own_fluid=False, note=note)


def _check_grids(brain: Mask, prior: NDArray[np.integer], images: Mapping[str, Array]) -> None:
    shapes = {name: image.shape for name, image in images.items()}
    for name, shape in {**shapes, "template": prior.shape}.items():
        if shape != brain.shape:
            raise ValueError(f"brain {brain.shape} and {name} {shape} differ in grid")
