"""Patch net of Valverde et al. 2017, whose cascade consists of two of them."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor, nn

PATCH = 11
"""Edge of a patch in voxels; the net classifies its middle voxel."""
HALO = PATCH // 2
CHANNELS = 3
"""FLAIR, T1w, T2w."""
Padding = Literal["valid", "same"]
PADDINGS: tuple[str, ...] = get_args(Padding)


class PatchNet(nn.Sequential):
    """Net of two convolutions and two dense layers (Valverde et al. 2017, figure 2).

    Returns 2 logits. ``same`` is padded as in the paper; ``valid`` has an exact dense form.
    """

    def __init__(self, padding: Padding = "valid", *, dropout: float = 0.5) -> None:
        if padding not in PADDINGS:
            raise ValueError(f"a layout is one of {', '.join(PADDINGS)}, not {padding!r}")
        rim = 1 if padding == "same" else 0
        super().__init__(
            nn.Conv3d(CHANNELS, 32, 3, padding=rim),
            nn.BatchNorm3d(32),
            nn.ReLU(),
            nn.MaxPool3d(2) if padding == "same" else nn.MaxPool3d(3, stride=2),
            nn.Conv3d(32, 64, 3, padding=rim),
            nn.BatchNorm3d(64),
            nn.ReLU(),
            nn.MaxPool3d(2) if padding == "same" else nn.MaxPool3d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(64 * 2**3, 256),
            nn.ReLU(),
            nn.Linear(256, 2),
        )
        self.padding: Padding = padding


def lesion_probability(logits: Tensor) -> Tensor:
    """Map logits (N, 2, ...) to the probability of lesion (N, ...)."""
    return logits.float().softmax(1)[:, 1]
