"""Endless, seeded streams of augmented sub-images for the two nets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bids_msseg.cascade.augment import Augmentation, AugmentPlan, SubImage, augment
from bids_msseg.cascade.pasting import LesionBank, fill_bank, paste_some
from bids_msseg.cascade.patches import (
    LabelledVisit,
    Places,
    cut,
    draw_centre,
    find_places,
    split_into_pieces,
    stream,
)

MARGIN = 1.2
"""Sub-images are cut this much larger, so that rotation finds image in the corners."""


def cut_size(size: int) -> int:
    """Edge to cut for a sub-image of this edge, both even or both odd.

    Otherwise the turned image would be sampled half a voxel off and blurred.
    """
    wanted = round(size * MARGIN)
    return wanted + (wanted - size) % 2


@dataclass(frozen=True, slots=True)
class Candidates:
    """What CNN-1 found in a visit that it had not seen.

    Attributes
    ----------
    visit : LabelledVisit
    probability : ndarray of float16, shape (X, Y, Z)
        CNN-1's probability.
    pieces : ndarray of int32, shape (X, Y, Z)
        Candidates 1..n, large ones divided.
    boxes : tuple of slices
        Bounding box of each.
    real : ndarray of bool, shape (n,)
        Whether a candidate is a lesion.
    """

    visit: LabelledVisit
    probability: NDArray[np.float16]
    pieces: NDArray[np.int32]
    boxes: tuple[tuple[slice, slice, slice], ...]
    real: NDArray[np.bool_]


REAL_SHARE = 0.1
"""A candidate is a lesion where the experts drew at least this share of it (methods of
Valverde et al. count a single voxel; a tenth keeps chance contact out)."""


def judge_candidates(
    visit: LabelledVisit, probability: NDArray[np.floating], components: NDArray[np.int32]
) -> Candidates:
    """Compare candidates with the truth."""
    pieces, boxes = split_into_pieces(components)
    flat = pieces.ravel()
    size = np.bincount(flat, minlength=len(boxes) + 1)[1:]
    hit = np.bincount(flat, visit.truth.ravel() >= 0.5, minlength=len(boxes) + 1)[1:]
    real = hit >= REAL_SHARE * size
    return Candidates(visit, probability.astype(np.float16), pieces, boxes, real)


def _pick_visit(sites: Sequence[str], rng: np.random.Generator) -> int:
    """Draw a site, then one of its visits: three patients of one site weigh as much as ten."""
    names = sorted(set(sites))
    site = names[int(rng.integers(len(names)))]
    members = [index for index, name in enumerate(sites) if name == site]
    return members[int(rng.integers(len(members)))]


def _cut_sub_image(
    visit: LabelledVisit, extra: Sequence[NDArray[np.floating]], centre: Sequence[int], size: int
) -> SubImage:
    cube = (size, size, size)
    maps = [cut(volume, centre, cube) for volume in (visit.truth, *extra)]
    return SubImage(
        torch.from_numpy(cut(visit.images, centre, cube, fill=-3.0).astype(np.float32)),
        torch.tensor(visit.present, dtype=torch.float32),
        torch.from_numpy(cut(visit.brain, centre, cube).astype(np.float32)),
        torch.from_numpy(np.stack(maps).astype(np.float32)),
    )


class CandidateSampler(Dataset[tuple[Tensor, Tensor]]):
    """Sub-images for CNN-1; item ``i`` depends on the seed and ``i`` alone.

    Parameters
    ----------
    visits : sequence of LabelledVisit
    seed : int
    size : int, default 64
        Edge in voxels of 1 mm.
    plan : AugmentPlan or Program, optional
    lesion_share, hard_share : float
        Chances that a sub-image is centred on a lesion, or on a hard negative; the rest is
        centred anywhere in the brain.
    paste : float, default 0
        Chance that lesions of these visits are pasted into a sub-image, which may be another
        visit's.
    """

    def __init__(
        self,
        visits: Sequence[LabelledVisit],
        seed: int,
        *,
        size: int = 64,
        plan: Augmentation | None = None,
        lesion_share: float = 0.5,
        hard_share: float = 0.0,
        hard: Sequence[NDArray[np.bool_]] | None = None,
        paste: float = 0.0,
    ) -> None:
        self.visits = tuple(visits)
        self.places: tuple[Places, ...] = tuple(
            find_places(visit, None if hard is None else hard[index])
            for index, visit in enumerate(visits)
        )
        self.seed, self.size, self.plan = seed, size, plan or AugmentPlan()
        self.lesion_share, self.hard_share = lesion_share, hard_share
        self.paste = paste
        self.bank = fill_bank(self.visits) if paste > 0 else LesionBank(())
        self.sites = tuple(visit.site for visit in visits)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return input (6, S, S, S) and truth (1, S, S, S)."""
        rng = stream(self.seed, index)
        which = _pick_visit(self.sites, rng)
        visit, places = self.visits[which], self.places[which]
        shape = (visit.brain.shape[0], visit.brain.shape[1], visit.brain.shape[2])
        drawn = draw_centre(
            places, shape, rng, lesion_share=self.lesion_share, hard_share=self.hard_share
        )
        shifts = rng.integers(-self.size // 4, self.size // 4 + 1, 3)
        centre = [at + int(shift) for at, shift in zip(drawn, shifts, strict=True)]
        sample = _cut_sub_image(visit, (), centre, cut_size(self.size))
        # no number is drawn where nothing may be pasted, so that such streams stay what they were
        if self.paste > 0 and rng.random() < self.paste:
            sample = paste_some(sample, self.bank, rng, thick=visit.thick)
        done = augment(sample, self.plan, rng, size=self.size, thin=not visit.thick)
        return done.as_input(), done.maps


class RefinementSampler(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Crops around candidates for CNN-2; item ``i`` depends on the seed and ``i`` alone.

    Parameters
    ----------
    candidates : sequence of Candidates
        Found by nets that had not seen the visit.
    seed : int
    size : int, default 32
    plan : AugmentPlan or Program, optional
    real_share : float, default 0.4
        Share of crops that hold a true lesion.
    """

    def __init__(
        self,
        candidates: Sequence[Candidates],
        seed: int,
        *,
        size: int = 32,
        plan: Augmentation | None = None,
        real_share: float = 0.4,
    ) -> None:
        self.candidates = tuple(found for found in candidates if found.boxes)
        self.seed, self.size, self.plan = seed, size, plan or AugmentPlan()
        self.real_share = real_share
        self.sites = tuple(found.visit.site for found in self.candidates)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return input (8, S, S, S), truth (1, S, S, S) and whether it is a lesion, ()."""
        rng = stream(self.seed, index)
        found = self.candidates[_pick_visit(self.sites, rng)]
        wanted = rng.random() < self.real_share
        pool = np.flatnonzero(found.real == wanted)
        if not pool.size:
            pool = np.arange(len(found.boxes))
        piece = int(pool[int(rng.integers(pool.size))])
        box = found.boxes[piece]
        shifts = rng.integers(-3, 4, 3)
        centre = [
            (side.start + side.stop) // 2 + int(shift)
            for side, shift in zip(box, shifts, strict=True)
        ]
        sample = self._cut(found, centre, piece)
        done = augment(sample, self.plan, rng, size=self.size, thin=not found.visit.thick)
        truth, opinion, member = done.maps
        opinion = opinion.clamp(0, 1) ** float(np.exp(rng.uniform(-0.3, 0.3)))
        own_piece = (member >= 0.5).float()
        inputs = torch.cat([done.as_input(), opinion[None], own_piece[None]])
        return inputs, truth[None], torch.tensor(float(found.real[piece]))

    def _cut(self, found: Candidates, centre: Sequence[int], piece: int) -> SubImage:
        size = cut_size(self.size)
        sample = _cut_sub_image(found.visit, (found.probability,), centre, size)
        member = cut(found.pieces, centre, (size, size, size)) == piece + 1
        maps = torch.cat([sample.maps, torch.from_numpy(member.astype(np.float32))[None]])
        return SubImage(sample.images, sample.present, sample.brain, maps)


def batches(
    source: Dataset[tuple[Tensor, ...]],
    *,
    first: int,
    last: int,
    batch: int,
    workers: int,
    accumulate: int = 1,
    team: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, ...]]:
    """Stream the batches of steps ``first`` to ``last``, in order, with any number of workers.

    A step takes ``accumulate`` batches. ``team`` is (rank, size): this process gets every
    ``size``-th of them, from its rank on.
    """
    rank, size = team
    items = [
        (step * accumulate + part) * batch + member
        for step in range(first, last)
        for part in range(rank, accumulate, size)
        for member in range(batch)
    ]
    loader = DataLoader(
        source,
        batch_size=batch,
        sampler=items,
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=4 if workers else None,
    )
    yield from loader


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
