"""Adding parametric lesions to images of a brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.training.synthesis.shapes import Lesion, LesionMap, lesion_fraction, smooth_noise
from bids_msseg.training.synthesis.statistics import FAINTEST, LesionStatistics, classes_of

SHELL_MM = (2.0, 4.0)
"""Distance of the tissue that a lesion's contrast is measured against."""


def paint(
    images: NDArray[np.floating],
    lesions: LesionMap,
    contrasts: NDArray[np.floating],
    rng: np.random.Generator,
    *,
    within: NDArray[np.bool_] | None = None,
    statistics: LesionStatistics | None = None,
) -> NDArray[np.float32]:
    """Add lesions to images (C, X, Y, Z) of a brain, given in SD of the brain.

    A contrast is the lesion mean minus the median of its 2-4 mm shell ``within`` the brain.
    """
    channels = len(images)
    if images.shape[1:] != lesions.labels.shape:
        raise ValueError(f"images {images.shape[1:]} and lesions differ in grid")
    if contrasts.shape[0] != len(lesions.lesions) or contrasts.shape[1] < channels:
        raise ValueError(f"{contrasts.shape} contrasts for {len(lesions.lesions)} lesions")
    statistics = statistics or LesionStatistics()
    weight = np.zeros(lesions.labels.shape, np.float32)
    top = np.zeros_like(weight)
    added = np.zeros(images.shape, np.float32)
    healthy = lesions.labels == 0 if within is None else (lesions.labels == 0) & within
    for lesion, target in zip(lesions.lesions, contrasts[:, :channels], strict=True):
        contrast = target - _tissue_difference(
            images[(slice(None), *lesion.box)], lesion, healthy[lesion.box]
        )
        contrast[0] = max(float(contrast[0]), FAINTEST)
        profile, texture = _appearance(rng, lesion, float(target[0]), statistics)
        weight[lesion.box] += profile
        top[lesion.box] = np.maximum(top[lesion.box], profile)
        added[(slice(None), *lesion.box)] += contrast[:, None, None, None] * (profile * texture)
    # where lesions overlap, their appearances are averaged and not summed
    added *= top / np.maximum(weight, 1e-6)
    return np.asarray(images + added, np.float32)


def _tissue_difference(
    images: NDArray[np.floating], lesion: Lesion, healthy: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Measure the tissue difference between a lesion's place and its shell (C,), at most 0.5."""
    label = lesion_fraction(lesion) >= 0.5
    distance = ndimage.distance_transform_edt(~label)
    shell = healthy & (distance > SHELL_MM[0]) & (distance <= SHELL_MM[1])
    if not label.any() or not shell.any():
        return np.zeros(len(images))
    difference = images[:, label].mean(axis=1) - np.median(images[:, shell], axis=1)
    return np.asarray(np.clip(difference, -0.5, 0.5), np.float64)


def _appearance(
    rng: np.random.Generator, lesion: Lesion, flair: float, statistics: LesionStatistics
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return profile and texture of a lesion; their product averages 1 over its label."""
    fraction = lesion_fraction(lesion)
    label = fraction >= 0.5
    halo = statistics.halo * np.exp(-((np.minimum(lesion.depth, 0.0) / statistics.halo_mm) ** 2))
    profile = fraction + halo * (1.0 - fraction) * (1.0 - lesion.fluid)
    if not label.any():
        return np.asarray(profile, np.float32), np.ones_like(fraction)
    inside = profile[label]
    (size_class,) = classes_of(np.array([label.sum()]), statistics)
    # the part of the measured variance that the soft edge does not explain
    texture_variance = (size_class.texture / max(flair, FAINTEST)) ** 2 - float(
        np.var(inside / inside.mean())
    )
    noise = smooth_noise(rng, label.shape, statistics.texture_mm)
    values = noise[label]
    centred = (noise - np.average(values, weights=inside)) / max(float(values.std()), 0.3)
    texture = 1.0 + np.sqrt(np.clip(texture_variance, 0.0, 0.25)) * centred
    texture = np.clip(texture, 0.2, 1.8) / inside.mean()
    return np.asarray(profile, np.float32), np.asarray(texture, np.float32)
