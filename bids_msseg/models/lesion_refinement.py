"""CNN-2: classification of single candidates of CNN-1 at two scales.

32 mm at 1 mm and 96 mm at 4 mm, both with CNN-1's anatomy, which shows the location. CNN-1's
lesion probability is not an input: the two networks are fused afterwards.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.lesion_anatomy import CONTRASTS, FOLD, unfold

FINE = 32
"""Edge of the fine crop in voxels of 1 mm."""
COARSE, COARSE_MM = 24, 4
"""Edge of the coarse crop in voxels, and their size in mm."""
PLACE = 3
"""Place in the brain along each axis, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class LesionRefinementConfig:
    """Architecture of CNN-2: feature maps of each branch, finest resolution first."""

    widths: tuple[int, ...] = (16, 48, 96)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON header."""
        return {"kind": "lesion-refinement", **asdict(self)}


class ConvBlock(nn.Sequential):
    """Two 3x3x3 convolutions with batch normalisation, which preserves brightness."""

    def __init__(self, before: int, after: int) -> None:
        layers: list[nn.Module] = []
        for incoming in (before, after):
            layers += [
                nn.Conv3d(incoming, after, 3, padding=1, bias=False),
                nn.BatchNorm3d(after),
                nn.LeakyReLU(0.01, inplace=True),
            ]
        super().__init__(*layers)


@dataclass(frozen=True, slots=True)
class Crops:
    """Input of CNN-2 for N candidates."""

    images: Tensor  # FLAIR, T1w, T2w in SDs of the brain, 32³ voxels at 1 mm
    candidate: Tensor  # 32³ voxels at 1 mm
    anatomy: Tensor  # 16³ voxels at 2 mm
    coarse: Tensor  # images, candidate, anatomy, place in the brain; 24³ voxels at 4 mm
    present: Tensor  # (N, 3), 1 for acquired contrasts


class LesionRefinementNet(nn.Module):
    """CNN-2: two encoders and one decoder that classify candidates; in training also voxels."""

    def __init__(self, config: LesionRefinementConfig | None = None) -> None:
        super().__init__()
        self.config = config or LesionRefinementConfig()
        widths = self.config.widths
        fine = (CONTRASTS + 1) * FOLD**3 + CLASSES + CONTRASTS
        coarse = CONTRASTS + 1 + CLASSES + PLACE + CONTRASTS
        self.fine = nn.ModuleList([ConvBlock(a, b) for a, b in pairwise((fine, *widths))])
        self.coarse = nn.ModuleList([ConvBlock(a, b) for a, b in pairwise((coarse, *widths))])
        self.join = nn.Linear(2 * widths[-1], widths[-1])
        self.decoder = nn.ModuleList(
            [ConvBlock(wide + narrow, narrow) for narrow, wide in pairwise(widths)]
        )
        self.voxels = nn.Conv3d(widths[0], FOLD**3, 1)
        self.lesion = nn.Sequential(
            nn.Linear(2 * widths[0] + 3 * widths[-1], 64), nn.LeakyReLU(0.01), nn.Linear(64, 1)
        )

    def forward(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """Return the logits of lesion per voxel (N, 1, 32, 32, 32) and per candidate (N,)."""
        skips = _encode(self.fine, _fine_input(crops))
        context = _encode(self.coarse, _coarse_input(crops))[-1]
        summary = torch.cat([context.mean((2, 3, 4)), _centre(context)], 1)
        features = skips[-1] + self.join(summary)[:, :, None, None, None]
        deepest = features.mean((2, 3, 4))
        for level in reversed(range(len(self.decoder))):
            grown = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = self.decoder[level](torch.cat([grown, skips[level]], 1))
        pooled = _over_candidate(features, F.max_pool3d(crops.candidate, FOLD))
        whole = self.lesion(torch.cat([pooled, deepest, summary], 1)).squeeze(1)
        return unfold(self.voxels(features)), whole


def _encode(blocks: nn.ModuleList, features: Tensor) -> list[Tensor]:
    skips: list[Tensor] = []
    for level, block in enumerate(blocks):
        features = block(F.max_pool3d(features, 2) if level else features)
        skips.append(features)
    return skips


def _maps(present: Tensor, like: Tensor) -> Tensor:
    return present[:, :, None, None, None].expand(-1, -1, *like.shape[2:])


def _fine_input(crops: Crops) -> Tensor:
    """Fold 1 mm voxels into channels beside the anatomy at 2 mm."""
    volumes = torch.cat([crops.images, crops.candidate], 1)
    count, channels, x, y, z = volumes.shape
    blocks = volumes.reshape(count, channels, x // 2, 2, y // 2, 2, z // 2, 2)
    folded = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)
    joined = torch.cat([folded, crops.anatomy, _maps(crops.present, folded)], 1)
    return joined.contiguous(memory_format=torch.channels_last_3d)


def _coarse_input(crops: Crops) -> Tensor:
    joined = torch.cat([crops.coarse, _maps(crops.present, crops.coarse)], 1)
    return joined.contiguous(memory_format=torch.channels_last_3d)


def _centre(features: Tensor) -> Tensor:
    """Average the middle 2x2x2 voxels, the location of the candidate."""
    x, y, z = (slice(edge // 2 - 1, edge // 2 + 1) for edge in features.shape[2:])
    return features[:, :, x, y, z].mean((2, 3, 4))


def _over_candidate(features: Tensor, candidate: Tensor) -> Tensor:
    """Return mean and maximum of each feature over the candidate, shape (N, 2 C)."""
    inside = candidate > 0.5
    share = inside.to(features.dtype)
    mean = (features * share).sum((2, 3, 4)) / share.sum((2, 3, 4)).clamp_min(1.0)
    peak = features.masked_fill(~inside, float("-inf")).amax((2, 3, 4))
    return torch.cat([mean, torch.where(torch.isfinite(peak), peak, torch.zeros_like(peak))], 1)
