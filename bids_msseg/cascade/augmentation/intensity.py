"""Steps that change intensities; images only, in units of the brain's standard deviation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bids_msseg.cascade.augmentation import draw
from bids_msseg.cascade.augmentation.language import IntensityOperation
from bids_msseg.cascade.augmentation.rules import between, count, number
from bids_msseg.cascade.augmentation.sample import (
    BACKGROUND,
    SIGNAL,
    SubImage,
    from_signal,
    to_signal,
)

BRIGHT = 5.0
"""What salt is: as bright as images of the working grid ever are."""


@dataclass(frozen=True, slots=True)
class GaussianBlur(IntensityOperation):
    """Convolve with a Gaussian; beyond the edges the last voxel goes on.

    Attributes
    ----------
    sigma : (float, float)
        Standard deviation in voxels.
    """

    sigma: tuple[float, float] = between((0.3, 0.9), 0, 10)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        sigma = draw.amount(self.sigma, rng)
        for axis, extent in enumerate(image.shape):
            image = draw.along(image, axis, draw.gaussian(int(extent), sigma))
        return image


@dataclass(frozen=True, slots=True)
class AdditiveLaplaceNoise(IntensityOperation):
    """Add noise with longer tails than a Gaussian's.

    Attributes
    ----------
    sd : (float, float)
        Its standard deviation.
    """

    sd: tuple[float, float] = between((0, 0.35), 0, 10)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        # the difference of two exponentials has the density wanted, and the variance 2
        both = rng.standard_exponential((2, *image.shape), dtype=np.float32)
        noise = torch.from_numpy(both[0] - both[1])
        return image + draw.amount(self.sd, rng) / math.sqrt(2.0) * noise


@dataclass(frozen=True, slots=True)
class AdditivePoissonNoise(IntensityOperation):
    """Count the signal in quanta: noise that grows with the root of the signal.

    Attributes
    ----------
    sd : (float, float)
        Its standard deviation at the brain's mean.
    """

    sd: tuple[float, float] = between((0, 0.35), 0, 4)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        relative = draw.amount(self.sd, rng) * SIGNAL
        if relative < 1e-3:
            return image
        quanta = 1.0 / relative**2
        counted = rng.poisson(to_signal(image).numpy() * quanta) / quanta
        return from_signal(torch.from_numpy(counted.astype(np.float32)))


@dataclass(frozen=True, slots=True)
class GammaContrast(IntensityOperation):
    """Bend the grey scale; the brain's mean stays, and so does its scale there.

    Attributes
    ----------
    gamma : (float, float)
        Exponent of the signal.
    """

    gamma: tuple[float, float] = between((0.7, 1.4), 0.1, 10)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        gamma = draw.amount(self.gamma, rng)
        bent: Tensor = (to_signal(image).clamp_min(1e-4) ** gamma - 1.0) / (SIGNAL * gamma)
        return bent


@dataclass(frozen=True, slots=True)
class Brightness(IntensityOperation):
    """Add a constant.

    Attributes
    ----------
    shift : (float, float)
    """

    shift: tuple[float, float] = between((-0.4, 0.4), -10, 10)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        return image + draw.amount(self.shift, rng)


@dataclass(frozen=True, slots=True)
class Contrast(IntensityOperation):
    """Multiply about the brain's mean.

    Attributes
    ----------
    gain : (float, float)
    """

    gain: tuple[float, float] = between((0.75, 1.25), 0, 10)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        return image * draw.amount(self.gain, rng)


@dataclass(frozen=True, slots=True)
class CoarseDropout(IntensityOperation):
    """Set blocks to the brain's mean.

    Attributes
    ----------
    share : (float, float)
        Share of all blocks.
    edge : int
        Edge of a block in voxels.
    """

    share: tuple[float, float] = between((0, 0.1), 0, 1)
    edge: int = count(6, 1, 64)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        share = draw.amount(self.share, rng)
        blocks = tuple(-(-edge // self.edge) for edge in image.shape)
        gone = torch.from_numpy(rng.random(blocks) < share)
        for axis in range(3):
            gone = gone.repeat_interleave(self.edge, axis)
        x, y, z = image.shape
        return image.masked_fill(gone[:x, :y, :z], 0.0)


@dataclass(frozen=True, slots=True)
class Salt(IntensityOperation):
    """Make single voxels bright, 5 standard deviations.

    Attributes
    ----------
    share : (float, float)
        Share of all voxels.
    """

    share: tuple[float, float] = between((0, 0.01), 0, 1)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        return _speckle(image, draw.amount(self.share, rng), rng, BRIGHT, BRIGHT)


@dataclass(frozen=True, slots=True)
class Pepper(IntensityOperation):
    """Make single voxels dark, as dark as the background.

    Attributes
    ----------
    share : (float, float)
        Share of all voxels.
    """

    share: tuple[float, float] = between((0, 0.01), 0, 1)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        return _speckle(image, draw.amount(self.share, rng), rng, BACKGROUND, BACKGROUND)


@dataclass(frozen=True, slots=True)
class SaltAndPepper(IntensityOperation):
    """Make single voxels bright or dark, half of them each.

    Attributes
    ----------
    share : (float, float)
        Share of all voxels.
    """

    share: tuple[float, float] = between((0, 0.01), 0, 1)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        return _speckle(image, draw.amount(self.share, rng), rng, BRIGHT, BACKGROUND)


@dataclass(frozen=True, slots=True)
class Normalize(IntensityOperation):
    """Take off a mean and divide by a standard deviation, both given.

    Attributes
    ----------
    mean, sd : float
    """

    mean: float = number(0, -1e6, 1e6)
    sd: float = number(1, 1e-6, 1e6)

    def _change(self, image: Tensor, _sample: SubImage, _rng: np.random.Generator) -> Tensor:
        return (image - self.mean) / self.sd


@dataclass(frozen=True, slots=True)
class Clip(IntensityOperation):
    """Cut off what is beyond two ends.

    Attributes
    ----------
    ends : (float, float)
    """

    ends: tuple[float, float] = between((-5, 5), -1e6, 1e6)

    def _change(self, image: Tensor, _sample: SubImage, _rng: np.random.Generator) -> Tensor:
        return image.clamp(*self.ends)


@dataclass(frozen=True, slots=True)
class ToFloat32(IntensityOperation):
    """Store as float32; sub-images are, so nothing changes."""

    def _change(self, image: Tensor, _sample: SubImage, _rng: np.random.Generator) -> Tensor:
        return image.to(torch.float32)


@dataclass(frozen=True, slots=True)
class DivBy255(IntensityOperation):
    """Divide by 255, as is done with 8-bit pictures; here to translate their recipes."""

    def _change(self, image: Tensor, _sample: SubImage, _rng: np.random.Generator) -> Tensor:
        return image / 255.0


@dataclass(frozen=True, slots=True)
class ScaleTo(IntensityOperation):
    """Bring the smallest and the largest value inside the brain to two ends.

    Attributes
    ----------
    ends : (float, float)
    """

    ends: tuple[float, float] = between((0, 1), -1e6, 1e6)

    def _change(self, image: Tensor, sample: SubImage, _rng: np.random.Generator) -> Tensor:
        inside = image[sample.brain > 0.5]
        if not inside.numel():
            return image
        return _rescale(image, (float(inside.min()), float(inside.max())), self.ends)


@dataclass(frozen=True, slots=True)
class ScaleFromTo(IntensityOperation):
    """Bring two given values to two ends.

    Attributes
    ----------
    source, target : (float, float)
    """

    source: tuple[float, float] = between((-3, 5), -1e6, 1e6)
    target: tuple[float, float] = between((0, 1), -1e6, 1e6)

    def _change(self, image: Tensor, _sample: SubImage, _rng: np.random.Generator) -> Tensor:
        return _rescale(image, self.source, self.target)


def _speckle(
    image: Tensor, share: float, rng: np.random.Generator, one: float, other: float
) -> Tensor:
    """Set a share of the voxels to one value, or half of them to another."""
    roll = torch.from_numpy(rng.random(tuple(image.shape), dtype=np.float32))
    return image.masked_fill(roll < share, other).masked_fill(roll < share / 2, one)


def _rescale(image: Tensor, source: tuple[float, float], target: tuple[float, float]) -> Tensor:
    low, high = source
    if high - low < 1e-6:
        return torch.full_like(image, target[0])
    return (image - low) / (high - low) * (target[1] - target[0]) + target[0]
