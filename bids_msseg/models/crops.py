"""Crops around candidates of CNN-1, the input of CNN-2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.boxes import cut, split_into_pieces
from bids_msseg.models.inference import BACKGROUND, Array, Prediction
from bids_msseg.models.lesion_anatomy import CONTRASTS
from bids_msseg.models.lesion_refinement import COARSE, COARSE_MM, FINE, Crops

Item = tuple[Tensor, ...]
MIN_SHARE = 0.05
MIN_VOXELS = 3
"""Smaller components could not become a lesion of 3 mm³."""


@dataclass(frozen=True, slots=True)
class CropSource:
    """Prepared data of a visit from which crops of candidates are cut."""

    images: Array  # BACKGROUND outside the brain; missing contrasts are 0
    present: NDArray[np.bool_]
    anatomy: Array  # 2 mm, no background inside the brain
    coarse: Array  # images and anatomy at 4 mm
    extent: tuple[tuple[int, int], ...]  # first and last brain voxel per axis
    pieces: NDArray[np.int32]  # candidates 1..n, large ones split
    boxes: tuple[tuple[slice, slice, slice], ...]


def prepare_crops(
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    prediction: Prediction,
    threshold: float,
) -> CropSource:
    """Find candidates in a CNN-1 prediction and pool the data of the coarse crops."""
    labels = label_lesions(prediction.lesion >= threshold, voxel_volume=1.0, min_volume=MIN_VOXELS)
    pieces, boxes = split_into_pieces(labels)
    masked_images = np.where(brain, images.astype(np.float32), np.float32(BACKGROUND))
    acquired = np.asarray(present, bool)
    masked_images[~acquired] = 0
    above = np.where(
        acquired[:, None, None, None], masked_images - np.float32(BACKGROUND), np.float32(0)
    )
    anatomy = without_background(prediction.anatomy, brain)
    coarse = np.concatenate([pool(above, COARSE_MM), pool(anatomy, COARSE_MM // 2)])
    return CropSource(masked_images, acquired, anatomy, coarse, _extent(brain), pieces, boxes)


def without_background(anatomy: NDArray[np.floating], brain: NDArray[np.bool_]) -> Array:
    """Distribute the background probability inside the brain over the other classes."""
    # only the pretrained CNN-1 predicts background inside lesions: CNN-2 must not learn from it
    shares: Array = anatomy.astype(np.float32)
    inside = pool(brain[None], 2)[0] > 0.5
    shares[Anatomy.BACKGROUND][inside] = 0
    total = shares.sum(0)
    shares[:, inside] /= np.maximum(total[inside], MIN_SHARE)
    return shares


def pool(volumes: NDArray[np.floating | np.bool_], factor: int) -> Array:
    """Average blocks of (C, X, Y, Z); the last block is padded with edge values."""
    borders = [(0, 0), *((0, -edge % factor) for edge in volumes.shape[1:])]
    whole = np.pad(volumes.astype(np.float32), borders, mode="edge")
    count, x, y, z = whole.shape
    blocks = whole.reshape(count, x // factor, factor, y // factor, factor, z // factor, factor)
    mean: Array = blocks.mean((2, 4, 6))
    return mean


def _extent(brain: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    hits = [np.flatnonzero(brain.any(axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    return tuple((int(voxels[0]), int(voxels[-1])) if voxels.size else (0, 1) for voxels in hits)


def _relative_position(extent: Sequence[tuple[int, int]], coarse_centre: Sequence[int]) -> Array:
    """Return the position in the brain, 0 to 1 along each axis, of a coarse crop's voxels."""
    position = np.empty((3, COARSE, COARSE, COARSE), np.float32)
    for axis, ((low, high), at) in enumerate(zip(extent, coarse_centre, strict=True)):
        middle = (at - COARSE // 2 + np.arange(COARSE)) * COARSE_MM + (COARSE_MM - 1) / 2
        line = np.clip((middle - low) / max(high - low, 1), 0, 1)
        position[axis] = np.moveaxis(np.broadcast_to(line, (COARSE,) * 3), -1, axis)
    return position


def coarse_mark(candidate: NDArray[np.floating], even_centre: Sequence[int]) -> Array:
    """Average a candidate of the fine crop over the blocks of the surrounding coarse crop."""
    wide = np.zeros((COARSE * COARSE_MM,) * 3, np.float32)
    margin = (COARSE * COARSE_MM - FINE) // 2
    x, y, z = (
        slice(margin + at % COARSE_MM, margin + at % COARSE_MM + FINE) for at in even_centre
    )
    wide[x, y, z] = candidate
    mark: Array = pool(wide[None], COARSE_MM)[0]
    return mark


def cut_crops(source: CropSource, piece: int, centre: Sequence[int]) -> Item:
    """Cut the input of one candidate (from 0) about ``centre``, moved to even coordinates."""
    even_centre = [2 * (int(at) // 2) for at in centre]
    fine = (FINE,) * 3
    images = cut(source.images, even_centre, fine, fill=BACKGROUND)
    images[~source.present] = 0
    candidate = (cut(source.pieces, even_centre, fine) == piece + 1).astype(np.float32)
    half = cut(source.anatomy, [at // 2 for at in even_centre], (FINE // 2,) * 3).astype(
        np.float32
    )
    coarse_centre = [at // COARSE_MM for at in even_centre]
    coarse = cut(source.coarse, coarse_centre, (COARSE,) * 3)
    mark = cut(
        pool((source.pieces == piece + 1)[None, *_block_box(source, piece)], COARSE_MM)[0],
        _centre_in_box(source, piece, coarse_centre),
        (COARSE,) * 3,
    )
    images_at, anatomy_at = coarse[:CONTRASTS], coarse[CONTRASTS:]
    position = _relative_position(source.extent, coarse_centre)
    joined = np.concatenate([images_at, mark[None], anatomy_at, position]).astype(np.float32)
    arrays = (images, candidate[None], half, joined, source.present.astype(np.float32))
    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)


def _block_box(source: CropSource, piece: int) -> tuple[slice, slice, slice]:
    """Widen the box of a candidate to whole blocks of 4 mm."""
    x, y, z = (
        slice(COARSE_MM * (side.start // COARSE_MM), COARSE_MM * -(-side.stop // COARSE_MM))
        for side in source.boxes[piece]
    )
    return x, y, z


def _centre_in_box(source: CropSource, piece: int, coarse_centre: Sequence[int]) -> list[int]:
    """Return the middle of the coarse crop, in blocks from the candidate's first one."""
    return [
        at - side.start // COARSE_MM
        for at, side in zip(coarse_centre, _block_box(source, piece), strict=True)
    ]


def as_crops(items: Sequence[Tensor]) -> Crops:
    """Convert the batched tensors of :func:`cut_crops` to :class:`Crops`."""
    images, candidate, anatomy, coarse, present = items
    return Crops(images, candidate, anatomy, coarse, present)
