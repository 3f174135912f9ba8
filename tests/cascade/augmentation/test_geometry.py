from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_msseg.cascade.augment import BACKGROUND, SubImage
from bids_msseg.cascade.augmentation import geometry
from bids_msseg.cascade.augmentation.catalogue import OPERATIONS
from bids_msseg.cascade.augmentation.geometry import GeometryOperation
from bids_msseg.cascade.augmentation.standard import turn

NAMES = sorted(name for name, kind in OPERATIONS.items() if issubclass(kind, GeometryOperation))
STILL = [
    geometry.Affine(degrees=0, scale=0),
    geometry.Rotate(degrees=0),
    geometry.ResizeScale((1, 1)),
    geometry.ResizeDim(12),
    geometry.CenterCrop(12),
    geometry.RandomCrop(12),
    geometry.GridDistortion(strength=0),
    geometry.ElasticTransform((0, 0)),
    geometry.OpticalDistortion((0, 0)),
    geometry.Transpose("x"),
]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _block(edge: int = 12) -> SubImage:
    """One pattern in images, brain and maps."""
    pattern = torch.zeros(edge, edge, edge)
    pattern[4:8, 3:7, 5:10] = 1
    images = (pattern + BACKGROUND).expand(3, -1, -1, -1).clone()
    return SubImage(images, torch.ones(3), pattern, pattern[None].clone())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(seed=st.integers(0, 200))
def test_images_brain_and_maps_move_as_one(name: str, seed: int) -> None:
    done = OPERATIONS[name]()(_block(), _rng(seed))
    for image in done.images:
        torch.testing.assert_close(image - BACKGROUND, done.maps[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(done.brain, done.maps[0], rtol=0, atol=1e-5)
    assert float(done.maps.min()) >= 0
    assert float(done.maps.max()) <= 1 + 1e-5


@pytest.mark.parametrize("step", STILL, ids=lambda step: type(step).__name__)
def test_nothing_moves_by_nothing(step, make_sample) -> None:
    sample = make_sample(12)
    done = step(sample, _rng())
    for part in ("images", "brain", "maps"):
        torch.testing.assert_close(getattr(done, part), getattr(sample, part), rtol=0, atol=3e-5)


def test_mirror_flip_and_transpose_are_exact(make_sample) -> None:
    sample = make_sample(9)
    assert torch.equal(geometry.Mirror()(sample, _rng()).maps, sample.maps.flip(1))
    assert torch.equal(geometry.Flip("z")(sample, _rng()).brain, sample.brain.flip(2))
    turned = geometry.Transpose("xz")(sample, _rng())
    assert torch.equal(turned.maps, sample.maps.transpose(1, 3))
    drawn = {
        axis
        for seed in range(20)
        for axis in range(3)
        if torch.equal(geometry.Flip("xyz")(sample, _rng(seed)).maps, sample.maps.flip(1 + axis))
    }
    assert drawn == {0, 1, 2}


def test_crops_take_the_middle_or_anywhere(make_sample) -> None:
    sample = make_sample(10)
    inner = slice(2, 8)
    assert torch.equal(
        geometry.CenterCrop(6)(sample, _rng()).maps, sample.maps[:, inner, inner, inner]
    )
    numbers = torch.arange(10.0**3).view(10, 10, 10)
    counted = replace(sample, maps=numbers[None])
    corners = {
        float(geometry.RandomCrop(8)(counted, _rng(seed)).maps[0, 0, 0, 0]) for seed in range(300)
    }
    assert corners == {
        float(100 * x + 10 * y + z) for x in range(3) for y in range(3) for z in range(3)
    }


def test_resizing_changes_the_number_of_voxels(make_sample) -> None:
    assert geometry.ResizeDim(7)(make_sample(10), _rng()).maps.shape == (2, 7, 7, 7)
    assert geometry.ResizeScale((1.5, 1.5))(make_sample(10), _rng()).brain.shape == (15, 15, 15)


def test_a_quarter_turn_and_a_shift_are_exact_on_uneven_edges() -> None:
    volume = torch.rand(1, 5, 7, 9)
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    # the result's y reads the input's -x, and its x the input's y
    done = turn(volume, quarter, (7, 5, 9))
    torch.testing.assert_close(done, volume.transpose(1, 2).flip(2), rtol=0, atol=1e-5)
    shifted = turn(volume, np.hstack([np.eye(3), [[1.0], [0], [2]]]), (5, 7, 9))
    torch.testing.assert_close(shifted[:, :4, :, :7], volume[:, 1:, :, 2:], rtol=0, atol=1e-5)


def test_shift_of_an_affine_is_in_voxels() -> None:
    sample = _block()
    centre = (torch.nonzero(sample.maps[0]).float()).mean(0)
    for seed in range(5):
        done = geometry.Affine(degrees=0, scale=0, shift=2)(sample, _rng(seed))
        mass = done.maps[0]
        grid = torch.stack(torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij"))
        moved = (grid * mass).sum((1, 2, 3)) / mass.sum() - centre
        assert 0.1 < float(moved.abs().max()) <= 2 + 1e-4


@given(strength=st.floats(0.05, 0.3), seed=st.integers(0, 50))
def test_grid_distortion_keeps_the_order_along_axes(strength: float, seed: int) -> None:
    ramp = torch.arange(20.0).view(20, 1, 1).expand(20, 20, 20)
    sample = replace(_block(20), maps=ramp[None])
    done = geometry.GridDistortion(strength=strength)(sample, _rng(seed)).maps[0]
    # up to three voxels from the faces nothing beyond them is read
    assert (done[3:-3, 10, 10].diff() > 0).all()


def test_elastic_moves_stay_below_what_would_fold() -> None:
    ramp = torch.arange(24.0).view(24, 1, 1).expand(24, 24, 24)
    sample = replace(_block(24), maps=ramp[None])
    step = geometry.ElasticTransform((30, 30), spacing=8)
    for seed in range(10):
        done = step(sample, _rng(seed)).maps[0]
        inner = (done - ramp)[6:18, 6:18, 6:18]
        assert 1 < float(inner.abs().max()) <= 0.4 * 8 + 1e-3


def test_optical_distortion_leaves_the_middle_and_moves_the_faces() -> None:
    sample = _block(13)
    ramp = torch.arange(13.0).view(13, 1, 1).expand(13, 13, 13)
    done = geometry.OpticalDistortion((-0.2, -0.2))(replace(sample, maps=ramp[None]), _rng())
    line = done.maps[0][:, 6, 6]
    assert float(line[6]) == pytest.approx(6, abs=1e-4)
    # at offset d voxels of a half edge 6.5, the place read is d (1 - 0.2 (d / 6.5)²)
    assert float(line[12]) == pytest.approx(6 + 6 * (1 - 0.2 * (6 / 6.5) ** 2), abs=1e-4)
