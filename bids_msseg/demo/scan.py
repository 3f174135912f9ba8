"""Simulated scanner: head motion between contrasts, thick oblique slices, shading and noise."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.demo.brain import smooth_field
from bids_msseg.imaging.volume import Affine, Volume

LARGEST_STORED = 4095
SHADING_MM = 90.0


@dataclass(frozen=True, slots=True)
class Protocol:
    """Acquisition parameters of one contrast (FLAIR, T1w or T2w)."""

    contrast: str
    spacing: tuple[float, float, float]  # mm along left-right, back-front, down-up
    tilt: float  # degrees about left-right
    axes: str  # stored directions, as in RAS
    offset: float  # mean / SD of the brain
    noise: float  # in SD of the brain
    shading: float  # SD of the logarithm of coil shading


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxel grid of an image, and the pose of the participant's head."""

    shape: tuple[int, int, int]
    affine: Affine  # voxels to scanner mm
    pose: Affine  # rigid, participant's mm to scanner mm


def random_pose(
    rng: np.random.Generator, *, degrees: float = 3.0, millimetres: float = 3.0
) -> Affine:
    """Draw a rigid motion (4, 4) of at most ``degrees`` and ``millimetres`` for each axis."""
    pose = np.eye(4)
    for axis, angle in enumerate(np.deg2rad(rng.uniform(-degrees, degrees, 3))):
        pose = pose @ rotation(axis, float(angle))
    pose[:3, 3] = rng.uniform(-millimetres, millimetres, 3)
    return pose


def rotation(axis: int, angle: float) -> Affine:
    """Return the matrix (4, 4) of a rotation about axis 0, 1 or 2; angle in radians."""
    matrix = np.eye(4)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[second, first] = np.sin(angle)
    matrix[first, second] = -np.sin(angle)
    return matrix


def lay_grid(
    body: NDArray[np.bool_],
    affine: Affine,
    protocol: Protocol,
    pose: Affine,
    *,
    margin: float = 6.0,
) -> Grid:
    """Define the grid of a slice stack around a body with its ``affine``, with a margin in mm."""
    stack = rotation(0, np.deg2rad(protocol.tilt))
    points = np.argwhere(body[::4, ::4, ::4]) * 4.0
    to_stack = np.linalg.inv(stack) @ pose @ affine
    stack_points = points @ to_stack[:3, :3].T + to_stack[:3, 3]
    low, high = stack_points.min(axis=0) - margin, stack_points.max(axis=0) + margin
    spacing = np.array(protocol.spacing)
    x, y, z = (int(n) for n in np.ceil((high - low) / spacing))
    grid_affine = np.diag([*spacing, 1.0])
    grid_affine[:3, 3] = low + spacing / 2
    return Grid((x, y, z), stack @ grid_affine, pose)


def average_over_voxels(array: NDArray[np.floating], affine: Affine, grid: Grid) -> Volume:
    """Average a 1 mm image over each voxel of a grid; the slice profile is a box."""
    spacing = np.linalg.norm(grid.affine[:3, :3], axis=0)
    step = max(1, int(spacing.min()))
    array, affine = _block_means(array, affine, step)
    parts = np.maximum(1, np.round(spacing / step)).astype(int)
    # voxel (i + 1/2) of the coarse grid is voxel parts * (i + 1/2) of the fine one
    fine = np.diag([*(1.0 / parts), 1.0])
    fine[:3, 3] = (1.0 / parts - 1.0) / 2
    chain = np.linalg.inv(affine) @ np.linalg.inv(grid.pose) @ grid.affine @ fine
    sampled = ndimage.affine_transform(
        array,
        chain,
        output_shape=tuple(np.array(grid.shape) * parts),
        order=1,
        mode="nearest",
        output=np.float32,
    )
    blocks = [n for pair in zip(grid.shape, parts, strict=True) for n in pair]
    return Volume(sampled.reshape(blocks).mean(axis=(1, 3, 5)), grid.affine)


