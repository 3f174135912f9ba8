"""Images of the viewer: NIfTI files of the brain with fewer values and voxels, as base64."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bids_msseg.bids.visit import CONTRASTS, Visit
from bids_msseg.imaging.cut import OF_VIEWER, cut_affine
from bids_msseg.imaging.volume import Affine, Volume, load_if_readable
from bids_msseg.lesions.instances import bounding_box
from bids_msseg.reports.images.drawing import image_paths

GREYS = 127
"""Grey levels: more are not visible, and a page with all 255 is larger."""
WINDOW = (0.5, 99.8)
"""Percentiles of the brain's voxels that are shown black and white."""
MAX_VOXELS = 2_500_000
"""Voxels of the brain beyond which neighbours are joined: three contrasts fit in 8 MB."""
FAINTEST_PERCENT = 5
"""Probabilities below are left out, which keeps the image small."""
Point = tuple[float, float, float]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True)
class Layer:
    """One image of the viewer, as a gzipped NIfTI-1 file in base64."""

    name: str
    base64: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Images and lesion points (world mm, RAS+) that the viewer of one visit shows."""

    layers: tuple[Layer, ...] = ()  # FLAIR first; empty if a required image is missing
    points: Mapping[tuple[str, int], Point] = field(default_factory=dict)  # by status, number
    spacing_mm: Point = (0.0, 0.0, 0.0)
    joined: bool = False  # whether voxels were merged


def read_scene(out_dir: Path, visit: Visit, contrasts: Collection[str] = CONTRASTS) -> Scene:
    """Read and reduce the intact images of one visit for the viewer."""
    files = image_paths(out_dir, visit)
    brain = load_if_readable(files["brain"])
    shown_contrasts = (contrast for contrast in CONTRASTS if contrast in contrasts)
    names = (*shown_contrasts, "lesions", "rejected", "probability")
    images = {name: image for name in names if (image := load_if_readable(files[name]))}
    if brain is None or not brain.data.any() or not {"FLAIR", "lesions"} <= set(images):
        return Scene()
    on_grid = {name: volume for name, volume in images.items() if volume.shape == brain.shape}
    return make_scene(brain, on_grid)


def make_scene(brain: Volume, images: Mapping[str, Volume]) -> Scene:
    """Crop images on the grid of a brain mask to the brain and reduce them for the viewer."""
    inside = brain.data != 0
    box = bounding_box(inside, margin=1)
    inside = inside[box]
    factors = joining(inside.shape, int(inside.sum()), brain.spacing)
    affine = cut_affine(brain.affine, [part.start for part in box], factors)
    layers = []
    for name, image in images.items():
        data = np.where(inside, image.data[box], 0)
        layers.append(Layer(name, _encode(_reduce(name, data, inside, factors), affine)))
    points = {
        (status, number): point
        for status, name in (("kept", "lesions"), ("rejected", "rejected"))
        if name in images
        for number, point in points_inside(images[name]).items()
    }
    x, y, z = (float(edge) for edge in brain.spacing * factors)
    return Scene(tuple(layers), points, (x, y, z), max(factors) > 1)


def joining(
    shape: tuple[int, ...], voxels: int, spacing: NDArray[np.float64]
) -> tuple[int, int, int]:
    """Choose how many voxels to merge along x, y and z, until few brain voxels remain."""
    factors = np.ones(3, int)
    while voxels > MAX_VOXELS * factors.prod() and (factors < shape).all():
        factors[int(np.argmin(spacing * factors))] *= 2
    x, y, z = factors.tolist()
    return (x, y, z)


def points_inside(labels: Volume) -> dict[int, Point]:
    """Find the voxel of each numbered lesion nearest its centroid, in world mm (RAS+)."""
    data = labels.data.astype(np.int32)
    points: dict[int, Point] = {}
    for number, box in enumerate(ndi.find_objects(data), start=1):
        if box is None:
            continue
        voxels = np.argwhere(data[box] == number)
        world = (voxels + [part.start for part in box]) @ labels.affine[:3, :3].T
        squared_distance = ((world - world.mean(0)) ** 2).sum(1)
        x, y, z = (
            world[int(np.argmin(np.round(squared_distance, 6)))] + labels.affine[:3, 3]
        ).tolist()
        points[number] = (round(x, 2), round(y, 2), round(z, 2))
    return points


def _reduce(
    name: str, data: NDArray[np.floating], inside: NDArray[np.bool_], factors: tuple[int, int, int]
) -> NDArray[np.integer]:
    """Reduce an image to fewer values and fewer voxels."""
    if name in CONTRASTS:
        values = data.astype(np.float64)
        low, high = np.percentile(values[inside], WINDOW)
        scaled = (values - low) / max(high - low, np.finfo(float).tiny)
        grey = np.where(inside, 1 + np.clip(scaled, 0, 1) * (GREYS - 1), 0)
        mean: NDArray[np.float64] = _blocks(grey, factors).mean(axis=(1, 3, 5))
        return np.rint(mean).astype(np.uint8)
    if name == "probability":
        percent = np.rint(100 * data)
        data = np.where(percent < FAINTEST_PERCENT, 0, percent)
    largest: NDArray[np.floating] = _blocks(data, factors).max(axis=(1, 3, 5))
    return largest.astype(np.uint8 if largest.max(initial=0) < 256 else np.int16)


def _blocks(data: NDArray[np.floating], factors: tuple[int, int, int]) -> NDArray[np.floating]:
    """View an image as blocks, shape (X, i, Y, j, Z, k); pad the last ones with zeros."""
    padding = [(0, -size % factor) for size, factor in zip(data.shape, factors, strict=True)]
    padded = np.pad(data, padding)
    shape = [
        n
        for size, factor in zip(padded.shape, factors, strict=True)
        for n in (size // factor, factor)
    ]
    return padded.reshape(shape)


def _encode(data: NDArray[np.integer], affine: Affine) -> str:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = OF_VIEWER
    image.set_sform(affine, code=1)
    packed = gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")
