"""Probabilities of a patch net at chosen voxels, by single patches or whole tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.lesions.instances import bounding_box
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import BACKGROUND
from bids_msseg.training.valverde.dense import to_dense
from bids_msseg.training.valverde.nets import HALO, PATCH, PatchNet, lesion_probability

TILE = 32
"""Edge of a tile: 256 maps of it take 34 MB in float32."""
Images = NDArray[np.floating[Any]]
Array = NDArray[np.float32]


def fill_missing_contrasts(
    images: Images, present: Sequence[bool], brain: NDArray[np.bool_]
) -> Images:
    """Fill missing contrasts with the mean of the brain (0) inside, background outside."""
    filled = images.copy()
    filled[~np.array(present)] = np.where(brain, 0, BACKGROUND).astype(images.dtype)
    return filled


def pad_images(images: Images) -> Images:
    """Pad images (3, X, Y, Z) by half a patch of background, 5 voxels on each side."""
    sides = ((0, 0), *((HALO, HALO) for _ in range(3)))
    return np.pad(images, sides, constant_values=BACKGROUND)


def cut_patches(padded: Images, voxels: NDArray[np.int64]) -> Array:
    """Cut patches (N, 3, 11, 11, 11) around voxels, flat indices into the unpadded (X, Y, Z)."""
    shape = tuple(edge - 2 * HALO for edge in padded.shape[1:])
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, (PATCH, PATCH, PATCH), axis=(1, 2, 3)
    )
    x, y, z = np.unravel_index(voxels, shape)
    return np.ascontiguousarray(windows[:, x, y, z].swapaxes(0, 1), dtype=np.float32)


def probability(
    net: PatchNet, images: Images, mask: NDArray[np.bool_], engine: Engine, *, batch: int = 512
) -> Array:
    """Return the lesion probability (X, Y, Z) of chosen voxels and 0 elsewhere."""
    if net.padding == "valid":
        return dense_probability(net, images, mask, engine)
    return patch_probability(net, images, mask, engine, batch=batch)


@torch.inference_mode()
def patch_probability(
    net: PatchNet, images: Images, mask: NDArray[np.bool_], engine: Engine, *, batch: int = 512
) -> Array:
    """Classify chosen voxels one patch each; see :func:`probability`."""
    net = net.to(engine.device).eval()
    padded = pad_images(images)
    voxels = np.flatnonzero(mask)
    probabilities = np.zeros(mask.size, np.float32)
    for start in range(0, voxels.size, batch):
        chosen = voxels[start : start + batch]
        patches = torch.from_numpy(cut_patches(padded, chosen)).to(engine.device)
        with engine.autocast():
            logits = net(patches.contiguous(memory_format=torch.channels_last_3d))
        probabilities[chosen] = lesion_probability(logits).cpu().numpy()
    return probabilities.reshape(mask.shape)


@torch.inference_mode()
def dense_probability(
    net: PatchNet,
    images: Images,
    mask: NDArray[np.bool_],
    engine: Engine,
    *,
    tile: int = TILE,
) -> Array:
    """Classify chosen voxels by tiles, skipping empty tiles; see :func:`probability`."""
    dense = to_dense(net, PATCH).to(engine.device)
    dense = dense.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    padded = pad_images(images)
    probabilities = np.zeros(mask.shape, np.float32)
    for box in _tiles(mask, tile):
        wide = tuple(slice(side.start, side.stop + 2 * HALO) for side in box)
        inputs = torch.from_numpy(padded[(slice(None), *wide)].astype(np.float32))[None]
        with engine.autocast():
            logits = dense(
                inputs.to(engine.device).contiguous(memory_format=torch.channels_last_3d)
            )
        probabilities[box] = lesion_probability(logits)[0].cpu().numpy()
    return np.where(mask, probabilities, np.float32(0))


def _tiles(mask: NDArray[np.bool_], tile: int) -> Iterator[tuple[slice, slice, slice]]:
    """Divide the box around chosen voxels into tiles; skip tiles without chosen voxels."""
    lines = [
        [slice(at, min(at + tile, side.stop)) for at in range(side.start, side.stop, tile)]
        for side in bounding_box(mask)
    ]
    for x, y, z in product(*lines):
        if mask[x, y, z].any():
            yield x, y, z
