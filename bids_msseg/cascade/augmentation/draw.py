"""Drawing amounts from the caller's random stream, and linear maps along one axis."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bids_msseg.cascade.augmentation.rules import AXES


def amount(ends: tuple[float, float], rng: np.random.Generator) -> float:
    """Draw a number between two."""
    return float(rng.uniform(*ends))


def axis(letters: str, rng: np.random.Generator) -> int:
    """Draw one of the axes named by letters; 0, 1 or 2."""
    return AXES.index(letters[int(rng.integers(len(letters)))])


def grain(edges: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Draw standard normal noise, float32."""
    return torch.from_numpy(rng.standard_normal(edges, dtype=np.float32))


def smooth_field(
    channels: int, edges: tuple[int, ...], knots: tuple[int, ...], rng: np.random.Generator
) -> Tensor:
    """Draw standard normal values at knots and interpolate between them.

    Returns
    -------
    Tensor of float32, shape (channels, *edges)
    """
    coarse = grain((1, channels, *knots), rng)
    return F.interpolate(coarse, size=edges, mode="trilinear", align_corners=True)[0]


def along(volumes: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Apply a matrix to one of the last three axes.

    Parameters
    ----------
    volumes : Tensor, shape (..., X, Y, Z)
    axis : int
        0, 1 or 2.
    matrix : Tensor, shape (N, N)
        N is the extent of that axis.
    """
    if axis == 2:
        return volumes @ matrix.T
    if axis == 1:
        return matrix @ volumes
    shape = volumes.shape
    return (matrix @ volumes.reshape(*shape[:-2], -1)).reshape(shape)


def grow(mask: Tensor, radius: int) -> Tensor:
    """Largest value within a cube of edge ``2 * radius + 1``, one axis after the other.

    Parameters
    ----------
    mask : Tensor, shape (X, Y, Z)
    radius : int
        Voxels.
    """
    grown = mask[None, None]
    for axis in range(3):
        window, padding = [1, 1, 1], [0, 0, 0]
        window[axis], padding[axis] = 2 * radius + 1, radius
        grown = F.max_pool3d(grown, window, 1, padding)
    return grown[0, 0]


def gaussian(extent: int, sigma: float) -> Tensor:
    """Matrix that blurs along an axis; beyond its ends the last voxel goes on.

    Parameters
    ----------
    extent : int
        Voxels.
    sigma : float
        Standard deviation in voxels; the kernel is cut off at four of them.

    Returns
    -------
    Tensor of float32, shape (extent, extent)
        Every row has the sum 1.
    """
    radius = max(1, int(np.ceil(4 * sigma)))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    matrix = np.zeros((extent, extent))
    rows = np.arange(extent)[:, None]
    read = np.clip(rows + offsets, 0, extent - 1)
    np.add.at(matrix, (np.broadcast_to(rows, read.shape), read), kernel / kernel.sum())
    return torch.from_numpy(matrix.astype(np.float32))
