"""Figures of one visit: from arrays to PNG, with nothing of the face in them.

Every figure is a :class:`Mosaic`: a few pictures of exactly the same geometry, which a page lays
over each other so that the reader can flicker between them. Only the brain and a rim of a few
millimetres around it are ever shown. Colours are from Okabe and Ito's palette, which people with
any colour vision tell apart (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.instances import bounding_box, label_lesions
from bids_msseg.reports import canvas
from bids_msseg.reports.canvas import Colour, Mask, Picture, Place, Text
from bids_msseg.reports.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Cut,
    even_slices,
    fill_up,
    lesion_slices,
    on_screen,
    to_ras,
    within_mm,
)

LESION: Colour = (255, 140, 0)
REJECTED: Colour = (86, 180, 233)
BRAIN: Colour = (0, 190, 140)
EDGE: Colour = (255, 140, 0)

RIM_MM = 3.0
"""What is shown around the brain."""
WIDE_RIM_MM = 6.0
"""The same where the brain mask itself is judged."""
GAP_MM = 4.0
"""Distance of two slices chosen for their lesions, where the voxels allow it."""
COARSE = 63
"""Steps of grey of the pictures that check anatomy, not faint signal."""
EDGE_BLUR_MM = 1.4
EDGE_SHARE = 0.18
"""Share of the brain's pixels whose gradient makes an edge worth drawing."""
ROW_STRETCH = 1.25
"""How much wider than a row of axial slices a row of coronal and sagittal ones may be."""
CONVENTION = "radiological display: the patient's left is on the right"


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a mosaic.

    Attributes
    ----------
    key : str
        Letters and digits; becomes the ``desc-`` of the file name.
    title : str
        What the picture shows, in a few words.
    png : bytes
    """

    key: str
    title: str
    png: bytes


@dataclass(frozen=True, slots=True)
class Mosaic:
    """Pictures of the same slices in the same places.

    Attributes
    ----------
    frames : tuple of Frame
        The last one is what a page shows while the reader points at the figure.
    cuts : tuple of Cut
        Slices in the order in which they are shown; indices on the RAS+ grid.
    places : tuple of Place
        Where each slice lies on the pictures.
    scale : float
        Millimetres a pixel.
    description : str
        Alternative text.
    """

    frames: tuple[Frame, ...]
    cuts: tuple[Cut, ...]
    places: tuple[Place, ...]
    scale: float
    description: str


@dataclass(frozen=True, slots=True)
class _Scene:
    """The brain's part of a RAS+ grid, and where its slices lie on the picture."""

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
class _Picture:
    """A frame before it is encoded."""

    key: str
    title: str
    pixels: Picture
    legend: tuple[tuple[Colour, str], ...] = ()


def lesion_mosaic(
    flair: Volume,
    lesions: Volume,
    rejected: Volume,
    brain: Volume,
    *,
    max_slices: int = 12,
    scale: float = 0.5,
) -> Mosaic:
    """Outline lesions and rejected candidates on the slices with most lesion.

    Free places are filled with evenly spread slices, so that missed lesions can be looked for;
    without any lesion all slices are evenly spread, and the picture says so.

    Parameters
    ----------
    flair : Volume
        Data shape (X, Y, Z), any axis order.
    lesions, rejected, brain : Volume
        Masks on the same grid; non-zero inside. Lesions may be numbered.
    max_slices : int, default 12
        Axial slices; a third as many coronal and a quarter as many sagittal ones are added.
    scale : float, default 0.5
        Millimetres a pixel.

    Returns
    -------
    Mosaic
        Frames ``lesions`` and ``lesionsPlain``.

    Raises
    ------
    DataError
        If the brain mask is empty or a grid differs.
    """
    ras, inside = _brain(flair, brain)
    box = _crop(inside, ras, RIM_MM)
    kept, refused = (_on_grid(flair, mask)[box] != 0 for mask in (lesions, rejected))
    labels = label_lesions(kept if kept.any() else refused, voxel_volume=ras.voxel_volume)
    cuts = _cuts_through(labels, inside[box], ras.spacing, max_slices)
    scene = _scene(ras, inside, box, cuts, scale=scale, rim=RIM_MM, columns=4)
    plain = _grey(scene, scene.flair, bright=99.8)
    marked = _outlined(_outlined(plain, scene, refused, REJECTED), scene, kept, LESION)
    legend = ((LESION, "lesion"), (REJECTED, "rejected candidate"))
    return _mosaic(
        scene,
        _lesion_words(labels, cuts, found=bool(kept.any())),
        _Picture("lesions", "FLAIR, lesions outlined", marked, legend),
        _Picture("lesionsPlain", "FLAIR alone", plain),
    )


