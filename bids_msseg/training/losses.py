"""Losses of CNN-1 and CNN-2."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from bids_msseg.models.engine import Engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet
from bids_msseg.models.lesion_refinement import Crops, LesionRefinementNet

SMOOTH = 10.0
"""Voxels added to both sides of the Dice of lesions, so that sub-images without lesion count."""
ANATOMY_WEIGHT = 0.5
FOCAL_WEIGHT = 4.0
PARTIAL_LABEL_MIN_SUM = 1.5
"""Sum of the shares of a voxel above which it has several possible classes."""


def lesion_loss(logits: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy of lesion shares (N, 1, X, Y, Z) plus soft Dice loss, and the Dice.

    The Dice counts a voxel as lesion if at least half of it is: the Dice of shares would raise
    every voxel with a share above half the Dice, of which thick slices have many.
    """
    probability, lesion = torch.sigmoid(logits), (share >= 0.5).to(share.dtype)
    overlap = 2 * (probability * lesion).sum() + SMOOTH
    dice = overlap / (probability.sum() + lesion.sum() + SMOOTH)
    return 2 * F.binary_cross_entropy_with_logits(logits, share) + 1 - dice, dice


def anatomy_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Return cross-entropy over known voxels plus soft Dice loss over full labels.

    Shares (N, classes, X, Y, Z) of a voxel sum to 1, are 1 for each possible class, or 0: unknown.
    """
    total = shares.sum(1)
    labelled = total > 0
    if not bool(labelled.any()):
        return logits.sum() * 0
    log_probability = F.log_softmax(logits, 1)
    full = -(shares * log_probability).sum(1)
    partial = total > PARTIAL_LABEL_MIN_SUM
    possible = log_probability.masked_fill(shares <= 0, float("-inf"))
    # unknown voxels have no possible class: their logarithm of nothing is not used
    safe = torch.where(partial[:, None], possible, log_probability)
    entropy = torch.where(partial, -torch.logsumexp(safe, 1), full)
    loss = (entropy * labelled).sum() / labelled.sum()
    return loss + _anatomy_dice_loss(logits, shares, labelled & ~partial)


def _anatomy_dice_loss(logits: Tensor, shares: Tensor, labelled: Tensor) -> Tensor:
    """Return 1 minus the mean soft Dice of the classes present in fully labelled voxels."""
    if not bool(labelled.any()):
        return logits.sum() * 0
    inside = labelled[:, None].to(logits.dtype)
    probability, truth = torch.softmax(logits, 1) * inside, shares * inside
    dims = (0, 2, 3, 4)
    present = truth.sum(dims) > 1
    if not bool(present.any()):
        return logits.sum() * 0
    overlap = 2 * (probability * truth).sum(dims) + 1
    dice = overlap / (probability.sum(dims) + truth.sum(dims) + 1)
    return 1 - dice[present].mean()


def refinement_loss(
    voxels: Tensor, lesion: Tensor, candidate: Tensor, share: Tensor, real: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss of CNN-2 over voxels (N, 1, X, Y, Z) and candidates (N,), and voxel Dice."""
    weight = candidate / candidate.sum().clamp_min(1.0)
    entropy = F.binary_cross_entropy_with_logits(voxels, share, reduction="none")
    probability = torch.sigmoid(voxels) * candidate
    inside = share * candidate
    dice = (2 * (probability * inside).sum() + 1) / (probability.sum() + inside.sum() + 1)
    lesion_entropy = F.binary_cross_entropy_with_logits(lesion, real, reduction="none")
    # Lin et al. 2017, arXiv 1708.02002, gamma 2
    focal = ((1 - torch.exp(-lesion_entropy)) ** 2 * lesion_entropy).mean()
    return (entropy * weight).sum() + 1 - dice + FOCAL_WEIGHT * focal, dice


def refinement_step(
    net: LesionRefinementNet, items: tuple[Tensor, ...], engine: Engine
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch of ``CandidateCrops``, and the voxel Dice."""
    images, candidate, anatomy, coarse, present, share, real = (
        item.to(engine.device, non_blocking=True) for item in items
    )
    with engine.autocast():
        voxels, lesion = net(Crops(images, candidate, anatomy, coarse, present))
    loss, dice = refinement_loss(voxels.float(), lesion.float(), candidate, share, real)
    return loss, dice.detach()


def lesion_anatomy_step(
    net: LesionAnatomyNet, items: tuple[Tensor, ...], engine: Engine
) -> tuple[Tensor, Tensor]:
    """Return the loss of a batch of (images, lesion share, anatomy shares), and lesion Dice."""
    images, share, shares = (item.to(engine.device, non_blocking=True) for item in items)
    with engine.autocast():
        lesion, anatomy = net(images)
    loss, dice = lesion_loss(lesion.float(), share)
    loss = loss + ANATOMY_WEIGHT * anatomy_loss(anatomy.float(), shares)
    return loss, dice.detach()
