from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bids_msseg.imaging.volume import Volume
from bids_msseg.reports.images.slices import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Cut,
    Plane,
    even_slices,
    fill_up,
    lesion_slices,
    on_screen,
    to_ras,
)

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_to_ras_keeps_world_coordinates_of_voxels(signs: tuple[int, int, int]) -> None:
    affine = np.diag([0.5 * signs[0], 0.7 * signs[1], 3.0 * signs[2], 1.0])
    affine[:3, 3] = (11, -7, 3)
    volume = Volume(np.arange(24).reshape(2, 3, 4), affine)
    turned = to_ras(volume)
    assert (np.diag(turned.affine)[:3] > 0).all()
    for index in np.ndindex(*volume.shape):
        world = affine @ (*index, 1)
        there = np.rint(np.linalg.inv(turned.affine) @ world).astype(int)
        assert turned.data[tuple(there[:3])] == volume.data[index]


def test_to_ras_permutes_axes_of_sagittal_acquisitions() -> None:
    affine = np.array([[0, 0, 2.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    turned = to_ras(Volume(np.zeros((5, 6, 7)), affine))
    assert turned.shape == (7, 5, 6)
    assert turned.spacing.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("plane", "voxel", "corner"),
    [
        (AXIAL, (-1, -1, 0), (0, 0)),  # right anterior: upper left
        (AXIAL, (0, 0, 0), (-1, -1)),  # left posterior: lower right
        (CORONAL, (-1, 0, -1), (0, 0)),  # right superior: upper left
        (CORONAL, (0, 0, 0), (-1, -1)),  # left inferior: lower right
        (SAGITTAL, (0, -1, -1), (0, 0)),  # anterior superior: upper left
        (SAGITTAL, (0, 0, 0), (-1, -1)),  # posterior inferior: lower right
    ],
)
def test_radiological_display(
    plane: Plane, voxel: tuple[int, int, int], corner: tuple[int, int]
) -> None:
    data = np.zeros((3, 4, 5))
    data[voxel] = 1
    screen = on_screen(data, Cut(plane, 0))
    assert screen.shape == (data.shape[plane.down], data.shape[plane.across])
    assert screen[corner] == 1
    assert screen.sum() == 1


def test_even_slices_omit_slices_with_little_brain() -> None:
    brain = np.zeros((10, 10, 12), bool)
    brain[:, :, 2:10] = True
    brain[5, 5, :] = True
    assert even_slices(brain, 2, 4) == [3, 5, 7, 9]
    assert even_slices(brain, 2, 99) == list(range(2, 10))
    assert even_slices(np.zeros((2, 2, 2), bool), 2, 3) == []


label_maps = arrays(np.int32, (4, 4, 9), elements=st.integers(0, 5))


@given(label_maps, st.integers(1, 12), st.integers(1, 4))
def test_lesion_slices_contain_lesions_and_respect_gap(
    labels: np.ndarray, count: int, gap: int
) -> None:
    chosen = lesion_slices(labels, 2, count, gap=gap)
    assert len(chosen) <= count
    assert (np.diff(chosen) >= gap).all()
    assert all(labels[:, :, index].any() for index in chosen)
    assert bool(chosen) == bool(labels.any())


@given(label_maps)
def test_lesion_slices_include_slice_of_largest_lesion_area(labels: np.ndarray) -> None:
    areas = (labels > 0).sum(axis=(0, 1))
    chosen = lesion_slices(labels, 2, 3)
    assert not chosen or areas[chosen].max() == areas.max()


def test_lesion_slices_and_fill_up_of_small_example() -> None:
    labels = np.zeros((4, 4, 9), np.int32)
    labels[:, :, 2:4] = 1
    labels[0, :2, 7] = 2
    assert lesion_slices(labels, axis=2, count=2) == [2, 3]
    assert lesion_slices(labels, axis=2, count=2, gap=2) == [2, 7]
    assert fill_up([4], [1, 4, 7, 9], count=3) == [1, 4, 7]


@given(
    st.sets(st.integers(0, 30), max_size=6).map(sorted),
    st.sets(st.integers(0, 30), max_size=20).map(sorted),
    st.integers(0, 10),
)
def test_fill_up_keeps_all_chosen_slices(chosen: list[int], spread: list[int], count: int) -> None:
    filled = fill_up(chosen, spread, count)
    assert set(chosen) <= set(filled)
    assert len(filled) == len(set(filled))
    assert len(filled) == max(len(chosen), min(count, len(set(chosen) | set(spread))))
