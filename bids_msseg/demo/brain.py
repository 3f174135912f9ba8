"""Synthetic brains for the demo: the template with a random deformation for each participant.

Ventricle widths vary, and the blurred tissue fractions are sharpened with a random bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.template import EMBEDDED, Template
from bids_msseg.imaging.volume import Affine, load_volume
from bids_msseg.lesions.instances import bounding_box
from bids_msseg.lesions.regions import RegionAnatomy
from bids_msseg.training.synthesis.placing import Terrain, prepare_terrain

MARGIN_MM = 8
CONTRASTS = ("FLAIR", "T1w", "T2w")
CRISPNESS = 2.0
# Mean of each tissue in SD of the brain: medians of three patients, fluid as in the ventricles.
TISSUE_MEANS = {
    "FLAIR": (-3.3, 0.85, -0.05),
    "T1w": (-2.6, -0.25, 0.95),
    "T2w": (4.2, 0.15, -0.60),
}


@dataclass(frozen=True, slots=True)
class Maps:
    """Tissue fractions, T1w and regions on a 1 mm grid; ``affine`` maps voxels to mm."""

    affine: Affine
    brain: NDArray[np.float32]
    grey: NDArray[np.float32]
    white: NDArray[np.float32]
    t1w: NDArray[np.float32]  # of the template, in SD of the brain, 0 outside
    regions: NDArray[np.uint8]
    outward: NDArray[np.float32]  # (3, X, Y, Z), away from the ventricles, to widen them


@dataclass(frozen=True, slots=True)
class Brain:
    """One participant without lesions, on a 1 mm grid; ``affine`` maps to the participant's mm."""

    affine: Affine
    mask: NDArray[np.float32]  # fraction of brain, including the surrounding fluid
    images: NDArray[np.float32]  # (3, X, Y, Z): FLAIR, T1w and T2w in SD of the brain
    terrain: Terrain


def load_maps(template: Template) -> Maps:
    """Read the tissues of the embedded template, which has a map of regions; crop to the brain."""
    if template.regions is None:
        raise ValueError(f"{template.name} has no map of regions")
    stem = f"tpl-{EMBEDDED}_res-1_label-"
    grey, white = (
        load_volume(template.directory / f"{stem}{tissue}_probseg.nii.gz").data
        for tissue in ("GM", "WM")
    )
    pad = MARGIN_MM
    box = bounding_box(template.mask)
    shift = np.array([side.start for side in box]) - pad

    def cut(array: NDArray[Any], dtype: Any = np.float32) -> NDArray[Any]:
        return np.pad(array[box].astype(dtype), pad)

    inside = template.mask
    values = template.volume.data
    t1w = (values - values[inside].mean()) / values[inside].std() * inside
    affine = template.volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ shift
    regions = cut(template.regions, np.uint8)
    return Maps(
        affine,
        brain=cut(inside),
        grey=cut(grey),
        white=cut(white),
        t1w=cut(t1w),
        regions=regions,
        outward=_outward(regions == RegionAnatomy.VENTRICLE),
    )


def make_brain(maps: Maps, rng: np.random.Generator) -> Brain:
    """Make one random participant from the maps of :func:`load_maps`."""
    deformed = _deform(maps, rng)
    fluid, grey, white = tissue_fractions(deformed, rng)
    terrain = prepare_terrain(
        white,
        (deformed.regions == RegionAnatomy.VENTRICLE) * fluid,
        (deformed.regions == RegionAnatomy.CORTEX) * grey,
        deformed.regions == RegionAnatomy.INFRATENTORIAL,
    )
    images = _images(deformed, np.stack([fluid, grey, white]), rng)
    return Brain(deformed.affine, deformed.brain, images, terrain)


def smooth_field(
    rng: np.random.Generator, shape: tuple[int, ...], spacing: float | Sequence[float]
) -> NDArray[np.float32]:
    """Make a smooth random field of about SD 1 from cubic B-splines, ``spacing`` voxels apart."""
    steps = np.broadcast_to(spacing, 3)
    waves = [_spline_weights(size, step) for size, step in zip(shape, steps, strict=True)]
    field: NDArray[Any] = rng.standard_normal([w.shape[1] for w in waves], np.float32)
    for wave in waves:
        field = np.tensordot(field, wave, axes=(0, 1))
    return np.asarray(field, np.float32)


def _spline_weights(size: int, spacing: float) -> NDArray[np.float32]:
    """Return cubic B-splines at the voxels of one axis, (size, knots), with mean power one."""
    knots = int(np.ceil(size / spacing)) + 3
    distance = np.abs(np.arange(size)[:, None] / spacing + 1.0 - np.arange(knots))
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.clip(2.0 - distance, 0.0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=1).mean()), np.float32)


