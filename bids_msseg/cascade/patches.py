"""Sub-images cut on the fly; nothing is ever materialised.

Every sub-image is a pure function of (cohort, plan, seed, index): its own random stream is derived
from the seed and its index, so an epoch is the same with any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import label_lesions

Shape = tuple[int, int, int]
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class LabelledVisit:
    """One visit as the training sees it, on the 1 mm working grid.

    Attributes
    ----------
    name : str
        ``sub-<label>[_ses-<label>]``.
    site : str
        Where it was acquired; sites are sampled in equal shares.
    images : ndarray of float16, shape (3, X, Y, Z)
        FLAIR, T1w, T2w in units of standard deviation inside the brain.
    present : tuple of bool
        Which contrasts were acquired.
    brain : ndarray of bool, shape (X, Y, Z)
    truth : ndarray of float16, shape (X, Y, Z)
        Share of each voxel that the experts call lesion.
    thick : bool
        Acquired with slices of 2 mm or more.
    """

    name: str
    site: str
    images: NDArray[np.float16]
    present: tuple[bool, bool, bool]
    brain: NDArray[np.bool_]
    truth: NDArray[np.float16]
    thick: bool


@dataclass(frozen=True, slots=True)
class Places:
    """Where sub-images of one visit may be centred, as flat indices into (X, Y, Z).

    Attributes
    ----------
    lesions : tuple of ndarray of int64
        One array of voxels a lesion.
    brain : ndarray of int64
        Voxels inside the brain.
    hard : ndarray of int64
        Voxels that an earlier net wrongly called lesion; may be empty.
    """

    lesions: tuple[NDArray[np.int64], ...]
    brain: NDArray[np.int64]
    hard: NDArray[np.int64]


def find_places(visit: LabelledVisit, hard: NDArray[np.bool_] | None = None) -> Places:
    """List the voxels at which sub-images of a visit may be centred."""
    labels = label_lesions(visit.truth >= 0.5, voxel_volume=1.0)
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(1, labels.max() + 2))
    lesions = tuple(order[begin:end].astype(np.int64) for begin, end in pairwise(starts))
    false = np.zeros(0, np.int64) if hard is None else np.flatnonzero(hard).astype(np.int64)
    return Places(lesions, np.flatnonzero(visit.brain).astype(np.int64), false)


def draw_centre(
    places: Places,
    shape: Shape,
    rng: np.random.Generator,
    *,
    lesion_share: float,
    hard_share: float,
) -> tuple[int, int, int]:
    """Draw the centre of a sub-image: on a lesion, on a hard negative, or anywhere in the brain.

    Lesions are drawn uniformly, so that a small one counts as much as a large one.
    """
    roll = rng.random()
    if roll < lesion_share and places.lesions:
        pool = places.lesions[int(rng.integers(len(places.lesions)))]
    elif roll < lesion_share + hard_share and places.hard.size:
        pool = places.hard
    else:
        pool = places.brain
    x, y, z = np.unravel_index(int(pool[int(rng.integers(pool.size))]), shape)
    return int(x), int(y), int(z)


def cut(
    volume: NDArray[Kind], centre: Sequence[int], size: Shape, *, fill: float = 0.0
) -> NDArray[Kind]:
    """Cut a box out of the last three axes; what lies outside is filled.

    Parameters
    ----------
    volume : ndarray, shape (..., X, Y, Z)
    centre : sequence of int
        Voxel that becomes ``size // 2`` of the box.
    size : tuple of int, (X, Y, Z)
    fill : float, default 0

    Returns
    -------
    ndarray, shape (..., *size)

    Examples
    --------
    >>> cut(np.arange(4.0).reshape(1, 1, 4), (0, 0, 0), (1, 1, 3), fill=-1)
    array([[[-1.,  0.,  1.]]])
    """
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


def stream(seed: int, index: int) -> np.random.Generator:
    """Return the random stream of one sub-image, independent of every other one's."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index))))


def split_into_pieces(
    labels: NDArray[np.int32], *, edge: int = 24
) -> tuple[NDArray[np.int32], tuple[tuple[slice, slice, slice], ...]]:
    """Cut large components along a lattice, so that each piece fits into one crop.

    Parameters
    ----------
    labels : ndarray of int32, shape (X, Y, Z)
        Components 1..n.
    edge : int, default 24
        A component wider than this along an axis is divided there into equal parts.

    Returns
    -------
    pieces : ndarray of int32, shape (X, Y, Z)
        Pieces 1..m; every piece lies inside one component.
    boxes : tuple of slices
        Bounding box of each piece, in order.
    """
    pieces = np.zeros_like(labels)
    boxes: list[tuple[slice, slice, slice]] = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        for part in _lattice(box, edge):
            inside = labels[part] == index
            if inside.any():
                boxes.append(_tighten(part, inside))
                pieces[part][inside] = len(boxes)
    return pieces, tuple(boxes)


def _lattice(box: tuple[slice, ...], edge: int) -> list[tuple[slice, slice, slice]]:
    cuts: list[list[slice]] = []
    for side in box:
        parts = -(-(side.stop - side.start) // edge)
        marks = np.linspace(side.start, side.stop, parts + 1).round().astype(int)
        cuts.append([slice(int(a), int(b)) for a, b in pairwise(marks)])
    return [(x, y, z) for x in cuts[0] for y in cuts[1] for z in cuts[2]]


def _tighten(
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
