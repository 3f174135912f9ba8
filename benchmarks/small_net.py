"""A small, fast cascade for benchmarks and tests of everything around the networks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.checkpoint import save_cascade
from bids_msseg.models.lesion_anatomy import FOLD, LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
from bids_msseg.models.weights import CascadePoint

SUBVOXELS = FOLD**3
WIDTHS = (SUBVOXELS, SUBVOXELS)
FAINT = 2.0**-14
"""Weight that makes the variance of a feature small beside what normalisation adds to it: the
feature is then only shifted to a mean of zero, and scaled by a known number."""
NORM_EPS = 1e-5
ABOVE_MEAN = 1.6
"""FLAIR, in SD of the brain above the mean of a tile, that is passed on."""
HALF, GAIN = 2.8, 3.0
"""What is passed on where the probability is one half, and how steeply it rises there."""


def write_small_net(path: Path) -> Path:
    """Write weights that are set by hand: what is bright on FLAIR is a lesion.

    CNN-1 passes on how far FLAIR lies above the mean of a tile; its anatomy is white matter
    everywhere. CNN-2 says one half to every voxel, so what only reaches the candidate threshold
    is rejected.

    Parameters
    ----------
    path : Path
        Ends with ``.safetensors``; the model is named after it.

    Returns
    -------
    Path
        The same.
    """
    torch.manual_seed(0)
    first = LesionAnatomyNet(LesionAnatomyConfig(WIDTHS))
    second = LesionRefinementNet(LesionRefinementConfig((4, 6, 8)))
    encoder, decoder = first.encoder[0], first.decoder[0]
    with torch.no_grad():
        _pass_on(encoder[0], encoder[1], above=ABOVE_MEAN)
        _pass_on(encoder[3], encoder[4])
        _pass_on(decoder[0], decoder[1])
        first.reduce[0].weight.zero_()
        first.lesion.weight.zero_()
        for channel in range(SUBVOXELS):
            first.lesion.weight[channel, channel] = GAIN
        first.lesion.bias.fill_(-GAIN * HALF)
        first.anatomy.weight.zero_()
        first.anatomy.bias.zero_()
        first.anatomy.bias[Anatomy.WHITE_MATTER] = 5
        for parameter in second.parameters():
            parameter.zero_()
        second.lesion[2].bias.fill_(3.0)
    point = CascadePoint(0.005, refinement_weight=0.0, threshold=0.5)
    save_cascade(path, [first], second, name=path.stem, version="0", point=point)
    return path


def _pass_on(convolution: nn.Module, norm: nn.Module, *, above: float = 0.0) -> None:
    """Set a 3x3x3 convolution and its normalisation so that each output is an input.

    Only the first inputs are read: the subvoxels of FLAIR in the first block.
    """
    weight = convolution.get_parameter("weight")
    weight.zero_()
    for channel in range(len(weight)):
        weight[channel, channel, 1, 1, 1] = FAINT
    norm.get_parameter("weight").fill_(NORM_EPS**0.5 / FAINT)
    norm.get_parameter("bias").fill_(-above)
