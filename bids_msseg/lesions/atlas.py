"""Lesion load in each region of a label image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions

OUTSIDE = 0
OUTSIDE_NAME = "outside"


@dataclass(frozen=True, slots=True)
class RegionLoad:
    """Lesion load in one atlas region; label 0 holds everything without a label."""

    label: int
    name: str
    region_ml: float  # NaN for label 0
    lesion_ml: float
    lesion_count: int  # each lesion counts in the region of its largest part
    share: float  # NaN for label 0 and for a region without voxels


REGION_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "label": {"Description": "Value in the atlas; 0 for voxels without a label"},
    "name": {"Description": "Name of the region"},
    "region_ml": {"Description": "Volume of the region", "Units": "mL"},
    "lesion_ml": {
        "Description": "Volume of lesions in the region; a lesion in several regions is divided",
        "Units": "mL",
    },
    "lesion_count": {
        "Description": "Lesions with their largest part in the region; each lesion counts once"
    },
    "share": {"Description": "Share of the region that is lesion"},
}
"""Fields of :class:`RegionLoad` as columns of a table, and their description."""


def load_per_region(
    lesions: NDArray[Any],
    atlas: NDArray[np.integer],
    voxel_volume: float,
    names: Mapping[int, str],
) -> tuple[RegionLoad, ...]:
    """Divide a lesion mask or labels among regions, sorted by label with 0 last; mm³ per voxel."""
    if atlas.shape != lesions.shape:
        raise ValueError(f"lesions {lesions.shape} and atlas {atlas.shape} differ in grid")
    if lesions.dtype == bool:
        lesions = label_lesions(lesions, voxel_volume=voxel_volume)
    present, sizes = np.unique(atlas, return_counts=True)
    values = np.union1d(present, np.array([OUTSIDE, *names], np.int64)).astype(np.int64)
    parts = _parts(lesions, atlas, values)
    voxels = parts.sum(axis=0)
    # label 0 comes last, so that it loses a draw
    order = np.argsort(values == OUTSIDE, kind="stable")
    counts = np.bincount(parts[:, order].argmax(axis=1), minlength=len(values))
    region = dict(zip(present.tolist(), sizes.tolist(), strict=True))
    voxel_ml = voxel_volume / 1000
    return tuple(
        _row(int(label), names, region.get(int(label), 0) * voxel_ml, volume * voxel_ml, count)
        for label, volume, count in zip(
            values[order].tolist(), voxels[order].tolist(), counts.tolist(), strict=True
        )
    )


def _parts(
    lesions: NDArray[np.integer], atlas: NDArray[np.integer], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count the voxels of each lesion in each region, shape (lesions, regions)."""
    used = np.flatnonzero(lesions)
    present, ranks = np.unique(lesions.reshape(-1)[used], return_inverse=True)
    codes = ranks * len(values) + np.searchsorted(values, atlas.reshape(-1)[used])
    counts = np.bincount(codes, minlength=len(present) * len(values))
    return counts.reshape(len(present), len(values)).astype(np.int64)


def _row(
    label: int, names: Mapping[int, str], region_ml: float, lesion_ml: float, count: int
) -> RegionLoad:
    if label == OUTSIDE:
        name = names.get(OUTSIDE, OUTSIDE_NAME)
        return RegionLoad(label, name, math.nan, lesion_ml, count, math.nan)
    share = lesion_ml / region_ml if region_ml else math.nan
    return RegionLoad(
        label, names.get(label, f"label {label}"), region_ml, lesion_ml, count, share
    )
