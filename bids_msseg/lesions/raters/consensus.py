"""Consensus of raters' masks, and agreement of each rater with it or with the others.

Probabilities are estimated in the union of the masks: empty voxels around it count as agreement of
all raters, and STAPLE then accepts voxels that few raters drew (``benchmarks/consensus.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.comparison.metrics import (
    LesionAgreement,
    VoxelAgreement,
    lesion_agreement,
    voxel_agreement,
)
from bids_msseg.lesions.instances import bounding_box
from bids_msseg.lesions.raters.staple import Estimate, pooled_staple, share_of_raters, staple
from bids_msseg.lesions.raters.union import Spacing, Votes, collect_votes, dilate, local_weights

__all__ = ["Consensus", "fuse_masks", "leave_one_out"]

MAJORITY = 0.5
"""A voxel is lesion from this probability on: a tie of an even number of raters is lesion."""
SCORED_MARGIN = 2
"""Voxels around the union of all masks in which specificity is counted."""
_ROUNDING = 1e-6
"""A tie up to rounding is a tie."""
_MIN_INFORMATIVE = 1e-3

Method = Literal["majority", "staple", "lopstaple"]
METHODS: tuple[Method, ...] = get_args(Method)
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Consensus:
    """One fusion of several raters' masks.

    Attributes
    ----------
    method : {"majority", "staple", "lopstaple"}
    mask : ndarray of bool, shape (X, Y, Z)
        Where the probability is at least one half.
    probability : ndarray of float32, shape (X, Y, Z)
        Share of the raters for the majority, else the estimated probability; 0 to 1.
    sensitivity, specificity : ndarray of float64, shape (raters,)
        As the method estimated them; NaN where it does not.
    weight : ndarray of float64, shape (raters,)
        Mean reliability weight inside the union; one for all but LOP-STAPLE.
    iterations : int
        Of the expectation maximisation.
    """

    method: Method
    mask: Mask
    probability: NDArray[np.float32]
    sensitivity: NDArray[np.float64]
    specificity: NDArray[np.float64]
    weight: NDArray[np.float64]
    iterations: int


@dataclass(frozen=True, slots=True)
class Score:
    """Voxel-wise and lesion-wise agreement of one mask with one consensus."""

    voxel: VoxelAgreement  # specificity inside the union of the masks, dilated by SCORED_MARGIN
    lesion: LesionAgreement  # any overlap, at least 3 mm³


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Score of one mask against a consensus in which its author has no vote."""

    assessed: str
    algorithm: bool
    left_out: str | None  # the rater without a vote; None if all raters vote
    n_raters: int  # number of votes
    method: Method
    score: Score


def fuse_masks(
    masks: Sequence[NDArray[Any]], method: Method, spacing: Spacing, *, margin: int = 0
) -> Consensus:
    """Fuse several raters' masks.

    Parameters
    ----------
    masks : sequence of ndarray, shape (X, Y, Z)
        Non-zero inside lesions, one a rater, on one grid.
    method : {"majority", "staple", "lopstaple"}
    spacing : sequence of 3 floats
        Voxel edge lengths in mm.
    margin : int, default 0
        Voxels by which the union is dilated before probabilities are estimated in it.

    Returns
    -------
    Consensus
        Empty if all masks are; the mask itself for one rater. If STAPLE finds no rater informative
        (each sensitivity is one minus specificity, as for two raters inside their union), the
        probability is the share of the raters. It is zero in voxels that no rater drew.

    Raises
    ------
    ValueError
        If there is no mask, or the grids differ.

    Examples
    --------
    >>> masks = np.zeros((3, 4, 1, 1), bool)
    >>> masks[:, 0] = masks[:2, 1] = masks[0, 2] = True
    >>> fuse_masks(masks, "majority", (1, 1, 1)).mask.ravel()
    array([ True,  True, False, False])
    """
    votes = collect_votes(masks, margin=margin)
    weights = np.ones(votes.drawn.shape)
    if method == "lopstaple" and votes.drawn.size:
        weights = local_weights(votes, spacing)
    estimate = _estimate(votes, method, weights)
    probability = estimate.probability * votes.drawn.any(axis=0)
    probability[np.abs(probability - MAJORITY) < _ROUNDING] = MAJORITY
    mean = weights.mean(axis=1) if weights.size else np.full(len(masks), np.nan)
    return Consensus(
        method=method,
        mask=votes.on_grid(probability >= MAJORITY),
        probability=votes.on_grid(probability.astype(np.float32)),
        sensitivity=estimate.sensitivity,
        specificity=estimate.specificity,
        weight=mean,
        iterations=estimate.iterations,
    )


