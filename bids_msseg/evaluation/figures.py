"""Metrics and lesion rows of two masks on one grid, computed from arrays alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.lesions.comparison.detection import anima_agreement, isbi_agreement
from bids_msseg.lesions.comparison.metrics import (
    detection,
    normalised_dice,
    overlap_table,
    voxel_agreement,
)
from bids_msseg.lesions.comparison.rules import ANY_OVERLAP
from bids_msseg.lesions.comparison.strata import size_level
from bids_msseg.lesions.comparison.surface import surface_agreement
from bids_msseg.lesions.confidence.calibration import reliability
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.load import LesionRow
from bids_msseg.lesions.load_table import lesion_table
from bids_msseg.lesions.regions import Region
from bids_msseg.reports.evaluation import data as schema

MIN_VOLUME: Final = 3.0
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Masks:
    """Automatic and manual mask of a visit on one grid, as arrays of shape (x, y, z)."""

    auto: NDArray[np.bool_]
    manual: NDArray[np.bool_]
    auto_labels: NDArray[np.int32]  # lesions of at least min_volume mm³ by decreasing volume
    manual_labels: NDArray[np.int32]
    affine: Affine  # voxel indices to world mm (RAS+)
    min_volume: float = MIN_VOLUME
    probability: NDArray[np.float32] | None = None
    brain: NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls,
        auto: NDArray[np.bool_],
        manual: NDArray[np.bool_],
        affine: Affine,
        *,
        min_volume: float = MIN_VOLUME,
        probability: NDArray[np.float32] | None = None,
        brain: NDArray[np.bool_] | None = None,
    ) -> Masks:
        """Label the lesions of both masks: 26-connected, of at least ``min_volume`` mm³."""
        size = Volume(manual, affine).voxel_volume
        auto_labels, manual_labels = (
            label_lesions(mask, voxel_volume=size, min_volume=min_volume)
            for mask in (auto, manual)
        )
        return cls(
            auto, manual, auto_labels, manual_labels, affine, min_volume, probability, brain
        )

    @property
    def frame(self) -> Volume:
        """Volume with the grid of the masks and the manual mask as data."""
        return Volume(self.manual, self.affine)

    @property
    def overlap(self) -> NDArray[np.int64]:
        """Voxels shared by manual lesions (rows) and automatic ones (columns)."""
        return overlap_table(self.manual_labels, self.auto_labels)


def figures(masks: Masks) -> dict[str, float]:
    """Measure volumes in mL, lesion counts and all ``METRICS``; NaN if undefined."""
    return {
        **dict.fromkeys(schema.METRICS, math.nan),
        **_voxel_figures(masks),
        **_surface_figures(masks),
        **_lesion_figures(masks),
        **_challenge_figures(masks),
        **_calibration_figures(masks),
    }


def _voxel_figures(masks: Masks) -> dict[str, float]:
    size = masks.frame.voxel_volume
    voxels = voxel_agreement(masks.auto, masks.manual, voxel_volume=size)
    values = {
        "volume_manual_ml": voxels.volume_truth_ml,
        "volume_auto_ml": voxels.volume_pred_ml,
        "volume_mean_ml": (voxels.volume_truth_ml + voxels.volume_pred_ml) / 2,
        "dice": voxels.dice,
        "ppv": voxels.ppv,
        "sensitivity": voxels.sensitivity,
        "volume_difference_ml": voxels.volume_pred_ml - voxels.volume_truth_ml,
        "volume_difference_relative": voxels.relative_volume_difference,
    }
    if masks.brain is not None:
        values["ndsc"] = normalised_dice(masks.auto, masks.manual, within=masks.brain)
    return values


def _surface_figures(masks: Masks) -> dict[str, float]:
    spacing = masks.frame.spacing.tolist()
    surface = surface_agreement(masks.auto, masks.manual, spacing=spacing)
    return {
        "hd95_mm": surface.hd95_mm,
        "assd_mm": surface.assd_mm,
        "surface_dice_1mm": surface.surface_dice,
    }


def _lesion_figures(masks: Masks) -> dict[str, float]:
    lesions = detection(masks.overlap, ANY_OVERLAP)
    return {
        "n_manual": lesions.n_truth,
        "n_found": lesions.tp_truth,
        "n_missed": lesions.n_truth - lesions.tp_truth,
        "n_auto": lesions.n_pred,
        "n_true": lesions.tp_pred,
        "n_false": lesions.n_pred - lesions.tp_pred,
        "lesion_sensitivity": lesions.sensitivity,
        "lesion_ppv": lesions.ppv,
        "lesion_f1": lesions.f1,
    }


def _challenge_figures(masks: Masks) -> dict[str, float]:
    size = masks.frame.voxel_volume
    isbi = isbi_agreement(masks.auto, masks.manual, voxel_volume=size)
    values = {"isbi_ltpr": isbi.ltpr, "isbi_lfpr": isbi.lfpr, "isbi_score": isbi.score}
    anima = anima_agreement(
        masks.auto, masks.manual, voxel_volume=size, min_volume=masks.min_volume
    )
    for name, lesions in anima.items():
        values[f"anima_{name}_sensitivity"] = lesions.sensitivity
        values[f"anima_{name}_ppv"] = lesions.ppv
        values[f"anima_{name}_f1"] = lesions.f1
    return values


def _calibration_figures(masks: Masks) -> dict[str, float]:
    if masks.probability is None:
        return {}
    values = {"ece": reliability(masks.probability, masks.manual).ece}
    if masks.brain is not None:
        brain = reliability(masks.probability, masks.manual, within=masks.brain)
        values["ece_brain"] = brain.ece
    return values


def lesion_rows(masks: Masks, regions: NDArray[np.integer] | None = None) -> tuple[Row, ...]:
    """Describe every counted lesion of both masks, manual lesions first, without name and site."""
    sides = (
        (schema.MANUAL, masks.manual_labels, masks.overlap, (schema.FOUND, schema.MISSED)),
        (schema.AUTO, masks.auto_labels, masks.overlap.T, (schema.TRUE, schema.FALSE)),
    )
    return tuple(
        {"side": side, **row}
        for side, labels, shared, states in sides
        for row in _side_rows(masks, labels, shared, states, regions)
    )


def _side_rows(
    masks: Masks,
    labels: NDArray[np.int32],
    shared: NDArray[np.int64],
    states: tuple[str, str],
    regions: NDArray[np.integer] | None,
) -> list[Row]:
    highest = _maxima(labels, masks.probability)
    table = lesion_table(labels, masks.affine, p_final=masks.probability, region_map=regions)
    rows = []
    for lesion, voxel in zip(table, _central_voxels(labels, masks.affine, table), strict=True):
        partners = (np.flatnonzero(shared[lesion.index, 1:]) + 1).tolist()
        rows.append(
            _lesion_properties(lesion, voxel, float(highest[lesion.index]))
            | _overlap_figures(lesion, shared[lesion.index], partners)
            | {"state": states[0] if partners else states[1]}
        )
    return rows


def _lesion_properties(lesion: LesionRow, voxel: Sequence[int], highest: float) -> Row:
    shares = {f"share_{region.label}": lesion.shares[region - 1] for region in Region}
    return {
        "index": lesion.index,
        "volume_mm3": lesion.volume_mm3,
        "n_voxels": lesion.n_voxels,
        "size": size_level(lesion.volume_mm3),
        **dict(zip("xyz", lesion.centroid, strict=True)),
        **dict(zip("ijk", voxel, strict=True)),
        "region": lesion.region,
        **shares,
        "mean_probability": lesion.p_final,
        "max_probability": highest,
    }


def _overlap_figures(lesion: LesionRow, shared: NDArray[np.int64], partners: Sequence[int]) -> Row:
    """Measure the overlap of a lesion with the counted lesions of the other mask."""
    voxels = int(shared[1:].sum())
    return {
        "overlap_mm3": voxels * lesion.volume_mm3 / lesion.n_voxels,
        "overlap_share": voxels / lesion.n_voxels,
        "n_partners": len(partners),
        "partners": ",".join(str(number) for number in partners) or "n/a",
    }


def _maxima(
    labels: NDArray[np.int32], probability: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Return the highest probability in each label; NaN without a probability map."""
    highest = np.full(int(labels.max(initial=0)) + 1, math.nan)
    if probability is None:
        return highest
    inside = labels > 0
    highest[1:] = -math.inf
    np.maximum.at(highest, labels[inside], probability[inside].astype(np.float64))
    return highest


def _central_voxels(
    labels: NDArray[np.int32], affine: Affine, table: Sequence[LesionRow]
) -> list[list[int]]:
    """Find, in every lesion, the voxel nearest to its centre of mass."""
    if not table:
        return []
    inside = np.argwhere(labels)
    owner = labels[tuple(inside.T)]
    centres = np.zeros((int(labels.max()) + 1, 3))
    for lesion in table:
        centres[lesion.index] = lesion.centroid
    offsets = inside @ affine[:3, :3].T + affine[:3, 3] - centres[owner]
    order = np.lexsort(((offsets**2).sum(1).round(6), owner))
    _, first = np.unique(owner[order], return_index=True)
    nearest: list[list[int]] = inside[order[first]].tolist()
    return nearest
