from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.cascade.networks import (
    CandidateNet,
    NetConfig,
    RefinementNet,
    build,
)


def test_a_net_is_as_exact_in_float32_as_its_layout_allows() -> None:
    """A channels-last group norm sums naively on a CPU and would be off by a hundredth here."""
    made = torch.Generator().manual_seed(0)
    images = torch.full((1, 6, 64, 64, 64), -3.0)
    images[:, :, 20:44, 20:44, 20:44] = torch.randn(1, 6, 24, 24, 24, generator=made)
    torch.manual_seed(0)
    net = CandidateNet((4, 8)).eval()
    with torch.no_grad():
        quick = net(images.contiguous(memory_format=torch.channels_last_3d))
        exact = net.double()(images.double())
    torch.testing.assert_close(quick.double(), exact, rtol=0, atol=2e-4)


@given(
    edges=st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4)),
    levels=st.integers(2, 3),
    count=st.integers(1, 2),
)
def test_candidate_net_keeps_any_size_that_its_levels_divide(
    edges: tuple[int, int, int], levels: int, count: int
) -> None:
    net = CandidateNet((4, 8, 16)[:levels]).eval()
    shape = tuple(edge * 2 ** (levels - 1) for edge in edges)
    with torch.no_grad():
        logits = net(torch.randn(count, 6, *shape))
    assert logits.shape == (count, 1, *shape)
    assert torch.isfinite(logits).all()


def test_refinement_net_gives_voxels_and_one_verdict_a_candidate() -> None:
    net = RefinementNet((4, 8)).eval()
    with torch.no_grad():
        voxels, lesion = net(torch.rand(3, 8, 8, 6, 4))
    assert voxels.shape == (3, 1, 8, 6, 4)
    assert lesion.shape == (3,)


def test_refinement_net_looks_at_the_candidate_in_question() -> None:
    torch.manual_seed(0)
    net = RefinementNet((4, 8)).eval()
    one = torch.randn(1, 8, 8, 8, 8)
    one[:, -1] = 0
    other = one.clone()
    one[:, -1, 1:3, 1:3, 1:3] = 1
    other[:, -1, 5:7, 5:7, 5:7] = 1
    with torch.no_grad():
        assert net(one)[1] != net(other)[1]


def test_refinement_net_without_any_candidate_stays_finite() -> None:
    images = torch.randn(1, 8, 8, 8, 8)
    images[:, -1] = 0
    with torch.no_grad():
        _, lesion = RefinementNet((4, 8)).eval()(images)
    assert torch.isfinite(lesion).all()


def test_one_member_of_a_batch_does_not_touch_another() -> None:
    net = CandidateNet((4, 8)).eval()
    images = torch.randn(2, 6, 8, 8, 8)
    with torch.no_grad():
        together, alone = net(images), net(images[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["candidate", "refinement"])
def test_the_same_seed_builds_the_same_net(kind: str) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build(NetConfig(kind, (4, 8))).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_build_gives_back_the_config_and_refuses_unknown_kinds() -> None:
    config = NetConfig("refinement", (4, 8))
    assert build(config).config == config
    assert isinstance(build(NetConfig("candidate", (4,))), CandidateNet)
    with pytest.raises(ValueError, match="oracle"):
        build(NetConfig("oracle", (4, 8)))


def test_batch_normalisation_keeps_how_bright_a_crop_is() -> None:
    torch.manual_seed(0)
    crop = torch.randn(1, 8, 8, 8, 8)
    brighter = crop.clone()
    brighter[:, 0] += 2
    by_norm = {norm: RefinementNet((4, 8), norm).eval() for norm in ("instance", "batch")}
    features = {
        norm: [net.unet.encoder[0][1](net.unet.encoder[0][0](x)) for x in (crop, brighter)]
        for norm, net in by_norm.items()
    }
    inside = (slice(None), slice(None), *(slice(1, -1),) * 3)
    change = {n: (b[inside] - a[inside]).mean().abs() for n, (a, b) in features.items()}
    assert change["batch"] > 10 * change["instance"]


def test_an_unknown_normalisation_is_refused() -> None:
    with pytest.raises(ValueError, match="layer"):
        RefinementNet((4, 8), "layer")
