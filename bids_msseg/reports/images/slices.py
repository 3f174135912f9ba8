"""Choice of the slices that a picture shows, and their orientation on the screen.

Display is radiological: in axial and coronal slices the patient's left is on the right of the
picture. Sagittal slices have anterior on the left.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.volume import Volume

Mask = NDArray[np.bool_]

SEEN_WEIGHT = 0.25
"""What a lesion that another chosen slice already shows still counts when slices are chosen."""
THIN_SLICE_FRACTION = 0.15
"""Slices with less brain than this share of the largest one are not worth a place."""


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice orientation of a RAS+ volume.

    ``normal`` is the array axis that is cut; ``across`` and ``down`` are the axes along picture
    rows and columns. ``left`` and ``right`` name the patient's side at each border of the picture.
    """

    name: str
    normal: int
    across: int
    down: int
    coordinate: str
    left: str
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
    """Reorder axes of a volume to the nearest RAS+ orientation, without resampling.

    Examples
    --------
    >>> flipped = Volume(np.arange(2).reshape(2, 1, 1), np.diag([-1.0, 1, 1, 1]))
    >>> to_ras(flipped).data.ravel()
    array([1, 0])
    """
    orientation = nib.orientations.io_orientation(volume.affine)
    data = nib.orientations.apply_orientation(volume.data, orientation)
    back = nib.orientations.inv_ornt_aff(orientation, volume.shape)
    return Volume(data, volume.affine @ back)


def on_screen(volume: NDArray[np.generic], cut: Cut) -> NDArray[np.generic]:
    """Extract a slice of a RAS+ array in radiological display, as (rows, columns).

    The first row is superior (axial: anterior); the first column is the patient's right (sagittal:
    anterior).

    Examples
    --------
    >>> right = np.zeros((3, 2, 2), int)
    >>> right[2] = 1
    >>> on_screen(right, Cut(AXIAL, 0))
    array([[1, 0, 0],
           [1, 0, 0]])
    """
    index = tuple(cut.index if axis == cut.plane.normal else slice(None) for axis in range(3))
    screen: NDArray[np.generic] = volume[index].T[::-1, ::-1]
    return screen


def even_slices(brain: Mask, axis: int, count: int) -> list[int]:
    """Choose at most ``count`` evenly spread slices along ``axis``, in increasing order.

    Slices with little brain are left out.

    Examples
    --------
    >>> even_slices(np.ones((2, 2, 9), bool), axis=2, count=3)
    [1, 4, 7]
    """
    area = _areas(brain, axis)
    shown = np.flatnonzero(area > THIN_SLICE_FRACTION * area.max(initial=0))
    if shown.size <= count:
        return [int(index) for index in shown]
    middles = (np.arange(count) + 0.5) / count * shown.size
    return [int(shown[int(middle)]) for middle in middles]


def lesion_slices(labels: NDArray[np.int32], axis: int, count: int, *, gap: int = 1) -> list[int]:
    """Choose the slices along ``axis`` that show most lesion, in increasing order.

    Greedy by lesion area: a lesion on a chosen slice then counts a quarter. Chosen slices are at
    least ``gap`` apart; there are fewer than ``count`` if no more lesion is left. Labels are 1..n.

    Examples
    --------
    >>> labels = np.zeros((4, 4, 9), np.int32)
    >>> labels[:, :, 2:4] = 1
    >>> labels[0, :2, 7] = 2
    >>> lesion_slices(labels, axis=2, count=2)
    [2, 3]
    >>> lesion_slices(labels, axis=2, count=2, gap=2)
    [2, 7]
    """
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
    """Add evenly spread slices to the chosen ones, up to ``count``, in increasing order.

    Added slices keep a distance of ``gap`` from ``chosen``, so that missed lesions can be found.

    Examples
    --------
    >>> fill_up([4], [1, 4, 7, 9], count=3)
    [1, 4, 7]
    """
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
