"""Comparison of predicted lesions before and after painting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.comparison.metrics import overlap_table
from bids_msseg.lesions.comparison.rules import ANY_OVERLAP
from bids_msseg.lesions.instances import bounding_box

Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Findings:
    """Detection of the painted lesions of one draw; volumes in voxels."""

    found: NDArray[np.bool_]
    volumes: NDArray[np.int64]  # new voxels of touching lesions, for the nearest painted lesion
    false: tuple[int, ...]  # of lesions that touch neither a painted nor an earlier lesion


def compare_masks(painted: Labels, before: Labels, after: Labels) -> Findings:
    """Compare predicted lesions before and after painting; ``painted`` holds labels 1..n."""
    overlap = overlap_table(painted, after)
    on_painted = np.asarray(overlap[1:].any(axis=0))
    explained = on_painted | overlap_table(before, after)[1:].any(axis=0)
    sizes = overlap.sum(axis=0)
    on_painted[0], explained[0] = False, True
    new = on_painted[after] & (before == 0)
    return Findings(
        ANY_OVERLAP.found(overlap),
        _nearest_counts(painted, new),
        tuple(sorted(sizes[~explained].tolist(), reverse=True)),
    )


def _nearest_counts(painted: Labels, voxels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count voxels for the nearest painted lesion, shape (n,)."""
    count = int(painted.max(initial=0))
    if not count:
        return np.zeros(0, np.int64)
    box = bounding_box((painted > 0) | voxels)
    labels = painted[box]
    nearest = ndimage.distance_transform_edt(
        labels == 0, return_distances=False, return_indices=True
    )
    owner = labels[tuple(nearest)][voxels[box]]
    return np.bincount(owner, minlength=count + 1)[1:].astype(np.int64)
