"""Pictures composed pixel by pixel: tiles side by side, thin outlines and text.

Pillow draws the text in its built-in typeface, so that the same input yields the same bytes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from scipy import ndimage as ndi

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]

GAP = 6
"""Pixels between two tiles."""
FOOTER = 26
"""Height in pixels of the line of text under the tiles."""
LETTERS = 12
"""Height of the letters in pixels."""
GREY_LEVELS = 127
"""Grey levels: more are not visible, and a file with all 255 is larger."""
COMPRESSION = 7
"""zlib's level: 9 takes four times as long for a tenth less."""
FAINT = (154, 154, 154)
CLEAR = (232, 232, 232)
CROSS = ndi.generate_binary_structure(2, 1)


@dataclass(frozen=True, slots=True)
class Text:
    """Text on a picture, anchored at pixel (x, y) from the upper left corner."""

    x: float
    y: float
    words: str
    anchor: str = "la"  # of Pillow: l, m or r, then a, m or d
    colour: Colour = FAINT


@dataclass(frozen=True, slots=True)
class Place:
    """Position and size of a tile on the picture, in pixels from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


def magnify(
    tile: NDArray[np.generic], width: int, height: int, *, order: int = 1
) -> NDArray[np.float64]:
    """Resize a slice (rows, columns) to pixels (height, width), linearly or (0) by repetition."""
    rows = _sample_points(tile.shape[0], height)
    columns = _sample_points(tile.shape[1], width)
    if order == 0:
        # the voxels that contain the points
        nearest = (np.floor(points + 0.5).astype(np.intp) for points in (rows, columns))
        blocks: NDArray[np.float64] = tile[np.ix_(*nearest)].astype(np.float64)
        return blocks
    grid = np.meshgrid(rows, columns, indexing="ij")
    smooth: NDArray[np.float64] = ndi.map_coordinates(
        tile.astype(np.float64), grid, order=1, mode="nearest"
    )
    return smooth


def outline(mask: Mask) -> Mask:
    """Return the pixels that touch a 2-D mask from outside, so that none of it is hidden."""
    edge: Mask = ndi.binary_dilation(mask, CROSS) & ~mask
    return edge


def to_grey(
    values: NDArray[np.float64], low: float, high: float, *, levels: int = GREY_LEVELS
) -> Picture:
    """Map intensities from ``low`` to ``high`` to uint8 grey; values outside are clipped."""
    scaled = np.clip((values - low) / max(high - low, np.finfo(float).tiny), 0, 1)
    grey: Picture = (np.rint(scaled * levels) * (255 // levels)).astype(np.uint8)
    return grey


def flow(
    sizes: Sequence[tuple[int, int]], limit: float
) -> tuple[tuple[Place, ...], tuple[int, int]]:
    """Arrange tiles in centred rows of one height; return places and picture size in pixels."""
    rows: list[list[tuple[int, int]]] = [[]]
    for width, height in sizes:
        full = _row_width([*rows[-1], (width, height)]) > limit
        if rows[-1] and (full or height != rows[-1][0][1]):
            rows.append([])
        rows[-1].append((width, height))
    total_width = max(_row_width(row) for row in rows)
    places: list[Place] = []
    top = 0
    for row in rows:
        left = (total_width - _row_width(row)) // 2
        for width, height in row:
            places.append(Place(left, top, width, height))
            left += width + GAP
        top += row[0][1] + GAP
    return tuple(places), (total_width, top - GAP)


def _row_width(row: Sequence[tuple[int, int]]) -> int:
    return sum(width for width, _ in row) + GAP * (len(row) - 1)


def patch(picture: Picture, place: Place) -> Picture:
    """Return a writable view of the part of a picture that a tile covers."""
    rows = slice(place.top, place.top + place.height)
    return picture[rows, place.left : place.left + place.width]


def text_width(text: str) -> int:
    """Return the width of a text in pixels, rounded up."""
    return math.ceil(ImageFont.load_default(LETTERS).getlength(text))


def write_letters(picture: Picture, texts: Iterable[Text]) -> Picture:
    """Return a copy of an RGB picture (height, width, 3) with texts drawn on it."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    face = ImageFont.load_default(LETTERS)
    for text in texts:
        pen.text((text.x, text.y), text.words, fill=text.colour, font=face, anchor=text.anchor)
    return np.array(image)


def encode(picture: Picture, *, title: str, description: str) -> bytes:
    """Encode an RGB picture as PNG with ``Title`` and ``Description``, deterministically."""
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("Title", title)
    notes.add_itxt("Description", description)
    grey = bool((picture == picture[..., :1]).all())
    image = Image.fromarray(np.ascontiguousarray(picture[..., 0]) if grey else picture)
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=COMPRESSION, pnginfo=notes)
    return stream.getvalue()


def describe(png: bytes) -> tuple[str, str, tuple[int, int]]:
    """Read title and description (empty if absent) and size of a PNG; OSError for another file."""
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        title, description = (str(image.info.get(key, "")) for key in ("Title", "Description"))
        return title, description, image.size


def _sample_points(voxels: int, pixels: int) -> NDArray[np.float64]:
    """Return the centres of the pixels in voxel coordinates."""
    points: NDArray[np.float64] = (np.arange(pixels) + 0.5) * voxels / pixels - 0.5
    return points
