"""Borders of masks."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as Polygon

from bids_msseg.reports.images.outlines import UNITS, loops, svg_path

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.booleans())


def inside(borders: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Return the voxels whose centre lies within an odd number of borders."""
    rows, columns = np.indices(shape)
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    odd = np.zeros(len(centres), bool)
    for border in borders:
        odd ^= Polygon(border).contains_points(centres)
    return odd.reshape(shape)


@given(masks)
def test_loops_enclose_exactly_the_mask_voxels(mask: np.ndarray) -> None:
    borders = loops(mask)
    np.testing.assert_array_equal(inside(borders, mask.shape), mask)
    assert all((border[0] == border[-1]).all() for border in borders)


@given(masks)
def test_svg_path_reproduces_loops(mask: np.ndarray) -> None:
    borders = loops(mask)
    drawn = []
    for part in re.findall(r"M([^lz]*)l([^z]*)z", svg_path(borders)):
        numbers = [np.array(text.split(), int).reshape(-1, 2) for text in part]
        corners = np.cumsum(np.concatenate(numbers), axis=0)
        drawn.append(np.concatenate([corners, corners[:1]]) / UNITS)
    assert len(drawn) == len(borders)
    for one, border in zip(drawn, borders, strict=True):
        np.testing.assert_array_equal(one, border)


def test_loops_and_svg_path_of_small_example() -> None:
    [border] = loops(np.array([[0, 1, 1]], bool))
    assert (border.min(0).tolist(), border.max(0).tolist()) == ([1, 0], [3, 1])
    assert svg_path([np.array([[0.0, 0], [1, 0], [1, 1], [0, 0]])]) == "M0 0l4 0 0 4z"


def test_loops_omit_points_on_straight_edges() -> None:
    [border] = loops(np.ones((3, 50), bool))
    assert len(border) <= 10
    assert border.min() == 0
    assert border.max() == 50
