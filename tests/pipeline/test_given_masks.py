from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.cut import OF_VIEWER, cut_affine
from bids_msseg.imaging.volume import Volume
from bids_msseg.pipeline.given_masks import RESAMPLE, read_exclusion_masks, read_given_mask
from bids_msseg.pipeline.lesions import Grid, list_given_lesions

AFFINE = np.diag([-2.0, 1.0, 3.0, 1.0])
SHAPE = (8, 9, 7)


@pytest.fixture
def grid() -> Grid:
    return Grid(Volume(np.zeros(SHAPE, np.uint8), AFFINE))


def write(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def test_given_mask_on_same_grid_is_read(grid: Grid, tmp_path: Path) -> None:
    data = np.zeros((*SHAPE, 1), np.uint8)
    data[2, 3, 4], data[5, 5, 5] = 1, 5
    path = write(tmp_path / "m.nii.gz", data)
    found, note = read_given_mask(path, grid, what="lesion mask")
    assert found.shape == SHAPE
    assert sorted(map(tuple, np.argwhere(found).tolist())) == [(2, 3, 4), (5, 5, 5)]
    assert note
    found, note = read_given_mask(path, grid, what="lesion mask", values=(5,))
    assert (found.sum(), note) == (1, "")


def _moved() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += 0.1
    return affine


@pytest.mark.parametrize(
    ("shape", "affine"),
    [((9, 9, 7), AFFINE), (SHAPE, np.diag([2.0, 1.0, 3.0, 1.0])), (SHAPE, _moved())],
)
def test_other_grid_gives_resample_command_as_hint(
    grid: Grid, tmp_path: Path, shape: tuple[int, ...], affine: np.ndarray
) -> None:
    path = write(tmp_path / "m.nii.gz", np.ones(shape, np.uint8), affine)
    with pytest.raises(DataError) as caught:
        read_given_mask(path, grid, what="lesion mask")
    assert RESAMPLE in caught.value.hint


def test_tiny_affine_difference_is_accepted(grid: Grid, tmp_path: Path) -> None:
    affine = AFFINE + np.array([[0, 0, 0, 0.004]] * 3 + [[0.0] * 4])
    path = write(tmp_path / "m.nii.gz", np.ones(SHAPE, np.uint8), affine)
    assert read_given_mask(path, grid, what="lesion mask")[0].all()


def test_missing_negative_or_damaged_mask_is_refused(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(NoInputError):
        read_given_mask(tmp_path / "none.nii.gz", grid, what="lesion mask")
    path = write(tmp_path / "m.nii.gz", np.full(SHAPE, -1, np.int16))
    with pytest.raises(DataError):
        read_given_mask(path, grid, what="lesion mask")
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError):
        read_given_mask(path, grid, what="lesion mask")


def test_resample_command_of_hint_works(grid: Grid, tmp_path: Path) -> None:
    """The command of the hint, with file names inserted, writes an accepted mask."""
    fine = np.zeros((16, 18, 14), np.uint8)
    fine[4:8, 4:8, 4:8] = 1
    write(tmp_path / "MASK.nii.gz", fine, AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0]))
    write(tmp_path / "FLAIR.nii.gz", np.ones(SHAPE, np.float32))
    program = RESAMPLE.removeprefix('python -c "').removesuffix('"')
    ast.parse(program)
    for name in ("MASK", "FLAIR", "NEW"):
        program = program.replace(f"'{name}'", f"'{tmp_path / name}.nii.gz'")
    subprocess.run([sys.executable, "-c", program], check=True)
    found, _ = read_given_mask(tmp_path / "NEW.nii.gz", grid, what="lesion mask")
    assert found.any()


