from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.training.data.mixed import MixedDataset


class _Named(Dataset[tuple[Tensor, ...]]):
    """Items that hold the number of their source and their index."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return torch.tensor(self.number), torch.tensor(index)


def test_sources_are_drawn_with_requested_shares() -> None:
    data = MixedDataset((_Named(0), _Named(1)), (3, 1), 5)
    items = [data[index] for index in range(2000)]
    assert [int(index) for _, index in items] == list(range(2000))
    share = sum(int(number) for number, _ in items) / 2000
    assert abs(share - 0.25) < 0.05


def test_source_depends_only_on_seed_and_index() -> None:
    sources = (_Named(0), _Named(1))
    one, same, other = (MixedDataset(sources, (1, 1), seed) for seed in (5, 5, 6))
    numbers = [[int(data[index][0]) for index in range(64)] for data in (one, same, other)]
    assert numbers[0] == numbers[1] != numbers[2]
    assert [int(one[7][0]), int(one[3][0])] == [numbers[0][7], numbers[0][3]]
