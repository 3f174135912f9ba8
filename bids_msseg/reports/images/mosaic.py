"""A mosaic: pictures of the same slices in exactly the same places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.instances import bounding_box
from bids_msseg.lesions.regions import near
from bids_msseg.reports.images import canvas
from bids_msseg.reports.images.canvas import Colour, Mask, Picture, Place, Text
from bids_msseg.reports.images.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Cut,
    on_screen,
    world_position,
)

COARSE = 63
"""Steps of grey of the pictures that check anatomy, not faint signal."""
EDGE_BLUR_MM = 1.4
EDGE_SHARE = 0.18
"""Share of the brain's pixels, with the strongest gradients, in which edges are drawn."""
ROW_STRETCH = 1.25
"""Largest width of a row of coronal and sagittal slices relative to one of axial slices."""
CONVENTION = "radiological display: the patient's left is on the right"


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a mosaic; ``key`` becomes the ``desc-`` of the file name."""

    key: str
    title: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Pictures that show the same slices in the same places."""

    frames: tuple[Frame, ...]  # a page shows the last one while the pointer is over the figure
    cuts: tuple[Cut, ...]  # on the RAS+ grid
    places: tuple[Place, ...]
    scale: float  # mm per pixel
    description: str  # alternative text


@dataclass(frozen=True, slots=True)
class MosaicScene:
    """Part of a RAS+ grid around the brain, and the layout of its slices on the picture."""

    flair: NDArray[np.float32]
    brain: Mask
    shown: Mask
    cuts: tuple[Cut, ...]
    on_grid: tuple[Cut, ...]
    places: tuple[Place, ...]
    positions: tuple[str, ...]
    size: tuple[int, int]
    scale: float


@dataclass(frozen=True, slots=True)
class Layer:
    """A frame before it is encoded."""

    key: str
    title: str
    pixels: Picture
    legend: tuple[tuple[Colour, str], ...] = ()


def crop_box(inside: Mask, ras: Volume, rim: float) -> tuple[slice, slice, slice]:
    """Return the box around the brain and its rim of ``rim`` mm."""
    return bounding_box(inside, margin=math.ceil((rim + 1) / float(ras.spacing.min())))


def build_scene(
    ras: Volume,
    inside: Mask,
    box: tuple[slice, slice, slice],
    cuts: tuple[Cut, ...],
    *,
    scale: float,
    rim: float,
    columns: int,
) -> MosaicScene:
    """Lay out the slices of the cropped grid."""
    brain = inside[box]
    sizes = [_pixels(brain.shape, ras.spacing, cut, scale) for cut in cuts]
    places, size = canvas.flow(sizes, columns * sizes[0][0] * ROW_STRETCH)
    on_grid = tuple(Cut(cut.plane, cut.index + box[cut.plane.normal].start) for cut in cuts)
    return MosaicScene(
        flair=np.nan_to_num(ras.data[box].astype(np.float32)),
        brain=brain,
        shown=near(brain, rim, ras.spacing),
        cuts=cuts,
        on_grid=on_grid,
        places=places,
        positions=tuple(world_position(ras.affine, box, cut) for cut in on_grid),
        size=size,
        scale=scale,
    )


def _pixels(
    shape: tuple[int, ...], spacing: NDArray[np.float64], cut: Cut, scale: float
) -> tuple[int, int]:
    """Return the width and height of a slice on the picture, in pixels."""
    extent = np.asarray(shape) * spacing / scale
    return round(float(extent[cut.plane.across])), round(float(extent[cut.plane.down]))


