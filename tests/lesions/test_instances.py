"""Lesion volumes are in mm³ and do not depend on the order of axes or memory."""

from __future__ import annotations

import csv
from itertools import permutations
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import bounding_box, label_lesions

Mask = NDArray[np.bool_]
SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7)
MASKS = hnp.arrays(bool, SHAPES, elements=st.booleans(), fill=st.nothing())


def sizes(labels: NDArray[np.int32]) -> list[int]:
    return np.bincount(labels.ravel())[1:].tolist()


def cubes(*corners_and_sides: tuple[tuple[int, int, int], int]) -> Mask:
    mask = np.zeros((20, 20, 20), bool)
    for (x, y, z), side in corners_and_sides:
        mask[x : x + side, y : y + side, z : z + side] = True
    return mask


class TestLabelLesions:
    def test_largest_lesion_has_label_one(self) -> None:
        labels = label_lesions(
            cubes(((0, 0, 0), 1), ((5, 5, 5), 3), ((15, 0, 0), 2)), voxel_volume=1
        )
        assert sizes(labels) == [27, 8, 1]
        assert labels[5, 5, 5] == 1
        assert labels.dtype == np.int32

    def test_equal_volumes_are_labelled_in_c_order(self) -> None:
        labels = label_lesions(
            cubes(((9, 0, 0), 2), ((0, 9, 0), 2), ((0, 0, 9), 2)), voxel_volume=1
        )
        assert [labels[0, 0, 9], labels[0, 9, 0], labels[9, 0, 0]] == [1, 2, 3]

    def test_components_are_connected_by_corners(self) -> None:
        mask = cubes(((0, 0, 0), 2), ((2, 2, 2), 2))
        assert sizes(label_lesions(mask, voxel_volume=1)) == [16]

    @pytest.mark.parametrize(
        ("voxel_volume", "kept"), [(1.0, [4, 3]), (0.9, [4]), (3.0, [4, 3, 1]), (0.7, [])]
    )
    def test_smallest_volume_is_in_mm3_not_voxels(
        self, voxel_volume: float, kept: list[int]
    ) -> None:
        mask = np.zeros((20, 1, 1), bool)
        mask[[0, 1, 2, 5, 7, 8, 9, 10]] = True
        assert sizes(label_lesions(mask, voxel_volume=voxel_volume, min_volume=3.0)) == kept

    def test_lesion_of_minimum_volume_is_kept_despite_float32(self) -> None:
        mask = np.zeros((3, 1, 1), bool)
        mask[:] = True
        volume = float(np.prod(np.float32([0.99999994, 1, 1])))
        assert sizes(label_lesions(mask, voxel_volume=volume, min_volume=3.0)) == [3]

    def test_empty_mask_has_no_labels(self) -> None:
        labels = label_lesions(np.zeros((4, 5, 6)), voxel_volume=1)
        assert labels.shape == (4, 5, 6)
        assert not labels.any()

    def test_any_non_zero_value_is_lesion(self) -> None:
        mask = np.array([0.2, 0.0, -1.0]).reshape(3, 1, 1)
        assert label_lesions(mask, voxel_volume=1).ravel().tolist() == [1, 0, 2]

    def test_two_dimensional_mask_is_refused(self) -> None:
        with pytest.raises(ValueError, match="three axes, not 2"):
            label_lesions(np.zeros((3, 3)), voxel_volume=1)

    @pytest.mark.parametrize("volume", [0.0, -1.0, float("nan")])
    def test_invalid_voxel_volume_is_refused(self, volume: float) -> None:
        with pytest.raises(ValueError, match="positive"):
            label_lesions(np.zeros((3, 3, 3)), voxel_volume=volume)

    @given(MASKS)
    def test_components_are_those_of_scipy(self, mask: Mask) -> None:
        labels = label_lesions(mask, voxel_volume=1)
        theirs, n = ndimage.label(mask, np.ones((3, 3, 3)))
        pairs = set(zip(labels[mask].tolist(), theirs[mask].tolist(), strict=True))
        assert len(pairs) == n == labels.max(initial=0)
        assert np.array_equal(labels > 0, mask)

    @given(MASKS)
    def test_memory_order_changes_nothing(self, mask: Mask) -> None:
        expected = label_lesions(mask, voxel_volume=1)
        assert np.array_equal(label_lesions(np.asfortranarray(mask), voxel_volume=1), expected)
        view = np.repeat(mask, 2, axis=1)[:, ::2]
        assert np.array_equal(label_lesions(view, voxel_volume=1), expected)

    @settings(max_examples=50)
    @given(
        MASKS, st.sampled_from(list(permutations(range(3)))), st.sets(st.integers(0, 2)), st.data()
    )
    def test_orientation_does_not_change_volumes(
        self, mask: Mask, axes: tuple[int, ...], flipped: set[int], data: st.DataObject
    ) -> None:
        minimum = data.draw(st.floats(0, 10))
        turned = np.flip(mask, tuple(flipped)).transpose(axes)
        here = label_lesions(mask, voxel_volume=1.3, min_volume=minimum)
        there = label_lesions(turned, voxel_volume=1.3, min_volume=minimum)
        assert sizes(here) == sizes(there)
        assert np.array_equal(np.flip(here > 0, tuple(flipped)).transpose(axes), there > 0)

    @given(MASKS)
    def test_labels_are_consecutive_and_sorted(self, mask: Mask) -> None:
        found = sizes(label_lesions(mask, voxel_volume=1, min_volume=2))
        assert found == sorted(found, reverse=True)
        assert all(size >= 2 for size in found)


class TestBoundingBox:
    def test_margin_is_clipped_at_image_border(self) -> None:
        box = bounding_box(cubes(((1, 5, 17), 3)), margin=2)
        assert box == (slice(0, 6), slice(3, 10), slice(15, 20))

    def test_bounding_box_of_empty_mask_selects_no_voxel(self) -> None:
        assert np.zeros((3, 3, 3))[bounding_box(np.zeros((3, 3, 3)))].size == 0

    @given(MASKS)
    def test_bounding_box_is_tight(self, mask: Mask) -> None:
        box = bounding_box(mask)
        assert mask[box].sum() == mask.sum()
        inside = mask[box]
        for axis in range(3) if mask.any() else ():
            assert inside.take(0, axis).any()
            assert inside.take(-1, axis).any()


@pytest.mark.realdata
def test_lesion_counts_match_cohort_table(shared_data: Path) -> None:
    """The cohort's table counts all components; in lj07, 30 of 37 reach 3 mm³."""
    cohort = shared_data / "ms-cohort"
    with (cohort / "participants.tsv").open() as table:
        counts = {
            row["participant_id"]: int(row["n_lesions"])
            for row in csv.DictReader(table, delimiter="\t")
        }
    for subject, n in counts.items():
        # of several visits, the table counts the first
        masks = (cohort / "derivatives/manual" / subject).rglob("*_label-L_mask.nii.gz")
        image = nib.load(min(masks))
        mask = np.asarray(image.dataobj) > 0
        volume = float(abs(np.linalg.det(image.affine)))
        assert label_lesions(mask, voxel_volume=volume).max() == n, subject
        if subject == "sub-lj07":
            assert label_lesions(mask, voxel_volume=volume, min_volume=3.0).max() == 30


@pytest.mark.parametrize("shape", [(4, 5, 6), (0, 3, 3)])
def test_bounding_box_of_empty_mask_is_empty_on_every_axis(shape: tuple[int, int, int]) -> None:
    assert bounding_box(np.zeros(shape, bool), margin=2) == (slice(0, 0),) * 3
