from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bids_msseg.models.engine import Engine
from bids_msseg.training.valverde.dense import to_dense
from bids_msseg.training.valverde.inference import (
    cut_patches,
    dense_probability,
    pad_images,
    patch_probability,
    probability,
)
from bids_msseg.training.valverde.nets import PATCH, PatchNet

SHAPE = (13, 12, 14)


def _random_net(padding: str = "valid", seed: int = 0) -> PatchNet:
    """Return a net with random weights and running statistics, as after training."""
    torch.manual_seed(seed)
    net = PatchNet(padding)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.eval()


def _random_images(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (3, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("tile", [5, 32])
def test_dense_inference_equals_patchwise_up_to_border(tile: int) -> None:
    net, images, everywhere = _random_net(), _random_images(), np.ones(SHAPE, bool)
    one_by_one = patch_probability(net, images, everywhere, Engine())
    at_once = dense_probability(net, images, everywhere, Engine(), tile=tile)
    assert one_by_one.std() > 1e-3
    assert np.abs(one_by_one - at_once).max() < 1e-5


def test_voxel_gets_prediction_of_patch_centred_on_it() -> None:
    net, images = _random_net(), _random_images()
    patch = torch.from_numpy(images[:, 1:12, 0:11, 2:13])[None]
    with torch.inference_mode():
        expected = float(net(patch).softmax(1)[0, 1])
    where = np.zeros(SHAPE, bool)
    where[6, 5, 7] = True
    found = probability(net, images, where, Engine())
    assert found[6, 5, 7] == pytest.approx(expected, abs=1e-6)
    assert np.count_nonzero(found) == 1


def test_only_selected_voxels_are_classified() -> None:
    images = _random_images()
    where = np.random.default_rng(0).random(SHAPE) < 0.1
    for padding in ("valid", "same"):
        found = probability(_random_net(padding), images, where, Engine())
        np.testing.assert_array_equal(found > 0, where)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_empty_selection_gives_zero_probability(padding: str) -> None:
    nowhere = np.zeros(SHAPE, bool)
    found = probability(_random_net(padding), _random_images(), nowhere, Engine())
    assert found.shape == SHAPE
    assert not found.any()


def test_same_padding_has_no_dense_form() -> None:
    with pytest.raises(ValueError, match="pads the patch"):
        to_dense(PatchNet("same"), PATCH)


def test_patch_voxels_outside_volume_are_background() -> None:
    images = _random_images().astype(np.float16)
    corner = cut_patches(pad_images(images), np.array([0, images[0].size - 1]))
    assert corner.dtype == np.float32
    assert (corner[0, :, :5] == -3).all()
    np.testing.assert_array_equal(corner[0, :, 5:, 5:, 5:], images[:, :6, :6, :6])
    np.testing.assert_array_equal(corner[1, :, :6, :6, :6], images[:, -6:, -6:, -6:])


def _stack_layers(draws: list[tuple[bool, int, int]], size: int) -> nn.Sequential:
    """Turn drawn (convolution or pooling, kernel, stride) into a net without remainders."""
    layers: list[nn.Module] = []
    channels = 2
    for convolve, kernel, stride in draws:
        if kernel > size or (size - kernel) % stride:
            continue
        if convolve:
            layers.append(nn.Conv3d(channels, 3, kernel, stride=stride))
            channels = 3
        else:
            layers.append(nn.MaxPool3d(kernel, stride=stride))
        layers.append(nn.ReLU())
        size = (size - kernel) // stride + 1
    layers += [nn.Flatten(), nn.Dropout(), nn.Linear(channels * size**3, 4), nn.Linear(4, 1)]
    return nn.Sequential(*layers).eval()


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 3)), max_size=4),
    st.integers(4, 9),
    st.integers(0, 1000),
)
def test_dense_form_equals_original_net(
    draws: list[tuple[bool, int, int]], patch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    net = _stack_layers(draws, patch)
    volume = torch.randn(1, 2, patch + 2, patch, patch + 1)
    with torch.inference_mode():
        dense = to_dense(net, patch)(volume)
        assert dense.shape == (1, 1, 3, 1, 2)
        for x in range(3):
            for z in range(2):
                alone = net(volume[:, :, x : x + patch, :, z : z + patch])
                torch.testing.assert_close(dense[:, :, x, 0, z], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.MaxPool3d(2), "does not divide a map of 5"),
        (nn.Conv3d(1, 1, 6), "does not divide a map of 5"),
        (nn.MaxPool3d(3, stride=2, padding=1), "pads the patch"),
        (nn.Conv3d(1, 1, 3, padding="same"), "pads the patch"),
        (nn.Conv3d(1, 1, 2, dilation=2), "is dilated already"),
        (nn.Conv3d(1, 1, (3, 3, 1)), "not a cubic window"),
        (nn.InstanceNorm3d(1), "InstanceNorm3d has no dense form"),
    ],
)
def test_layers_without_dense_form_are_refused(layer: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        to_dense(nn.Sequential(layer), 5)


def test_the_dense_net_does_not_share_weights() -> None:
    net = _random_net()
    dense = to_dense(net, PATCH)
    before = dense[0].weight.clone()
    with torch.no_grad():
        net[0].weight.zero_()
    torch.testing.assert_close(dense[0].weight, before)