def brain_mask_mosaic(
    flair: Volume, brain: Volume, *, max_slices: int = 6, scale: float = 0.8
) -> Mosaic:
    """Outline the brain mask on evenly spread slices.

    Parameters
    ----------
    flair : Volume
        Data shape (X, Y, Z), any axis order; best before skull-stripping.
    brain : Volume
        Mask on the same grid; non-zero inside.
    max_slices : int, default 6
        Axial slices; half as many coronal and sagittal ones are added.
    scale : float, default 0.8
        Millimetres a pixel.

    Returns
    -------
    Mosaic
        Frames ``brain`` and ``brainPlain``.

    Raises
    ------
    DataError
        If the brain mask is empty or the grid differs.
    """
    ras, inside = _brain(flair, brain)
    box = _crop(inside, ras, WIDE_RIM_MM)
    cuts = _even_cuts(inside[box], max_slices)
    scene = _scene(ras, inside, box, cuts, scale=scale, rim=WIDE_RIM_MM, columns=max_slices)
    plain = _grey(scene, scene.flair, bright=99.5, levels=COARSE)
    marked = _outlined(plain, scene, scene.brain, BRAIN)
    return _mosaic(
        scene,
        f"Evenly spread slices, shown up to {WIDE_RIM_MM:g} mm outside the brain mask.",
        _Picture("brain", "FLAIR, brain mask outlined", marked, ((BRAIN, "brain mask"),)),
        _Picture("brainPlain", "FLAIR alone", plain),
    )


def registration_mosaic(
    flair: Volume,
    moving: Mapping[str, Volume],
    brain: Volume,
    *,
    doubtful: Collection[str] = (),
    max_slices: int = 4,
    scale: float = 0.7,
) -> Mosaic:
    """Show registered images in the same places as FLAIR, all with the edges of FLAIR.

    Parameters
    ----------
    flair : Volume
        Data shape (X, Y, Z), any axis order.
    moving : mapping of str to Volume
        Name (``T1w``, ``MNI152NLin2009aSym``) to an image resampled onto the FLAIR grid.
    brain : Volume
        Mask on the same grid; non-zero inside.
    doubtful : collection of str, optional
        Names of images that did not pass the check of their alignment; their titles say so.
    max_slices : int, default 4
        Axial slices; half as many coronal and sagittal ones are added.
    scale : float, default 0.7
        Millimetres a pixel.

    Returns
    -------
    Mosaic
        Frames ``registration<name>``, one for each moving image, then ``registrationFLAIR``.

    Raises
    ------
    DataError
        If the brain mask is empty or a grid differs.
    """
    ras, inside = _brain(flair, brain)
    box = _crop(inside, ras, RIM_MM)
    cuts = _even_cuts(inside[box], max_slices)
    scene = _scene(ras, inside, box, cuts, scale=scale, rim=RIM_MM, columns=max_slices)
    edges = [_edges(scene, cut, place) for cut, place in zip(cuts, scene.places, strict=True)]
    images = {name: _on_grid(flair, image)[box] for name, image in moving.items()}
    images["FLAIR"] = scene.flair
    drawn = []
    for name, data in images.items():
        pixels = _grey(scene, data, bright=99.5, levels=COARSE)
        for place, edge in zip(scene.places, edges, strict=True):
            canvas.patch(pixels, place)[edge] = EDGE
        key = "registration" + "".join(letter for letter in name if letter.isalnum())
        title = f"{name}, not aligned" if name in doubtful else name
        drawn.append(_Picture(key, title, pixels, ((EDGE, "edges of FLAIR"),)))
    words = "Evenly spread slices; the lines are the edges of FLAIR in every picture."
    return _mosaic(scene, words, *drawn)


