"""Lesions on native and other grids, from probabilities on the working grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.resample import inverse, mask_onto, resample, smooth_before_coarser
from bids_msseg.imaging.template import template_regions
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.lesions.anatomy import OwnAnatomy, own_anatomy
from bids_msseg.lesions.delineate import (
    Delineation,
    clear_extracerebral,
    delineate,
    excluded_voxels,
)
from bids_msseg.lesions.load import LesionRow, lesion_load_ml
from bids_msseg.lesions.load_table import lesion_table
from bids_msseg.lesions.regions import RegionAnatomy, region_map

__all__ = ["VisitLesions", "find_lesions"]

LEFT_OUT_BLUR_MM = 6.0
"""An image that could not be aligned may show a face where the brain should be."""
MASK_THRESHOLD = 0.5
"""Of a given mask, which is 1 in lesions, also on another grid."""
MAPS = ("probability", "candidate", "lesion", "candidates", "mask")


class Grid:
    """The voxel grid of a file, which need not be in RAS order."""

    def __init__(self, frame: Volume) -> None:
        self.frame = frame

    @classmethod
    def of(cls, path: Path) -> Grid:
        """Read the grid of a file, or of the volumes of a series, from its header."""
        info = check_header(path, series=True)
        return cls(Volume(np.broadcast_to(np.zeros(1, np.uint8), info.shape), info.affine))

    def take(
        self, volume: Volume, *, transform: Affine | None = None, order: int = 1
    ) -> NDArray[Any]:
        """Resample a volume onto this grid."""
        moved: NDArray[Any] = resample(
            volume, self.frame.shape, self.frame.affine, transform=transform, order=order
        ).data
        return moved


@dataclass(frozen=True, slots=True)
class VisitLesions:
    """Lesions and rejected candidates of a visit, on the FLAIR as acquired.

    Attributes
    ----------
    maps : mapping of str to ndarray, shape (X, Y, Z)
        ``probseg``, ``labels`` (lesions 1..n), ``mask``, ``candidates``, ``rejected`` (rejected
        candidates 1..m), ``brain``, and ``ventricles``, which the regions follow.
    rows : tuple of LesionRow
        Kept lesions, then rejected candidates.
    cleared : Volume or None
        The probability without extra-cerebral and excluded lesions, on its own grid; None where
        there are none.
    excluded_ml : float or None
        Volume of the lesion voxels that an exclusion mask took; None without such a mask.
    """

    maps: Mapping[str, NDArray[Any]]
    rows: tuple[LesionRow, ...]
    cleared: Volume | None
    excluded_ml: float | None = None


def find_anatomy(
    images: Mapping[str, Volume],
    transforms: Mapping[str, Affine],
    brain: NDArray[np.bool_],
    template_to_flair: Affine,
) -> tuple[Volume, OwnAnatomy]:
    """Refine the template's regions on the FLAIR's grid with bias-corrected images.

    ``transforms`` map FLAIR world mm to the contrast's world mm.
    """
    flair = images["FLAIR"]
    on_flair = {"FLAIR": flair.data}
    for contrast in ("T1w", "T2w"):
        if contrast in images:
            moving, move = images[contrast], transforms[contrast]
            moved = resample(moving, flair.shape, flair.affine, transform=move)
            on_flair[contrast] = moved.data
    prior = resample(
        template_regions(),
        flair.shape,
        flair.affine,
        transform=inverse(template_to_flair),
        order=0,
    ).data
    anatomy = own_anatomy(on_flair, brain, prior, flair.spacing)
    return flair.with_data(anatomy.labels), anatomy


def find_lesions(
    grid: Grid,
    maps: Mapping[str, Volume],
    template_to_flair: Affine,
    *,
    threshold: float,
    min_volume: float,
    own_ventricles: bool = False,
    excluded: NDArray[np.bool_] | None = None,
) -> VisitLesions:
    """Bring the probabilities onto the FLAIR as acquired and list every lesion there.

    Parameters
    ----------
    grid : Grid
        Of the FLAIR as acquired.
    maps : mapping of str to Volume
        ``probability`` and ``mask``, the brain; of the cascade also the other maps of
        :func:`~bids_msseg.pipeline.segment.segment_stack`: without them, candidates are the voxels
        that reach the threshold. Optional: ``extracerebral``, where no lesion can be, and
        ``regions``, this brain's map of regions (uint8), instead of the template's. Each use
        reads a map again.
    template_to_flair : ndarray, shape (4, 4)
        Template world mm to FLAIR world mm.
    threshold : float
    min_volume : float
        mm³.
    own_ventricles : bool, default False
        The map's ventricles are this brain's own.
    excluded : ndarray of bool, shape (X, Y, Z), optional
        Voxels that are not lesion, on the FLAIR as acquired.

    Returns
    -------
    VisitLesions
    """
    on_grid = {name: grid.take(maps[name]) for name in MAPS if name in maps}
    cleared = _cleared(maps, threshold)
    probability = on_grid["probability"] if cleared is None else grid.take(cleared)
    criteria = _criteria(grid, threshold, min_volume)
    probability, removed, excluded_ml = _exclude(probability, excluded, criteria)
    if excluded is not None:
        source = maps["probability"] if cleared is None else cleared
        cleared = _without(source, grid.frame.with_data(excluded))
    extracerebral: NDArray[np.bool_] | None = None
    if "extracerebral" in maps:
        extracerebral = grid.take(maps["extracerebral"]) >= 0.5
    candidates = np.zeros(probability.shape, bool)
    if "candidates" in on_grid:
        candidates = on_grid["candidates"] >= 0.5
    delineation = delineate(
        probability,
        # what was cleared stays a candidate
        candidates | (on_grid["probability"] >= threshold),
        extracerebral=extracerebral,
        removed=removed,
        **criteria,
    )
    labels, rows = _list_lesions(
        delineation, grid, on_grid, maps, template_to_flair, own_ventricles=own_ventricles
    )
    results: dict[str, NDArray[Any]] = {
        "probseg": np.clip(probability, 0, 1),
        "candidates": (candidates | (delineation.lesions > 0) | (delineation.rejected > 0)).astype(
            np.uint8
        ),
        **labels,
    }
    return VisitLesions(results, rows, cleared, excluded_ml)


def list_given_lesions(
    grid: Grid,
    lesions: NDArray[np.bool_],
    maps: Mapping[str, Volume],
    template_to_flair: Affine,
    *,
    min_volume: float,
    own_ventricles: bool = False,
    excluded: NDArray[np.bool_] | None = None,
) -> VisitLesions:
    """List the lesions of a given mask on the FLAIR as acquired, without probabilities.

    ``maps`` holds ``mask``, the brain, and optionally ``regions``; the result has no ``probseg``
    and no ``candidates``.
    """
    soft, criteria = lesions.astype(np.float32), _criteria(grid, MASK_THRESHOLD, min_volume)
    remaining, removed, excluded_ml = _exclude(soft, excluded, criteria)
    delineation = delineate(remaining, lesions, extracerebral=None, removed=removed, **criteria)
    on_grid = {"mask": grid.take(maps["mask"])}
    labels, rows = _list_lesions(
        delineation, grid, on_grid, maps, template_to_flair, own_ventricles=own_ventricles
    )
    return VisitLesions(labels, rows, None, excluded_ml)


def _criteria(grid: Grid, threshold: float, min_volume: float) -> dict[str, float]:
    volume = grid.frame.voxel_volume
    return {"voxel_volume": volume, "threshold": threshold, "min_volume": min_volume}


def _without(source: Volume, excluded: Volume) -> Volume:
    """Set a probability to zero inside a mask on another grid."""
    inside = mask_onto(excluded, source.shape, source.affine)
    return source.with_data(np.where(inside, source.data.dtype.type(0), source.data))


def _exclude(
    probability: NDArray[Any], excluded: NDArray[np.bool_] | None, criteria: Mapping[str, float]
) -> tuple[NDArray[Any], NDArray[np.bool_] | None, float | None]:
    """Clear a probability in a mask; return it, the removed voxels and the lost load (mL)."""
    if excluded is None:
        return probability, None, None
    lesions = excluded_voxels(probability, excluded, **criteria)
    removed = excluded & (probability >= criteria["threshold"])
    # the voxels beside the mask stay as they are
    remaining = np.where(excluded, probability.dtype.type(0), probability)
    return remaining, removed, lesion_load_ml(lesions, criteria["voxel_volume"])


def _list_lesions(
    delineation: Delineation,
    grid: Grid,
    on_grid: Mapping[str, NDArray[Any]],
    maps: Mapping[str, Volume],
    template_to_flair: Affine,
    *,
    own_ventricles: bool,
) -> tuple[dict[str, NDArray[Any]], tuple[LesionRow, ...]]:
    """Return the label maps of a visit, and a row for each lesion."""
    to_template = inverse(template_to_flair)
    anatomy = _anatomy(grid, to_template, maps)
    labels = {
        "labels": delineation.lesions,
        "mask": (delineation.lesions > 0).astype(np.uint8),
        "rejected": delineation.rejected,
        "brain": (on_grid["mask"] >= 0.5).astype(np.uint8),
        "ventricles": (anatomy == RegionAnatomy.VENTRICLE).astype(np.uint8),
    }
    regions = region_map(anatomy, grid.frame.spacing, own_ventricles=own_ventricles)
    return labels, tuple(_rows(delineation, grid, on_grid, to_template, regions))


def _cleared(maps: Mapping[str, Volume], threshold: float) -> Volume | None:
    """Return the probability without extra-cerebral lesions; None if there are none."""
    if "extracerebral" not in maps:
        return None
    source, outside = maps["probability"], maps["extracerebral"]
    cleared = clear_extracerebral(
        source.data,
        mask_onto(outside, source.shape, source.affine),
        threshold=threshold,
    )
    return None if cleared is source.data else source.with_data(cleared)


def _anatomy(grid: Grid, to_template: Affine, maps: Mapping[str, Volume]) -> NDArray[np.uint8]:
    """Resample the visit's map of regions, or else the template's, onto the grid."""
    if "regions" in maps:
        return grid.take(maps["regions"], order=0)
    return grid.take(template_regions(), transform=to_template, order=0)


def _rows(
    delineation: Delineation,
    grid: Grid,
    maps: Mapping[str, NDArray[Any]],
    to_template: Affine,
    regions: NDArray[np.int8],
) -> list[LesionRow]:
    """List kept lesions, then rejected candidates; without maps there are no probabilities."""
    rows: list[LesionRow] = []
    reasons = dict(enumerate(delineation.reasons, start=1))
    for labels, status in ((delineation.lesions, "kept"), (delineation.rejected, "rejected")):
        rows += lesion_table(
            labels,
            grid.frame.affine,
            p_cnn1=maps.get("candidate"),
            p_final=maps.get("probability"),
            p_cnn2_lesion=_means(labels, maps["lesion"]) if "lesion" in maps else None,
            region_map=regions,
            template_affine=to_template,
            status="kept" if status == "kept" else "rejected",
            reasons=None if status == "kept" else reasons,
        )
    return rows


def _means(labels: NDArray[np.int32], values: NDArray[Any]) -> list[float]:
    """Return the mean over the voxels of each label that belong to a candidate."""
    inside = values > 0
    count = int(labels.max(initial=0)) + 1
    total = np.bincount(labels[inside], values[inside], minlength=count)
    size = np.bincount(labels[inside], minlength=count)
    return [float(value) for value in (total / np.maximum(size, 1))[1:]]


def contrast_on_grid(
    grid: Grid, image: Volume, *, transform: Affine | None = None, left_out: bool = False
) -> NDArray[np.float32]:
    """Resample a contrast onto the FLAIR as acquired; blur it if it could not be aligned."""
    if left_out:
        image = smooth_before_coarser(image, LEFT_OUT_BLUR_MM)
    return grid.take(image, transform=transform)


def mask_on_grid(
    grid: Grid,
    probability: Volume,
    *,
    transform: Affine | None = None,
    threshold: float,
    min_volume: float,
) -> NDArray[np.uint8]:
    """Threshold the probability on another grid; ``transform``: its world mm to FLAIR mm."""
    moved = grid.take(probability, transform=transform)
    delineation = delineate(
        moved,
        np.zeros(moved.shape, bool),
        voxel_volume=grid.frame.voxel_volume,
        threshold=threshold,
        min_volume=min_volume,
    )
    return (delineation.lesions > 0).astype(np.uint8)