def grey_picture(
    scene: MosaicScene,
    data: NDArray[np.generic],
    *,
    bright: float,
    levels: int = canvas.GREY_LEVELS,
) -> Picture:
    """Paint the slices of an image in grey, black outside the brain's rim."""
    values = np.where(scene.shown, np.nan_to_num(data.astype(np.float32)), 0)
    inside = values[scene.brain & (values != 0)]
    low, high = np.percentile(inside, [0.5, bright]) if inside.size else (0.0, 1.0)
    width, height = scene.size
    pixels = np.zeros((height + canvas.FOOTER, width, 3), np.uint8)
    for cut, place in zip(scene.cuts, scene.places, strict=True):
        tile = canvas.magnify(on_screen(values, cut), place.width, place.height)
        grey = canvas.to_grey(tile, float(low), float(high), levels=levels)
        grey[~_tile_mask(scene.shown, cut, place)] = 0
        canvas.patch(pixels, place)[...] = grey[..., None]
    return pixels


def _tile_mask(mask: Mask, cut: Cut, place: Place) -> Mask:
    """Resize a slice of a mask to its tile without interpolation."""
    return canvas.magnify(on_screen(mask, cut), place.width, place.height, order=0) > 0


def with_outline(pixels: Picture, scene: MosaicScene, mask: Mask, colour: Colour) -> Picture:
    """Draw a line around a mask on a copy of the picture."""
    outlined = pixels.copy()
    for cut, place in zip(scene.cuts, scene.places, strict=True):
        line = canvas.outline(_tile_mask(mask, cut, place))
        canvas.patch(outlined, place)[line] = colour
    return outlined


def find_edges(scene: MosaicScene, cut: Cut, place: Place) -> Mask:
    """Find zero crossings of the Laplacian of Gaussian where the gradient is strong."""
    # Marr and Hildreth, Theory of edge detection, Proc. R. Soc. Lond. B 207, 1980
    tile = canvas.magnify(on_screen(scene.flair, cut), place.width, place.height)
    inside = _tile_mask(scene.brain, cut, place)
    sigma = EDGE_BLUR_MM / scene.scale
    positive = ndi.gaussian_laplace(tile, sigma) > 0
    crossing = positive & ~ndi.binary_erosion(positive, canvas.CROSS, border_value=1)
    slope = ndi.gaussian_gradient_magnitude(tile, sigma)
    strong = slope > (np.quantile(slope[inside], 1 - EDGE_SHARE) if inside.any() else np.inf)
    edge: Mask = crossing & strong & inside
    return edge


def build_mosaic(scene: MosaicScene, caption: str, *pictures: Layer) -> Mosaic:
    """Add labels and legends to the pictures and encode them as a mosaic."""
    numbers = [
        f"{sum(cut.plane is plane for cut in scene.cuts)} {plane.name}"
        for plane in (AXIAL, CORONAL, SAGITTAL)
    ]
    description = f"{', '.join(numbers)} slices of the brain. {caption} {CONVENTION.capitalize()}."
    frames = tuple(
        Frame(
            picture.key,
            picture.title,
            canvas.encode(_signed(picture, scene), title=picture.title, description=description),
        )
        for picture in pictures
    )
    return Mosaic(frames, scene.on_grid, scene.places, scene.scale, description)


def _signed(picture: Layer, scene: MosaicScene) -> Picture:
    """Label patient sides and positions on every tile; add legend and convention below."""
    texts = []
    for cut, place, position in zip(scene.cuts, scene.places, scene.positions, strict=True):
        right = place.left + place.width
        texts += [
            Text(place.left + 2, place.top + 2, cut.plane.left, "la"),
            Text(right - 2, place.top + 2, cut.plane.right, "ra"),
            Text(place.left + 2, place.top + place.height - 2, position, "ld"),
        ]
    width, height = scene.size
    line = height + canvas.FOOTER / 2
    texts.append(Text(width - 4, line, CONVENTION, "rm"))
    pixels = picture.pixels.copy()
    left = 4
    texts.append(Text(left, line, picture.title, "lm", canvas.CLEAR))
    left += canvas.text_width(picture.title) + 16
    for colour, name in picture.legend:
        canvas.patch(pixels, Place(left, round(line) - 1, 14, 3))[...] = colour
        texts.append(Text(left + 20, line, name, "lm", canvas.CLEAR))
        left += 20 + canvas.text_width(name) + 16
    return canvas.write_letters(pixels, texts)
