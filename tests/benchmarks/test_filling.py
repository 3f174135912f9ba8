"""Filling of painted lesions in a spherical brain phantom with noisy white matter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filling import CONSTANT, LEFT_IN, OURS, Place, compare, draw_experts, measure_visit, treat
from numpy.typing import NDArray

from bids_msseg.check.visit import Cut, Prepared
from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.regions import RegionAnatomy as Code
from bids_msseg.lesions.regions import region_map
from bids_msseg.models.anatomy import Anatomy

EDGE = 80
CUT = Cut(threshold=0.5, min_volume=3.0)


def ball(radius: float) -> NDArray[np.bool_]:
    axes = np.ogrid[:EDGE, :EDGE, :EDGE]
    return np.asarray(sum((axis - 40) ** 2 for axis in axes) <= radius**2)


@pytest.fixture(scope="module")
def tissue() -> NDArray[np.uint8]:
    found = np.where(ball(36), Anatomy.CORTEX, Anatomy.BACKGROUND).astype(np.uint8)
    found[ball(31)] = Anatomy.WHITE_MATTER
    found[ball(9)] = Anatomy.VENTRICLE
    return found


@pytest.fixture(scope="module")
def prepared(tissue: NDArray[np.uint8]) -> Prepared:
    """FLAIR and T1w; noise of 0.2 around 0 everywhere in the brain."""
    inside = ball(36)
    codes = np.where(inside, Code.CORTEX, Code.OUTSIDE).astype(np.uint8)
    codes[tissue == Anatomy.WHITE_MATTER] = Code.SUPRATENTORIAL
    codes[tissue == Anatomy.VENTRICLE] = Code.VENTRICLE
    images = np.random.default_rng(5).normal(0, 0.2, (3, *inside.shape)).astype(np.float32)
    images[:, ~inside] = -3
    images[2] = 0
    return Prepared(
        "sub-01",
        Stack(images, (True, True, False), inside, np.eye(4), 1.0),
        np.zeros(inside.shape, bool),
        codes,
        region_map(codes, (1, 1, 1)),
        (1.0, 1.0, 1.0),
        np.zeros((3, 3)),
        (0.02, 0.02, 0.02),
        (),
    )


def small_place() -> Place:
    """A lesion of two voxels, one of them in cortex, in a row of nine."""
    labels = np.zeros((9, 1, 1), np.int32)
    labels[3:5] = 1
    white = np.ones(labels.shape, bool)
    white[4:6] = False
    normal = white.copy()
    normal[1:4] = False
    return Place(labels, white, normal)


def test_filling_errors_of_small_example() -> None:
    """Voxels 0, 6, 7 and 8 are normal white matter: mean 0, standard deviation 1."""
    row = [1, 0, 0, 0, 5, 5, -1, 1, -1]
    original = np.array(row, np.float32).reshape(9, 1, 1)
    painted, found = original.copy(), original.copy()
    painted[3:5] += 4
    found[3], found[2], found[8] = 0.5, 0.25, 7
    values = compare(found, painted, original, small_place())
    assert values["error"] == values["mean_error"] == 0.5
    # border: voxels 1, 2, 5 and 6, of which 5 is cortex
    assert values["border_error"] == pytest.approx(0.25 / 3)
    assert values["border_changed"] == 1
    assert values["far_changed"] == 1
    assert np.isnan(values["texture"])  # undefined for one voxel


def test_texture_is_standard_deviation_within_lesions() -> None:
    labels = np.zeros((12, 1, 1), np.int32)
    labels[0:2], labels[4:6] = 1, 2
    white = np.ones(labels.shape, bool)
    original = np.zeros(labels.shape, np.float32)
    original[0:2, 0, 0], original[4:6, 0, 0] = (-1, 1), (9, 11)
    original[8:, 0, 0] = (-1, 1, -1, 1)
    place = Place(labels, white, np.arange(12).reshape(labels.shape) >= 8)
    flat = np.where(labels > 0, np.float32(5), original)
    assert compare(flat, original, original, place)["texture"] == 0
    assert compare(flat, original, original, place)["mean_error"] == 5
    assert compare(2 * original, original, original, place)["texture"] == pytest.approx(2)


def test_treat_gives_left_in_constant_and_filled_images(
    prepared: Prepared, tissue: NDArray[np.uint8]
) -> None:
    stack = prepared.stack
    labels = np.zeros(tissue.shape, np.int32)
    labels[58:62, 38:42, 38:42] = 1
    white = tissue == Anatomy.WHITE_MATTER
    images = stack.data.copy()
    images[:2] += 3 * (labels > 0)
    place = Place(labels, white, white & (labels == 0))
    found = treat(images, stack.present, place, white, 0)
    assert list(found) == [LEFT_IN, CONSTANT, OURS]
    assert found[LEFT_IN] is images
    assert np.ptp(found[CONSTANT][0][labels > 0]) == 0
    assert found[CONSTANT][1][labels > 0].mean() == pytest.approx(0, abs=0.01)
    np.testing.assert_array_equal(found[OURS][2], images[2])
    filled = found[OURS][0][labels > 0]
    assert abs(filled.mean()) < 0.2
    assert filled.std() == pytest.approx(0.2, abs=0.1)


def test_measure_visit_compares_filling_methods(
    prepared: Prepared, tissue: NDArray[np.uint8]
) -> None:
    """The stub networks find no lesion and classify bright FLAIR voxels as cortex."""

    def run(stack: Stack) -> Mapping[str, Volume]:
        bright = (stack.data[0] > 1) & (tissue == Anatomy.WHITE_MATTER)
        maps = {
            "probability": np.zeros(tissue.shape, np.float32),
            "candidate": np.zeros(tissue.shape, np.float32),
            "candidates": np.zeros(tissue.shape, np.uint8),
            "anatomy": np.where(bright, Anatomy.CORTEX, tissue).astype(np.uint8),
        }
        return {name: Volume(data, stack.affine) for name, data in maps.items()}

    drawn = np.zeros(tissue.shape, bool)
    drawn[10:20, 35:45, 35:45] = True
    found = measure_visit(prepared, drawn, run, CUT, draws=1, seed=0)
    assert list(found.volumes) == [LEFT_IN, CONSTANT, OURS]
    assert list(found.intensities) == [
        f"{contrast}, {method}" for contrast in ("FLAIR", "T1w") for method in found.volumes
    ]
    for contrast in ("FLAIR", "T1w"):
        left, constant, filled = (
            found.intensities[f"{contrast}, {method}"][0] for method in found.volumes
        )
        assert left["mean_error"] > 2 * max(constant["mean_error"], filled["mean_error"])
        assert left["border_changed"] == left["far_changed"] == 0
        assert constant["texture"] == constant["border_changed"] == constant["far_changed"] == 0
        assert filled["texture"] == pytest.approx(1, abs=0.3)
        assert filled["border_changed"] > 0
        assert filled["far_changed"] == 0
    white = {method: rows[0]["white_matter_ml"] for method, rows in found.volumes.items()}
    assert white[LEFT_IN] < white[OURS] <= 0
    assert found.volumes[OURS][0]["painted_ml"] > 0.3


def test_expert_masks_of_other_voxel_order_are_read(tmp_path: Path) -> None:
    shape = (6, 5, 4)
    stack = Stack(
        np.zeros((3, *shape), np.float32),
        (True, False, False),
        np.ones(shape, bool),
        np.eye(4),
        1.0,
    )
    data = np.zeros(shape, np.uint8)
    data[1, 2, 3] = 1
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 5
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "mask.nii.gz")
    found = draw_experts(tmp_path / "mask.nii.gz", stack)
    assert np.argwhere(found).tolist() == [[4, 2, 3]]
    assert not draw_experts(None, stack).any()
