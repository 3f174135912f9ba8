from __future__ import annotations

import pytest
import torch

from bids_msseg.training.valverde.nets import PADDINGS, PATCH, PatchNet, lesion_probability


@pytest.mark.parametrize("padding", PADDINGS)
def test_net_has_published_number_of_parameters(padding: str) -> None:
    net = PatchNet(padding)
    assert sum(weight.numel() for weight in net.parameters()) == 190_018
    assert net(torch.zeros(2, 3, PATCH, PATCH, PATCH)).shape == (2, 2)


def test_weights_of_valid_padding_load_into_same_padding() -> None:
    net = PatchNet("same")
    net.load_state_dict(PatchNet("valid").state_dict())


def test_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="valid, same, not 'reflect'"):
        PatchNet("reflect")


def test_probability_is_that_of_the_second_class() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    expected = torch.tensor([0.5, 1 / (1 + torch.e**-2)])
    torch.testing.assert_close(lesion_probability(logits), expected)
