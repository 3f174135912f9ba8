"""Steps that do what scanners, protocols and preparation do to images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bids_msseg.cascade.augmentation import draw
from bids_msseg.cascade.augmentation.language import IntensityOperation, Operation
from bids_msseg.cascade.augmentation.rules import axes, between, count, number, word
from bids_msseg.cascade.augmentation.sample import (
    BACKGROUND,
    SIGNAL,
    SubImage,
    from_signal,
    to_signal,
)
from bids_msseg.cascade.augmentation.standard import (
    AugmentPlan,
    drop_contrasts,
    fade_lesions,
    rotation,
    turn,
)


@dataclass(frozen=True, slots=True)
class BiasField(IntensityOperation):
    """Multiply the signal by a smooth field.

    Attributes
    ----------
    strength : (float, float)
        Standard deviation of the field's logarithm at its knots, three along each axis.
    """

    strength: tuple[float, float] = between((0, 0.15), 0, 2)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        strength = draw.amount(self.strength, rng)
        field = draw.smooth_field(1, tuple(image.shape), (3, 3, 3), rng)[0]
        return from_signal(to_signal(image) * torch.exp(strength * field))


@dataclass(frozen=True, slots=True)
class RicianNoise(IntensityOperation):
    """Noise of a magnitude image (Gudbjartsson and Patz 1995): it lifts what is dark.

    Attributes
    ----------
    sd : (float, float)
        Standard deviation in each of the two parts of the complex image.
    """

    sd: tuple[float, float] = between((0, 0.35), 0, 10)

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        real, other = draw.grain((2, *image.shape), rng) * (draw.amount(self.sd, rng) * SIGNAL)
        return from_signal(torch.hypot(to_signal(image) + real, other))


@dataclass(frozen=True, slots=True)
class ThickSlices(Operation):
    """Average thick slices along one axis and interpolate back, as from a 2-D acquisition.

    Visits that were acquired with thick slices are left alone. The first slice begins anywhere.

    Attributes
    ----------
    mm : (float, float)
        Distance from slice to slice.
    gap : float
        Largest share of that distance that is not imaged.
    axes : str
        Directions in which slices may be stacked.
    which : str
        ``all``: every contrast and the maps, so that the truth is what a rater would have drawn
        on thick slices. ``others``: T1w and T2w, each in its own way; FLAIR and maps stay.
    """

    mm: tuple[float, float] = between((3, 8), 1, 16)
    gap: float = number(0, 0, 0.8)
    axes: str = axes("xyz")
    which: str = word("all", "others")

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        if not sample.thin:
            return sample
        if self.which == "all":
            both = self._thicken(torch.cat([sample.images, sample.maps]), rng)
            return replace(sample, images=both[:3], maps=both[3:])
        flair, *others = sample.images
        thick = [self._thicken(image[None], rng)[0] for image in others]
        return replace(sample, images=torch.stack([flair, *thick]))

    def _thicken(self, volumes: Tensor, rng: np.random.Generator) -> Tensor:
        axis = draw.axis(self.axes, rng)
        spacing = draw.amount(self.mm, rng)
        covered = 1 - float(rng.uniform(0, self.gap))
        matrix = slices(int(volumes.shape[1 + axis]), spacing, covered, float(rng.random()))
        return draw.along(volumes, axis, matrix)


def slices(extent: int, spacing: float, covered: float, phase: float) -> Tensor:
    """Matrix that averages voxels into slices and interpolates linearly between them.

    Parameters
    ----------
    extent : int
        Voxels.
    spacing : float
        From slice to slice, voxels.
    covered : float
        Share of the spacing that a slice averages over.
    phase : float
        Where the first slice begins, as a share of the spacing before the first voxel.

    Returns
    -------
    Tensor of float32, shape (extent, extent)
        Every row has the sum 1, so that a constant stays one.
    """
    number = math.ceil(extent / spacing + phase)
    middles = (np.arange(number) + 0.5 - phase) * spacing
    thick = max(spacing * covered, 1e-3)
    low, high = middles[:, None] - thick / 2, middles[:, None] + thick / 2
    voxels = np.arange(extent)
    weights = np.clip(np.minimum(high, voxels + 1) - np.maximum(low, voxels), 0, None)
    seen = weights.sum(1) > 1e-6
    if not seen.any():
        # a sub-image that lies between two slices: nothing is known of what they see
        return torch.eye(extent)
    # a slice outside the sub-image is no slice of it
    weights, middles = weights[seen], middles[seen]
    weights /= weights.sum(1, keepdims=True)
    back = np.stack([np.interp(voxels + 0.5, middles, row) for row in np.eye(len(middles))], 1)
    return torch.from_numpy((back @ weights).astype(np.float32))


@dataclass(frozen=True, slots=True)
class Ghosting(IntensityOperation):
    """Add faint copies along the phase axis, as breathing or flow do; they wrap round.

    Attributes
    ----------
    strength : (float, float)
        Their signal together, as a share of the image's.
    copies : int
        Most copies; at least one is drawn.
    axes : str
        Which may be the phase axis.
    """

    strength: tuple[float, float] = between((0.02, 0.15), 0, 1)
    copies: int = count(4, 1, 16)
    axes: str = axes("xy")

    def _change(self, image: Tensor, sample: SubImage, rng: np.random.Generator) -> Tensor:
        axis = draw.axis(self.axes, rng)
        strength = draw.amount(self.strength, rng)
        copies = int(rng.integers(1, self.copies + 1))
        signal = to_signal(image) * (sample.brain > 0.5)
        ghosts = torch.zeros_like(image)
        for copy in range(1, copies + 1):
            # phases differ, so that a copy may take signal away
            sign = float(rng.choice((-1.0, 1.0)))
            shift = round(copy * image.shape[axis] / (copies + 1))
            ghosts += sign * torch.roll(signal, shift, axis)
        return image + strength / copies / SIGNAL * ghosts


@dataclass(frozen=True, slots=True)
class Motion(IntensityOperation):
    """Fill parts of k-space while the head is elsewhere (Shaw et al. 2019), by shifts alone.

    Attributes
    ----------
    mm : (float, float)
        Distance of each move.
    moves : int
        Most moves; at least one is drawn. The lines in the middle of k-space see none.
    axes : str
        Which may be the phase axis, along which the lines lie in time.
    """

    mm: tuple[float, float] = between((0.5, 3), 0, 32)
    moves: int = count(2, 1, 8)
    axes: str = axes("xy")

    def _change(self, image: Tensor, sample: SubImage, rng: np.random.Generator) -> Tensor:
        axis = draw.axis(self.axes, rng)
        extent = int(image.shape[axis])
        signal = to_signal(image) * (sample.brain > 0.5)
        lines = torch.fft.fft(signal, dim=axis)
        waves = torch.fft.fftfreq(extent)
        turns = torch.zeros(extent)
        for _ in range(int(rng.integers(1, self.moves + 1))):
            # a head that moved stays there until the highest wave numbers are read
            begin = float(rng.uniform(0.08, 0.5))
            distance = draw.amount(self.mm, rng) * float(rng.choice((-1.0, 1.0)))
            turns = turns + (waves > begin) * distance
        shape = [1, 1, 1]
        shape[axis] = extent
        moved = torch.polar(torch.ones(extent), -2 * math.pi * waves * turns).view(shape)
        seen = torch.fft.ifft(lines * moved, dim=axis).abs()
        return torch.where(sample.brain > 0.5, from_signal(seen), image)


@dataclass(frozen=True, slots=True)
class GibbsRinging(IntensityOperation):
    """Leave high wave numbers out along one axis: ripples beside edges.

    Attributes
    ----------
    keep : (float, float)
        Share of the wave numbers that is measured.
    axes : str
        Directions it may happen in.
    """

    keep: tuple[float, float] = between((0.6, 0.9), 0.1, 1)
    axes: str = axes("xyz")

    def _change(self, image: Tensor, _sample: SubImage, rng: np.random.Generator) -> Tensor:
        axis = draw.axis(self.axes, rng)
        extent = int(image.shape[axis])
        kept = np.abs(np.fft.fftfreq(extent)) <= draw.amount(self.keep, rng) / 2
        # what is linear and the same everywhere is a circulant matrix
        matrix = np.fft.ifft(np.fft.fft(np.eye(extent), axis=0) * kept[:, None], axis=0).real
        return draw.along(image, axis, torch.from_numpy(matrix.astype(np.float32)))


@dataclass(frozen=True, slots=True)
class RegistrationJitter(Operation):
    """Move T1w and T2w against FLAIR, as an imperfect registration does; maps stay with FLAIR.

    Attributes
    ----------
    mm, degrees : float
        Largest shift along, and rotation about, each axis.
    """

    mm: float = number(1, 0, 16)
    degrees: float = number(1, 0, 45)

    def needs_margin(self) -> bool:
        """Say yes."""
        return True

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        flair, *others = sample.images
        x, y, z = (int(edge) for edge in flair.shape)
        moved = [flair]
        for image in others:
            angles = np.deg2rad(rng.uniform(-self.degrees, self.degrees, 3))
            shift = rng.uniform(-self.mm, self.mm, (3, 1))
            matrix = np.hstack([rotation(angles), shift])
            moved.append(turn(image[None] - BACKGROUND, matrix, (x, y, z))[0] + BACKGROUND)
        return replace(sample, images=torch.stack(moved))


@dataclass(frozen=True, slots=True)
class BrainMaskFaults(Operation):
    """Spoil the brain mask: too small, too large, or bitten; images and maps stay.

    Attributes
    ----------
    mm : float
        Most that is taken off or put on all round.
    bites : int
        Most balls that are missing from the surface.
    bite_mm : (float, float)
        Their radius.
    """

    mm: float = number(2, 0, 10)
    bites: int = count(2, 0, 16)
    bite_mm: tuple[float, float] = between((3, 8), 0, 32)

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        brain = (sample.brain > 0.5).float()
        radius = round(float(rng.uniform(-self.mm, self.mm)))
        brain = draw.grow(brain, radius) if radius > 0 else 1 - draw.grow(1 - brain, -radius)
        surface = torch.nonzero(brain * draw.grow(1 - brain, 1))
        for _ in range(int(rng.integers(self.bites + 1)) if len(surface) else 0):
            centre = surface[int(rng.integers(len(surface)))]
            brain = brain * (_distance(brain, centre) > draw.amount(self.bite_mm, rng))
        return replace(sample, brain=brain)


def _distance(like: Tensor, centre: Tensor) -> Tensor:
    """Distance of every voxel from one, voxels."""
    squared = torch.zeros(1)
    for axis, edge in enumerate(like.shape):
        shape = [1, 1, 1]
        shape[axis] = edge
        squared = squared + (torch.arange(edge) - centre[axis]).float().square().view(shape)
    return squared.sqrt()


@dataclass(frozen=True, slots=True)
class ContrastDropout(Operation):
    """Hide T1w or T2w, so that one net serves any subset that holds FLAIR; never FLAIR.

    Attributes
    ----------
    t1w, t2w : float
        Chance of hiding each.
    """

    t1w: float = number(0.25, 0, 1)
    t2w: float = number(0.35, 0, 1)

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        plan = AugmentPlan(drop_t1w=self.t1w, drop_t2w=self.t2w)
        return replace(sample, present=drop_contrasts(sample.present, plan, rng))


@dataclass(frozen=True, slots=True)
class FadeLesions(Operation):
    """Make lesions stand out less or more, by the same share in all contrasts.

    Half of the sub-images are left alone, as with the plan of fixed form.

    Attributes
    ----------
    share : float
        Largest relative change of the contrast between lesions and what surrounds them; they
        are dimmed twice as much as they are brightened.
    """

    share: float = number(0.6, 0, 1)

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        return fade_lesions(sample, AugmentPlan(lesion=self.share), rng)
