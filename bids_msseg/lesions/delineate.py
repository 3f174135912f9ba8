"""Lesions and rejected candidates from a probability map on the native grid of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions

REJECTED_BY_REFINEMENT = "refinement"
REJECTED_BY_SIZE = "size"
REJECTED_BY_PLACE = "extracerebral"
REJECTED_BY_MASK = "excluded"


@dataclass(frozen=True, slots=True)
class Delineation:
    """Lesions and rejected candidates of one image as labels by decreasing volume.

    ``reasons`` holds one word per rejected candidate: ``refinement`` (rejected by the refinement
    net), ``size``, ``extracerebral`` (at least half outside the brain) or ``excluded`` (an
    exclusion mask removed voxels that reached the threshold).
    """

    lesions: NDArray[np.int32]
    rejected: NDArray[np.int32]
    reasons: tuple[str, ...]


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
    """Threshold a probability into lesions and account for every candidate.

    Volumes are in mm³. A candidate that shares a voxel with a kept lesion is not rejected.
    ``extracerebral`` and ``removed`` (voxels cleared by an exclusion mask) only determine the
    reasons; clear the probability first with :func:`clear_extracerebral`.

    Examples
    --------
    >>> p = np.array([0.9, 0.9, 0.0, 0.9, 0.0, 0.2]).reshape(6, 1, 1)
    >>> result = delineate(p, p > 0.1, voxel_volume=2.0, threshold=0.5, min_volume=3.0)
    >>> result.lesions.ravel().tolist(), result.rejected.ravel().tolist(), result.reasons
    ([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 2], ('size', 'refinement'))
    """
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
    """Find the lesion voxels that lie in an exclusion mask (volumes in mm³).

    Examples
    --------
    >>> p = np.array([0.9, 0.9, 0.0, 0.9, 0.2]).reshape(5, 1, 1)
    >>> mask = np.array([0, 1, 1, 1, 1], bool).reshape(5, 1, 1)
    >>> cut = {"voxel_volume": 1.0, "threshold": 0.5, "min_volume": 2.0}
    >>> excluded_voxels(p, mask, **cut).ravel().astype(int)
    array([0, 1, 0, 0, 0])
    """
    lesions = label_lesions(
        probability >= threshold, voxel_volume=voxel_volume, min_volume=min_volume
    )
    return (lesions > 0) & excluded


def clear_extracerebral(
    probability: NDArray[np.floating], extracerebral: NDArray[np.bool_], *, threshold: float
) -> NDArray[np.floating]:
    """Set the probability to zero in lesions that lie at least half outside the brain.

    A lesion is a component where the probability reaches ``threshold``. Returns the same array if
    there is nothing to clear.

    Examples
    --------
    >>> p = np.array([0.9, 0.9, 0.0, 0.9, 0.2]).reshape(5, 1, 1)
    >>> outside = np.array([0, 1, 0, 0, 1], bool).reshape(5, 1, 1)
    >>> clear_extracerebral(p, outside, threshold=0.5).ravel().tolist()
    [0.0, 0.0, 0.0, 0.9, 0.2]
    >>> clear_extracerebral(p, ~outside, threshold=0.95) is p
    True
    """
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
