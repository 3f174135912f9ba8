"""Simulated scanner: from a participant at 1 mm to images as a clinic would store them.

It simulates head motion between contrasts, oblique grids with thick slices (images and lesion
fractions are averaged over each voxel in the same way), coil shading, Rician noise, and 12-bit
storage.
"""

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
    """Acquisition parameters of one contrast (FLAIR, T1w or T2w).

    ``spacing`` is in mm along left-right, back-front, down-up; ``tilt`` is in degrees about
    left-right; ``axes`` are stored directions, as in ``RAS``. ``offset`` is mean / SD of the
    brain, ``noise`` is in SD of the brain, ``shading`` is the SD of the logarithm of coil shading.
    """

    contrast: str
    spacing: tuple[float, float, float]
    tilt: float
    axes: str
    offset: float
    noise: float
    shading: float


@dataclass(frozen=True, slots=True)
class Grid:
    """Voxel grid of an image, and the pose of the participant's head.

    ``affine`` maps voxels to scanner mm; ``pose`` is rigid and maps the participant's mm to
    scanner mm.
    """

    shape: tuple[int, int, int]
    affine: Affine
    pose: Affine


def random_pose(
    rng: np.random.Generator, *, degrees: float = 3.0, millimetres: float = 3.0
) -> Affine:
    """Draw a small rigid motion (4, 4) from the participant's mm to scanner mm.

    ``degrees`` and ``millimetres`` are the largest rotation about and shift along each axis.
    """
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
    """Define the grid of a slice stack around a body, with a margin in mm.

    ``affine`` maps voxels of ``body`` to the participant's mm, ``pose`` maps these to scanner mm.
    """
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
    """Average a 1 mm image over each voxel of a grid; the slice profile is a box.

    ``affine`` maps its voxels to the participant's mm. Images, brain and lesions are averaged
    alike, so that they stay consistent. Where no edge of the grid is shorter than 2 mm, the source
    is averaged over blocks first.
    """
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
    """Simulate the measurement of an ideal image, given in SD of the brain.

    The result has coil shading and Rician noise; it is float32, never negative, in arbitrary
    units.
    """
    shape = clean.shape
    shading = np.exp(protocol.shading * smooth_field(rng, shape, list(SHADING_MM / clean.spacing)))
    signal = np.clip(clean.data + protocol.offset, 0.0, None) * shading
    real = signal + protocol.noise * rng.standard_normal(shape, np.float32)
    imaginary = protocol.noise * rng.standard_normal(shape, np.float32)
    unit = rng.uniform(60.0, 300.0)
    return clean.with_data((unit * np.hypot(real, imaginary)).astype(np.float32))


def reorient(volume: Volume, axes: str) -> Volume:
    """Reorder and flip the axes of an image; world coordinates stay the same.

    The axes of ``volume`` must be closest to RAS+; ``axes`` are the target directions, as in
    ``PSR``.
    """
    current = nib.orientations.io_orientation(volume.affine)
    turn = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt(axes))
    data = nib.orientations.apply_orientation(volume.data, turn)
    back = nib.orientations.inv_ornt_aff(turn, volume.shape)
    return Volume(data, np.asarray(volume.affine @ back, np.float64))


def half_maximum(fraction: NDArray[np.floating], *, floor: float = 0.2) -> NDArray[np.bool_]:
    """Outline lesions at half of their largest visible fraction, as a rater does.

    Each component of at least ``floor`` is cut at half of its own maximum, because a small lesion
    in thick slices fills no voxel. For lesions that fill a voxel the cut is at 0.5.

    Examples
    --------
    >>> column = np.array([0, 0.5, 1, 1, 0.4, 0, 0, 0.1, 0.3, 0.3, 0.1, 0, 0.1]).reshape(1, 1, 13)
    >>> half_maximum(column).ravel().astype(int)
    array([0, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0])
    """
    visible = fraction >= floor
    parts, count = ndimage.label(visible, np.ones((3, 3, 3), bool))
    peaks = np.asarray(ndimage.maximum(fraction, parts, np.arange(count + 1)))
    return np.asarray(visible & (fraction >= 0.5 * peaks[parts]), bool)


def write_image(volume: Volume, path: Path, axes: str) -> None:
    """Write an image to ``.nii.gz`` as 12-bit integers with a scale factor.

    The image must not be negative, its axes closest to RAS+; ``axes`` are the stored directions.
    """
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