def _deform(maps: Maps, rng: np.random.Generator) -> Maps:
    """Deform the template: overall size, coarse and fine shape, width of the ventricles."""
    shape = maps.brain.shape
    scale = rng.uniform(0.93, 1.03, 3)
    widening = rng.uniform(0.0, 2.2)
    coords = np.empty((3, *shape), np.float32)
    for axis, size in enumerate(shape):
        index = np.arange(size, dtype=np.float32)
        middle = (size - 1) / 2
        line = (index - middle) / scale[axis] + middle
        coords[axis] = line.reshape([-1 if a == axis else 1 for a in range(3)])
        coords[axis] += 2.2 * smooth_field(rng, shape, 32.0) + 0.6 * smooth_field(rng, shape, 12.0)
        coords[axis] -= widening * maps.outward[axis]

    brain = ndimage.map_coordinates(maps.brain, coords, order=1)
    inside = brain > 0
    points = coords[:, inside]

    def bend(array: NDArray[Any], order: int = 1) -> NDArray[Any]:
        bent = np.zeros_like(array)
        bent[inside] = ndimage.map_coordinates(array, points, order=order)
        return bent

    return replace(
        maps,
        brain=brain,
        grey=bend(maps.grey),
        white=bend(maps.white),
        t1w=bend(maps.t1w),
        regions=bend(maps.regions, order=0),
    )


def _outward(ventricle: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return vectors away from the ventricles, (3, X, Y, Z), decreasing with the distance."""
    depth = smooth_distance(ventricle) - smooth_distance(~ventricle)
    fading = np.exp(-np.abs(depth) / 10.0)
    return np.stack([slope * fading for slope in np.gradient(depth)]).astype(np.float32)


def smooth_distance(target: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the smoothed distance in mm to a target of 1 mm voxels, computed at 2 mm."""
    half = 2.0 * ndimage.distance_transform_edt(~target[::2, ::2, ::2])
    return upsample(ndimage.gaussian_filter(half.astype(np.float32), 1.0), target.shape)


def upsample(half: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate from every second voxel to all voxels of ``shape``."""
    for axis, size in enumerate(shape):
        full = np.empty((*half.shape[:axis], size, *half.shape[axis + 1 :]), np.float32)
        # views with the axis in front: assignment to `new` changes `full`
        new, old = np.moveaxis(full, axis, 0), np.moveaxis(half, axis, 0)
        new[::2] = old
        new[1 : 2 * len(old) - 1 : 2] = (old[:-1] + old[1:]) / 2
        if size % 2 == 0:
            new[-1] = old[-1]
        half = full
    return half


def tissue_fractions(
    maps: Maps, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return fractions of fluid, grey and white matter, sharpened with a random bias."""
    shape = maps.brain.shape
    fluid = np.clip(1.0 - maps.grey - maps.white, 0.0, 1.0)
    powers = []
    for tissue, leaning in ((fluid, 0.35), (maps.grey, 0.0), (maps.white, 0.0)):
        bias = leaning + 0.35 * smooth_field(rng, shape, 9.0)
        powers.append(np.power(np.clip(tissue, 1e-4, 1.0), CRISPNESS) * np.exp(bias))
    share = maps.brain / sum(powers)
    parts = [power * share for power in powers]
    return tuple(np.asarray(part, np.float32) for part in parts)  # type: ignore[return-value]


def _images(
    maps: Maps, tissues: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Synthesise the images from tissue brightness and the detail of the template's T1w."""
    inside = maps.brain >= 0.5
    means = np.array(list(TISSUE_MEANS.values()), np.float32)
    # voxels at the rim of the brain are partly fluid
    images = np.tensordot(means, tissues, axes=1) + means[:, :1, None, None] * (1.0 - maps.brain)
    images[1] += 0.5 * _detail(maps, inside)
    shape = maps.brain.shape
    solid = tissues[1] + tissues[2]
    for image in images:
        image += solid * 0.11 * (smooth_field(rng, shape, 14.0) + smooth_field(rng, shape, 3.0))
        image -= image[inside].mean()
        image /= image[inside].std()
    return images


def _detail(maps: Maps, inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the part of the template's T1w, as in deep nuclei, that tissues do not explain."""
    design = np.stack([maps.grey[inside], maps.white[inside], np.ones(inside.sum())], axis=1)
    weights, *_ = np.linalg.lstsq(design[::20], maps.t1w[inside][::20], rcond=None)
    detail = np.zeros(inside.shape, np.float32)
    detail[inside] = maps.t1w[inside] - design @ weights
    return detail
