"""Lesion detection with the components and rules of ISBI-2015 and MSSEG-2016 (Anima)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import cc3d
import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.comparison.metrics import (
    LesionAgreement,
    detection,
    overlap_table,
    voxel_agreement,
)
from bids_msseg.lesions.comparison.rules import ANY_OVERLAP, AnimaRule
from bids_msseg.lesions.instances import bounding_box, label_lesions

__all__ = ["IsbiAgreement", "anima_agreement", "isbi_agreement", "isbi_score"]

ANIMA_RULES: Final[Mapping[str, AnimaRule]] = {
    "default": AnimaRule.code_defaults(),
    "paper": AnimaRule(alpha=0.10, beta=0.70, gamma=0.65),
}
"""The thresholds of Anima's program, and those of the paper on the challenge."""


@dataclass(frozen=True, slots=True)
class IsbiAgreement:
    """Figures of ISBI-2015 of one visit.

    Attributes
    ----------
    ltpr : float
        Share of the true lesions that share a voxel with a predicted one; NaN where there are
        none.
    lfpr : float
        Share of the predicted lesions that share no voxel with a true one; NaN where there are
        none.
    score : float
        See :func:`isbi_score`.
    """

    ltpr: float
    lfpr: float
    score: float


def isbi_agreement(
    pred: NDArray[Any], truth: NDArray[Any], *, voxel_volume: float
) -> IsbiAgreement:
    """Count lesions as ISBI-2015: 26-connected, of any size, found by any overlap.

    After Carass et al. 2017 (doi:10.1016/j.neuroimage.2016.12.064).

    Parameters
    ----------
    pred, truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    voxel_volume : float
        Volume of one voxel in mm³.

    Returns
    -------
    IsbiAgreement

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> truth = np.array([1, 1, 0, 0, 1, 0, 0, 0]).reshape(8, 1, 1)
    >>> pred = np.array([1, 1, 0, 0, 0, 0, 1, 1]).reshape(8, 1, 1)
    >>> rates = isbi_agreement(pred, truth, voxel_volume=1.0)
    >>> rates.ltpr, rates.lfpr, round(rates.score, 4)
    (0.5, 0.5, 0.5119)
    """
    voxels = voxel_agreement(pred, truth, voxel_volume=voxel_volume)
    overlap = overlap_table(
        label_lesions(truth, voxel_volume=voxel_volume),
        label_lesions(pred, voxel_volume=voxel_volume),
    )
    lesions = detection(overlap, ANY_OVERLAP)
    lfpr = 1 - lesions.ppv
    score = isbi_score(voxels.dice, voxels.ppv, lesions.sensitivity, lfpr)
    return IsbiAgreement(lesions.sensitivity, lfpr, score)


def isbi_score(
    dice: float, ppv: float, ltpr: float, lfpr: float, correlation: float | None = None
) -> float:
    """Weigh the figures as ISBI-2015 does.

    Dice / 8 + PPV / 8 + (1 - LFPR) / 4 + LTPR / 4 + correlation / 4. One visit has no correlation
    of volumes; the rest is then multiplied by 4/3, so that 1 stays the best.

    Parameters
    ----------
    dice, ppv, ltpr, lfpr : float
        Of one visit, or means over visits.
    correlation : float, optional
        Pearson's, between predicted and true volumes of a cohort.

    Returns
    -------
    float
        Where one mask is empty, what is not defined earns nothing; NaN where both are empty
        (Dice not defined) or a correlation is given and not defined.

    Examples
    --------
    >>> isbi_score(0.8, 0.8, 0.5, 0.5, 0.8)
    0.65
    >>> isbi_score(0.0, float("nan"), 0.0, float("nan")), isbi_score(1, 1, 1, 0)
    (0.0, 1.0)
    """
    if math.isnan(dice):
        return math.nan
    parts = ((dice, 8), (ppv, 8), (1 - lfpr, 4), (ltpr, 4))
    score = sum(part / weight for part, weight in parts if not math.isnan(part))
    return score * 4 / 3 if correlation is None else score + correlation / 4


def anima_agreement(
    pred: NDArray[Any],
    truth: NDArray[Any],
    *,
    voxel_volume: float,
    min_volume: float = 3.0,
    rules: Mapping[str, AnimaRule] = ANIMA_RULES,
) -> dict[str, LesionAgreement]:
    """Count lesions as Anima's ``animaSegPerfAnalyzer`` does, by one labelling for all rules.

    Its lesions are face-connected and strictly larger than the minimum, so that figures may stand
    beside published ones; its lesions are therefore not those of the table of lesions.

    Parameters
    ----------
    pred, truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    voxel_volume : float
        Volume of one voxel in mm³.
    min_volume : float, default 3
        Components of this volume and below are left out, in mm³.
    rules : mapping of str to AnimaRule
        By name.

    Returns
    -------
    dict of str to LesionAgreement
        Under the names of the rules.

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> truth = np.zeros((20, 1, 1), bool)
    >>> truth[:10] = True
    >>> agreement = anima_agreement(np.roll(truth, 6), truth, voxel_volume=1.0)
    >>> agreement["default"].f1, agreement["paper"].f1
    (0.0, 1.0)
    """
    if pred.shape != truth.shape:
        raise ValueError(f"masks lie on different grids: {pred.shape} and {truth.shape}")
    overlap = overlap_table(
        _anima_labels(truth, voxel_volume, min_volume),
        _anima_labels(pred, voxel_volume, min_volume),
    )
    return {name: detection(overlap, rule) for name, rule in rules.items()}


def _anima_labels(mask: NDArray[Any], voxel_volume: float, min_volume: float) -> NDArray[np.int32]:
    """Label face-connected components of more than ``floor(min / voxel)`` voxels."""
    labels = np.zeros(mask.shape, np.int32)
    box = bounding_box(mask)
    if not mask[box].size:
        return labels
    components = cc3d.connected_components(np.pad(mask[box] != 0, 1), connectivity=6)
    sizes = np.bincount(components.ravel())
    # the tolerance is for float32 headers: 2.9999999 mm³ over 1 mm³ are three voxels
    large_enough = sizes > math.floor(min_volume / voxel_volume + 1e-5)
    large_enough[0] = False
    numbers = np.where(large_enough, np.cumsum(large_enough), 0).astype(np.int32)
    labels[box] = numbers[components][1:-1, 1:-1, 1:-1]
    return labels
