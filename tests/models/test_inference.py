from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import predict, tile_starts, tile_weight
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet


class Echo(LesionAnatomyNet):
    """Returns the FLAIR as lesion logits and the first class of anatomy everywhere."""

    def __init__(self) -> None:
        super().__init__(LesionAnatomyConfig(widths=(2, 2)))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = images[:, :1, ::2, ::2, ::2]
        sure = torch.zeros_like(half).expand(-1, CLASSES, -1, -1, -1).clone()
        sure[:, 3] = 50.0
        return images[:, :1], sure


@given(low=st.integers(0, 60), extent=st.integers(1, 300))
def test_tiles_cover_every_voxel_and_start_at_even_ones(low: int, extent: int) -> None:
    starts = tile_starts(low, low + extent, 96, 64)
    assert all(start % 2 == 0 for start in starts)
    assert starts[0] <= low
    assert starts[-1] + 96 >= low + extent
    assert all(after - before <= 66 for before, after in pairwise(starts))


def test_the_middle_of_a_tile_weighs_more_than_its_rim() -> None:
    weight = tile_weight(16)
    assert weight[8, 8, 8] == pytest.approx(1.0)
    assert weight[0, 0, 0] < 0.02
    assert (weight > 0).all()


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shape", [(20, 23, 17), (33, 40, 16)])
def test_overlapping_tiles_reproduce_network_output(
    shape: tuple[int, int, int], mirror: bool
) -> None:
    rng = np.random.default_rng(4)
    images = rng.normal(size=(3, *shape)).astype(np.float32)
    brain = np.zeros(shape, bool)
    brain[3:-3, 2:-2, 1:-1] = True
    seen = predict(
        [Echo()], images, (True, False, True), brain, Engine(), tile=16, stride=8, mirror=mirror
    )
    expected = np.where(brain, 1 / (1 + np.exp(-images[0])), 0)
    assert np.allclose(seen.lesion, expected, atol=1e-5)
    assert seen.anatomy.shape == (CLASSES, *(-(-edge // 2) for edge in shape))
    inner = seen.anatomy[:, 3:-3, 3:-3, 3:-3]
    assert (inner.argmax(0) == 3).all()
    assert np.allclose(inner.sum(0, dtype=np.float64), 1, atol=2e-3)


def test_empty_brain_mask_has_no_lesion() -> None:
    seen = predict(
        [Echo()], np.zeros((3, 8, 8, 8)), (True,) * 3, np.zeros((8, 8, 8), bool), Engine(), tile=16
    )
    assert not seen.lesion.any()


@pytest.mark.parametrize(("low", "high", "starts"), [(10, 150, [10, 54]), (20, 60, [-8])])
def test_tile_starts_of_wide_and_narrow_brain(low: int, high: int, starts: list[int]) -> None:
    assert tile_starts(low, high, 96, 64) == starts
