"""Lesions and rejected candidates from a probability map on the native grid of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions

REJECTED_BY_REFINEMENT = "refinement"
REJECTED_BY_SIZE = "size"
REJECTED_BY_PLACE = "extracerebral"  # at least half outside the brain
REJECTED_BY_MASK = "excluded"  # an exclusion mask removed voxels that reached the threshold


@dataclass(frozen=True, slots=True)
class Delineation:
    """Lesions and rejected candidates of one image as labels by decreasing volume."""

    lesions: NDArray[np.int32]
    rejected: NDArray[np.int32]
    reasons: tuple[str, ...]  # REJECTED_BY_..., one per rejected candidate


def delineate(
    probability: NDArray[np.floating],
    candidates: NDArray[Any],
    *,
    voxel_volume: float,
    threshold: float,
    min_volume: float,
    extracerebral: NDArray[np.bool_] | None = None,
    removed: NDArray[np.bool_] | None = None,
) -> Delineation:
    """Threshold a probability into lesions, and state why the other candidates are rejected."""
    # ``voxel_volume`` and ``min_volume`` are in mm³. ``extracerebral`` and ``removed`` only
    # determine the reasons: clear the probability first. A candidate that shares a voxel with a
    # kept lesion is not rejected.
    over = probability >= threshold
    lesions = label_lesions(over, voxel_volume=voxel_volume, min_volume=min_volume)
    blobs = label_lesions((candidates != 0) | over, voxel_volume=voxel_volume)
    count = int(blobs.max(initial=0))
    has_lesion = np.zeros(count + 1, bool)
    has_lesion[np.unique(blobs[lesions > 0])] = True
    has_lesion[0] = True
    rejected = label_lesions(~has_lesion[blobs], voxel_volume=voxel_volume)
    small = np.zeros(int(rejected.max(initial=0)) + 1, bool)
    small[np.unique(rejected[over])] = True
    outside = (
        np.zeros_like(small) if extracerebral is None else _mostly_inside(rejected, extracerebral)
    )
    excluded = np.zeros_like(small)
    if removed is not None:
        excluded[np.unique(rejected[removed])] = True
    reasons = tuple(
        _reason(*flags) for flags in zip(outside[1:], excluded[1:], small[1:], strict=True)
    )
    return Delineation(lesions, rejected, reasons)


def _reason(outside: bool, excluded: bool, small: bool) -> str:
    if outside:
        return REJECTED_BY_PLACE
    if excluded:
        return REJECTED_BY_MASK
    return REJECTED_BY_SIZE if small else REJECTED_BY_REFINEMENT


def excluded_voxels(
    probability: NDArray[np.floating],
    excluded: NDArray[np.bool_],
    *,
    voxel_volume: float,
    threshold: float,
    min_volume: float,
) -> NDArray[np.bool_]:
    """Find the lesion voxels that lie in an exclusion mask (volumes in mm³)."""
    lesions = label_lesions(
        probability >= threshold, voxel_volume=voxel_volume, min_volume=min_volume
    )
    return (lesions > 0) & excluded


def clear_extracerebral(
    probability: NDArray[np.floating], extracerebral: NDArray[np.bool_], *, threshold: float
) -> NDArray[np.floating]:
    """Clear the probability in lesions at least half outside the brain; the same array if none."""
    labels = label_lesions(probability >= threshold, voxel_volume=1.0)
    outside = _mostly_inside(labels, extracerebral)
    if not outside.any():
        return probability
    return np.where(outside[labels], probability.dtype.type(0), probability)


def _mostly_inside(labels: NDArray[np.int32], region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each label whether at least half is inside a region, shape (n + 1,)."""
    sizes = np.bincount(labels.ravel())
    inside: NDArray[np.bool_] = 2 * np.bincount(labels[region], minlength=len(sizes)) >= sizes
    inside[0] = False
    return inside
