"""Endless, seeded batches of small patches, balanced as in Valverde et al. 2017.

That method trains on every lesion voxel of the cohort and as many others, each the middle of a
patch of 11³ voxels: 1.7 million of them, 27.7 GB as float32. Here a batch is cut when it is asked
for: one gather from each visit's array, whose offsets turn and mirror the patches at no cost, then
one change of intensities for all. Batch ``i`` depends on the seed and ``i`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bids_msseg.cascade.augmentation.sample import BACKGROUND, SIGNAL
from bids_msseg.cascade.patches import LabelledVisit, stream
from bids_msseg.errors import DataError, UsageError

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PatchPlan:
    """How patches are augmented; amounts are standard deviations of the brain.

    Attributes
    ----------
    symmetries : str
        ``none``; ``mirror``, left-right; ``axial``, the flips and the half turn of the source
        text; ``turns``, the 24 quarter turns of a cube; ``all``, those and their mirror images.
        Each patch is given one of them, all as likely.
    share : float
        Chance that the intensities of a patch are changed at all.
    gain, shift, gamma, noise : float
        Largest amounts of each change, drawn for each contrast of each patch by itself.
    """

    symmetries: str = "axial"
    share: float = 0.5
    gain: float = 0.25
    shift: float = 0.4
    gamma: float = 0.35
    noise: float = 0.35


@dataclass(frozen=True, slots=True)
class PatchPlaces:
    """What a batch is cut from.

    Attributes
    ----------
    visit : ndarray of int64, shape (B,)
        Which visit, by its place in the list.
    centre : ndarray of int64, shape (B,)
        Middle of the patch, as a flat index into (X, Y, Z).
    lesion : ndarray of bool, shape (B,)
        The middle is a lesion; the first half are, the others are not.
    """

    visit: Integers
    centre: Integers
    lesion: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Volume:
    """One visit, padded so that every patch lies inside."""

    images: Tensor  # (3, V) of float16
    present: Tensor  # (3,) of float32
    lesions: NDArray[np.int32]  # flat into the visit's own grid
    others: NDArray[np.int32]
    shape: tuple[int, int, int]
    table: Tensor  # (symmetries, edge³) of int64: offsets in the padded grid


def cube_symmetries(name: str) -> Integers:
    """Signed permutation matrices of a set of symmetries, shape (S, 3, 3), identity first.

    Raises
    ------
    UsageError
        If there is no such set.

    Examples
    --------
    >>> [len(cube_symmetries(name)) for name in ("none", "mirror", "axial", "turns", "all")]
    [1, 2, 4, 24, 48]
    """
    unit = np.eye(3, dtype=np.int64)
    every = np.array(
        [
            unit[list(order)] * np.array(signs)[:, None]
            for order in permutations(range(3))
            for signs in product((1, -1), repeat=3)
        ]
    )
    straight = (np.abs(every) == unit).all((1, 2))
    upright = straight & (every[:, 2, 2] == 1)
    sets = {
        "none": (every == unit).all((1, 2)),
        "mirror": upright & (every[:, 1, 1] == 1),
        "axial": upright,
        "turns": np.linalg.det(every) > 0,
        "all": np.ones(len(every), bool),
    }
    if name not in sets:
        raise UsageError(
            f"there are no symmetries called {name}", hint=f"use one of: {', '.join(sets)}"
        )
    chosen: Integers = every[sets[name]]
    first = np.argmax((chosen == unit).all((1, 2)))
    return np.roll(chosen, -first, axis=0)


class PatchSource(Dataset[tuple[Tensor, Tensor]]):
    """Batches of patches; half of each are centred on lesion voxels.

    Lesion voxels come in a random order, all of them once before any comes again; each is matched
    by a voxel of the same visit that is no lesion.

    Parameters
    ----------
    visits : iterable of LabelledVisit
        Read once, so that they need not lie in memory together.
    seed : int
    edge : int, default 11
        Odd edge of a patch in voxels.
    batch : int, default 512
        Patches in a batch, an even number.
    plan : PatchPlan, optional
    negatives : sequence of ndarray of bool, shape (X, Y, Z), optional
        Where each visit's other voxels may lie: what an earlier net wrongly called lesion. A visit
        without any, and all visits by default, take them from the whole brain.

    Raises
    ------
    UsageError
        If the edge is even or the batch is odd.
    DataError
        If no visit holds a lesion, or one holds nothing else.
    """

    def __init__(
        self,
        visits: Iterable[LabelledVisit],
        seed: int,
        *,
        edge: int = 11,
        batch: int = 512,
        plan: PatchPlan | None = None,
        negatives: Sequence[NDArray[np.bool_]] | None = None,
    ) -> None:
        if edge % 2 == 0 or edge < 1 or batch % 2 or batch < 2:
            raise UsageError(
                f"patches of edge {edge} in batches of {batch} have no middle or no halves",
                hint="use an odd edge and an even batch",
            )
        self.seed, self.edge, self.batch, self.plan = seed, edge, batch, plan or PatchPlan()
        turns = cube_symmetries(self.plan.symmetries)
        self.volumes = tuple(
            _prepare(visit, edge, turns, None if negatives is None else negatives[index])
            for index, visit in enumerate(visits)
        )
        counts = [len(volume.lesions) for volume in self.volumes]
        self.ends = np.cumsum([0, *counts])
        if not self.ends[-1]:
            raise DataError("no visit holds a lesion", hint="give labelled visits with lesions")
        self._order: tuple[int, Integers] = (-1, np.zeros(0, np.int64))

    def __len__(self) -> int:
        """Batches until every lesion voxel has come once."""
        return -(-2 * int(self.ends[-1]) // self.batch)

    def places(self, index: int) -> PatchPlaces:
        """Say what batch ``index`` is cut from."""
        return self._places(index, stream(self.seed, index))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, E, E, E) and whether the middle is a lesion (B,), both float32."""
        rng = stream(self.seed, index)
        places = self._places(index, rng)
        images = self._cut(places, rng)
        present = torch.stack([volume.present for volume in self.volumes])
        images = recolour_patches(images, self.plan, rng)
        images *= present[torch.from_numpy(places.visit)].view(-1, 3, 1)
        shape = (self.batch, 3, self.edge, self.edge, self.edge)
        return images.view(shape), torch.from_numpy(places.lesion.astype(np.float32))

    def _places(self, index: int, rng: np.random.Generator) -> PatchPlaces:
        half = self.batch // 2
        drawn = self._ordinals(index * half, (index + 1) * half)
        which = np.searchsorted(self.ends, drawn, side="right") - 1
        centres = np.empty((2, half), np.int64)
        rolls = rng.random(half)
        for number in np.unique(which):
            chosen, volume = which == number, self.volumes[number]
            centres[0, chosen] = volume.lesions[drawn[chosen] - self.ends[number]]
            places = (rolls[chosen] * len(volume.others)).astype(np.int64)
            centres[1, chosen] = volume.others[places]
        lesion = np.arange(self.batch) < half
        return PatchPlaces(np.concatenate([which, which]), centres.ravel(), lesion)

    def _ordinals(self, first: int, last: int) -> Integers:
        """Lesion voxels of a stretch of the endless stream, each pass in an order of its own."""
        total = int(self.ends[-1])
        parts = []
        for turn in range(first // total, (last - 1) // total + 1):
            if self._order[0] != turn:
                seeds = np.random.SeedSequence((self.seed, turn, 1))
                order = np.random.Generator(np.random.PCG64(seeds)).permutation(total)
                self._order = (turn, order)
            begin = turn * total
            parts.append(self._order[1][max(first - begin, 0) : last - begin])
        return np.concatenate(parts)

    def _cut(self, places: PatchPlaces, rng: np.random.Generator) -> Tensor:
        """Gather all patches, shape (B, 3, edge³), each turned in its own way."""
        out = torch.empty(self.batch, 3, self.edge**3)
        turns = rng.integers(len(self.volumes[0].table), size=self.batch)
        for number in np.unique(places.visit):
            chosen, volume = np.flatnonzero(places.visit == number), self.volumes[number]
            middles = torch.from_numpy(_padded(places.centre[chosen], volume.shape, self.edge))
            read = volume.table[torch.from_numpy(turns[chosen])] + middles[:, None]
            rows = torch.from_numpy(chosen)
            for channel in range(3):
                out[rows, channel] = torch.take(volume.images[channel], read).float()
        return out


def recolour_patches(images: Tensor, plan: PatchPlan, rng: np.random.Generator) -> Tensor:
    """Change gamma, gain, brightness and noise of many patches at once; background stays.

    Parameters
    ----------
    images : Tensor of float32, shape (B, C, N)
    plan : PatchPlan
    rng : numpy Generator

    Returns
    -------
    Tensor of float32, shape (B, C, N)
        Within ±5 where changed.
    """
    chosen = torch.from_numpy(np.flatnonzero(rng.random(len(images)) < plan.share))
    if not len(chosen):
        return images
    drawn = torch.from_numpy(rng.uniform(-1, 1, (4, len(chosen), images.shape[1], 1))).float()
    gamma = torch.exp(drawn[0] * plan.gamma)
    gain, shift = 1 + drawn[1] * plan.gain, drawn[2] * plan.shift
    before = images[chosen]
    noise = torch.from_numpy(rng.standard_normal(tuple(before.shape), dtype=np.float32))
    # a power by way of its logarithm, which vectorises
    changed = (before * SIGNAL + 1.0).clamp_min_(1e-4).log_().mul_(gamma).exp_()
    changed = changed.sub_(1.0).mul_(gain / (SIGNAL * gamma)).add_(shift)
    changed = changed.add_(noise.mul_(drawn[3].abs() * plan.noise)).clamp_(-5.0, 5.0)
    out = images.clone()
    out[chosen] = torch.where(before == BACKGROUND, before, changed)
    return out


def patch_batches(
    source: PatchSource, *, first: int, last: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Stream batches ``first`` to ``last``, in order, the same with any number of workers."""
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        worker_init_fn=_one_thread,
        prefetch_factor=2 if workers else None,
    )
    yield from loader


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)


def _prepare(
    visit: LabelledVisit, edge: int, turns: Integers, negatives: NDArray[np.bool_] | None
) -> _Volume:
    x, y, z = visit.brain.shape
    margin = edge // 2
    around = ((0, 0), (margin, margin), (margin, margin), (margin, margin))
    padded = np.pad(visit.images.astype(np.float16), around, constant_values=BACKGROUND)
    lesion = visit.truth >= 0.5
    others = np.zeros(0, np.int64)
    if negatives is not None:
        others = np.flatnonzero(negatives & ~lesion)
    if not others.size:
        others = np.flatnonzero(visit.brain & ~lesion)
    if lesion.any() and not others.size:
        raise DataError(f"{visit.name} is lesion all over", hint="look at its masks")
    return _Volume(
        torch.from_numpy(padded.reshape(3, -1)),
        torch.tensor(visit.present, dtype=torch.float32),
        np.flatnonzero(lesion).astype(np.int32),
        others.astype(np.int32),
        (x, y, z),
        torch.from_numpy(_offsets(edge, turns, padded.shape[1:])),
    )


def _offsets(edge: int, turns: Integers, shape: Sequence[int]) -> Integers:
    """Flat offset of every voxel of a turned patch from its middle, shape (S, edge³)."""
    line = np.arange(edge) - edge // 2
    grid = np.stack(np.meshgrid(line, line, line, indexing="ij")).reshape(3, -1)
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    flat: Integers = np.einsum("i,sij,jn->sn", strides, turns, grid)
    return flat


def _padded(centres: Integers, shape: tuple[int, int, int], edge: int) -> Integers:
    """Flat indices into the padded grid from flat indices into the visit's own."""
    margin, wide = edge // 2, tuple(extent + 2 * (edge // 2) for extent in shape)
    places = [axis + margin for axis in np.unravel_index(centres, shape)]
    return np.ravel_multi_index(tuple(places), wide).astype(np.int64)
