"""Agreement of a segmentation with a reference per voxel and per lesion; NaN if undefined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.comparison.rules import ANY_OVERLAP, DetectionRule
from bids_msseg.lesions.instances import label_lesions

__all__ = [
    "LesionAgreement",
    "VoxelAgreement",
    "lesion_agreement",
    "normalised_dice",
    "voxel_agreement",
]

REFERENCE_LOAD = 0.001


@dataclass(frozen=True, slots=True)
class VoxelAgreement:
    """Overlap and volume of two masks.

    Attributes
    ----------
    dice, jaccard : float
        Overlap; NaN where both masks are empty.
    ppv : float
        Positive predictive value: share of the predicted voxels that are right; NaN where nothing
        was predicted.
    sensitivity : float
        Share of the true voxels that were found; NaN where the truth is empty.
    specificity : float
        Share of the healthy voxels left free, inside the region that the caller named; NaN where
        none was named, since over a whole image it only measures the field of view.
    volume_pred_ml, volume_truth_ml : float
        Volumes in mL.
    relative_volume_difference : float
        (predicted - true) / true; NaN where the truth is empty.
    """

    dice: float
    jaccard: float
    ppv: float
    sensitivity: float
    specificity: float
    volume_pred_ml: float
    volume_truth_ml: float
    relative_volume_difference: float


def voxel_agreement(
    pred: NDArray[Any],
    truth: NDArray[Any],
    *,
    voxel_volume: float,
    within: NDArray[Any] | None = None,
) -> VoxelAgreement:
    """Compare two masks voxel by voxel.

    Parameters
    ----------
    pred, truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    voxel_volume : float
        Volume of one voxel in mm³.
    within : ndarray, shape (X, Y, Z), optional
        Count only voxels inside this mask (the brain); needed for the specificity.

    Returns
    -------
    VoxelAgreement

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> truth = np.array([1, 1, 1, 0, 0]).reshape(5, 1, 1)
    >>> pred = np.array([0, 1, 1, 1, 0]).reshape(5, 1, 1)
    >>> scores = voxel_agreement(pred, truth, voxel_volume=1.0)
    >>> round(scores.dice, 3), round(scores.jaccard, 3), scores.relative_volume_difference
    (0.667, 0.5, 0.0)
    >>> voxel_agreement(pred * 0, truth * 0, voxel_volume=1.0).dice
    nan
    """
    _check_grids(pred, truth)
    p, t = pred != 0, truth != 0
    negatives = 0
    if within is not None:
        _check_grids(within, truth)
        region = within != 0
        p, t = p & region, t & region
        negatives = int(np.count_nonzero(region & ~t))
    n_pred, n_truth = int(np.count_nonzero(p)), int(np.count_nonzero(t))
    both = int(np.count_nonzero(p & t))
    return VoxelAgreement(
        dice=_ratio(2 * both, n_pred + n_truth),
        jaccard=_ratio(both, n_pred + n_truth - both),
        ppv=_ratio(both, n_pred),
        sensitivity=_ratio(both, n_truth),
        specificity=_ratio(negatives - (n_pred - both), negatives),
        volume_pred_ml=n_pred * voxel_volume / 1000,
        volume_truth_ml=n_truth * voxel_volume / 1000,
        relative_volume_difference=_ratio(n_pred - n_truth, n_truth),
    )


def normalised_dice(
    pred: NDArray[Any],
    truth: NDArray[Any],
    *,
    within: NDArray[Any],
    reference_load: float = REFERENCE_LOAD,
) -> float:
    """Dice as it would be if every patient had the same lesion load (nDSC).

    False positives are scaled to a reference share of lesion voxels, so that patients with many
    lesions do not look easier (Raina et al. 2023, arXiv:2302.05432). The share
    needs a region that does not depend on the field of view.

    Parameters
    ----------
    pred, truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    within : ndarray, shape (X, Y, Z)
        Brain mask; only voxels inside count.
    reference_load : float, default 0.001
        Share of lesion voxels that all are brought to; the default is that of the Shifts 2.0
        challenge.

    Returns
    -------
    float
        0 where one mask is empty, NaN where both are or where all of the region is lesion.

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> truth, pred = np.zeros((10, 10, 10), bool), np.zeros((10, 10, 10), bool)
    >>> truth[0], pred[:2] = True, True
    >>> brain = np.ones_like(truth)
    >>> round(normalised_dice(pred, truth, within=brain, reference_load=0.1), 4)
    0.6667
    >>> round(normalised_dice(pred, truth, within=brain), 4)
    0.0177
    """
    _check_grids(pred, truth)
    _check_grids(within, truth)
    region = within != 0
    p, t = (pred != 0) & region, (truth != 0) & region
    n_truth, n_pred = int(np.count_nonzero(t)), int(np.count_nonzero(p))
    both = int(np.count_nonzero(p & t))
    if not both:
        return 0.0 if n_truth or n_pred else float("nan")
    healthy = int(np.count_nonzero(region)) - n_truth
    odds = _ratio(n_truth, healthy)
    scale = odds * (1 - reference_load) / reference_load
    return 2 * both / (both + n_truth + scale * (n_pred - both))


@dataclass(frozen=True, slots=True)
class LesionAgreement:
    """Detection of lesions in both directions.

    Attributes
    ----------
    sensitivity : float
        Share of the true lesions that were found; NaN where there are none.
    ppv : float
        Share of the predicted lesions that are true; NaN where there are none.
    f1 : float
        Harmonic mean of the two; 0 where one mask is empty, NaN where both are.
    tp_truth, n_truth : int
        True lesions found, and all of them.
    tp_pred, n_pred : int
        Predicted lesions that are true, and all of them.
    """

    sensitivity: float
    ppv: float
    f1: float
    tp_truth: int
    n_truth: int
    tp_pred: int
    n_pred: int


def lesion_agreement(
    pred: NDArray[Any],
    truth: NDArray[Any],
    *,
    voxel_volume: float,
    min_volume: float = 3.0,
    rule: DetectionRule = ANY_OVERLAP,
) -> LesionAgreement:
    """Compare two masks lesion by lesion.

    Parameters
    ----------
    pred, truth : ndarray, shape (X, Y, Z)
        Non-zero inside lesions, on the same grid.
    voxel_volume : float
        Volume of one voxel in mm³.
    min_volume : float, default 3
        Smaller 26-connected components of either mask are left out, in mm³. (Anima keeps those
        strictly larger than its minimum, which differs for a lesion of exactly that volume.)
    rule : DetectionRule, default AnyOverlap()
        When a lesion counts as found.

    Returns
    -------
    LesionAgreement

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> truth = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1, 1]).reshape(10, 1, 1)
    >>> pred = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0]).reshape(10, 1, 1)
    >>> scores = lesion_agreement(pred, truth, voxel_volume=1.0)
    >>> scores.sensitivity, scores.ppv, round(scores.f1, 3)
    (0.5, 1.0, 0.667)
    """
    _check_grids(pred, truth)
    overlap = overlap_table(
        label_lesions(truth, voxel_volume=voxel_volume, min_volume=min_volume),
        label_lesions(pred, voxel_volume=voxel_volume, min_volume=min_volume),
    )
    return detection(overlap, rule)


def detection(overlap: NDArray[np.int64], rule: DetectionRule = ANY_OVERLAP) -> LesionAgreement:
    """Score an overlap table, truth first, so that several rules share one labelling."""
    n_truth, n_pred = (size - 1 for size in overlap.shape)
    tp_truth = int(np.count_nonzero(rule.found(overlap)))
    tp_pred = int(np.count_nonzero(rule.found(overlap.T)))
    sensitivity, ppv = _ratio(tp_truth, n_truth), _ratio(tp_pred, n_pred)
    f1 = _ratio(2 * sensitivity * ppv, sensitivity + ppv)
    if tp_truth * tp_pred == 0 and n_truth + n_pred > 0:
        f1 = 0.0
    return LesionAgreement(sensitivity, ppv, f1, tp_truth, n_truth, tp_pred, n_pred)


def overlap_table(rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count the voxels shared by each pair of labels 0..n and 0..m, shape (n + 1, m + 1)."""
    n_rows = int(rows.max(initial=0)) + 1
    n_columns = int(columns.max(initial=0)) + 1
    used = np.flatnonzero((rows != 0) | (columns != 0))
    pairs = rows.reshape(-1)[used].astype(np.int64) * n_columns + columns.reshape(-1)[used]
    table = np.bincount(pairs, minlength=n_rows * n_columns).reshape(n_rows, n_columns)
    table[0, 0] = rows.size - len(used)
    return table


def _check_grids(first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape != second.shape:
        raise ValueError(f"masks lie on different grids: {first.shape} and {second.shape}")


def _ratio(part: float, whole: float) -> float:
    """Return the quotient, or NaN if it is undefined."""
    return part / whole if whole else float("nan")
