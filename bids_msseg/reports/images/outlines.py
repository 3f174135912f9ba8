"""Borders of masks as lines that a browser draws over a slice."""

from __future__ import annotations

from collections.abc import Iterable

import contourpy
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Loop = NDArray[np.float64]

FINE = 2
"""Steps a voxel edge: a border follows the edges and cuts corners by a quarter of a voxel."""
UNITS = 2 * FINE
"""Steps of a path's coordinates a voxel."""


def loops(mask: Mask) -> list[Loop]:
    """Trace the borders of a mask as closed lines of corners (x, y), in voxels (column, row)."""
    fine = np.pad(np.kron(mask, np.ones((FINE, FINE))), 1)
    lines = contourpy.contour_generator(z=fine, line_type="Separate").lines(0.5)
    return [_corners((np.asarray(line) - 0.5) / FINE) for line in lines]


def svg_path(borders: Iterable[Loop]) -> str:
    """Write borders as ``d`` of an SVG path, in integer steps of 1 / :data:`UNITS` voxel."""
    parts = []
    for border in borders:
        points = np.rint(border * UNITS).astype(int)
        steps = np.diff(points[:-1], axis=0)
        moves = " ".join(f"{x} {y}" for x, y in steps)
        parts.append(f"M{points[0, 0]} {points[0, 1]}l{moves}z")
    return "".join(parts)


def _corners(line: Loop) -> Loop:
    """Remove points on straight segments, but keep the end points."""
    steps = np.diff(line, axis=0)
    before, after = steps[:-1], steps[1:]
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    corners: Loop = line[np.concatenate([[True], turns, [True]])]
    return corners
