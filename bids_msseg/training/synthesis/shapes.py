"""Lesions as resizable shapes with depth, soft edge, target volume and available space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

from bids_msseg.lesions.regions import Region

Box = tuple[slice, slice, slice]
Index = tuple[int, int, int]
EVERY_NEIGHBOUR = np.ones((3, 3, 3), bool)


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion in a form that can be resized; arrays cover its ``box``."""

    box: Box
    shape: NDArray[np.float32]  # roughly in mm; the lesion is where it exceeds some level
    room: NDArray[np.bool_]  # available space
    fluid: NDArray[np.float32]  # ventricle fraction
    seed: Index  # a voxel of the lesion
    volume: float  # target in mm³
    edge: float  # edge width in mm
    region: Region
    depth: NDArray[np.float32]  # result of lesion_depth


@dataclass(frozen=True, slots=True)
class LesionMap:
    """Lesions of one brain, with their label image and lesion fraction."""

    labels: NDArray[np.int32]  # i + 1 where lesions[i] has the largest fraction, at least 0.5
    soft: NDArray[np.float32]  # lesion fraction, 0 to 1
    lesions: tuple[Lesion, ...]

    @property
    def volumes(self) -> NDArray[np.float64]:
        """Volume of each label in mm³, shape (n,)."""
        sizes = np.bincount(self.labels.ravel(), minlength=len(self.lesions) + 1)
        return sizes[1:].astype(np.float64)


def lesion_depth(lesion: Lesion) -> NDArray[np.float32]:
    """Return the depth below a lesion's surface in mm over its box, negative outside."""
    body = _body(lesion)
    level = float(lesion.shape[body].min())
    height = np.asarray(lesion.shape - level, np.float64)
    steepness = np.sqrt(sum(slope**2 for slope in np.gradient(height)))
    depth = height / np.clip(steepness, 0.4, 1.6)
    # fluid does not limit the depth: a lesion keeps its full brightness up to the ventricle
    inside = body | (lesion.room & (height < 0)) | (lesion.fluid >= 0.5)
    return np.asarray(np.minimum(depth, _signed_distance(inside)), np.float32)


def _signed_distance(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the distance to the surface (between voxels) in mm, negative outside."""
    if inside.all():
        return np.full(inside.shape, np.inf)
    within = ndimage.distance_transform_edt(inside) - 0.5
    beyond = ndimage.distance_transform_edt(~inside) - 0.5
    return np.asarray(np.where(inside, within, -beyond), np.float64)


def _body(lesion: Lesion) -> NDArray[np.bool_]:
    """Lower the level until the component around the seed has the volume of the lesion."""
    target_size = max(1, round(lesion.volume))
    free = lesion.room.copy()
    free[lesion.seed] = True
    heights = np.sort(lesion.shape[free])[::-1]
    count = target_size
    for _ in range(12):
        count = min(count, len(heights))
        level = min(float(heights[count - 1]), float(lesion.shape[lesion.seed]))
        islands, _ = ndimage.label(free & (lesion.shape >= level), EVERY_NEIGHBOUR)
        body = islands == islands[lesion.seed]
        missing = target_size - int(np.count_nonzero(body))
        if missing <= 0 or count == len(heights):
            break
        count += missing
    return np.asarray(body, bool)


def lesion_fraction(lesion: Lesion) -> NDArray[np.float32]:
    """Return the lesion fraction of each voxel of the box, 0 to 1, without ventricle."""
    share = 0.5 * (1.0 + erf(lesion.depth / lesion.edge))
    return np.asarray(share * (1.0 - lesion.fluid), np.float32)


def compose(lesions: Sequence[Lesion], shape: tuple[int, ...]) -> LesionMap:
    """Combine lesions on one grid; where they overlap, the larger fraction counts."""
    labels = np.zeros(shape, np.int32)
    soft = np.zeros(shape, np.float32)
    for number, lesion in enumerate(lesions, start=1):
        fraction = lesion_fraction(lesion)
        wins = fraction > soft[lesion.box]
        labels[lesion.box][wins & (fraction >= 0.5)] = number
        soft[lesion.box][wins] = fraction[wins]
    return LesionMap(labels, soft, tuple(lesions))


def resize(lesions: LesionMap, factors: NDArray[np.floating]) -> LesionMap:
    """Scale the volume of each lesion by its factor (at most 3), keeping its place and shape."""
    resized = list(lesions.lesions)
    for index in np.flatnonzero(np.asarray(factors) != 1.0):
        lesion = resized[index]
        lesion = replace(lesion, volume=lesion.volume * float(factors[index]))
        resized[index] = replace(lesion, depth=lesion_depth(lesion))
    return compose(resized, lesions.labels.shape)


def smooth_noise(
    rng: np.random.Generator, size: tuple[int, ...], sigma: float
) -> NDArray[np.float32]:
    """Make periodic Gaussian noise of SD 1, smoothed by a kernel of ``sigma`` voxels."""
    noise = ndimage.gaussian_filter(rng.standard_normal(size, np.float32), sigma, mode="wrap")
    return np.asarray(noise / max(float(noise.std()), 1e-6), np.float32)
