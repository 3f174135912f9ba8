"""Slices and close-ups of one visit with the lesions of both masks outlined by separate lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.instances import bounding_box, label_lesions
from bids_msseg.lesions.regions import near
from bids_msseg.reports.evaluation.data import AUTO, FALSE, FOUND, MANUAL, MISSED, TRUE, Case
from bids_msseg.reports.images import canvas, outlines
from bids_msseg.reports.images.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Cut,
    Mask,
    Plane,
    fill_up,
    lesion_slices,
    on_screen,
    slice_gap,
    to_ras,
    world_position,
)

UNCOUNTED = "uncounted"
KINDS: Mapping[str, str] = {
    FOUND: "manual lesion, found",
    TRUE: "automatic lesion, true positive",
    MISSED: "manual lesion, missed",
    FALSE: "automatic lesion, false positive",
    UNCOUNTED: "below the minimum volume",
}
"""Kinds of line, and their names in a legend."""
PLANES = (AXIAL, CORONAL, SAGITTAL)

RIM_MM = 3.0
"""Width of the rim that is shown around the brain mask."""
NEAR_MM = 20.0
"""Width of the rim around lesions without a brain mask, so that no face is drawn."""
PIXEL_MM = 0.8
"""Smallest pixel of a slice; smaller voxels are averaged, so that pages stay small."""
CLOSE_MM = 26.0
"""Smallest edge of a close-up."""
CLOSE_RIM_MM = 8.0
"""Free room around a lesion on its close-up."""
WIDEST_MM = 100.0
"""Largest edge of a close-up."""


@dataclass(frozen=True, slots=True)
class Line:
    """Border of one lesion on one slice; ``kind`` is one of :data:`KINDS`."""

    kind: str
    index: int  # number in the lesion table, 0 if not counted
    borders: tuple[outlines.Loop, ...]  # points (x, y) in voxels of the tile

    @property
    def side(self) -> str:
        """Mask that contains the lesion, as in column ``side`` of the lesion table."""
        return MANUAL if self.kind in (FOUND, MISSED) else AUTO

    @property
    def path(self) -> str:
        """The borders as the ``d`` of an SVG path."""
        return outlines.svg_path(self.borders)


@dataclass(frozen=True, slots=True)
class Tile:
    """A slice, or a part of it, in grey, with the borders of lesions."""

    plane: Plane
    position: str  # world coordinate
    pixels: canvas.Picture  # (height, width, 3)
    edges: tuple[float, float]  # voxel width and height in mm
    width: float  # mm
    height: float  # mm
    lines: tuple[Line, ...]

    @property
    def words(self) -> str:
        """Number of outlined lesions of each kind, as text."""
        counts = Counter(line.kind for line in self.lines)
        named = [f"{counts[kind]} {kind}" for kind in KINDS if counts[kind]]
        return ", ".join(named) or "no lesion"

    @property
    def png(self) -> bytes:
        """The grey picture alone."""
        return canvas.encode(self.pixels, title=self.plane.name, description=self.position)


class Scene:
    """A case in RAS+ orientation, from which slices and close-ups are drawn."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._states = {
            (str(row["side"]), int(row["index"])): str(row["state"]) for row in case.lesion_rows
        }
        self._ras = to_ras(Volume(case.manual, case.affine))
        self._labels = {MANUAL: self._turn(case.manual_labels), AUTO: self._turn(case.auto_labels)}
        self._masks = {MANUAL: self._turn(case.manual) != 0, AUTO: self._turn(case.auto) != 0}
        self._union: Mask = self._masks[MANUAL] | self._masks[AUTO]
        self._shown = self._visible()
        self._grey = self._shades()
        self._boxes = {side: ndi.find_objects(labels) for side, labels in self._labels.items()}

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel edges in mm along x, y, z."""
        return self._ras.spacing

    def slices(self, counts: Mapping[str, int]) -> list[Tile]:
        """Draw slices with most disagreement, then with most lesion; ``counts`` is by plane."""
        if not self._union.any():
            return []
        volume = self._ras.voxel_volume
        disagreement = label_lesions(self._masks[MANUAL] ^ self._masks[AUTO], voxel_volume=volume)
        lesions = label_lesions(self._union, voxel_volume=volume)
        box = bounding_box(self._shown)
        tiles = []
        for plane in PLANES:
            count = counts.get(plane.name, 0)
            gap = slice_gap(self.spacing, plane)
            chosen = lesion_slices(disagreement, plane.normal, count, gap=gap)
            most_lesion = lesion_slices(lesions, plane.normal, 2 * count, gap=gap)
            for index in fill_up(chosen, most_lesion, count, gap=gap):
                tiles.append(self._tile(Cut(plane, index), box, PIXEL_MM))
        return tiles

    def close_up(self, side: str, index: int, planes: tuple[Plane, ...] = PLANES) -> list[Tile]:
        """Draw square close-ups of one lesion, through the voxel nearest its centre."""
        boxes = self._boxes[side]
        lesion_box = boxes[index - 1] if 0 < index <= len(boxes) else None
        if lesion_box is None:
            raise KeyError(f"{self._case.name} has no {side} lesion {index}")
        voxels = np.argwhere(self._labels[side][lesion_box] == index) + [
            part.start for part in lesion_box
        ]
        squared_distance = ((voxels - voxels.mean(axis=0)) * self.spacing) ** 2
        middle = voxels[np.argmin(squared_distance.sum(axis=1))]
        size = np.array([part.stop - part.start for part in lesion_box]) * self.spacing
        edge = min(WIDEST_MM, max(CLOSE_MM, float(size.max()) + 2 * CLOSE_RIM_MM))
        box = _around(middle, edge, self.spacing)
        return [self._tile(Cut(plane, int(middle[plane.normal])), box, 0.0) for plane in planes]

    def _turn(self, data: NDArray[np.generic]) -> NDArray[np.generic]:
        return to_ras(Volume(data, self._case.affine)).data

    def _visible(self) -> Mask:
        """Return the mask of the voxels that may be shown."""
        if self._case.brain is not None and self._case.brain.any():
            return near(self._turn(self._case.brain) != 0, RIM_MM, self.spacing)
        return near(self._union, NEAR_MM, self.spacing)

    def _shades(self) -> NDArray[np.float32]:
        """Scale intensities to 0 to 1, with 0 where nothing may be shown."""
        if self._case.image is None:
            return np.where(self._shown, 0.25, 0).astype(np.float32)
        values = np.nan_to_num(self._turn(self._case.image).astype(np.float32))
        inside = values[self._shown & (values != 0)]
        low, high = np.percentile(inside, [0.5, 99.8]) if inside.size else (0.0, 1.0)
        scaled = np.clip((values - low) / max(high - low, 1e-6), 0, 1)
        return np.where(self._shown, scaled, 0).astype(np.float32)

    def _tile(self, cut: Cut, box: tuple[slice, slice, slice], pixel: float) -> Tile:
        """Draw a part of a slice; voxels outside the grid are black."""
        plane = cut.plane
        edges = (float(self.spacing[plane.across]), float(self.spacing[plane.down]))
        grey = _part(self._grey, cut, box)
        rows, columns = grey.shape
        width, height = columns * edges[0], rows * edges[1]
        if min(edges) < pixel:
            pixels = [
                max(1, min(count, round(count * edge / pixel)))
                for count, edge in zip((columns, rows), edges, strict=True)
            ]
            grey = canvas.magnify(grey, pixels[0], pixels[1])
        shades = canvas.to_grey(grey.astype(np.float64), 0, 1)
        return Tile(
            plane,
            world_position(self._ras.affine, box, cut),
            np.repeat(shades[..., None], 3, axis=2),
            edges,
            width,
            height,
            tuple(self._lines(cut, box)),
        )

    def _lines(self, cut: Cut, box: tuple[slice, slice, slice]) -> Iterator[Line]:
        for side in (MANUAL, AUTO):
            labels = _part(self._labels[side], cut, box)
            for index in np.unique(labels[labels != 0]).tolist():
                kind = self._states.get((side, index), UNCOUNTED)
                yield Line(kind, index, tuple(outlines.loops(labels == index)))
            small = (_part(self._masks[side], cut, box) != 0) & (labels == 0)
            if small.any():
                yield Line(UNCOUNTED, 0, tuple(outlines.loops(small)))


def _around(
    middle: NDArray[np.int64], edge: float, spacing: NDArray[np.float64]
) -> tuple[slice, slice, slice]:
    """Return a box of about ``edge`` mm around a voxel; it may extend beyond the grid."""
    half = [max(1, round(edge / 2 / float(step))) for step in spacing]
    x, y, z = (
        slice(int(at) - reach, int(at) + reach + 1) for at, reach in zip(middle, half, strict=True)
    )
    return x, y, z


def _part(
    volume: NDArray[np.generic], cut: Cut, box: tuple[slice, slice, slice]
) -> NDArray[np.generic]:
    """Extract the part of a slice inside a box in screen orientation, zero off the grid."""
    parts = [
        slice(cut.index, cut.index + 1) if axis == cut.plane.normal else box[axis]
        for axis in range(3)
    ]
    inside = [
        slice(max(0, part.start), min(size, part.stop))
        for part, size in zip(parts, volume.shape, strict=True)
    ]
    padding = [
        (clipped.start - part.start, part.stop - clipped.stop)
        for part, clipped in zip(parts, inside, strict=True)
    ]
    slab = np.pad(volume[tuple(inside)], padding)
    return on_screen(slab, Cut(cut.plane, 0))
