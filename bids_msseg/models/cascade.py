"""The cascade: CNN-1 on the brain, CNN-2 on its candidates, and the fusion of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.brain_mask import BrainMask, correct_brain_mask
from bids_msseg.models.checkpoint import LesionCascade
from bids_msseg.models.crops import CropSource, as_crops, cut_crops, prepare_crops
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import STRIDE, TILE, Array, Prediction, predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet
from bids_msseg.models.lesion_refinement import FINE, LesionRefinementNet
from bids_msseg.models.weights import CascadePoint

EPSILON = 1e-4
"""Probabilities are kept this far from 0 and 1 before their logits are averaged."""
JUST_BELOW = 0.99
FAST_STRIDE = TILE - 16


@dataclass(frozen=True, slots=True)
class Refinement:
    """Output of CNN-2: probability maps (x, y, z), 0 outside candidates."""

    voxels: Array  # that a voxel belongs to a lesion
    lesion: Array  # that the whole candidate of a voxel is a lesion


def refine(
    net: LesionRefinementNet, source: CropSource, engine: Engine, *, batch: int = 16
) -> Refinement:
    """Run CNN-2 on every candidate of a visit."""
    voxels = np.zeros(source.pieces.shape, np.float32)
    lesion = np.zeros(source.pieces.shape, np.float32)
    for start in range(0, len(source.boxes), batch):
        chosen = range(start, min(start + batch, len(source.boxes)))
        centres = [[(s.start + s.stop) // 2 for s in source.boxes[piece]] for piece in chosen]
        voxel_crops, lesion_probabilities = _run_on_candidates(
            net, source, chosen, centres, engine
        )
        for piece, centre, crop, probability in zip(
            chosen, centres, voxel_crops, lesion_probabilities, strict=True
        ):
            box = source.boxes[piece]
            inside = source.pieces[box] == piece + 1
            corner = [2 * (at // 2) - FINE // 2 for at in centre]
            local = tuple(
                slice(side.start - at, side.stop - at)
                for side, at in zip(box, corner, strict=True)
            )
            voxels[box][inside] = crop[local][inside]
            lesion[box][inside] = max(float(probability), EPSILON)
    return Refinement(voxels, lesion)


@torch.inference_mode()
def _run_on_candidates(
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


def fuse(lesion: Array, refinement: Refinement, point: CascadePoint, slice_mm: float) -> Array:
    """Fuse CNN-1 (``lesion``) and CNN-2 by weighted mean logits; 0 outside candidates.

    The logit is lowered by ``slice_weight`` per mm above 1 mm, because the networks outline the
    blurred lesions of thick slices too large.
    """
    # a logarithmic opinion pool: Genest and Zidek 1986, doi:10.1214/ss/1177013825
    total = (1 - point.voxel_weight - point.lesion_weight) * _logit(lesion)
    total += point.voxel_weight * _logit(refinement.voxels) + point.lesion_weight * _logit(
        refinement.lesion
    )
    total -= point.slice_weight * max(slice_mm - 1, 0)
    fused = 1 / (1 + np.exp(-total))
    return np.where(refinement.lesion > 0, fused, 0).astype(np.float32)


def _logit(probability: Array) -> Array:
    bounded = np.clip(probability, EPSILON, 1 - EPSILON)
    logit: Array = np.log(bounded / (1 - bounded))
    return logit


def require_peak(probability: Array, threshold: float, peak_threshold: float) -> Array:
    """Scale components with a peak below ``peak_threshold`` to just below ``threshold``."""
    labels = label_lesions(probability >= threshold, voxel_volume=1.0)
    peak = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(peak, labels.ravel(), probability.ravel())
    unsure = (labels > 0) & (peak[labels] < peak_threshold)
    lowered = probability * np.float32(JUST_BELOW * threshold) / np.maximum(peak[labels], EPSILON)
    return np.where(unsure, lowered, probability).astype(np.float32)


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """Output of both networks for a stack, before fusion and the final threshold."""

    prediction: Prediction  # lesion probability 0 outside ``brain``
    refinement: Refinement
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


def decide(lesion: Array, refinement: Refinement, point: CascadePoint, slice_mm: float) -> Array:
    """Fuse the output of both networks and suppress lesions without a confident core."""
    fused = fuse(lesion, refinement, point, slice_mm)
    return require_peak(fused, point.threshold, point.peak_threshold)


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
    lesion = output.refinement.lesion
    return CascadeResult(
        output.prediction.lesion,
        decide(output.prediction.lesion, output.refinement, cascade.point, slice_mm),
        lesion,
        lesion > 0,
        output.prediction.anatomy,
        output.brain,
    )
