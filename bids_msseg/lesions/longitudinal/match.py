"""Matching of lesions between two visits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[slice, slice, slice]
Labels = NDArray[np.integer]
_Node = tuple[int, int]  # visit (0 or 1), label
TOUCHING = np.ones((3, 3, 3), bool)
FACES_PER_AREA = 1.5
"""Faces of voxels exceed a surface of any direction by this factor on average (Mullikin and
Verbeek, Bioimaging 1993)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Labels of matched lesions of two visits, one of which may have none, and their box."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    box: Box


def carry_labels(
    labels: Labels,
    probability: NDArray[np.floating],
    threshold: float,
    centres: Mapping[int, tuple[int, int, int]],
) -> NDArray[np.int32]:
    """Smooth the borders of resampled labels; a lesion without a voxel keeps its centre."""
    occupied = labels > 0
    carried = np.zeros(labels.shape, np.int32)
    if occupied.any():
        nearest = ndimage.distance_transform_edt(
            ~occupied, return_distances=False, return_indices=True
        )
        grown = (probability >= threshold) & ndimage.binary_dilation(occupied, TOUCHING)
        carried[grown] = labels[tuple(axis[grown] for axis in nearest)]
    present = set(np.unique(carried).tolist())
    for label, centre in centres.items():
        if label not in present:
            carried[centre] = label
    return carried


def match_lesions(before: Labels, after: Labels) -> tuple[Group, ...]:
    """Match the lesions of two visits by overlap; lesions that overlap none match by touch."""
    places = [_places(before), _places(after)]
    nodes = [(visit, label) for visit in (0, 1) for label in places[visit]]
    linked = _links(before, after, [(0, 0, 0)])
    unmatched = set(nodes) - {node for link in linked for node in link}
    adjacent = _links(before, after, list(product((-1, 0, 1), repeat=3)))
    linked |= {link for link in adjacent if set(link) <= unmatched}
    groups = []
    for members in _components(nodes, linked):
        parts = [tuple(label for visit, label in members if visit == v) for v in (0, 1)]
        box = _enclosing_box([places[visit][label] for visit, label in members])
        groups.append(Group(parts[0], parts[1], box))
    return tuple(groups)


def surface_mm2(labels: Labels, *, spacing: float = 1.0) -> dict[int, float]:
    """Estimate the surface of each lesion in mm² from the faces of cubic voxels."""
    rim = np.pad(labels, 1)
    size = int(labels.max(initial=0)) + 1
    faces = np.zeros(size, np.int64)
    for axis in range(3):
        along_axis = np.moveaxis(rim, axis, 0)
        first, second = along_axis[:-1], along_axis[1:]
        differs = first != second
        faces += np.bincount(first[differs], minlength=size)
        faces += np.bincount(second[differs], minlength=size)
    area = faces * spacing**2 / FACES_PER_AREA
    return {int(label): float(area[label]) for label in np.flatnonzero(faces) if label}


def _places(labels: Labels) -> dict[int, Box]:
    """Return the boxes of all labels that are present."""
    boxes = ndimage.find_objects(labels.astype(np.int32, copy=False))
    return {label: box for label, box in enumerate(boxes, start=1) if box is not None}


def _links(
    before: Labels, after: Labels, steps: Iterable[tuple[int, ...]]
) -> set[tuple[_Node, _Node]]:
    """Find pairs of labels that overlap after a shift by any of the steps."""
    rim = np.pad(after, 1)
    index = np.argwhere(before > 0)
    labels_before = before[tuple(index.T)]
    links: set[tuple[_Node, _Node]] = set()
    for step in steps:
        labels_after = rim[tuple((index + 1 + np.array(step)).T)]
        pairs = np.unique(
            np.stack([labels_before, labels_after], axis=1)[labels_after > 0], axis=0
        )
        links |= {((0, int(first)), (1, int(second))) for first, second in pairs}
    return links


def _components(nodes: Iterable[_Node], links: Iterable[tuple[_Node, _Node]]) -> list[list[_Node]]:
    """List the connected parts of a graph, in the order of their first nodes."""
    neighbours: dict[_Node, set[_Node]] = {node: set() for node in nodes}
    for first, second in links:
        neighbours[first].add(second)
        neighbours[second].add(first)
    visited: set[_Node] = set()
    parts = []
    for start in neighbours:
        if start in visited:
            continue
        part, waiting = {start}, [start]
        while waiting:
            fresh = neighbours[waiting.pop()] - part
            part |= fresh
            waiting += fresh
        visited |= part
        parts.append(sorted(part))
    return parts


def _enclosing_box(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that contains all boxes."""
    sides = [
        slice(min(side.start for side in axis), max(side.stop for side in axis))
        for axis in zip(*boxes, strict=True)
    ]
    return (sides[0], sides[1], sides[2])
