"""Size, number, brightness and texture of lesions, as measured on patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.regions import Region

FAINTEST = 0.15
"""Smallest contrast of a lesion in FLAIR, in SD of the brain."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Appearance of lesions up to ``upper`` mm³ in FLAIR, T1w and T2w, in SD of the brain."""

    upper: float
    contrast: tuple[float, float, float]  # mean of (lesion mean - median of its 2-4 mm shell)
    spread: tuple[float, float, float]  # SD of these contrasts over lesions
    texture: float  # SD of FLAIR inside a lesion


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
    """Sizes, counts, places and appearance of lesions, measured on patients.

    30 of the Ljubljana cohort (Lesjak et al. 2018, doi:10.1007/s12021-017-9348-7), three for
    appearance; volumes (mm³) are log-normal.
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
    correlation: tuple[float, float, float] = (-0.53, 0.25, -0.53)  # FLAIR-T1w, -T2w, T1w-T2w
    shared: float = 0.2  # share of the variance that is common to all lesions
    edge_mm: tuple[float, float] = (0.8, 1.2)
    halo: float = 0.08
    halo_mm: float = 2.0
    texture_mm: float = 1.8


def sample_count(rng: np.random.Generator, statistics: LesionStatistics) -> int:
    """Draw the number of lesions of one brain."""
    value = statistics.median_count * np.exp(statistics.count_sigma * rng.standard_normal())
    return int(np.clip(round(float(value)), *statistics.count_range))


def sample_volumes(
    rng: np.random.Generator, count: int, statistics: LesionStatistics
) -> NDArray[np.float64]:
    """Draw ``count`` lesion volumes in mm³, between ``smallest`` and ``largest``."""
    volumes = np.empty(0)
    while len(volumes) < count:
        confluent = rng.random(count) < statistics.confluent_share
        median = np.where(confluent, statistics.confluent_volume, statistics.median_volume)
        sigma = np.where(confluent, statistics.confluent_sigma, statistics.volume_sigma)
        candidates = median * np.exp(sigma * rng.standard_normal(count))
        fits = (candidates >= statistics.smallest) & (candidates <= statistics.largest)
        volumes = np.concatenate([volumes, candidates[fits]])
    return volumes[:count]


def volumes_of_load(
    rng: np.random.Generator, statistics: LesionStatistics, total: float
) -> NDArray[np.float64]:
    """Draw volumes in mm³ that sum to ``total`` within 5 %, if the smallest lesion allows."""
    chosen: list[float] = []
    left = total
    for volume in sample_volumes(rng, 5000, statistics):
        if left <= max(0.05 * total, statistics.smallest):
            break
        if volume <= left:
            chosen.append(float(volume))
            left -= float(volume)
    return np.array(chosen)


def sample_regions(
    rng: np.random.Generator, volumes: NDArray[np.floating], statistics: LesionStatistics
) -> list[Region]:
    """Draw a region for each volume (mm³); the largest are always periventricular."""
    weights = np.array(list(statistics.places.values()))
    regions = rng.choice(list(statistics.places), size=len(volumes), p=weights / weights.sum())
    large = volumes >= statistics.periventricular_from
    return [
        Region.PERIVENTRICULAR if is_large else Region(code)
        for code, is_large in zip(regions, large, strict=True)
    ]


def sample_contrasts(
    rng: np.random.Generator, volumes: NDArray[np.floating], statistics: LesionStatistics
) -> NDArray[np.float64]:
    """Draw correlated contrasts (n, 3) in FLAIR, T1w and T2w, in SD of the brain."""
    flair_t1w, flair_t2w, t1w_t2w = statistics.correlation
    matrix = [[1, flair_t1w, flair_t2w], [flair_t1w, 1, t1w_t2w], [flair_t2w, t1w_t2w, 1]]
    mixing = np.linalg.cholesky(np.array(matrix, np.float64)).T
    common = rng.standard_normal(3) @ mixing * np.sqrt(statistics.shared)
    individual = rng.standard_normal((len(volumes), 3)) @ mixing * np.sqrt(1.0 - statistics.shared)
    classes = classes_of(volumes, statistics)
    mean = np.array([c.contrast for c in classes]).reshape(-1, 3)
    spread = np.array([c.spread for c in classes]).reshape(-1, 3)
    contrasts = mean + spread * (common + individual)
    contrasts[:, 0] = np.maximum(contrasts[:, 0], FAINTEST)
    return np.asarray(contrasts, np.float64)


def classes_of(volumes: NDArray[np.floating], statistics: LesionStatistics) -> list[SizeClass]:
    """Return the size class of each volume in mm³."""
    uppers = [c.upper for c in statistics.classes[:-1]]
    return [statistics.classes[i] for i in np.searchsorted(uppers, volumes, side="right")]
