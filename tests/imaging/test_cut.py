from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.imaging.cut import OF_VIEWER, cut_affine, find_cut, find_drawn_cut, spread

OBLIQUE = np.array([[-0.9, 0.1, 0, 40], [0.1, 0.9, 0, -30], [0, 0, 3, 7], [0, 0, 0, 1.0]])
WHOLE = (12, 13, 14)
SHAPE = (6, 6, 3)
START = (1, 2, 3)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 1, 1), (2, 2, 4)])
def test_drawn_cut_is_placed_back_with_partial_last_voxels(
    tmp_path: Path, factors: tuple[int, int, int]
) -> None:
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[5, 1, 2] = drawn[0, 5, 0] = 1
    image = nib.Nifti1Image(drawn, cut_affine(OBLIQUE, START, factors))
    image.header["descrip"] = OF_VIEWER
    nib.save(image, tmp_path / "m.nii.gz")
    cut = find_drawn_cut(tmp_path / "m.nii.gz", WHOLE, OBLIQUE)
    assert cut is not None
    assert (cut.start, cut.factors) == (START, factors)
    block = (np.moveaxis(np.indices(WHOLE), 0, -1) - START) // factors
    expected = (block == (5, 1, 2)).all(-1) | (block == (0, 5, 0)).all(-1)
    np.testing.assert_array_equal(spread(drawn > 0, cut, WHOLE), expected)


def test_mask_not_from_viewer_is_ignored(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones(SHAPE, np.uint8), cut_affine(OBLIQUE, START, (1, 1, 1)))
    nib.save(image, tmp_path / "m.nii.gz")
    assert find_drawn_cut(tmp_path / "m.nii.gz", WHOLE, OBLIQUE) is None


def _turned() -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.05), -np.sin(0.05)], [np.sin(0.05), np.cos(0.05)]]
    return turn


@pytest.mark.parametrize(
    "affine",
    [
        cut_affine(OBLIQUE, (-1, 0, 0), (1, 1, 1)),
        cut_affine(OBLIQUE, (7, 0, 0), (1, 1, 1)),
        cut_affine(OBLIQUE, (0, 0, 7), (1, 1, 4)),
        cut_affine(OBLIQUE, START, (1, 1, 1)) + np.eye(4, k=3) * 0.1,
        OBLIQUE @ np.diag([1.5, 1, 1, 1]),
        OBLIQUE @ np.diag([-1.0, 1, 1, 1]),
        OBLIQUE[:, [1, 0, 2, 3]],
        OBLIQUE @ _turned(),
    ],
)
def test_find_cut_returns_none_for_other_grid(affine: np.ndarray) -> None:
    assert find_cut(SHAPE, affine, WHOLE, OBLIQUE) is None


def test_cut_affine_is_at_centre_of_joined_voxels() -> None:
    assert cut_affine(np.eye(4), [10, 0, 0], (2, 1, 1))[0].tolist() == [2.0, 0.0, 0.0, 10.5]
