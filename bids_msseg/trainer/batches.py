"""Batches of a data set whose item ``i`` depends on a seed and ``i`` alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def batches(
    source: Dataset[tuple[Tensor, ...]],
    *,
    first: int,
    last: int,
    batch: int,
    workers: int,
    accumulate: int = 1,
    group: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the batches of steps ``first`` to ``last`` for process (rank, size) of a group."""
    rank, size = group
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


def item_rng(seed: int, index: int) -> np.random.Generator:
    """Return the random generator of one item, independent of all other items."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index))))


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
