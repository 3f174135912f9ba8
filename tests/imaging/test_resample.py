"""Resampling of images between grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bids_msseg.imaging.resample import (
    mask_onto,
    reoriented,
    resample,
    scaled_axes,
    smooth_before_coarser,
)
from bids_msseg.imaging.volume import Affine, Volume

from .conftest import rigid


def ramp(affine: Affine, shape: tuple[int, int, int] = (12, 13, 14)) -> Volume:
    """World x + 2y + 3z at every voxel: linear interpolation gives it exactly."""
    index = np.indices(shape).reshape(3, -1).T
    points = index @ affine[:3, :3].T + affine[:3, 3]
    return Volume((points @ (1, 2, 3)).reshape(shape).astype(np.float32), affine)


def grid_inside(shape: tuple[int, int, int]) -> Affine:
    """A rotated grid of 1 mm that lies inside the ramp."""
    affine = rigid((10, -20, 15), (0, 0, 0))
    affine[:3, 3] = np.array([11.0, 12, 13]) - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


@pytest.mark.parametrize("order", [1, 3])
def test_linear_ramp_is_preserved_on_rotated_grid(order: int) -> None:
    source = ramp(np.diag([2.0, 2.0, 2.0, 1.0]))
    affine = grid_inside((6, 7, 5))
    moved = resample(source, (6, 7, 5), affine, order=order)
    expected = ramp(affine, (6, 7, 5))
    tolerance = 1e-4 if order == 1 else 0.05  # cubic splines have edge effects
    np.testing.assert_allclose(moved.data, expected.data, atol=tolerance)
    np.testing.assert_array_equal(moved.affine, affine)
    assert moved.data.dtype == np.float32


def test_transform_goes_from_target_to_source() -> None:
    data = np.zeros((9, 9, 9), np.float32)
    data[6, 4, 4] = 1
    moved = resample(
        Volume(data, np.eye(4)), (9, 9, 9), np.eye(4), transform=rigid((0, 0, 0), (2, 0, 0))
    )
    assert np.argwhere(moved.data == 1).tolist() == [[4, 4, 4]]


@settings(max_examples=25, deadline=None)
@given(degrees=st.tuples(*[st.floats(-30, 30)] * 3), shift=st.tuples(*[st.floats(-5, 5)] * 3))
@example(degrees=(0.0, 29.0, 21.0), shift=(-3.0, -3.0, 5.0))
def test_inverse_transform_restores_image(
    degrees: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    transform = rigid(degrees, shift)
    # corners of the inner cube move by up to 5 √3 + 3.5 √3 mm, and stay within
    shape = (32, 32, 32)
    points = np.indices(shape).astype(np.float32) - 15.5
    smooth = np.exp(-(points**2).sum(0) / 18).astype(np.float32)
    affine = np.eye(4)
    affine[:3, 3] = -15.5
    start = Volume(smooth, affine)
    there = resample(start, shape, affine, transform=transform, order=3)
    back = resample(there, shape, affine, transform=np.linalg.inv(transform), order=3)
    inside = np.s_[12:20, 12:20, 12:20]
    np.testing.assert_allclose(back.data[inside], smooth[inside], atol=0.02)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, bool])
def test_nearest_neighbour_keeps_type_and_labels(dtype: type) -> None:
    labels = np.random.default_rng(0).integers(0, 2 if dtype is bool else 5, (8, 8, 8))
    source = Volume(labels.astype(dtype), np.diag([2.0, 2, 2, 1]))
    moved = resample(source, (11, 12, 13), grid_inside((11, 12, 13)), order=0)
    assert moved.data.dtype == dtype
    assert set(np.unique(moved.data)) <= set(np.unique(source.data))


def test_same_grid_is_not_interpolated() -> None:
    source = Volume(np.random.default_rng(0).random((5, 6, 7)), rigid((3, 4, 5), (6, 7, 8)))
    moved = resample(source, source.shape, source.affine, order=3)
    np.testing.assert_array_equal(moved.data, source.data.astype(np.float32))
    assert moved.data is not source.data


def test_fill_value_is_used_outside_field_of_view() -> None:
    source = Volume(np.ones((4, 4, 4), np.float32), np.eye(4))
    far = np.eye(4)
    far[:3, 3] = 100
    assert (resample(source, (3, 3, 3), far, fill=-7.0).data == -7).all()


@pytest.mark.parametrize("pad", [1, 7])
def test_source_padding_does_not_change_result(pad: int) -> None:
    affine = rigid((5, 6, 7), (0.1, 0.2, 0.3)) @ np.diag([0.9, 1.1, 3.3, 1])
    source = Volume(np.random.default_rng(1).random((10, 10, 6)).astype(np.float32), affine)
    moved_origin = affine.copy()
    moved_origin[:3, 3] -= affine[:3, :3] @ np.full(3, float(pad))
    padded = Volume(np.pad(source.data, pad), moved_origin)
    target = np.eye(4)
    inside = ndimage.binary_erosion(
        resample(source.with_data(np.ones(source.shape)), (9, 9, 9), target).data > 0.999
    )
    assert inside.any()
    plain, wide = (resample(v, (9, 9, 9), target).data for v in (source, padded))
    np.testing.assert_allclose(wide[inside], plain[inside], atol=1e-5)


def test_smoothing_only_along_fine_axes() -> None:
    data = np.zeros((21, 21, 21), np.float32)
    data[10, 10, 10] = 1
    smooth = smooth_before_coarser(Volume(data, np.diag([0.5, 1.0, 4.0, 1])), 1.0).data
    assert smooth[9, 10, 10] > 0.05
    assert smooth[10, 9, 10] == smooth[10, 10, 9] == 0
    assert smooth.sum() == pytest.approx(1, abs=1e-5)
    x = np.arange(21) - 10
    variance = (smooth.sum((1, 2)) * x**2).sum()
    assert variance == pytest.approx(0.25 * (2.0**2 - 1), rel=0.05)


def test_no_smoothing_if_target_is_not_coarser() -> None:
    data = np.random.default_rng(0).random((5, 5, 5))
    same = smooth_before_coarser(Volume(data, np.diag([1.0, 2, 3, 1])), 1.0)
    np.testing.assert_array_equal(same.data, data.astype(np.float32))


def test_mask_keeps_its_volume() -> None:
    shape = (40, 40, 40)
    points = np.indices(shape) - 19.5
    ball = Volume((points**2).sum(0) < 14**2, np.eye(4))
    target = np.diag([1.3, 1.3, 1.3, 1.0])
    moved = mask_onto(ball, (31, 31, 31), target)
    assert moved.dtype == bool
    assert moved.sum() * 1.3**3 == pytest.approx(ball.data.sum(), rel=0.02)
    np.testing.assert_array_equal(mask_onto(ball, shape, np.eye(4)), ball.data)


@settings(max_examples=60, deadline=None)
@given(
    axes=st.permutations((0, 1, 2)),
    flips=st.tuples(*[st.booleans()] * 3),
    start=st.tuples(*[st.integers(0, 2)] * 3),
    order=st.sampled_from((0, 1)),
)
def test_permuted_and_flipped_axes_need_no_interpolation(
    axes: list[int], flips: tuple[bool, ...], start: tuple[int, ...], order: int
) -> None:
    data = np.random.default_rng(0).normal(size=(7, 8, 9)).astype(np.float32)
    shape = tuple(data.shape[axes.index(axis)] - 3 for axis in range(3))
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, (target, flip, low) in enumerate(zip(axes, flips, start, strict=True)):
        matrix[axis, target] = -1 if flip else 1
        matrix[axis, 3] = low + shape[target] - 1 if flip else low
    found = reoriented(data, matrix, shape)
    assert found is not None
    expected = ndimage.affine_transform(data, matrix, output_shape=shape, order=order)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "matrix",
    [
        np.diag([1.0, 1, 2, 1]),
        rigid((0, 0, 10), (0, 0, 0)),
        rigid((0, 0, 0), (0.5, 0, 0)),
        rigid((0, 0, 0), (0, 0, 1)),
        rigid((0, 0, 0), (0, 0, -1)),
    ],
    ids=["scaled", "turned", "half a voxel", "beyond the end", "before the start"],
)
def test_other_grids_are_interpolated(matrix: Affine) -> None:
    assert reoriented(np.ones((4, 4, 4)), matrix, (4, 4, 4)) is None


@settings(max_examples=200, deadline=None)
@given(
    axes=st.permutations((0, 1, 2)),
    scale=st.tuples(*[st.sampled_from((-2.0, -1.0, -0.3, 0.3, 1.0, 1.7))] * 3),
    shift=st.tuples(*[st.one_of(st.sampled_from((-0.5, 0.0, 0.5, 6.0)), st.floats(-3, 9))] * 3),
    sizes=st.tuples(*[st.integers(1, 8)] * 6),
    order=st.sampled_from((0, 1)),
)
def test_parallel_axes_are_interpolated_one_by_one(
    axes: list[int],
    scale: tuple[float, ...],
    shift: tuple[float, ...],
    sizes: tuple[int, ...],
    order: int,
) -> None:
    data = np.random.default_rng(0).normal(size=sizes[:3]).astype(np.float32)
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    matrix[range(3), axes] = scale
    matrix[:3, 3] = np.round(shift, 3)
    found = scaled_axes(data, matrix, sizes[3:], order, -7.0)
    assert found is not None
    expected = ndimage.affine_transform(
        data, matrix, output_shape=sizes[3:], order=order, cval=-7.0
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6 if order else 0)


def test_axes_that_are_not_parallel_are_left_to_scipy() -> None:
    matrix = rigid((0, 0, 10), (0, 0, 0))
    assert scaled_axes(np.ones((4, 4, 4)), matrix, (4, 4, 4), 1, 0.0) is None
