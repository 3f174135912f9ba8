"""Figures of one visit, drawn from arrays as PNG without any part of the face.

A page overlays the pictures of a mosaic, which have the same geometry. Colours are from the
palette of Okabe and Ito for any colour vision (https://jfly.uni-koeln.de/color/).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.brain_volumes import CEREBELLUM, VENTRICLES
from bids_msseg.reports.images import canvas
from bids_msseg.reports.images.canvas import Colour, Mask, Picture
from bids_msseg.reports.images.mosaic import (
    COARSE,
    Layer,
    Mosaic,
    MosaicScene,
    build_mosaic,
    build_scene,
    crop_box,
    find_edges,
    grey_picture,
    with_outline,
)
from bids_msseg.reports.images.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Cut,
    even_slices,
    fill_up,
    lesion_slices,
    on_screen,
    slice_gap,
    to_ras,
)

LESION: Colour = (255, 140, 0)
REJECTED: Colour = (86, 180, 233)
BRAIN: Colour = (0, 190, 140)
EDGE: Colour = (255, 140, 0)
ANATOMY: tuple[tuple[tuple[Anatomy, ...], Colour, str], ...] = (
    ((Anatomy.WHITE_MATTER,), (240, 228, 66), "white matter"),
    ((Anatomy.DEEP_GREY,), (204, 121, 167), "deep grey"),
    (CEREBELLUM, (0, 158, 115), "cerebellum"),
    ((Anatomy.BRAINSTEM,), (213, 94, 0), "brainstem"),
    (VENTRICLES, (86, 180, 233), "ventricles"),
)
"""Classes that are outlined together, the last ones on top."""
RIM_MM = 3.0
"""Width of the rim that is shown around the brain."""
WIDE_RIM_MM = 6.0
"""The same in figures that show the brain mask."""


def lesion_mosaic(
    flair: Volume,
    lesions: Volume,
    rejected: Volume,
    brain: Volume,
    *,
    max_slices: int = 12,  # axial; coronal: a third, sagittal: a quarter
    scale: float = 0.5,  # mm per pixel
) -> Mosaic:
    """Outline lesions and rejected candidates on the slices with most lesion."""
    ras, inside = _brain(flair, brain)
    box = crop_box(inside, ras, RIM_MM)
    lesion_mask, rejected_mask = (_on_grid(flair, mask)[box] != 0 for mask in (lesions, rejected))
    labels = label_lesions(
        lesion_mask if lesion_mask.any() else rejected_mask, voxel_volume=ras.voxel_volume
    )
    cuts = _cuts_through(labels, inside[box], ras.spacing, max_slices)
    scene = build_scene(ras, inside, box, cuts, scale=scale, rim=RIM_MM, columns=4)
    plain = grey_picture(scene, scene.flair, bright=99.8)
    marked = with_outline(
        with_outline(plain, scene, rejected_mask, REJECTED), scene, lesion_mask, LESION
    )
    legend = ((LESION, "lesion"), (REJECTED, "rejected candidate"))
    return build_mosaic(
        scene,
        _lesion_caption(labels, cuts, has_lesions=bool(lesion_mask.any())),
        Layer("lesions", "FLAIR, lesions outlined", marked, legend),
        Layer("lesionsPlain", "FLAIR alone", plain),
    )


def brain_mask_mosaic(
    flair: Volume,
    brain: Volume,
    anatomy: Volume | None = None,
    *,
    max_slices: int = 6,  # axial; coronal and sagittal: half each
    scale: float = 0.8,  # mm per pixel
) -> Mosaic:
    """Outline the brain mask and the anatomy on evenly spread slices."""
    ras, inside = _brain(flair, brain)
    box = crop_box(inside, ras, WIDE_RIM_MM)
    cuts = _even_cuts(inside[box], max_slices)
    scene = build_scene(ras, inside, box, cuts, scale=scale, rim=WIDE_RIM_MM, columns=max_slices)
    plain = grey_picture(scene, scene.flair, bright=99.5, levels=COARSE)
    marked = with_outline(plain, scene, scene.brain, BRAIN)
    layers = [Layer("brain", "FLAIR, brain mask outlined", marked, ((BRAIN, "brain mask"),))]
    if anatomy is not None:
        layers.append(_anatomy_layer(plain, scene, _on_grid(flair, anatomy)[box]))
    return build_mosaic(
        scene,
        f"Evenly spaced slices, shown up to {WIDE_RIM_MM:g} mm outside the brain mask.",
        *layers,
        Layer("brainPlain", "FLAIR alone", plain),
    )


def _anatomy_layer(plain: Picture, scene: MosaicScene, labels: NDArray[np.generic]) -> Layer:
    picture = plain
    for members, colour, _ in ANATOMY:
        picture = with_outline(picture, scene, np.isin(labels, members), colour)
    legend = tuple((colour, name) for _, colour, name in ANATOMY)
    return Layer("brainAnatomy", "FLAIR, anatomy outlined", picture, legend)


def registration_mosaic(
    flair: Volume,
    moving: Mapping[str, Volume],
    brain: Volume,
    *,
    doubtful: Collection[str] = (),  # images whose titles are marked
    max_slices: int = 4,  # axial; coronal and sagittal: half each
    scale: float = 0.7,  # mm per pixel
) -> Mosaic:
    """Show FLAIR and images registered to it on the same slices, with edges of FLAIR."""
    ras, inside = _brain(flair, brain)
    box = crop_box(inside, ras, RIM_MM)
    cuts = _even_cuts(inside[box], max_slices)
    scene = build_scene(ras, inside, box, cuts, scale=scale, rim=RIM_MM, columns=max_slices)
    edges = [find_edges(scene, cut, place) for cut, place in zip(cuts, scene.places, strict=True)]
    images = {name: _on_grid(flair, image)[box] for name, image in moving.items()}
    images["FLAIR"] = scene.flair
    layers = []
    for name, data in images.items():
        pixels = grey_picture(scene, data, bright=99.5, levels=COARSE)
        for place, edge in zip(scene.places, edges, strict=True):
            canvas.patch(pixels, place)[edge] = EDGE
        key = "registration" + "".join(letter for letter in name if letter.isalnum())
        title = f"{name}, not aligned" if name in doubtful else name
        layers.append(Layer(key, title, pixels, ((EDGE, "edges of FLAIR"),)))
    caption = "Evenly spaced slices. The lines are the edges of FLAIR in every picture."
    return build_mosaic(scene, caption, *layers)


def change_mosaic(
    flair: Volume,
    earlier: Volume,
    codes: Volume,
    brain: Volume,
    marks: Mapping[int, tuple[str, Colour]],  # name and colour of ``codes``
    *,
    max_slices: int = 8,  # axial; coronal and sagittal: a quarter each
    scale: float = 0.5,  # mm per pixel
) -> Mosaic:
    """Outline changes between two visits on the slices with most change."""
    ras, inside = _brain(flair, brain)
    box = crop_box(inside, ras, RIM_MM)
    kinds = _on_grid(flair, codes)[box]
    labels = label_lesions(np.isin(kinds, list(marks)), voxel_volume=ras.voxel_volume)
    cuts = _change_cuts(labels, ras.spacing, max_slices) or _even_cuts(inside[box], max_slices)
    scene = build_scene(ras, inside, box, cuts, scale=scale, rim=RIM_MM, columns=4)
    later = grey_picture(scene, scene.flair, bright=99.8)
    before = grey_picture(scene, _on_grid(flair, earlier)[box], bright=99.8)
    marked = later
    for kind, (_, colour) in marks.items():
        marked = with_outline(marked, scene, kinds == kind, colour)
    legend = tuple((colour, name) for name, colour in marks.values())
    caption = "Slices with the largest area of change."
    if not labels.any():
        caption = "No change was found; the slices are evenly spaced."
    return build_mosaic(
        scene,
        caption,
        Layer("changes", "later visit", marked, legend),
        Layer("changesLater", "later visit alone", later),
        Layer("changesEarlier", "earlier visit", before),
    )


def _brain(flair: Volume, brain: Volume) -> tuple[Volume, Mask]:
    """Return FLAIR and the brain mask in RAS+ order; raise DataError if the mask is empty."""
    inside = _on_grid(flair, brain) != 0
    if not inside.any():
        raise DataError(
            "the brain mask is empty: there is nothing to show",
            hint="check the FLAIR image, or pass a brain mask with --derivatives",
        )
    return to_ras(flair), inside


def _on_grid(flair: Volume, image: Volume) -> NDArray[np.generic]:
    """Return an image in RAS+ order; raise DataError if it is not on the grid of FLAIR."""
    if image.shape != flair.shape or not np.allclose(image.affine, flair.affine, atol=1e-2):
        raise DataError(
            f"an image of shape {image.shape} cannot be drawn on a FLAIR of shape {flair.shape}",
            hint="remove the visit's outputs and run it again",
        )
    return to_ras(image).data


def _even_cuts(brain: Mask, count: int) -> tuple[Cut, ...]:
    """Choose evenly spread slices: axial, and half as many coronal and sagittal ones."""
    counts = ((AXIAL, count), (CORONAL, count // 2), (SAGITTAL, count // 2))
    return tuple(
        Cut(plane, index)
        for plane, number in counts
        for index in even_slices(brain, plane.normal, number)
    )


def _cuts_through(
    labels: NDArray[np.int32], brain: Mask, spacing: NDArray[np.float64], count: int
) -> tuple[Cut, ...]:
    """Choose slices with most lesion in three planes, then evenly spread ones."""
    cuts: list[Cut] = []
    for plane, share in ((AXIAL, 1.0), (CORONAL, 1 / 3), (SAGITTAL, 1 / 4)):
        number = max(1, round(count * share))
        gap = slice_gap(spacing, plane)
        chosen = lesion_slices(labels, plane.normal, number, gap=gap)
        spread = even_slices(brain, plane.normal, 2 * number if chosen else number)
        cuts += [Cut(plane, index) for index in fill_up(chosen, spread, number, gap=gap)]
    return tuple(cuts)


def _change_cuts(
    labels: NDArray[np.int32], spacing: NDArray[np.float64], count: int
) -> tuple[Cut, ...]:
    """Choose slices with most change in three planes; empty without a change."""
    return tuple(
        Cut(plane, index)
        for plane, number in ((AXIAL, count), (CORONAL, count // 4), (SAGITTAL, count // 4))
        for index in lesion_slices(labels, plane.normal, number, gap=slice_gap(spacing, plane))
    )


def _lesion_caption(labels: NDArray[np.int32], cuts: tuple[Cut, ...], *, has_lesions: bool) -> str:
    """Describe how the slices were chosen and how many lesions they show."""
    count = int(labels.max(initial=0))
    if not count:
        return "No lesion was found; the slices are evenly spaced."
    shown = {label for cut in cuts for label in np.unique(on_screen(labels, cut)).tolist()} - {0}
    noun = "lesion" if has_lesions else "rejected candidate"
    start = "" if has_lesions else "No lesion was kept. "
    return (
        f"{start}Slices with the largest area of {noun}s, and evenly spaced slices. They show "
        f"{len(shown)} of {count} {noun}s."
    )
