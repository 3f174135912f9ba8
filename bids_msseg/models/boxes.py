"""Boxes cut out of volumes: sub-images, crops and pieces of components."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Shape = tuple[int, int, int]
Kind = TypeVar("Kind", bound=np.generic)


def cut(
    volume: NDArray[Kind], centre: Sequence[int], size: Shape, *, fill: float = 0.0
) -> NDArray[Kind]:
    """Cut a box, with ``centre`` as its voxel ``size // 2``, out of the last three axes."""
    out = np.full((*volume.shape[:-3], *size), fill, volume.dtype)
    source: list[slice] = []
    target: list[slice] = []
    for middle, edge, extent in zip(centre, size, volume.shape[-3:], strict=True):
        start = int(middle) - edge // 2
        low, high = max(start, 0), min(start + edge, extent)
        if low >= high:
            return out
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    (tx, ty, tz), (sx, sy, sz) = target, source
    out[..., tx, ty, tz] = volume[..., sx, sy, sz]
    return out


def split_into_pieces(
    labels: NDArray[np.int32], *, edge: int = 24
) -> tuple[NDArray[np.int32], tuple[tuple[slice, slice, slice], ...]]:
    """Split components wider than ``edge`` voxels; return labels 1..m of pieces and boxes."""
    pieces = np.zeros_like(labels)
    boxes: list[tuple[slice, slice, slice]] = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        for part in _split_box(box, edge):
            inside = labels[part] == index
            if inside.any():
                boxes.append(_shrink_box(part, inside))
                pieces[part][inside] = len(boxes)
    return pieces, tuple(boxes)


def _split_box(box: tuple[slice, ...], edge: int) -> list[tuple[slice, slice, slice]]:
    cuts: list[list[slice]] = []
    for side in box:
        parts = -(-(side.stop - side.start) // edge)
        marks = np.linspace(side.start, side.stop, parts + 1).round().astype(int)
        cuts.append([slice(int(a), int(b)) for a, b in pairwise(marks)])
    return [(x, y, z) for x in cuts[0] for y in cuts[1] for z in cuts[2]]


def _shrink_box(
    part: tuple[slice, slice, slice], inside: NDArray[np.bool_]
) -> tuple[slice, slice, slice]:
    x, y, z = (
        slice(side.start + int(hits[0]), side.start + int(hits[-1]) + 1)
        for side, hits in zip(
            part,
            (np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))),
            strict=True,
        )
    )
    return x, y, z
