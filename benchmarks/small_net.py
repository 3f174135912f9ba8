"""A cascade that takes a moment: for benchmarks of everything around the networks."""

from __future__ import annotations

from pathlib import Path

import torch

from bids_msseg.cascade.checkpoint import save_cascade
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.models.weights import OperatingPoint

WIDTHS = (4, 8)


def write_small_net(path: Path) -> Path:
    """Write weights that are set by hand: what is bright on FLAIR is a lesion.

    The first channel of the first and the last block of CNN-1 hands the image on, and the head
    cuts it; CNN-2 agrees with everything.

    Parameters
    ----------
    path : Path
        Ends with ``.safetensors``.

    Returns
    -------
    Path
        The same.
    """
    torch.manual_seed(0)
    first, second = CandidateNet(WIDTHS), RefinementNet(WIDTHS)
    with torch.no_grad():
        for block, channel in ((first.unet.encoder[0], 0), (first.unet.decoder[0], WIDTHS[1])):
            _hand_on(block[0], channel)
            _hand_on(block[3], 0)
        first.head.weight.zero_()
        first.head.weight[0, 0] = 1.5
        first.head.bias.fill_(-12.5)
        for parameter in second.parameters():
            parameter.zero_()
        second.lesion[2].bias.fill_(3.0)
    point = OperatingPoint(gate=0.05, keep=0.5, threshold=0.5)
    save_cascade(path, [first], [second], name="small", version="0", point=point)
    return path


def _hand_on(convolution: torch.nn.Module, channel: int) -> None:
    """Let the first output of a 3x3x3 convolution be one of its inputs."""
    weight = convolution.get_parameter("weight")
    weight.zero_()
    weight[0, channel, 1, 1, 1] = 1
