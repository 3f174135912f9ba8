"""Lesions of known size, location and contrast, painted into the white matter of a visit.

A lesion adds a share of the contrast of the visit's own lesions, blurred as by the scan's voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.errors import DataError
from bids_msseg.imaging.normalise import CLIP
from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.lesions.regions import Region, RegionAnatomy
from bids_msseg.models.anatomy import Anatomy as Tissue
from bids_msseg.training.synthesis.painting import paint
from bids_msseg.training.synthesis.placing import Terrain, place_volumes, prepare_terrain
from bids_msseg.training.synthesis.shapes import Lesion, LesionMap, compose

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
SIZES_MM3: Final = ((3.0, 10.0), (10.0, 50.0), (50.0, 200.0), (200.0, 1000.0))
"""Volumes that are painted: one lesion of each class in each region and draw."""
SIZE_LEVELS: Final = ("3-10", "10-50", "50-200", ">200")
STRENGTHS: Final = (0.4, 0.7, 1.0)
"""Shares of the contrast of the visit's own lesions; three draws paint all in every class."""
HALO_MM: Final = 4
"""Width of the faint rim and of the soft edge of a painted lesion."""
BLUR_SDS: Final = 3
"""Standard deviations of the blur after which nothing is added."""
HOSTS: Final = (Tissue.WHITE_MATTER, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A visit to paint lesions into, on the 1 mm working grid."""

    images: Array  # (3, X, Y, Z): FLAIR, T1w, T2w in standard deviations of the brain
    present: tuple[bool, bool, bool]
    brain: Mask
    terrain: Terrain  # white matter without lesions
    contrast: Array  # (3,): what own lesions add to each contrast
    blur: NDArray[np.float64]  # (3, 3): voxel_blur of each contrast


@dataclass(frozen=True, slots=True)
class Painted:
    """A visit with painted lesions."""

    images: Array
    lesions: LesionMap  # only the painted ones
    strengths: tuple[float, ...]  # shares of the contrast of the visit's own lesions
    added: tuple[float, ...]  # mean change of FLAIR in each lesion, in SD of the brain
    support: Mask  # where the images differ from those of the canvas


def size_level(volume_mm3: float) -> str:
    """Return the size class of a lesion volume; an edge belongs to the larger class."""
    return SIZE_LEVELS[_size_class(volume_mm3)]


def _size_class(volume_mm3: float) -> int:
    return sum(volume_mm3 >= low for low, _ in SIZES_MM3[1:])


def voxel_blur(image: Volume, to_flair: Affine, grid: Affine) -> NDArray[np.float64]:
    """Return the blur of scan voxels on the 1 mm grid, as SDs in voxels (x, y, z)."""
    # the model is that of imaging.resample.smooth_before_coarser
    axes = (inverse(grid) @ to_flair @ image.affine)[:3, :3]
    edges = np.linalg.norm(axes, axis=0)
    variance = np.clip(edges**2 - 1, 0, None) / 4
    blur: NDArray[np.float64] = np.sqrt((axes / edges) ** 2 @ variance)
    return blur


def find_terrain(
    tissue: NDArray[np.integer], anatomy: NDArray[np.integer], blocked: Mask
) -> Terrain:
    """Find lesion-free white matter to paint into; raises DataError if there is none."""
    white = np.isin(tissue, HOSTS) & ~blocked
    fluid = (anatomy == RegionAnatomy.VENTRICLE) | (tissue == Tissue.VENTRICLE)
    if not (white & ~fluid).any():
        raise DataError(
            "no lesion-free white matter found to paint lesions into",
            hint="check the lesion mask and the brain mask of this visit, or leave it out",
        )
    terrain = prepare_terrain(
        white, fluid, anatomy == RegionAnatomy.CORTEX, anatomy == RegionAnatomy.INFRATENTORIAL
    )
    return replace(terrain, tissue=terrain.tissue & ~blocked)


def paint_draw(canvas: Canvas, draw: int, rng: np.random.Generator) -> Painted:
    """Paint one lesion of each size class in each region, as far as there is room."""
    lesions = _place(canvas.terrain, rng)
    strengths = tuple(
        _strength(lesion, volume, draw)
        for lesion, volume in zip(lesions.lesions, lesions.volumes.tolist(), strict=True)
    )
    contrasts = np.outer(np.array(strengths), canvas.contrast)
    added = paint(canvas.images, lesions, contrasts, rng, within=canvas.brain) - canvas.images
    support = _support(lesions.labels, canvas.blur) & canvas.brain
    images = canvas.images.copy()
    for channel in np.flatnonzero(canvas.present):
        blurred = ndimage.gaussian_filter(added[channel], canvas.blur[channel])
        added[channel] = np.where(support, blurred, 0)
        changed = images[channel][support] + added[channel][support]
        images[channel][support] = np.clip(changed, -CLIP, CLIP)
    return Painted(images, lesions, strengths, _means(added[0], lesions), support)


def _means(added: Array, lesions: LesionMap) -> tuple[float, ...]:
    if not lesions.lesions:
        return ()
    numbers = np.arange(1, len(lesions.lesions) + 1)
    return tuple(ndimage.mean(added, lesions.labels, numbers).tolist())


def _place(terrain: Terrain, rng: np.random.Generator) -> LesionMap:
    requests = [
        (float(np.exp(rng.uniform(*np.log(bounds)))), region)
        for bounds in SIZES_MM3
        for region in Region
    ]
    requests.sort(key=lambda request: -request[0])
    volumes, regions = zip(*requests, strict=True)
    placed = place_volumes(rng, terrain, volumes, regions)
    lesions = [
        lesion
        for lesion, volume in zip(placed.lesions, placed.volumes.tolist(), strict=True)
        if volume >= SIZES_MM3[0][0]
    ]
    return compose(lesions, terrain.tissue.shape)


def _strength(lesion: Lesion, volume: float, draw: int) -> float:
    """Choose a strength so that each class of size and region gets all of them in turn."""
    return STRENGTHS[(draw + _size_class(volume) + int(lesion.region)) % len(STRENGTHS)]


def _support(labels: NDArray[np.int32], blur: NDArray[np.float64]) -> Mask:
    reach = [HALO_MM + int(np.ceil(BLUR_SDS * largest_sd)) for largest_sd in blur.max(axis=0)]
    inside = (labels > 0).astype(np.uint8)
    support: Mask = ndimage.maximum_filter(inside, [2 * voxels + 1 for voxels in reach]) > 0
    return support
