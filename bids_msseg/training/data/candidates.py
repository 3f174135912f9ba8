"""Candidates of CNN-1 with their ground truth, and the crops that CNN-2 learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.boxes import cut
from bids_msseg.models.crops import (
    MIN_VOXELS,
    CropSource,
    coarse_mark,
    cut_crops,
    prepare_crops,
)
from bids_msseg.models.inference import BACKGROUND, Prediction
from bids_msseg.models.lesion_anatomy import CONTRASTS
from bids_msseg.models.lesion_refinement import FINE
from bids_msseg.trainer.batches import item_rng
from bids_msseg.training.data.labelled import draw_visit
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis.intensities import SIGNAL

Item = tuple[Tensor, ...]
LESION_SHARE = 0.1
"""A candidate is a lesion where the experts drew at least this share of it."""
SHIFT = 4
"""Largest shift of a training crop, voxels."""


@dataclass(frozen=True, slots=True)
class LabelledCandidates:
    """Candidates of a visit, found by a network that has not seen it, with the truth."""

    site: str
    participant: str
    source: CropSource
    probability: NDArray[np.float16]  # of lesion by CNN-1, (X, Y, Z)
    truth: NDArray[np.float16]  # lesion share, (X, Y, Z)
    real: NDArray[np.bool_]  # (n,): whether a candidate is a lesion


def label_candidates(
    visit: LabelledVisit, prediction: Prediction, threshold: float
) -> LabelledCandidates:
    """Find the candidates of a prediction, and label them by the ground truth."""
    source = prepare_crops(visit.images, visit.present, visit.brain, prediction, threshold)
    flat = source.pieces.ravel()
    size = np.bincount(flat, minlength=len(source.boxes) + 1)[1:]
    hit = np.bincount(flat, visit.truth.ravel() >= 0.5, minlength=len(source.boxes) + 1)[1:]
    probability = prediction.lesion.astype(np.float16)
    real = hit >= LESION_SHARE * size
    return LabelledCandidates(
        visit.site, visit.participant, source, probability, visit.truth, real
    )


@dataclass(frozen=True, slots=True)
class CropPlan:
    """Random variation of training crops, in units of the brain's standard deviation."""

    # chance and highest value of a second threshold: the fine-tuned CNN-1 segments more tightly
    # than the CNN-1 that found the candidates
    tighten: float = 0.5
    tightest: float = 0.6
    gain: float = 0.2
    shift: float = 0.3
    gamma: float = 0.25
    noise: float = 0.2
    drop_t1w: float = 0.2
    drop_t2w: float = 0.3
    lesion_share: float = 0.4


class CandidateCrops(Dataset[Item]):
    """Crops for CNN-2; item ``i`` depends only on the seed and ``i``."""

    def __init__(
        self, visits: Sequence[LabelledCandidates], seed: int, plan: CropPlan | None = None
    ) -> None:
        self.visits = tuple(visit for visit in visits if visit.source.boxes)
        self.seed, self.plan = seed, plan or CropPlan()

    def __getitem__(self, index: int) -> Item:
        """Return the tensors of :func:`cut_crops`, the ground truth, and 1 for a lesion."""
        rng = item_rng(self.seed, index)
        visit = draw_visit(self.visits, rng)
        is_lesion = rng.random() < self.plan.lesion_share
        pool = np.flatnonzero(visit.real == is_lesion)
        if not pool.size:
            pool = np.arange(len(visit.source.boxes))
        piece = int(pool[int(rng.integers(pool.size))])
        centre = [
            (side.start + side.stop) // 2 + int(rng.integers(-SHIFT, SHIFT + 1))
            for side in visit.source.boxes[piece]
        ]
        crops = cut_crops(visit.source, piece, centre)
        even_centre = [2 * (at // 2) for at in centre]
        truth = cut(visit.truth, even_centre, (FINE,) * 3).astype(np.float32)[None]
        real = bool(visit.real[piece])
        if rng.random() < self.plan.tighten:
            probability = cut(visit.probability, even_centre, (FINE,) * 3).astype(np.float32)
            tight_mask = probability >= rng.uniform(0, self.plan.tightest)
            crops = tighten(crops, tight_mask, even_centre)
            inside = crops[1].numpy() > 0
            real = bool((inside & (truth >= 0.5)).sum() >= LESION_SHARE * inside.sum())
        changed = _augment((*crops, torch.from_numpy(truth)), self.plan, rng)
        return (*changed, torch.tensor(float(real)))


def tighten(crops: Item, tight_mask: NDArray[np.bool_], even_centre: Sequence[int]) -> Item:
    """Restrict a candidate to a tighter mask (32, 32, 32), unless too few voxels would remain."""
    images, candidate, anatomy, coarse, present = crops
    tightened = candidate * torch.from_numpy(tight_mask.astype(np.float32))[None]
    if float(tightened.sum()) < MIN_VOXELS:
        return crops
    joined = coarse.clone()
    joined[CONTRASTS] = torch.from_numpy(coarse_mark(tightened[0].numpy(), even_centre))
    return images, tightened, anatomy, joined, present


def _augment(items: Item, plan: CropPlan, rng: np.random.Generator) -> Item:
    """Mirror, change intensities at both scales alike, and drop contrasts."""
    images, candidate, anatomy, coarse, present, truth = (item.clone() for item in items)
    if rng.random() < 0.5:
        images, candidate, anatomy, coarse, truth = (
            item.flip(1) for item in (images, candidate, anatomy, coarse, truth)
        )
        first = CONTRASTS + 1 + CLASSES
        coarse[first] = 1 - coarse[first]
    for channel, chance in ((0, 0.0), (1, plan.drop_t1w), (2, plan.drop_t2w)):
        if not present[channel]:
            continue
        if rng.random() < chance:
            present[channel], images[channel], coarse[channel] = 0, 0, 0
            continue
        gain, shift = 1 + rng.uniform(-plan.gain, plan.gain), rng.uniform(-plan.shift, plan.shift)
        gamma = float(np.exp(rng.uniform(-plan.gamma, plan.gamma)))
        # the background of the coarse crop is 0
        for scale, offset in ((images, 0.0), (coarse, BACKGROUND)):
            score = scale[channel] + offset
            signal = (score * SIGNAL + 1).clamp_min(1e-4) ** gamma
            changed = (signal - 1) * float(gain / (SIGNAL * gamma)) + float(shift)
            inside = score != BACKGROUND
            scale[channel] = torch.where(inside, changed.clamp(-5, 5), score) - offset
        grain = rng.standard_normal(images[channel].shape, dtype=np.float32)
        amount = float(rng.uniform(0, plan.noise))
        inside = images[channel] != BACKGROUND
        noisy = images[channel] + amount * torch.from_numpy(grain)
        images[channel] = torch.where(inside, noisy, images[channel])
    return images, candidate, anatomy, coarse, present, truth