def _estimate(votes: Votes, method: Method, weights: NDArray[np.float64]) -> Estimate:
    drawn = votes.drawn
    # empty masks and a single rater leave nothing to estimate
    if method == "majority" or not drawn.size or len(drawn) == 1:
        return share_of_raters(drawn)
    if (drawn == drawn[0]).all():
        return Estimate(drawn[0].astype(np.float64), np.ones(len(drawn)), np.ones(len(drawn)), 0)
    estimate = staple(drawn) if method == "staple" else pooled_staple(drawn, weights)
    informative = np.abs(estimate.sensitivity + estimate.specificity - 1) > _MIN_INFORMATIVE
    return estimate if informative.any() else share_of_raters(drawn)


def score_raters(
    raters: Mapping[str, NDArray[Any]], consensus: Consensus, voxel_volume: float
) -> dict[str, Score]:
    """Compare each rater's mask with the consensus that includes it (voxel volume in mm³)."""
    *masks, truth = crop_to_union([*raters.values(), consensus.mask])
    region = dilate(np.logical_or.reduce([*masks, truth]), SCORED_MARGIN)
    return {
        name: _score(mask, truth, region, voxel_volume)
        for name, mask in zip(raters, masks, strict=True)
    }


def leave_one_out(
    raters: Mapping[str, NDArray[Any]],
    spacing: Spacing,
    *,
    algorithms: Mapping[str, NDArray[Any]] | None = None,
    methods: Sequence[Method] = METHODS,
    margin: int = 0,
) -> list[LeftOut]:
    """Compare each rater with the consensus of the others.

    An algorithm has no vote. It is compared with the consensus of all raters and with that of each
    choice of all but one, against which the rater left out is compared, too.

    Parameters
    ----------
    raters : mapping of str to ndarray, shape (X, Y, Z)
        Label to mask; at least two.
    spacing : sequence of 3 floats
        Voxel edge lengths in mm.
    algorithms : mapping of str to ndarray, shape (X, Y, Z), optional
        Label to mask.
    methods : sequence of str, optional
        Which consensus; all by default.
    margin : int, default 0
        As for :func:`fuse_masks`.

    Returns
    -------
    list of LeftOut
        By rater left out, then method, then who is assessed.

    Raises
    ------
    ValueError
        If there are fewer than two raters, or the grids differ.
    """
    if len(raters) < 2:
        raise ValueError("leave-one-out needs at least two raters")
    rater_names, algorithm_arrays = list(raters), dict(algorithms or {})
    cropped = crop_to_union([*raters.values(), *algorithm_arrays.values()])
    rater_masks = dict(zip(rater_names, cropped, strict=False))
    algorithm_masks = dict(zip(algorithm_arrays, cropped[len(rater_names) :], strict=True))
    left_out: list[str | None] = [*rater_names, *([None] if algorithm_masks else [])]
    return [
        row
        for left_out_rater in left_out
        for method in methods
        for row in _compare(rater_masks, algorithm_masks, left_out_rater, spacing, method, margin)
    ]


def _compare(
    rater_masks: Mapping[str, Mask],
    algorithm_masks: Mapping[str, Mask],
    left_out: str | None,
    spacing: Spacing,
    method: Method,
    margin: int,
) -> Iterator[LeftOut]:
    voting = [mask for name, mask in rater_masks.items() if name != left_out]
    union = np.logical_or.reduce(voting)
    assessed = [(left_out, False, rater_masks[left_out])] if left_out is not None else []
    assessed += [(name, True, mask) for name, mask in algorithm_masks.items()]
    volume = float(np.prod(spacing))
    truth = fuse_masks(voting, method, spacing, margin=margin).mask
    for name, algorithm, mask in assessed:
        score = _score(mask, truth, dilate(union | mask, SCORED_MARGIN), volume)
        yield LeftOut(name, algorithm, left_out, len(voting), method, score)


def crop_to_union(masks: Sequence[NDArray[Any]]) -> list[Mask]:
    """Crop masks to the box of their union plus the margin for specificity."""
    votes = collect_votes(masks, margin=SCORED_MARGIN)
    return [votes.on_box(row) for row in votes.drawn]


def _score(mask: Mask, truth: Mask, region: Mask, voxel_volume: float) -> Score:
    box = bounding_box(region)
    pair = (mask[box], truth[box])
    return Score(
        voxel_agreement(*pair, voxel_volume=voxel_volume, within=region[box]),
        lesion_agreement(*pair, voxel_volume=voxel_volume),
    )
