"""A sub-image with structure in all its parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bids_msseg.cascade.augment import SubImage

MakeSample = Callable[..., SubImage]


@pytest.fixture(scope="session")
def make_sample() -> MakeSample:
    """Noise in a ball of brain, a ball of lesion beside the middle, and one more map."""

    def make(edge: int = 14, seed: int = 123, **more: object) -> SubImage:
        rng = np.random.default_rng(seed)
        line = np.linspace(-1, 1, edge)
        grid = np.stack(np.meshgrid(line, line, line, indexing="ij"))
        images = rng.standard_normal((3, edge, edge, edge), dtype=np.float32)
        brain = ((grid**2).sum(0) < 0.9).astype(np.float32)
        truth = (((grid - 0.2) ** 2).sum(0) < 0.05).astype(np.float32)
        other = rng.random((edge, edge, edge), dtype=np.float32)
        return SubImage(
            torch.from_numpy(images),
            torch.ones(3),
            torch.from_numpy(brain),
            torch.from_numpy(np.stack([truth, other])),
            **more,
        )

    return make
