"""What augmentation works on: one sub-image with its brain and its maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

BACKGROUND = -3.0
"""Value of a present contrast outside the brain."""

SIGNAL = 0.25
"""A z-score has no zero to multiply from: brain tissue varies by about a quarter of its mean."""


@dataclass(frozen=True, slots=True)
class SubImage:
    """One sub-image on its way to a net.

    Attributes
    ----------
    images : Tensor, shape (3, X, Y, Z)
        FLAIR, T1w, T2w.
    present : Tensor, shape (3,)
        1 where the contrast was acquired.
    brain : Tensor, shape (X, Y, Z)
        1 inside the brain.
    maps : Tensor, shape (M, X, Y, Z)
        What moves with the anatomy: the truth first, then whatever the net also reads.
    thin : bool, default True
        Acquired with thin slices, so that thick ones may be simulated.
    size : int, optional
        Edge in voxels that the net will read; the sub-image itself may have been cut larger, so
        that moving it brings in no empty corners.
    """

    images: Tensor
    present: Tensor
    brain: Tensor
    maps: Tensor
    thin: bool = True
    size: int | None = None

    def as_input(self) -> Tensor:
        """Images and presence maps, shape (6, X, Y, Z); background and missing contrasts set."""
        flags = self.present.view(3, 1, 1, 1)
        inside = self.brain > 0.5
        shown = torch.where(inside, self.images, torch.full_like(self.images, BACKGROUND))
        return torch.cat([shown * flags, flags.expand_as(shown)])


def together(sample: SubImage) -> Tensor:
    """Images, brain and maps as one array, shape (3 + 1 + M, X, Y, Z), zero in the background."""
    return torch.cat([sample.images - BACKGROUND, sample.brain[None], sample.maps])


def apart(everything: Tensor, sample: SubImage) -> SubImage:
    """Undo :func:`together`; what is not an array is taken from ``sample``."""
    return replace(
        sample, images=everything[:3] + BACKGROUND, brain=everything[3], maps=everything[4:]
    )


def fit(sample: SubImage, size: int) -> SubImage:
    """Crop or pad every edge to ``size`` voxels about the middle.

    What is added is background, without brain, with maps of zero.
    """
    edges = tuple(sample.brain.shape)
    if edges == (size, size, size):
        return sample
    borders: list[int] = []
    for edge in reversed(edges):
        # negative borders crop; rounding towards zero lets a crop undo a padding
        before = int((size - edge) / 2)
        borders += [before, size - edge - before]
    return apart(F.pad(together(sample), borders), sample)


def to_signal(image: Tensor) -> Tensor:
    """Intensities in units of the brain's mean, never negative, from units of its deviation."""
    return (image * SIGNAL + 1.0).clamp_min(0.0)


def from_signal(signal: Tensor) -> Tensor:
    """Undo :func:`to_signal` where nothing was clipped."""
    return (signal - 1.0) / SIGNAL
