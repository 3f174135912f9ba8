"""Choice of the slices that a picture shows, in radiological display (patient's left right)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.volume import Affine, Volume

Mask = NDArray[np.bool_]

GAP_MM = 4.0
"""Distance of two slices chosen for their lesions, where the voxels allow it."""
SEEN_WEIGHT = 0.25
"""Weight of a lesion that another chosen slice already shows."""
THIN_SLICE_FRACTION = 0.15
"""Share of the largest brain area below which a slice is not shown."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice orientation of a RAS+ volume."""

    name: str
    normal: int  # array axis that is cut
    across: int  # array axis along picture rows
    down: int  # array axis along picture columns
    coordinate: str
    left: str  # side of the patient at this border of the picture
    right: str


AXIAL = Plane("axial", 2, 0, 1, "z", "R", "L")
CORONAL = Plane("coronal", 1, 0, 2, "y", "R", "L")
SAGITTAL = Plane("sagittal", 0, 1, 2, "x", "A", "P")


@dataclass(frozen=True, slots=True)
class Cut:
    """One slice: its plane and its index along ``plane.normal``, from 0."""

    plane: Plane
    index: int


def to_ras(volume: Volume) -> Volume:
    """Reorder axes of a volume to the nearest RAS+ orientation, without resampling."""
    orientation = nib.orientations.io_orientation(volume.affine)
    data = nib.orientations.apply_orientation(volume.data, orientation)
    back = nib.orientations.inv_ornt_aff(orientation, volume.shape)
    return Volume(data, volume.affine @ back)


def on_screen(volume: NDArray[np.generic], cut: Cut) -> NDArray[np.generic]:
    """Extract a slice of a RAS+ array as (rows, columns); superior or anterior is up."""
    index = tuple(cut.index if axis == cut.plane.normal else slice(None) for axis in range(3))
    screen: NDArray[np.generic] = volume[index].T[::-1, ::-1]
    return screen


def world_position(affine: Affine, box: tuple[slice, slice, slice], cut: Cut) -> str:
    """Format the world coordinate of a slice, at the box centre if the grid is oblique."""
    point = np.array([(part.start + part.stop - 1) / 2 for part in box] + [1.0])
    point[cut.plane.normal] = cut.index
    return f"{cut.plane.coordinate} {(affine @ point)[cut.plane.normal]:+.0f} mm"


def slice_gap(spacing: NDArray[np.float64], plane: Plane) -> int:
    """Return the smallest distance of two slices that show lesions, in slices."""
    return max(1, math.ceil(GAP_MM / float(spacing[plane.normal]) - 0.01))


def even_slices(brain: Mask, axis: int, count: int) -> list[int]:
    """Choose at most ``count`` evenly spread slices along ``axis``, in increasing order."""
    area = _areas(brain, axis)
    shown = np.flatnonzero(area > THIN_SLICE_FRACTION * area.max(initial=0))
    if shown.size <= count:
        return [int(index) for index in shown]
    middles = (np.arange(count) + 0.5) / count * shown.size
    return [int(shown[int(middle)]) for middle in middles]


def lesion_slices(labels: NDArray[np.int32], axis: int, count: int, *, gap: int = 1) -> list[int]:
    """Choose slices with most lesion along ``axis``, at least ``gap`` apart, in order."""
    area = _areas_per_label(labels, axis)
    weight = np.ones(area.shape[1])
    free = np.ones(area.shape[0], bool)
    chosen: list[int] = []
    while len(chosen) < count:
        gain = (area @ weight) * free
        best = int(np.argmax(gain))
        if gain[best] <= 0:
            break
        chosen.append(best)
        free[max(0, best - gap + 1) : best + gap] = False
        weight[area[best] > 0] = SEEN_WEIGHT
    return sorted(chosen)


def fill_up(chosen: list[int], spread: list[int], count: int, *, gap: int = 1) -> list[int]:
    """Add evenly spread slices, ``gap`` away from the chosen ones, up to ``count``, in order."""
    full = list(chosen)
    candidates = [s for s in spread if all(abs(s - c) >= gap for c in chosen)]
    room = max(0, count - len(full))
    step = max(1.0, len(candidates) / room) if room else 1.0
    full += [candidates[int(i * step)] for i in range(min(room, len(candidates)))]
    return sorted(full)


def _areas(mask: Mask, axis: int) -> NDArray[np.int64]:
    in_plane = tuple(index for index in range(3) if index != axis)
    areas: NDArray[np.int64] = np.count_nonzero(mask, axis=in_plane)
    return areas


def _areas_per_label(labels: NDArray[np.int32], axis: int) -> NDArray[np.float64]:
    """Count the voxels of each label on each slice, shape (slices, labels)."""
    voxels = np.nonzero(labels)
    area = np.zeros((labels.shape[axis], int(labels.max(initial=0))))
    np.add.at(area, (voxels[axis], labels[voxels] - 1), 1)
    return area
