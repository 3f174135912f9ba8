"""Positions of a sub-image's voxels in a label map or a visit, and sampling there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_msseg.training.synthesis.fields import smooth_fields
from bids_msseg.training.synthesis.plan import Array, SynthesisPlan
from bids_msseg.training.synthesis.tissues import FAR, LabelMap, LesionDraw, Tissue

Codes = NDArray[np.uint8]
BEYOND_MM = 10
"""How far a sub-image may reach beyond the brain's box."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Sub-image of a label map; arrays of shape (S, S, S)."""

    tissue: Codes
    rim: Codes  # distance to the brain in units of 0.1 mm
    halo: Codes  # distance to the lateral ventricles in units of 0.05 mm
    share: Array  # lesion fraction
    owner: NDArray[np.int16]  # number of the lesion
    at: Array  # (3, S, S, S): position in the label map, in voxels


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (3, 3) of rotations about x, then y, then z; angles in radians."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    matrix: NDArray[np.float64] = about_z @ about_y @ about_x
    return matrix


def sample_places(
    rng: np.random.Generator, centre: Sequence[int], size: int, plan: SynthesisPlan
) -> Array:
    """Draw the positions (3, S, S, S) of a sub-image's voxels in the label map, in voxels."""
    angles = np.deg2rad(rng.uniform(-plan.rotate_deg, plan.rotate_deg, 3))
    matrix = rotation(angles) @ np.diag(1.0 + rng.uniform(-plan.scale, plan.scale, 3))
    if rng.random() < plan.flip:
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
    line = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    at = np.empty((3, size, size, size), np.float32)
    for axis in range(3):
        a, b, c = (line * np.float32(value) for value in matrix[axis])
        plane = (a[:, None] + b) + np.float32(centre[axis])
        np.add(plane[:, :, None], c, out=at[axis])
    if rng.random() < 0.6:
        at += smooth_fields(rng, size, 19.0, 3) * np.float32(rng.uniform(0, plan.warp_mm))
    return at


def nearest_voxels(
    at: Array, shape: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return flat indices of the voxels nearest to positions, and which are outside."""
    index = np.rint(at).astype(np.int32)
    out = np.zeros(index.shape[1:], bool)
    for axis, extent in enumerate(shape):
        out |= (index[axis] < 0) | (index[axis] >= extent)
        np.clip(index[axis], 0, extent - 1, out=index[axis])
    return (index[0] * shape[1] + index[1]) * shape[2] + index[2], out


def place_cube(
    at: Sequence[np.integer],
    extents: Sequence[int],
    size: int,
    margin: int,
    rng: np.random.Generator,
) -> list[int]:
    """Return a randomly shifted cube centre, near the brain ``margin`` voxels inside the edges."""
    shifts = rng.integers(-size // 4, size // 4 + 1, 3)
    reach = margin + size // 2 - BEYOND_MM
    centre: list[int] = []
    for place, shift, extent in zip(at, shifts, extents, strict=True):
        shifted, high = int(place) + int(shift), extent - reach
        centre.append(min(max(shifted, reach), high) if reach < high else extent // 2)
    return centre


def crop_label_map(label_map: LabelMap, draw: LesionDraw, at: Array) -> Crop:
    """Sample tissue, distances and lesions at the nearest voxels."""
    flat, out = nearest_voxels(at, label_map.tissue.shape)
    whole = label_map.tissue.copy()
    whole.ravel()[draw.choroid] = Tissue.CHOROID
    share, owner = np.zeros(whole.size, np.uint8), np.zeros(whole.size, np.int16)
    share[draw.voxels], owner[draw.voxels] = draw.fraction, draw.owner
    tissue, rim, halo = (
        values.ravel().take(flat) for values in (whole, label_map.rim, label_map.halo)
    )
    tissue[out], rim[out], halo[out] = Tissue.AIR, FAR, FAR
    lesion = share.take(flat).astype(np.float32) / np.float32(255)
    lesion[out] = 0
    return Crop(tissue, rim, halo, lesion, owner.take(flat), at)
