"""Sub-images of several sources in given shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.trainer.batches import item_rng


class MixedDataset(Dataset[tuple[Tensor, ...]]):
    """Mix of datasets in given shares; item ``i`` depends only on the seed and ``i``."""

    def __init__(
        self, sources: Sequence[Dataset[Any]], shares: Sequence[float], seed: int
    ) -> None:
        self.sources, self.seed = tuple(sources), seed
        self.shares = np.asarray(shares, float) / float(np.sum(shares))

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return item ``index`` of the source that is drawn for it."""
        rng = item_rng(self.seed + 1, index)
        item: tuple[Tensor, ...] = self.sources[int(rng.choice(len(self.sources), p=self.shares))][
            index
        ]
        return item