def change_mosaic(
    flair: Volume,
    earlier: Volume,
    codes: Volume,
    brain: Volume,
    marks: Mapping[int, tuple[str, Colour]],
    *,
    max_slices: int = 8,
    scale: float = 0.5,
) -> Mosaic:
    """Outline what changed between two visits on the slices with most change.

    Parameters
    ----------
    flair, earlier : Volume
        FLAIR of the later visit, and of the earlier one on its grid; data shape (X, Y, Z).
    codes : Volume
        Kinds of change on the same grid.
    brain : Volume
        Mask on the same grid; non-zero inside.
    marks : mapping of int to (name, colour)
        How each kind is drawn, the last one on top; others are not drawn.
    max_slices : int, default 8
        Most axial slices; a quarter as many coronal and sagittal ones are added.
    scale : float, default 0.5
        Millimetres a pixel.

    Returns
    -------
    Mosaic
        Frames ``changes``, ``changesLater``, ``changesEarlier``.

    Raises
    ------
    DataError
        If the brain mask is empty or a grid differs.
    """
    ras, inside = _brain(flair, brain)
    box = _crop(inside, ras, RIM_MM)
    kinds = _on_grid(flair, codes)[box]
    labels = label_lesions(np.isin(kinds, list(marks)), voxel_volume=ras.voxel_volume)
    cuts = _change_cuts(labels, ras.spacing, max_slices) or _even_cuts(inside[box], max_slices)
    scene = _scene(ras, inside, box, cuts, scale=scale, rim=RIM_MM, columns=4)
    later = _grey(scene, scene.flair, bright=99.8)
    before = _grey(scene, _on_grid(flair, earlier)[box], bright=99.8)
    marked = later
    for kind, (_, colour) in marks.items():
        marked = _outlined(marked, scene, kinds == kind, colour)
    legend = tuple((colour, name) for name, colour in marks.values())
    words = "Slices with most change."
    if not labels.any():
        words = "No change was found: these slices are evenly spread."
    return _mosaic(
        scene,
        words,
        _Picture("changes", "later visit", marked, legend),
        _Picture("changesLater", "later visit alone", later),
        _Picture("changesEarlier", "earlier visit", before),
    )


def _brain(flair: Volume, brain: Volume) -> tuple[Volume, Mask]:
    """FLAIR and the brain mask in RAS+ order."""
    inside = _on_grid(flair, brain) != 0
    if not inside.any():
        raise DataError(
            "the brain mask is empty: there is nothing to show",
            hint="look at the FLAIR image, or give a brain mask with --derivatives",
        )
    return to_ras(flair), inside


def _on_grid(flair: Volume, other: Volume) -> NDArray[np.generic]:
    """Voxels of an image in RAS+ order, if it lies on the grid of FLAIR."""
    if other.shape != flair.shape or not np.allclose(other.affine, flair.affine, atol=1e-2):
        raise DataError(
            f"an image of grid {other.shape} cannot be drawn on FLAIR's {flair.shape}",
            hint="remove the visit's outputs and run it again",
        )
    return to_ras(other).data


def _crop(inside: Mask, ras: Volume, rim: float) -> tuple[slice, slice, slice]:
    """Box around the brain and its rim."""
    return bounding_box(inside, margin=math.ceil((rim + 1) / float(ras.spacing.min())))


