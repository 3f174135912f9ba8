"""Balanced sets of patches; a batch depends only on visits, plan, seed and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_msseg.trainer.batches import item_rng
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.valverde.inference import cut_patches, fill_missing_contrasts, pad_images
from bids_msseg.training.valverde.nets import CHANNELS, PATCH

MIRROR_AXES = ((2, 3), (2,), (3,))
"""Axes of (N, C, X, Y, Z) that are mirrored, in the axial plane of X and Y."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Training voxels of one visit, as flat indices into (X, Y, Z)."""

    padded: NDArray[np.floating[Any]]  # images, (3, X + 10, Y + 10, Z + 10)
    lesions: NDArray[np.int64]
    negatives: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draw:
    """Patches of one epoch: visit, voxel, and 1 for lesion; arrays of shape (N,)."""

    visit: NDArray[np.int64]
    voxel: NDArray[np.int64]
    lesion: NDArray[np.int64]


def fill_missing(visit: LabelledVisit) -> LabelledVisit:
    """Fill missing contrasts: the nets have no input for which contrasts are present."""
    return replace(visit, images=fill_missing_contrasts(visit.images, visit.present, visit.brain))


def find_candidates(visit: LabelledVisit, min_z: float) -> NDArray[np.bool_]:
    """Mark bright FLAIR voxels inside the brain, the only ones that the nets classify."""
    bright: NDArray[np.bool_] = visit.brain & (visit.images[0] > min_z)
    return bright


def random_pool(visit: LabelledVisit, min_z: float) -> Pool:
    """List all lesion voxels, and all candidates that are not lesion, for CNN-1."""
    truth = _lesion(visit)
    negatives = np.flatnonzero(find_candidates(visit, min_z) & ~truth)
    return Pool(pad_images(visit.images), np.flatnonzero(truth), negatives)


def hard_pool(
    visit: LabelledVisit, min_z: float, prediction: NDArray[np.floating[Any]], threshold: float
) -> Pool:
    """List all lesion voxels, and at least as many false positives of CNN-1, for CNN-2."""
    truth = _lesion(visit)
    lesions = np.flatnonzero(truth)
    candidates = np.flatnonzero(find_candidates(visit, min_z) & ~truth)
    probabilities = prediction.ravel()[candidates]
    hardest = candidates[np.argsort(-probabilities, kind="stable")]
    count = max(int((probabilities > threshold).sum()), lesions.size)
    return Pool(pad_images(visit.images), lesions, np.sort(hardest[:count]))


def _lesion(visit: LabelledVisit) -> NDArray[np.bool_]:
    lesion: NDArray[np.bool_] = visit.brain & (visit.truth >= 0.5)
    return lesion


def draw_epoch(pools: Sequence[Pool], rng: np.random.Generator, *, limit: int) -> Draw:
    """Draw lesion voxels and as many negatives of each visit, at most ``limit``, none twice."""
    total = sum(pool.lesions.size for pool in pools)
    share = min(1.0, limit / (2 * total)) if total else 0.0
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []
    for index, pool in enumerate(pools):
        count = int(pool.lesions.size * share)
        for kind, source in ((1, pool.lesions), (0, pool.negatives)):
            chosen = rng.choice(source, min(count, source.size), replace=False)
            parts.append((np.full_like(chosen, index), chosen, np.full_like(chosen, kind)))
    visit, voxel, lesion = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = rng.permutation(visit.size)
    return Draw(visit[order], voxel[order], lesion[order])


def mirror_half(patches: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mirror a random half of the patches (N, 3, X, Y, Z) along x, y or both."""
    mirrored = patches.copy()
    chosen = rng.permutation(len(patches))[: len(patches) // 2]
    kinds = rng.integers(len(MIRROR_AXES), size=chosen.size)
    for kind, axes in enumerate(MIRROR_AXES):
        rows = chosen[kinds == kind]
        mirrored[rows] = np.flip(patches[rows], axes)
    return mirrored


class PatchStream:
    """Endless stream of batches by step number; ``steps`` counts the whole ones of an epoch."""

    def __init__(
        self,
        pools: Sequence[Pool],
        seed: int,
        *,
        batch: int,
        limit: int,
    ) -> None:
        self._pools, self._seed, self._batch, self._limit = tuple(pools), seed, batch, limit
        self._epoch = lru_cache(maxsize=1)(self._draw)
        self.steps = self._epoch(0).voxel.size // batch if self._pools else 0

    def _draw(self, epoch: int) -> Draw:
        return draw_epoch(self._pools, item_rng(self._seed, 2 * epoch), limit=self._limit)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the batch of a step: patches (N, 3, 11, 11, 11), and 1 for lesion (N,)."""
        epoch, position = divmod(step, self.steps)
        draw = self._epoch(epoch)
        span = slice(position * self._batch, (position + 1) * self._batch)
        patches = np.empty((self._batch, CHANNELS, PATCH, PATCH, PATCH), np.float32)
        for index in np.unique(draw.visit[span]):
            rows = draw.visit[span] == index
            patches[rows] = cut_patches(self._pools[index].padded, draw.voxel[span][rows])
        mirrored = mirror_half(patches, item_rng(self._seed, 2 * step + 1))
        return torch.from_numpy(mirrored), torch.from_numpy(draw.lesion[span])