def test_given_lesions_have_positions_and_no_probabilities(grid: Grid) -> None:
    lesions = np.zeros(SHAPE, bool)
    lesions[1:3, 1:3, 1:3] = True
    lesions[6, 6, 5] = True
    brain = Volume(np.ones(SHAPE, np.float32), AFFINE)
    found = list_given_lesions(grid, lesions, {"mask": brain}, np.eye(4), min_volume=10.0)
    assert set(found.maps) == {"labels", "mask", "rejected", "brain", "ventricles"}
    assert found.cleared is None
    kept, small = found.rows
    assert (kept.status, kept.n_voxels, kept.volume_mm3) == ("kept", 8, pytest.approx(48.0))
    assert (small.status, small.reason, small.n_voxels) == ("rejected", "size", 1)
    assert kept.centroid == pytest.approx((-3.0, 1.5, 4.5))
    for row in found.rows:
        assert np.isnan([row.p_cnn1, row.p_final]).all()
        assert row.p_cnn2_lesion is None
        assert row.region != "n/a"
    assert int(found.maps["mask"].sum()) == 8
    whole = list_given_lesions(grid, lesions, {"mask": brain}, np.eye(4), min_volume=0.0)
    assert [row.status for row in whole.rows] == ["kept", "kept"]


def test_exclusion_mask_removes_given_lesions(grid: Grid) -> None:
    lesions, excluded = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    lesions[1:3, 1:3, 1:3] = lesions[5:7, 5:7, 4:6] = lesions[6, 1, 5] = True
    excluded[1] = excluded[5:7] = True
    brain = Volume(np.ones(SHAPE, np.float32), AFFINE)
    found = list_given_lesions(
        grid, lesions, {"mask": brain}, np.eye(4), min_volume=10.0, excluded=excluded
    )
    # half of one lesion and all of another; the single voxel is too small to count
    assert found.excluded_ml == pytest.approx((4 + 8) * 6 / 1000)
    rows = [(row.status, row.reason, row.n_voxels) for row in found.rows]
    assert rows == [("kept", "", 4), ("rejected", "excluded", 8), ("rejected", "excluded", 1)]


def test_exclusion_masks_are_united(grid: Grid, tmp_path: Path) -> None:
    """Any value above zero counts; a mask of several values is accepted with a note."""
    first, second = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.float32)
    first[2, 3, 4], first[5, 5, 5], second[0, 0, 0] = 1, 7, 1
    paths = [write(tmp_path / "1.nii.gz", first), write(tmp_path / "2.nii", second)]
    found, (note,) = read_exclusion_masks(paths, grid)
    places = sorted(map(tuple, np.argwhere(found).tolist()))
    assert places == [(0, 0, 0), (2, 3, 4), (5, 5, 5)]
    assert note.startswith("1.nii.gz: ")
    assert read_exclusion_masks(paths[1:], grid)[1] == ()


def test_exclusion_mask_on_other_grid_is_refused(grid: Grid, tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "1.nii.gz", np.ones(SHAPE, np.uint8)),
        write(tmp_path / "2.nii.gz", np.ones(SHAPE, np.uint8), _moved()),
    ]
    with pytest.raises(DataError, match=r"exclusion mask 2\.nii\.gz") as caught:
        read_exclusion_masks(paths, grid)
    assert RESAMPLE in caught.value.hint


def test_cut_viewer_mask_is_accepted_only_for_exclusion(grid: Grid, tmp_path: Path) -> None:
    drawn = np.zeros((5, 6, 5), np.uint8)
    drawn[1, 2, 3] = 1
    affine = cut_affine(AFFINE, (2, 3, 1), (1, 1, 1))
    image = nib.Nifti1Image(drawn, affine)
    image.header["descrip"] = OF_VIEWER
    path = tmp_path / "1.nii.gz"
    nib.save(image, path)
    assert np.argwhere(read_exclusion_masks([path], grid)[0]).tolist() == [[3, 5, 4]]
    with pytest.raises(DataError):
        read_given_mask(path, grid, what="lesion mask")
    with pytest.raises(DataError):  # not from the viewer
        read_exclusion_masks([write(tmp_path / "2.nii.gz", drawn, affine)], grid)