def _even_cuts(brain: Mask, count: int) -> tuple[Cut, ...]:
    """Axial slices, then half as many coronal and sagittal ones."""
    wanted = ((AXIAL, count), (CORONAL, count // 2), (SAGITTAL, count // 2))
    return tuple(
        Cut(plane, index)
        for plane, number in wanted
        for index in even_slices(brain, plane.normal, number)
    )


def _cuts_through(
    labels: NDArray[np.int32], brain: Mask, spacing: NDArray[np.float64], count: int
) -> tuple[Cut, ...]:
    """Slices with most lesion in three planes, filled up with evenly spread ones."""
    cuts: list[Cut] = []
    for plane, share in ((AXIAL, 1.0), (CORONAL, 1 / 3), (SAGITTAL, 1 / 4)):
        number = max(1, round(count * share))
        gap = max(1, math.ceil(GAP_MM / float(spacing[plane.normal]) - 0.01))
        chosen = lesion_slices(labels, plane.normal, number, gap=gap)
        spread = even_slices(brain, plane.normal, 2 * number)
        if not chosen:
            spread = even_slices(brain, plane.normal, number)
        filled = fill_up(chosen, spread, number, gap=gap)
        cuts += [Cut(plane, index) for index in filled]
    return tuple(cuts)


def _change_cuts(
    labels: NDArray[np.int32], spacing: NDArray[np.float64], count: int
) -> tuple[Cut, ...]:
    """Slices with most change in three planes; none where nothing has changed."""
    cuts: list[Cut] = []
    for plane, number in ((AXIAL, count), (CORONAL, count // 4), (SAGITTAL, count // 4)):
        gap = max(1, math.ceil(GAP_MM / float(spacing[plane.normal]) - 0.01))
        chosen = lesion_slices(labels, plane.normal, number, gap=gap)
        cuts += [Cut(plane, index) for index in chosen]
    return tuple(cuts)


def _scene(
    ras: Volume,
    inside: Mask,
    box: tuple[slice, slice, slice],
    cuts: tuple[Cut, ...],
    *,
    scale: float,
    rim: float,
    columns: int,
) -> _Scene:
    """Lay out the slices of the cropped grid."""
    brain = inside[box]
    sizes = [_pixels(brain.shape, ras.spacing, cut, scale) for cut in cuts]
    places, size = canvas.flow(sizes, columns * sizes[0][0] * ROW_STRETCH)
    return _Scene(
        flair=np.nan_to_num(ras.data[box].astype(np.float32)),
        brain=brain,
        shown=within_mm(brain, rim, ras.spacing),
        cuts=cuts,
        on_grid=tuple(Cut(cut.plane, cut.index + box[cut.plane.normal].start) for cut in cuts),
        places=places,
        positions=tuple(_position(ras, box, cut) for cut in cuts),
        size=size,
        scale=scale,
    )


def _position(ras: Volume, box: tuple[slice, slice, slice], cut: Cut) -> str:
    """World coordinate of a slice, at the middle of the brain where the grid is oblique."""
    point = np.array([(part.start + part.stop - 1) / 2 for part in box] + [1.0])
    point[cut.plane.normal] = box[cut.plane.normal].start + cut.index
    return f"{cut.plane.coordinate} {(ras.affine @ point)[cut.plane.normal]:+.0f} mm"


def _pixels(
    shape: tuple[int, ...], spacing: NDArray[np.float64], cut: Cut, scale: float
) -> tuple[int, int]:
    """Width and height of a slice on the picture."""
    extent = np.asarray(shape) * spacing / scale
    return round(float(extent[cut.plane.across])), round(float(extent[cut.plane.down]))


def _grey(
    scene: _Scene, data: NDArray[np.generic], *, bright: float, levels: int = canvas.GREY_LEVELS
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
    """Take a slice of a mask at the size of its tile, voxels as blocks."""
    return canvas.magnify(on_screen(mask, cut), place.width, place.height, order=0) > 0


def _outlined(pixels: Picture, scene: _Scene, mask: Mask, colour: Colour) -> Picture:
    """Draw a line around a mask on a copy of the picture."""
    drawn = pixels.copy()
    for cut, place in zip(scene.cuts, scene.places, strict=True):
        line = canvas.outline(_tile_mask(mask, cut, place))
        canvas.patch(drawn, place)[line] = colour
    return drawn


def _edges(scene: _Scene, cut: Cut, place: Place) -> Mask:
    """Zero crossings of the Laplacian of Gaussian where the gradient is strong.

    After Marr and Hildreth, Theory of edge detection, Proc. R. Soc. Lond. B 207, 1980.
    """
    tile = canvas.magnify(on_screen(scene.flair, cut), place.width, place.height)
    inside = _tile_mask(scene.brain, cut, place)
    sigma = EDGE_BLUR_MM / scene.scale
    positive = ndi.gaussian_laplace(tile, sigma) > 0
    crossing = positive & ~ndi.binary_erosion(positive, canvas.CROSS, border_value=1)
    slope = ndi.gaussian_gradient_magnitude(tile, sigma)
    strong = slope > (np.quantile(slope[inside], 1 - EDGE_SHARE) if inside.any() else np.inf)
    edge: Mask = crossing & strong & inside
    return edge


def _lesion_words(labels: NDArray[np.int32], cuts: tuple[Cut, ...], *, found: bool) -> str:
    """Say by what the slices were chosen and how much they show."""
    count = int(labels.max(initial=0))
    if not count:
        return "No lesion was found: these slices are evenly spread."
    seen: set[int] = set()
    for cut in cuts:
        seen.update(np.unique(on_screen(labels, cut)).tolist())
    what = "lesion" if found else "rejected candidate"
    start = "" if found else "No lesion was kept. "
    return (
        f"{start}Slices with most {what} area, other places evenly spread; "
        f"{len(seen - {0})} of {count} {what}s lie on them."
    )


def _mosaic(scene: _Scene, words: str, *pictures: _Picture) -> Mosaic:
    """Add the small print and encode."""
    numbers = [
        f"{sum(cut.plane is plane for cut in scene.cuts)} {plane.name}"
        for plane in (AXIAL, CORONAL, SAGITTAL)
    ]
    description = f"{', '.join(numbers)} slices of the brain. {words} {CONVENTION.capitalize()}."
    frames = tuple(
        Frame(
            picture.key,
            picture.title,
            canvas.encode(_signed(picture, scene), title=picture.title, description=description),
        )
        for picture in pictures
    )
    return Mosaic(frames, scene.on_grid, scene.places, scene.scale, description)


def _signed(picture: _Picture, scene: _Scene) -> Picture:
    """Sides of the patient and position on every tile, legend and convention below."""
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