def _block_means(
    array: NDArray[np.floating], affine: Affine, step: int
) -> tuple[NDArray[np.floating], Affine]:
    """Average blocks of ``step`` voxels along each axis; incomplete blocks are cut off."""
    if step == 1:
        return array, affine
    for axis, size in enumerate(array.shape):
        whole = size // step * step
        parts = [array[(*[slice(None)] * axis, slice(k, whole, step))] for k in range(step)]
        array = sum(parts[1:], start=parts[0]) / step
    coarser = affine @ np.diag([step, step, step, 1.0])
    coarser[:3, 3] += affine[:3, :3] @ np.full(3, (step - 1) / 2)
    return array, coarser


def record(clean: Volume, protocol: Protocol, rng: np.random.Generator) -> Volume:
    """Add coil shading and Rician noise to an image in SD of the brain; arbitrary units."""
    shape = clean.shape
    shading = np.exp(protocol.shading * smooth_field(rng, shape, list(SHADING_MM / clean.spacing)))
    signal = np.clip(clean.data + protocol.offset, 0.0, None) * shading
    real = signal + protocol.noise * rng.standard_normal(shape, np.float32)
    imaginary = protocol.noise * rng.standard_normal(shape, np.float32)
    unit = rng.uniform(60.0, 300.0)
    return clean.with_data((unit * np.hypot(real, imaginary)).astype(np.float32))


def reorient(volume: Volume, axes: str) -> Volume:
    """Reorder and flip the axes of an image to ``axes``, as in ``PSR``, in world coordinates."""
    current = nib.orientations.io_orientation(volume.affine)
    turn = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt(axes))
    data = nib.orientations.apply_orientation(volume.data, turn)
    back = nib.orientations.inv_ornt_aff(turn, volume.shape)
    return Volume(data, np.asarray(volume.affine @ back, np.float64))


def half_maximum(fraction: NDArray[np.floating], *, floor: float = 0.2) -> NDArray[np.bool_]:
    """Outline each lesion of at least ``floor`` at half of its largest fraction."""
    # a small lesion in thick slices fills no voxel: a fixed threshold of 0.5 would remove it
    visible = fraction >= floor
    parts, count = ndimage.label(visible, np.ones((3, 3, 3), bool))
    peaks = np.asarray(ndimage.maximum(fraction, parts, np.arange(count + 1)))
    return np.asarray(visible & (fraction >= 0.5 * peaks[parts]), bool)


def write_image(volume: Volume, path: Path, axes: str) -> None:
    """Write a non-negative image to ``.nii.gz`` as scaled 12-bit integers, stored as ``axes``."""
    slope = float(np.float32(max(float(volume.data.max()), 1e-3) / LARGEST_STORED))
    whole = np.round(volume.data / slope).astype(np.int16)
    _write(reorient(volume.with_data(whole), axes), path, slope)


def write_mask(mask: NDArray[np.bool_], grid: Grid, path: Path, axes: str) -> None:
    """Write a mask to ``.nii.gz`` as bytes; ``axes`` are those of its image."""
    _write(reorient(Volume(mask.astype(np.uint8), grid.affine), axes), path, 1.0)


def _write(volume: Volume, path: Path, slope: float) -> None:
    """Write a NIfTI-1 file with the given slope; nibabel would choose its own."""
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.data.dtype)
    header.set_data_shape(volume.shape)
    header.set_qform(volume.affine, code=1)
    header.set_sform(volume.affine, code=1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(slope, 0.0)
    header["magic"] = b"n+1"
    header["vox_offset"] = 352
    content = header.binaryblock + bytes(4) + volume.data.tobytes(order="F")
    path.parent.mkdir(parents=True, exist_ok=True)
    # no time stamp: the same seed gives the same bytes
    path.write_bytes(gzip.compress(content, compresslevel=4, mtime=0))
