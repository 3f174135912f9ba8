"""Table of the volume, position, probability and region of every lesion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.load import MISSING, LesionRow, Point, Shares, Status
from bids_msseg.lesions.regions import Region, assign


def lesion_table(
    labels: NDArray[np.integer],
    affine: NDArray[np.floating],
    *,
    p_cnn1: NDArray[np.floating] | None = None,
    p_final: NDArray[np.floating] | None = None,
    p_cnn2_lesion: Sequence[float] | None = None,
    region_map: NDArray[np.integer] | None = None,
    template_affine: NDArray[np.floating] | None = None,
    status: Status = "kept",
    reasons: Mapping[int, str] | None = None,
) -> tuple[LesionRow, ...]:
    """Describe each lesion in order of its label; affines: voxels to mm, mm to template mm."""
    _check_grids(labels, p_cnn1, p_final, region_map)
    labelled = _labelled_voxels(labels)
    centroids = _centroids(labelled, labels.shape, affine)
    columns = {
        "volume_mm3": labelled.sizes * float(abs(np.linalg.det(affine[:3, :3]))),
        "n_voxels": labelled.sizes,
        "p_cnn1": _means(labelled, p_cnn1),
        "p_final": _means(labelled, p_final),
    }
    values = {name: column.tolist() for name, column in columns.items()}
    in_template = None if template_affine is None else _points(template_affine, centroids)
    regions, shares = _regions(labels, region_map, labelled.labels)
    return tuple(
        LesionRow(
            index=label,
            **{name: column[i] for name, column in values.items()},
            centroid=_point(centroids[i]),
            centroid_template=None if in_template is None else _point(in_template[i]),
            p_cnn2_lesion=None if p_cnn2_lesion is None else float(p_cnn2_lesion[label - 1]),
            region=regions[i],
            shares=shares[i],
            status=status,
            reason=(reasons or {}).get(label, ""),
        )
        for i, label in enumerate(labelled.labels.tolist())
    )


@dataclass(frozen=True, slots=True)
class _LabelledVoxels:
    """Labels with their sizes; labelled voxels with flat C-order index and rank of their label."""

    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    voxels: NDArray[np.int64]
    ranks: NDArray[np.int64]

    def sums(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Add up one value per voxel over each lesion."""
        return np.bincount(self.ranks, weights, minlength=len(self.labels)).astype(np.float64)


def _labelled_voxels(labels: NDArray[np.integer]) -> _LabelledVoxels:
    voxels = np.flatnonzero(labels)
    present, ranks, sizes = np.unique(
        labels.reshape(-1)[voxels], return_inverse=True, return_counts=True
    )
    return _LabelledVoxels(present.astype(np.int64), sizes, voxels, ranks)


def _centroids(
    labelled: _LabelledVoxels, shape: tuple[int, ...], affine: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Compute the centres of mass in world mm, shape (n, 3)."""
    indices = np.unravel_index(labelled.voxels, shape)
    means = [labelled.sums(axis) / labelled.sizes for axis in indices]
    return _points(affine, np.stack(means, axis=1))


def _points(affine: NDArray[np.floating], points: NDArray[np.float64]) -> NDArray[np.float64]:
    transformed: NDArray[np.float64] = points @ affine[:3, :3].T + affine[:3, 3]
    return transformed


def _point(row: NDArray[np.float64]) -> Point:
    x, y, z = row.tolist()
    return (x, y, z)


def _means(labelled: _LabelledVoxels, image: NDArray[np.floating] | None) -> NDArray[np.float64]:
    if image is None:
        return np.full(len(labelled.labels), math.nan)
    return labelled.sums(image.reshape(-1)[labelled.voxels]) / labelled.sizes


def _regions(
    labels: NDArray[np.integer], region_map: NDArray[np.integer] | None, present: NDArray[np.int64]
) -> tuple[list[str], list[Shares]]:
    """Return the main region of each lesion and its share in each region."""
    if region_map is None:
        return [MISSING] * len(present), [(math.nan, math.nan, math.nan, math.nan)] * len(present)
    assigned = assign(labels, region_map)
    names = [Region(code).label for code in assigned.main[present - 1]]
    return names, [(a, b, c, d) for a, b, c, d in assigned.shares[present - 1].tolist()]


def _check_grids(labels: NDArray[Any], *images: NDArray[Any] | None) -> None:
    for image in images:
        if image is not None and image.shape != labels.shape:
            raise ValueError(f"labels {labels.shape} and image {image.shape} differ in grid")
