from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.lesion_anatomy import (
    InstanceNorm3d,
    LesionAnatomyConfig,
    LesionAnatomyNet,
    fold,
    read_network_weights,
    unfold,
)

SMALL = LesionAnatomyConfig(widths=(4, 8))


def _images(count: int = 2, edge: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((count, 6, edge, edge, edge), generator=generator)
    images[:, 3:] = torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1, 1)
    return images


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_fast_instance_norm_equals_that_of_torch(count: int, channels_last: bool) -> None:
    """The reference is contiguous: torch 2.13's gradient is wrong for one channels-last sample."""
    ours, theirs = InstanceNorm3d(5), nn.InstanceNorm3d(5, affine=True)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)
    images, gradient = torch.randn(count, 5, 6, 7, 8) * 3 + 2, torch.randn(count, 5, 6, 7, 8)
    other = images.clone().requires_grad_()
    kept = torch.channels_last_3d if channels_last else torch.contiguous_format
    one = images.contiguous(memory_format=kept).requires_grad_()
    seen, expected = ours(one), theirs(other)
    assert torch.allclose(seen, expected, atol=1e-5)
    seen.backward(gradient.contiguous(memory_format=kept))
    expected.backward(gradient)
    for value, wanted in (
        (one.grad, other.grad),
        (ours.weight.grad, theirs.weight.grad),
        (ours.bias.grad, theirs.bias.grad),
    ):
        assert value is not None
        assert wanted is not None
        assert torch.allclose(value, wanted, atol=1e-4)


def test_fold_keeps_every_voxel_and_presence_flags() -> None:
    images = _images()
    folded = fold(images)
    assert folded.shape == (2, 27, 4, 4, 4)
    for sample, whole in zip(folded, images, strict=True):
        assert torch.equal(sample[:24].flatten().sort()[0], whole[:3].flatten().sort()[0])
    # channel 8 c + 4 i + 2 j + k is voxel (2 x + i, 2 y + j, 2 z + k) of contrast c
    assert folded[1, 8 + 4 + 1, 2, 1, 3] == images[1, 1, 5, 2, 7]
    assert torch.equal(folded[:, 24:, 0, 0, 0], images[:, 3:, 0, 0, 0])


def test_unfold_undoes_fold() -> None:
    images = _images()
    folded = fold(images)[:, :8]
    assert torch.equal(unfold(folded), images[:, :1])


def test_heads_have_the_resolutions_that_the_documentation_states() -> None:
    lesion, anatomy = LesionAnatomyNet(SMALL)(_images())
    assert lesion.shape == (2, 1, 8, 8, 8)
    assert anatomy.shape == (2, CLASSES, 4, 4, 4)


def test_samples_of_a_batch_do_not_influence_each_other() -> None:
    torch.manual_seed(2)
    net = LesionAnatomyNet(SMALL).eval()
    images = _images()
    both = net(images)[0]
    assert torch.allclose(both[1:], net(images[1:])[0], atol=1e-4)


def test_default_net_has_documented_number_of_parameters() -> None:
    net = LesionAnatomyNet()
    assert sum(weight.numel() for weight in net.parameters()) == 4_161_268


@pytest.mark.parametrize("kind", ["checkpoint", "float16"])
def test_weights_are_read_from_both_kinds_of_file(tmp_path: Path, kind: str) -> None:
    net = LesionAnatomyNet(SMALL)
    kept = net.state_dict()
    path = tmp_path / "net.pt"
    if kind == "checkpoint":
        torch.save({"average": kept, "net": {}}, path)
    else:
        torch.save({name: value.half() for name, value in kept.items()}, path)
    seen = read_network_weights(path)
    assert seen.keys() == kept.keys()
    assert all(value.dtype == torch.float32 for value in seen.values())
    assert torch.allclose(seen["lesion.weight"], kept["lesion.weight"], atol=1e-3)
