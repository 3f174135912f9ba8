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
    """List even start voxels of tiles that cover ``low`` to ``high`` (exclusive).

    Values are for one axis; a start may be negative.

    Examples
    --------
    >>> tile_starts(10, 150, 96, 64)
    [10, 54]
    >>> tile_starts(20, 60, 96, 64)
    [-8]
    """
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
    pad = tile
    shape = tuple(2 * -(-edge // 2) + 2 * pad for edge in brain.shape)
    stack = _padded(images, present, brain, shape, pad)
    classes = nets[0].config.classes
    lesion, anatomy = np.zeros(shape, np.float32), np.zeros((classes, *_half(shape)), np.float32)
    norm = np.zeros(shape, np.float32)
    weight = tile_weight(tile)
    coarse = weight[::2, ::2, ::2]
    for group in _batches(_corners(brain, tile, stride, pad), engine.batch):
        boxes = [_box(corner, tile) for corner in group]
        batch = torch.from_numpy(np.stack([stack[(slice(None), *box)] for box in boxes]))
        seen, classed = _forward(nets, batch, engine, mirror)
        for corner, box, fine, parts in zip(group, boxes, seen, classed, strict=True):
            lesion[box] += fine * weight
            norm[box] += weight
            half = _box(_half(corner), tile // 2)
            anatomy[(slice(None), *half)] += parts * coarse
    inner = tuple(slice(pad, pad + edge) for edge in brain.shape)
    anatomy /= np.maximum(norm[::2, ::2, ::2], 1e-6)
    seen_lesion = lesion[inner] / np.maximum(norm[inner], 1e-6)
    small = tuple(slice(pad // 2, pad // 2 + -(-edge // 2)) for edge in brain.shape)
    return Prediction(
        np.where(brain, seen_lesion, np.float32(0)),
        anatomy[(slice(None), *small)].astype(np.float16),
    )


def _box(corner: Sequence[int], edge: int) -> Box:
    x, y, z = (slice(at, at + edge) for at in corner)
    return x, y, z


def _half(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(edge // 2 for edge in shape)


def _padded(
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    shape: tuple[int, ...],
    pad: int,
) -> Array:
    """Add borders, set the background, and append presence maps."""
    stack = np.zeros((2 * len(present), *shape), np.float32)
    x, y, z = (slice(pad, pad + edge) for edge in brain.shape)
    for channel, acquired in enumerate(present):
        if acquired:
            stack[channel] = BACKGROUND
            stack[channel, x, y, z] = np.where(brain, images[channel], BACKGROUND)
            stack[len(present) + channel] = 1
    return stack


def _corners(
    brain: NDArray[np.bool_], tile: int, stride: int, pad: int
) -> list[tuple[int, int, int]]:
    """List the first voxels of the tiles in which there is brain."""
    lines = []
    for axes in ((1, 2), (0, 2), (0, 1)):
        hits = np.flatnonzero(brain.any(axis=axes))
        if not hits.size:
            return []
        low, high = int(hits[0]) + pad, int(hits[-1]) + 1 + pad
        lines.append(tile_starts(low, high, tile, stride))
    corners = []
    for x, y, z in product(*lines):
        box = tuple(slice(max(at - pad, 0), max(at - pad + tile, 0)) for at in (x, y, z))
        if brain[box].any():
            corners.append((x, y, z))
    return corners


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
