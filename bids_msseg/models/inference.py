"""Sliding-window inference of CNN-1 over a whole brain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_msseg.models.engine import Engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet

__all__ = ["Prediction", "predict"]

Array = NDArray[np.float32]
Box = tuple[slice, slice, slice]
BACKGROUND = -3.0
TILE, STRIDE = 96, 64


@dataclass(frozen=True, slots=True)
class Prediction:
    """Output of CNN-1 for a brain.

    Attributes
    ----------
    lesion : ndarray of float32, shape (X, Y, Z)
        Probability at 1 mm, 0 outside the brain.
    anatomy : ndarray of float16, shape (classes, ceil(X / 2), ceil(Y / 2), ceil(Z / 2))
        Probability of each class of :class:`bids_msseg.models.anatomy.Anatomy` at 2 mm.
    """

    lesion: Array
    anatomy: NDArray[np.float16]


def tile_starts(low: int, high: int, tile: int, stride: int) -> list[int]:
    """List even starts (may be negative) of tiles that cover ``low`` to ``high`` (exclusive)."""
    first, last = 2 * (low // 2), 2 * -(-(high - tile) // 2)
    if last <= first:
        return [2 * ((first + last) // 4)]
    steps = -(-(last - first) // stride)
    return [first + 2 * round(step * (last - first) / steps / 2) for step in range(steps + 1)]


def predict(
    nets: Sequence[LesionAnatomyNet],
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    engine: Engine,
    *,
    tile: int = TILE,
    stride: int = STRIDE,
    mirror: bool = False,
) -> Prediction:
    """Run CNN-1 over a brain.

    Parameters
    ----------
    nets : sequence of LesionAnatomyNet
        Probabilities are averaged.
    images : ndarray, shape (3, X, Y, Z)
        FLAIR, T1w, T2w in units of the brain's standard deviation, 1 mm, RAS.
    present : sequence of bool
        Which contrasts were acquired.
    brain : ndarray of bool, shape (X, Y, Z)
    engine : Engine
    tile, stride : int
        Voxels; the tile's edge is divisible by 16.
    mirror : bool, default False
        Average with the left-right mirrored image.

    Returns
    -------
    Prediction
    """
    corners = _corners(brain, tile, stride)
    if not corners:
        return Prediction(
            np.zeros(brain.shape, np.float32),
            np.zeros((nets[0].config.classes, *_half_up(brain.shape)), np.float16),
        )
    window = Window.around(corners, tile)
    stack = _stacked(images, present, brain, window)
    classes = nets[0].config.classes
    lesion, norm = np.zeros(window.shape, np.float32), np.zeros(window.shape, np.float32)
    anatomy = np.zeros((classes, *_half_up(window.shape)), np.float32)
    weight = tile_weight(tile)
    coarse = weight[::2, ::2, ::2]
    for group in _batches(corners, engine.batch):
        boxes = [window.box(corner, tile) for corner in group]
        batch = torch.from_numpy(np.stack([stack[(slice(None), *box)] for box in boxes]))
        lesion_tiles, anatomy_tiles = _forward(nets, batch, engine, mirror)
        for box, fine, parts in zip(boxes, lesion_tiles, anatomy_tiles, strict=True):
            lesion[box] += fine * weight
            norm[box] += weight
            anatomy[(slice(None), *_halved(box))] += parts * coarse
    anatomy /= np.maximum(norm[::2, ::2, ::2], 1e-6)
    lesion /= np.maximum(norm, 1e-6)
    return Prediction(
        np.where(brain, window.paste(lesion, brain.shape, 1), np.float32(0)),
        window.paste(anatomy, _half_up(brain.shape), 2).astype(np.float16),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """Box that tiles cover, with even origin and shape; it may extend beyond the grid."""

    origin: tuple[int, ...]
    shape: tuple[int, ...]

    @classmethod
    def around(cls, corners: Sequence[Sequence[int]], tile: int) -> Window:
        """Return the window that encloses all tiles."""
        low, high = np.min(corners, axis=0), np.max(corners, axis=0) + tile
        return cls(tuple(map(int, low)), tuple(map(int, high - low)))

    def box(self, corner: Sequence[int], tile: int) -> Box:
        """Return the box of a tile inside the window."""
        x, y, z = (
            slice(at - low, at - low + tile) for at, low in zip(corner, self.origin, strict=True)
        )
        return x, y, z

    def overlap(self, shape: Sequence[int], step: int) -> tuple[Box, Box]:
        """Return the common box of grid and window, in each, at a voxel size of ``step``."""
        lows = [low // step for low in self.origin]
        ends = [low + edge // step for low, edge in zip(lows, self.shape, strict=True)]
        spans = [
            (max(low, 0), min(end, edge)) for low, end, edge in zip(lows, ends, shape, strict=True)
        ]
        x, y, z = (slice(*span) for span in spans)
        u, v, w = (
            slice(start - low, end - low) for (start, end), low in zip(spans, lows, strict=True)
        )
        return (x, y, z), (u, v, w)

    def paste(self, values: Array, shape: Sequence[int], step: int) -> Array:
        """Place values of the window (..., x, y, z) on the grid, with zeros elsewhere."""
        grid = np.zeros((*values.shape[:-3], *shape), np.float32)
        grid_box, window_box = self.overlap(shape, step)
        grid[(..., *grid_box)] = values[(..., *window_box)]
        return grid


def _half_up(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(-(-edge // 2) for edge in shape)


def _halved(box: Box) -> Box:
    x, y, z = (slice(part.start // 2, part.stop // 2) for part in box)
    return x, y, z


def _stacked(
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    window: Window,
) -> Array:
    """Cut out the window, set the background, and append presence maps."""
    stack = np.zeros((2 * len(present), *window.shape), np.float32)
    grid_box, window_box = window.overlap(brain.shape, 1)
    for channel, acquired in enumerate(present):
        if acquired:
            stack[channel] = BACKGROUND
            stack[(channel, *window_box)] = np.where(
                brain[grid_box], images[channel][grid_box], BACKGROUND
            )
            stack[len(present) + channel] = 1
    return stack


def _corners(brain: NDArray[np.bool_], tile: int, stride: int) -> list[tuple[int, int, int]]:
    """List the first voxels of the tiles that contain brain; they may be negative."""
    lines = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        hits = np.flatnonzero(brain.any(axis=axes))
        if not hits.size:
            return []
        lines.append(tile_starts(int(hits[0]), int(hits[-1]) + 1, tile, stride))
    return [
        (x, y, z)
        for x, y, z in product(*lines)
        if brain[tuple(slice(max(at, 0), at + tile) for at in (x, y, z))].any()
    ]


def _batches(
    corners: Sequence[tuple[int, int, int]], size: int
) -> Iterator[Sequence[tuple[int, int, int]]]:
    for start in range(0, len(corners), size):
        yield corners[start : start + size]


def tile_weight(tile: int) -> Array:
    """Weight the middle of a tile more than its rim, shape (tile, tile, tile)."""
    line = np.minimum(np.arange(tile) + 1.0, tile - np.arange(tile)) / (tile / 2)
    line = np.clip(line * 2, 0.05, 1.0)
    weight: Array = (line[:, None, None] * line[:, None] * line).astype(np.float32)
    return weight


@torch.inference_mode()
def _forward(
    nets: Sequence[LesionAnatomyNet], batch: Tensor, engine: Engine, mirror: bool
) -> tuple[Array, Array]:
    """Return mean probabilities: lesion (N, T, T, T) and anatomy (N, classes, T/2, T/2, T/2)."""
    batch = batch.to(engine.device)
    views = (False, True) if mirror else (False,)
    lesion, anatomy = torch.zeros(()), torch.zeros(())
    for net in nets:
        for flipped in views:
            with engine.autocast():
                fine, coarse = net(batch.flip(2) if flipped else batch)
            if flipped:
                fine, coarse = fine.flip(2), coarse.flip(2)
            lesion = lesion + torch.sigmoid(fine[:, 0].float()).cpu()
            anatomy = anatomy + torch.softmax(coarse.float(), 1).cpu()
    count = len(nets) * len(views)
    return (lesion / count).numpy(), (anatomy / count).numpy()
