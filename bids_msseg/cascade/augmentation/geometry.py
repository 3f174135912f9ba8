"""Steps that move the anatomy: images, brain and maps together, all by linear interpolation.

What comes in from outside is background, without brain, with maps of zero. Lengths are voxels of
the working grid, 1 mm.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bids_msseg.cascade.augmentation import draw
from bids_msseg.cascade.augmentation.language import Operation
from bids_msseg.cascade.augmentation.rules import axes, between, count, number
from bids_msseg.cascade.augmentation.sample import SubImage, apart, together
from bids_msseg.cascade.augmentation.standard import rotation, turn


@dataclass(frozen=True, slots=True)
class GeometryOperation(Operation):
    """A step that moves images, brain and maps as one."""

    def _apply(self, sample: SubImage, rng: np.random.Generator) -> SubImage:
        return apart(self._move(together(sample), rng), sample)

    @abstractmethod
    def _move(self, everything: Tensor, rng: np.random.Generator, /) -> Tensor:
        """Move all channels, shape (C, X, Y, Z)."""


@dataclass(frozen=True, slots=True)
class WideOperation(GeometryOperation):
    """A step that moves things and reads beyond the edges of what the net will see."""

    def needs_margin(self) -> bool:
        """Say yes."""
        return True


@dataclass(frozen=True, slots=True)
class Affine(WideOperation):
    """Rotate, stretch and shift by one interpolation; cheaper than one step after the other.

    Attributes
    ----------
    degrees : float
        Largest rotation about each axis.
    scale : float
        Largest relative change of size along each axis.
    shift : float
        Largest shift along each axis, voxels.
    """

    degrees: float = number(15, 0, 180)
    scale: float = number(0.15, 0, 0.9)
    shift: float = number(0, 0, 64)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        angles = np.deg2rad(rng.uniform(-self.degrees, self.degrees, 3))
        stretch = 1.0 + rng.uniform(-self.scale, self.scale, 3)
        shift = rng.uniform(-self.shift, self.shift, (3, 1))
        matrix = np.hstack([rotation(angles) @ np.diag(stretch), shift])
        return turn(everything, matrix, _edges(everything))


@dataclass(frozen=True, slots=True)
class Rotate(WideOperation):
    """Rotate about the middle.

    Attributes
    ----------
    degrees : float
        Largest rotation about each axis.
    """

    degrees: float = number(15, 0, 180)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        angles = np.deg2rad(rng.uniform(-self.degrees, self.degrees, 3))
        return turn(everything, rotation(angles), _edges(everything))


@dataclass(frozen=True, slots=True)
class ResizeDim(WideOperation):
    """Resample the whole sub-image to a number of voxels.

    Attributes
    ----------
    edge : int
        Voxels along each axis.
    """

    edge: int = count(64, 1, 512)

    def _move(self, everything: Tensor, _rng: np.random.Generator) -> Tensor:
        return _resize(everything, (self.edge, self.edge, self.edge))


@dataclass(frozen=True, slots=True)
class ResizeScale(WideOperation):
    """Resample the whole sub-image to more or fewer voxels: the anatomy grows or shrinks.

    Attributes
    ----------
    scale : (float, float)
        Voxels afterwards for each voxel before.
    """

    scale: tuple[float, float] = between((0.85, 1.15), 0.1, 10)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        factor = draw.amount(self.scale, rng)
        x, y, z = (max(1, round(edge * factor)) for edge in _edges(everything))
        return _resize(everything, (x, y, z))


@dataclass(frozen=True, slots=True)
class Mirror(GeometryOperation):
    """Exchange left and right."""

    def _move(self, everything: Tensor, _rng: np.random.Generator) -> Tensor:
        return everything.flip(1)


@dataclass(frozen=True, slots=True)
class Flip(GeometryOperation):
    """Turn one axis round.

    Attributes
    ----------
    axes : str
        Which axes may be turned round; up-down unless told otherwise.
    """

    axes: str = axes("z")

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        return everything.flip(1 + draw.axis(self.axes, rng))


@dataclass(frozen=True, slots=True)
class Transpose(GeometryOperation):
    """Exchange two axes.

    Attributes
    ----------
    axes : str
        Which axes may be exchanged, at least two.
    """

    axes: str = axes("xy")

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        first = draw.axis(self.axes, rng)
        others = "".join(axis for axis in self.axes if axis != "xyz"[first])
        if not others:
            return everything
        return everything.transpose(1 + first, 1 + draw.axis(others, rng)).contiguous()


@dataclass(frozen=True, slots=True)
class CenterCrop(WideOperation):
    """Keep the middle; edges that are shorter stay.

    Attributes
    ----------
    edge : int
        Voxels along each axis.
    """

    edge: int = count(64, 1, 512)

    def _move(self, everything: Tensor, _rng: np.random.Generator) -> Tensor:
        return _crop(everything, self.edge, (0.5, 0.5, 0.5))


@dataclass(frozen=True, slots=True)
class RandomCrop(WideOperation):
    """Keep a part from anywhere; edges that are shorter stay.

    Attributes
    ----------
    edge : int
        Voxels along each axis.
    """

    edge: int = count(64, 1, 512)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        x, y, z = rng.random(3)
        return _crop(everything, self.edge, (float(x), float(y), float(z)))


@dataclass(frozen=True, slots=True)
class GridDistortion(WideOperation):
    """Stretch and squeeze the slabs of a grid along each axis; the borders stay.

    Attributes
    ----------
    slabs : int
        Slabs along each axis.
    strength : float
        Largest relative change of the width of a slab.
    """

    slabs: int = count(5, 2, 64)
    strength: float = number(0.3, 0, 0.9)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        sources = []
        for edge in _edges(everything):
            widths = 1 + rng.uniform(-self.strength, self.strength, self.slabs)
            knots = np.concatenate([[0.0], np.cumsum(widths)]) / widths.sum()
            places = (np.arange(edge) + 0.5) / edge
            source = np.interp(places, np.linspace(0, 1, self.slabs + 1), knots)
            sources.append(torch.from_numpy((source * edge - 0.5).astype(np.float32)))
        return _sample_at(everything, torch.stack(torch.meshgrid(*sources, indexing="ij")))


@dataclass(frozen=True, slots=True)
class ElasticTransform(WideOperation):
    """Move by a smooth random field; Simard et al. 2003, with knots in place of a wide filter.

    Attributes
    ----------
    amount : (float, float)
        Standard deviation of the move along each axis, voxels. No knot moves by more than 0.4
        of the spacing, so that no two neighbours change places.
    spacing : int
        Voxels between knots.
    """

    amount: tuple[float, float] = between((0, 3), 0, 32)
    spacing: int = count(16, 4, 128)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        edges = _edges(everything)
        strength = draw.amount(self.amount, rng)
        x, y, z = (max(2, round(edge / self.spacing) + 1) for edge in edges)
        coarse = draw.grain((1, 3, x, y, z), rng) * strength
        coarse = coarse.clamp(-0.4 * self.spacing, 0.4 * self.spacing)
        field = F.interpolate(coarse, size=edges, mode="trilinear", align_corners=True)[0]
        return _sample_at(everything, _identity(edges) + field)


@dataclass(frozen=True, slots=True)
class OpticalDistortion(WideOperation):
    """Bend straight lines as a lens does, or a gradient coil towards its ends.

    Attributes
    ----------
    strength : (float, float)
        Relative change of the distance from the middle at the middle of a face; positive
        squeezes, negative stretches.
    """

    strength: tuple[float, float] = between((-0.1, 0.1), -0.3, 1)

    def _move(self, everything: Tensor, rng: np.random.Generator) -> Tensor:
        edges = _edges(everything)
        strength = draw.amount(self.strength, rng)
        middle = torch.tensor([(edge - 1) / 2 for edge in edges]).view(3, 1, 1, 1)
        offset = _identity(edges) - middle
        half = torch.tensor([edge / 2 for edge in edges]).view(3, 1, 1, 1)
        squared = ((offset / half) ** 2).sum(0)
        return _sample_at(everything, middle + offset * (1 + strength * squared))


def _edges(everything: Tensor) -> tuple[int, int, int]:
    x, y, z = everything.shape[1:]
    return int(x), int(y), int(z)


def _identity(edges: tuple[int, int, int]) -> Tensor:
    """Coordinates of every voxel, shape (3, X, Y, Z)."""
    return torch.stack(
        torch.meshgrid(*(torch.arange(edge, dtype=torch.float32) for edge in edges), indexing="ij")
    )


def _sample_at(everything: Tensor, places: Tensor) -> Tensor:
    """Read all channels at places given in voxels, shape (3, X, Y, Z)."""
    edges = torch.tensor(everything.shape[1:], dtype=torch.float32).view(3, 1, 1, 1)
    # grid_sample counts axes backwards, from -1 to 1 between the outer faces
    grid = ((2 * places + 1) / edges - 1).flip(0).movedim(0, -1)
    return F.grid_sample(everything[None], grid[None], align_corners=False)[0]


def _resize(everything: Tensor, edges: tuple[int, int, int]) -> Tensor:
    return F.interpolate(everything[None], size=edges, mode="trilinear", align_corners=False)[0]


def _crop(everything: Tensor, size: int, where: tuple[float, float, float]) -> Tensor:
    for axis, share in enumerate(where, start=1):
        spare = everything.shape[axis] - size
        if spare > 0:
            first = min(int(share * (spare + 1)), spare) if share != 0.5 else spare // 2
            everything = everything.narrow(axis, first, size)
    return everything
