"""The cascade: CNN-1 on the brain, CNN-2 on its candidates, and the fusion of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.models.brain_mask import BrainMask, correct_brain_mask
from bids_msseg.models.checkpoint import LesionCascade
from bids_msseg.models.crops import CropSource, as_crops, cut_crops, prepare_crops
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import STRIDE, TILE, Array, Prediction, predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementNet
from bids_msseg.models.weights import CascadePoint

EPSILON = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logits are averaged."""
FAST_STRIDE = TILE - 16


def refine(
    net: LesionRefinementNet, source: CropSource, engine: Engine, *, batch: int = 16
) -> Array:
    """Run CNN-2; return the probability that the candidate of a voxel is a lesion, else 0."""
    refined = np.zeros(source.pieces.shape, np.float32)
    for start in range(0, len(source.boxes), batch):
        chosen = range(start, min(start + batch, len(source.boxes)))
        centres = [[(s.start + s.stop) // 2 for s in source.boxes[piece]] for piece in chosen]
        probabilities = _run_on_candidates(net, source, chosen, centres, engine)
        for piece, probability in zip(chosen, probabilities, strict=True):
            box = source.boxes[piece]
            refined[box][source.pieces[box] == piece + 1] = max(float(probability), EPSILON)
    return refined


@torch.inference_mode()
def _run_on_candidates(
    net: LesionRefinementNet,
    source: CropSource,
    chosen: Sequence[int],
    centres: Sequence[Sequence[int]],
    engine: Engine,
) -> Array:
    cuts = [cut_crops(source, piece, at) for piece, at in zip(chosen, centres, strict=True)]
    items = [torch.stack(parts).to(engine.device) for parts in zip(*cuts, strict=True)]
    with engine.autocast():
        logits = net(as_crops(items))[1]
    probabilities: Array = torch.sigmoid(logits.float()).cpu().numpy()
    return probabilities


def fuse(lesion: Array, refined: Array, point: CascadePoint, slice_mm: float) -> Array:
    """Fuse CNN-1 (``lesion``) and CNN-2 by weighted mean logits; 0 outside candidates.

    The logit is lowered by ``slice_weight`` per mm above 1 mm, because the networks outline the
    blurred lesions of thick slices too large.
    """
    # a logarithmic opinion pool: Genest and Zidek 1986, doi:10.1214/ss/1177013825
    weight = point.refinement_weight
    total = (1 - weight) * _logit(lesion) + weight * _logit(refined)
    total -= point.slice_weight * max(slice_mm - 1, 0)
    fused = 1 / (1 + np.exp(-total))
    return np.where(refined > 0, fused, 0).astype(np.float32)


def _logit(probability: Array) -> Array:
    bounded = np.clip(probability, EPSILON, 1 - EPSILON)
    logit: Array = np.log(bounded / (1 - bounded))
    return logit


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """Output of both networks for a stack, before fusion and the final threshold."""

    prediction: Prediction  # lesion probability 0 outside ``brain``
    refined: Array  # probability of CNN-2 for whole candidates, 0 elsewhere
    brain: BrainMask  # without regions that CNN-1 classifies as extra-cerebral


@dataclass(frozen=True, slots=True)
class CascadeResult:
    """Output of the cascade for a stack; maps have shape (X, Y, Z)."""

    candidate: Array  # lesion probability of CNN-1
    probability: Array  # final probability
    lesion: Array  # probability of CNN-2 for whole candidates
    candidates: NDArray[np.bool_]
    anatomy: NDArray[np.float16]  # class probabilities at 2 mm, shape (classes, ceil(X / 2), ...)
    brain: BrainMask


def run_first_network(
    candidate: Sequence[LesionAnatomyNet],
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    engine: Engine,
    *,
    fast: bool = False,
) -> tuple[Prediction, BrainMask]:
    """Run CNN-1 on a stack and correct the brain mask, outside which no lesion is left."""
    for net in candidate:
        net.to(engine.device)
    prediction = predict(
        candidate[:1] if fast else candidate,
        images,
        present,
        brain,
        engine,
        stride=FAST_STRIDE if fast else STRIDE,
    )
    corrected = correct_brain_mask(brain, prediction.anatomy)
    lesion = np.where(corrected.mask, prediction.lesion, np.float32(0))
    return replace(prediction, lesion=lesion), corrected


def run_networks(
    candidate: Sequence[LesionAnatomyNet],
    refinement: LesionRefinementNet,
    candidate_threshold: float,
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    engine: Engine,
    *,
    fast: bool = False,
) -> NetworkOutput:
    """Run CNN-1 on a stack, and CNN-2 on its candidates; parameters as in :func:`segment`."""
    refinement.to(engine.device)
    prediction, corrected = run_first_network(candidate, images, present, brain, engine, fast=fast)
    source = prepare_crops(images, present, brain, prediction, candidate_threshold)
    return NetworkOutput(prediction, refine(refinement, source, engine), corrected)


def segment(
    cascade: LesionCascade,
    images: Array,
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    engine: Engine,
    *,
    slice_mm: float,
    fast: bool = False,
) -> CascadeResult:
    """Run the cascade on FLAIR, T1w, T2w in SDs of the brain, shape (3, X, Y, Z), 1 mm, RAS.

    ``present`` marks the acquired contrasts, ``slice_mm`` is the slice thickness of the FLAIR as
    acquired; ``fast`` uses one CNN-1 and tiles with less overlap.
    """
    output = run_networks(
        cascade.candidate,
        cascade.refinement,
        cascade.point.candidate_threshold,
        images,
        present,
        brain,
        engine,
        fast=fast,
    )
    lesion = output.prediction.lesion
    return CascadeResult(
        lesion,
        fuse(lesion, output.refined, cascade.point, slice_mm),
        output.refined,
        output.refined > 0,
        output.prediction.anatomy,
        output.brain,
    )
