"""The cascade: CNN-1 over the brain, CNN-2 on its candidates, one probability of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.models.crops import CropSource, as_crops, cut_crops, prepare_crops
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import Array, Prediction
from bids_msseg.models.lesion_refinement import FINE, LesionRefinementNet

SMALLEST = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logits are averaged."""


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """How the two networks are combined.

    Attributes
    ----------
    candidate_threshold : float
        A voxel is a candidate where CNN-1's probability reaches this.
    voxels, lesion : float
        Weights of CNN-2's probability of voxels and of the whole candidate in the mean of logits;
        CNN-1's probability has the rest.
    """

    candidate_threshold: float = 0.1
    voxels: float = 0.3
    lesion: float = 0.3


@dataclass(frozen=True, slots=True)
class Refinement:
    """What CNN-2 says of the candidates; arrays have shape (X, Y, Z).

    Attributes
    ----------
    voxels : ndarray of float32
        Probability of belonging to a lesion, 0 outside candidates.
    lesion : ndarray of float32
        Probability that the candidate of a voxel is a lesion, 0 outside candidates.
    """

    voxels: Array
    lesion: Array


def refine(
    net: LesionRefinementNet, source: CropSource, engine: Engine, *, batch: int = 16
) -> Refinement:
    """Run CNN-2 on every candidate of a visit."""
    voxels = np.zeros(source.pieces.shape, np.float32)
    lesion = np.zeros(source.pieces.shape, np.float32)
    for start in range(0, len(source.boxes), batch):
        chosen = range(start, min(start + batch, len(source.boxes)))
        centres = [[(s.start + s.stop) // 2 for s in source.boxes[piece]] for piece in chosen]
        inside, whole = _decide(net, source, chosen, centres, engine)
        for piece, centre, crop, probability in zip(chosen, centres, inside, whole, strict=True):
            box = source.boxes[piece]
            own = source.pieces[box] == piece + 1
            corner = [2 * (at // 2) - FINE // 2 for at in centre]
            local = tuple(
                slice(side.start - at, side.stop - at)
                for side, at in zip(box, corner, strict=True)
            )
            voxels[box][own] = crop[local][own]
            lesion[box][own] = max(float(probability), SMALLEST)
    return Refinement(voxels, lesion)


@torch.inference_mode()
def _decide(
    net: LesionRefinementNet,
    source: CropSource,
    chosen: Sequence[int],
    centres: Sequence[Sequence[int]],
    engine: Engine,
) -> tuple[Array, Array]:
    cuts = [cut_crops(source, piece, at) for piece, at in zip(chosen, centres, strict=True)]
    items = [torch.stack(parts).to(engine.device) for parts in zip(*cuts, strict=True)]
    with engine.autocast():
        voxels, lesion = net(as_crops(items))
    return (
        torch.sigmoid(voxels[:, 0].float()).cpu().numpy(),
        torch.sigmoid(lesion.float()).cpu().numpy(),
    )


def fuse(prediction: Prediction, refinement: Refinement, weights: FusionWeights) -> Array:
    """Average the logits of both networks (a logarithmic opinion pool).

    Genest and Zidek 1986, doi:10.1214/ss/1177013825.

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        0 outside candidates.
    """
    total = (1 - weights.voxels - weights.lesion) * _logit(prediction.lesion)
    total += weights.voxels * _logit(refinement.voxels) + weights.lesion * _logit(
        refinement.lesion
    )
    fused = 1 / (1 + np.exp(-total))
    return np.where(refinement.lesion > 0, fused, 0).astype(np.float32)


def _logit(probability: Array) -> Array:
    bounded = np.clip(probability, SMALLEST, 1 - SMALLEST)
    logit: Array = np.log(bounded / (1 - bounded))
    return logit


def seed_and_grow(
    probability: Array, labels: NDArray[np.int32], seed: float, grow: float
) -> NDArray[np.bool_]:
    """Keep components of ``probability >= grow`` whose peak reaches ``seed``.

    Parameters
    ----------
    probability : ndarray of float32, shape (X, Y, Z)
    labels : ndarray of int32, shape (X, Y, Z)
        Components of ``probability >= grow``.
    seed, grow : float
        ``seed`` is at least ``grow``.
    """
    peak = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(peak, labels.ravel(), probability.ravel())
    kept: NDArray[np.bool_] = (labels > 0) & (peak[labels] >= seed) & (probability >= grow)
    return kept


__all__ = ["FusionWeights", "Refinement", "fuse", "prepare_crops", "refine", "seed_and_grow"]
