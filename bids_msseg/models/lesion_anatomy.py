"""CNN-1: one U-Net that segments lesions at 1 mm and anatomy at 2 mm.

A space-to-depth stem folds blocks of 2x2x2 voxels into channels, which the lesion head unfolds.
Skip connections are added, not concatenated, which halves the decoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_msseg.models.anatomy import CLASSES

CONTRASTS = 3
"""FLAIR, T1w, T2w."""
FOLD = 2
"""Edge in voxels of the block that the stem folds into channels."""


class InstanceNorm3d(nn.Module):
    """Instance normalisation that is as fast as batch normalisation on the CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise each channel of each sample of (N, C, X, Y, Z) to mean 0 and variance 1."""
        if features.device.type != "cpu":
            return F.instance_norm(features, weight=self.weight, bias=self.bias)
        # instance_norm copies channels-last input; for one sample, batch_norm computes the same
        samples = [
            F.batch_norm(sample, None, None, self.weight, self.bias, training=True)
            for sample in features.split(1)
        ]
        return samples[0] if len(samples) == 1 else torch.cat(samples)


@dataclass(frozen=True, slots=True)
class LesionAnatomyConfig:
    """Architecture of CNN-1: feature maps at 2, 4, 8, ... mm, and classes of anatomy."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    classes: int = CLASSES

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return {"kind": "lesion-anatomy", **asdict(self)}


def _convolutions(before: int, after: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(count):
        layers += [
            nn.Conv3d(after if number else before, after, 3, padding=1, bias=False),
            InstanceNorm3d(after),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class LesionAnatomyNet(nn.Module):
    """CNN-1: U-Net with two heads; input edges are divisible by ``2 ** len(config.widths)``."""

    def __init__(self, config: LesionAnatomyConfig | None = None) -> None:
        super().__init__()
        self.config = config or LesionAnatomyConfig()
        widths = self.config.widths
        stem = CONTRASTS * FOLD**3 + CONTRASTS
        self.encoder = nn.ModuleList(
            [_convolutions(before, after, 2) for before, after in pairwise((stem, *widths))]
        )
        self.reduce = nn.ModuleList(
            [nn.Conv3d(coarse, fine, 1, bias=False) for fine, coarse in pairwise(widths)]
        )
        self.decoder = nn.ModuleList([_convolutions(fine, fine, 1) for fine in widths[:-1]])
        self.lesion = nn.Conv3d(widths[0], FOLD**3, 1)
        self.anatomy = nn.Conv3d(widths[0], self.config.classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of lesion (1 mm) and of the anatomy classes (2 mm)."""
        # images (N, 6, X, Y, Z): FLAIR, T1w, T2w in SDs of the brain, then 1 for each if acquired
        features = self._decode(self._encode(fold(images)))
        return unfold(self.lesion(features)), self.anatomy(features)

    def _encode(self, features: Tensor) -> list[Tensor]:
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            features = block(F.max_pool3d(features, 2) if level else features)
            skips.append(features)
        return skips

    def _decode(self, skips: list[Tensor]) -> Tensor:
        features = skips[-1]
        for level in reversed(range(len(self.decoder))):
            reduced = self.reduce[level](features)
            grown = F.interpolate(reduced, scale_factor=2.0, mode="nearest")
            features = self.decoder[level](grown + skips[level])
        return features


def read_network_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of CNN-1 from a training checkpoint (running mean) or a float16 file."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    weights: dict[str, Tensor] = content.get("average", content)
    return {name: value.float() for name, value in weights.items()}


def fold(images: Tensor) -> Tensor:
    """Fold 2x2x2 voxels into channels: (N, 6, X, Y, Z) to (N, 27, X / 2, Y / 2, Z / 2)."""
    count, _, x, y, z = images.shape
    blocks = images[:, :CONTRASTS].reshape(
        count, CONTRASTS, x // FOLD, FOLD, y // FOLD, FOLD, z // FOLD, FOLD
    )
    folded = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    presence = images[:, CONTRASTS:, ::FOLD, ::FOLD, ::FOLD]
    joined = torch.cat([folded, presence], 1)
    return joined.contiguous(memory_format=torch.channels_last_3d)


def unfold(logits: Tensor) -> Tensor:
    """Unfold the lesion head's 8 channels: (N, 8, X, Y, Z) to (N, 1, 2 X, 2 Y, 2 Z)."""
    count, _, x, y, z = logits.shape
    blocks = logits.reshape(count, FOLD, FOLD, FOLD, x, y, z).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(count, 1, FOLD * x, FOLD * y, FOLD * z)
