"""The two networks of the cascade.

Both are small 3-D U-Nets (Çiçek et al. 2016, arXiv 1606.06650) with instance normalisation. The
candidate net reads whole sub-images and is sensitive; the refinement net looks once more at each
candidate with the first net's opinion beside the images, and says which voxels belong to it and
whether it is a lesion at all. The division of labour is that of Valverde et al. 2017
(arXiv 1702.04869); these two nets are not theirs. Their patch net can stand beside the refinement
net as a judge of single voxels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_msseg.cascade.valverde.nets import PatchNet

IMAGE_CHANNELS = 3
"""FLAIR, T1w, T2w."""
PRESENCE_CHANNELS = 3
"""One constant map a contrast: 1 where it was acquired, else 0."""
JUDGE_WIDTHS = (32, 64)


@dataclass(frozen=True, slots=True)
class NetConfig:
    """Everything needed to build a net before its weights are loaded.

    Attributes
    ----------
    kind : {"candidate", "refinement", "judge"}
        Which of the three.
    widths : tuple of int
        Feature maps at each resolution, finest first.
    norm : {"instance", "batch"}, default "instance"
        What features are normalised over: one sub-image, or all that training has seen. The first
        forgets how bright a sub-image is as a whole.
    """

    kind: str
    widths: tuple[int, ...]
    norm: str = "instance"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return asdict(self)


class ConvBlock(nn.Sequential):
    """Two 3×3×3 convolutions, each with normalisation and leaky ReLU."""

    def __init__(self, before: int, after: int, norm: str = "instance") -> None:
        layers: list[nn.Module] = []
        for incoming in (before, after):
            layers += [
                nn.Conv3d(incoming, after, 3, padding=1, bias=False),
                _normalisation(norm, after),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        super().__init__(*layers)


def _normalisation(norm: str, channels: int) -> nn.Module:
    if norm == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if norm != "batch":
        raise ValueError(f"unknown normalisation: {norm!r}")
    return nn.BatchNorm3d(channels)


class UNet(nn.Module):
    """Encoder and decoder with skip connections; returns features, not logits.

    Parameters
    ----------
    channels : int
        Input channels.
    widths : tuple of int
        Feature maps at each resolution, finest first. The input's edges must be divisible by
        ``2 ** (len(widths) - 1)``, and the coarsest features have more than one voxel.
    norm : {"instance", "batch"}
    """

    def __init__(self, channels: int, widths: tuple[int, ...], norm: str = "instance") -> None:
        super().__init__()
        steps = pairwise((channels, *widths))
        self.encoder = nn.ModuleList([ConvBlock(before, after, norm) for before, after in steps])
        self.decoder = nn.ModuleList(
            [ConvBlock(coarse + fine, fine, norm) for fine, coarse in pairwise(widths)]
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C, X, Y, Z) to finest features (N, W0, X, Y, Z) and the coarsest ones."""
        skips: list[Tensor] = []
        features = images
        for level, block in enumerate(self.encoder):
            features = block(F.max_pool3d(features, 2) if level else features)
            skips.append(features)
        coarsest = features
        for level in reversed(range(len(self.decoder))):
            grown = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = self.decoder[level](torch.cat([grown, skips[level]], 1))
        return features, coarsest


class CandidateNet(nn.Module):
    """CNN-1: dense and sensitive.

    Parameters
    ----------
    widths : tuple of int, default (16, 32, 64, 128)
        Feature maps at each resolution.
    """

    config: NetConfig

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        self.config = NetConfig("candidate", tuple(widths))
        self.unet = UNet(IMAGE_CHANNELS + PRESENCE_CHANNELS, self.config.widths)
        self.head = nn.Conv3d(widths[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images and presence maps (N, 6, X, Y, Z) to logits (N, 1, X, Y, Z)."""
        features, _ = self.unet(images)
        logits: Tensor = self.head(features)
        return logits


class RefinementNet(nn.Module):
    """CNN-2: decides on one candidate at a time.

    Channels are the six of the candidate net, then CNN-1's probability, then the mask of the
    candidate in question.

    Parameters
    ----------
    widths : tuple of int, default (16, 32, 64)
        Feature maps at each resolution.
    norm : {"instance", "batch"}, default "instance"
    """

    config: NetConfig

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64), norm: str = "instance") -> None:
        super().__init__()
        self.config = NetConfig("refinement", tuple(widths), norm)
        self.unet = UNet(IMAGE_CHANNELS + PRESENCE_CHANNELS + 2, self.config.widths, norm)
        self.head = nn.Conv3d(widths[0], 1, 1)
        self.lesion = nn.Sequential(
            nn.Linear(2 * widths[0] + widths[-1], 64), nn.LeakyReLU(0.01), nn.Linear(64, 1)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Judge candidates.

        Parameters
        ----------
        images : Tensor, shape (N, 8, X, Y, Z)
            Crops around one candidate each; the last channel is its mask.

        Returns
        -------
        voxels : Tensor, shape (N, 1, X, Y, Z)
            Logits of "belongs to a lesion".
        lesion : Tensor, shape (N,)
            Logits of "this candidate is a lesion".
        """
        features, coarsest = self.unet(images)
        candidate = images[:, -1:] > 0.5
        share = candidate.to(features.dtype)
        count = share.sum(dim=(2, 3, 4)).clamp_min(1.0)
        mean = (features * share).sum(dim=(2, 3, 4)) / count
        peak = features.masked_fill(~candidate, float("-inf")).amax(dim=(2, 3, 4))
        peak = torch.where(torch.isfinite(peak), peak, torch.zeros_like(peak))
        summary = torch.cat([mean, peak, coarsest.mean(dim=(2, 3, 4))], 1)
        return self.head(features), self.lesion(summary).squeeze(1)


class JudgeNet(PatchNet):
    """CNN-2's second member: says of single voxels of the candidates whether they are lesion.

    The patch net of Valverde et al. 2017 in its layout without padding. It sees 11 voxels around
    and brightness as it is, and no opinion of CNN-1.
    """

    config: NetConfig

    def __init__(self) -> None:
        super().__init__("valid")
        self.config = NetConfig("judge", JUDGE_WIDTHS, "batch")


Net = CandidateNet | RefinementNet | JudgeNet
"""Any net of the cascade."""


def build(config: NetConfig) -> Net:
    """Make a net of this shape with fresh weights.

    Raises
    ------
    ValueError
        If there is no such kind, or no such judge.
    """
    if config.kind == "candidate":
        return CandidateNet(config.widths)
    if config.kind == "refinement":
        return RefinementNet(config.widths, config.norm)
    if config.kind == "judge":
        if config.widths != JUDGE_WIDTHS:
            raise ValueError(f"a judge has {JUDGE_WIDTHS} feature maps, not {config.widths}")
        return JudgeNet()
    raise ValueError(f"unknown kind of net: {config.kind!r}")
