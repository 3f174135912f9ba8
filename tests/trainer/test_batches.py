from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.trainer.batches import batches, item_rng


class _Drawn(Dataset[tuple[Tensor, ...]]):
    """Items that hold their index and a random number of their own."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return torch.tensor(index), torch.tensor(float(item_rng(9, index).random()))


def _indices(**given: object) -> list[list[int]]:
    known = {"first": 0, "last": 4, "batch": 2, "workers": 0, **given}
    return [items[0].tolist() for items in batches(_Drawn(), **known)]  # type: ignore[arg-type]


def _equal(one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_items_are_the_same_with_and_without_workers() -> None:
    alone = list(batches(_Drawn(), first=0, last=4, batch=2, workers=0))
    helped = list(batches(_Drawn(), first=0, last=4, batch=2, workers=2))
    assert len(alone) == 4
    assert all(_equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_batches_start_at_requested_step() -> None:
    assert _indices() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert _indices(first=3) == [[6, 7]]
    assert _indices(first=4) == []


def test_processes_share_the_batches_of_a_step() -> None:
    whole = _indices(last=2, accumulate=2)
    assert whole == [[0, 1], [2, 3], [4, 5], [6, 7]]
    shares = [_indices(last=2, accumulate=2, group=(rank, 2)) for rank in range(2)]
    assert shares == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_item_rng_depends_only_on_seed_and_index() -> None:
    values = {
        (seed, index): tuple(item_rng(seed, index).integers(2**62, size=2))
        for seed, index in product(range(6), range(6))
    }
    assert len(set(values.values())) == len(values)
    np.random.seed(1)
    assert tuple(item_rng(3, 4).integers(2**62, size=2)) == values[3, 4]
