"""Input images of other segmenters, and the check of their output."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume, load_volume
from bids_msseg.segmenters.images import VisitImages, read_probability, write_images

from .conftest import AFFINE, BRAIN, brain, flair

INNER = np.s_[1:13, 1:13, 1:13]
"""Part of the grid around the brain (margin of 4 mm) that the FLAIR covers."""


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return path


def test_images_are_masked_on_grid_around_brain(images: VisitImages) -> None:
    assert list(images.files) == ["FLAIR", "T1w"]
    mask = load_volume(images.brain)
    assert mask.shape == (14, 14, 14)
    np.testing.assert_allclose(mask.affine[:3, 3], AFFINE[:3, 3] + 3 - 4)
    np.testing.assert_array_equal(mask.data[INNER], brain().data)
    seen = load_volume(images.files["FLAIR"]).data
    np.testing.assert_allclose(seen[INNER], flair().data * brain().data, atol=1e-3)
    assert seen.sum() == pytest.approx(seen[INNER].sum())


def test_whole_head_images_cover_flair(tmp_path: Path) -> None:
    images = write_images({"FLAIR": flair()}, brain(), {}, tmp_path / "new", whole_head=True)
    seen = load_volume(images.files["FLAIR"])
    assert seen.shape == (20, 20, 20)
    np.testing.assert_allclose(seen.data[4:16, 4:16, 4:16], flair().data, atol=1e-3)
    assert load_volume(images.brain).data.sum() == brain().data.sum()


def test_contrasts_are_resampled_onto_flair(tmp_path: Path) -> None:
    """The world of the T1w is shifted by 2 mm to the right."""
    move = np.eye(4)
    move[0, 3] = 2
    other = Volume(flair().data, move @ AFFINE)
    images = write_images(
        {"FLAIR": flair(), "T1w": other}, brain(), {"T1w": move}, tmp_path, whole_head=False
    )
    one, two = (load_volume(images.files[name]) for name in ("FLAIR", "T1w"))
    np.testing.assert_allclose(two.data, one.data, atol=1e-3)
    np.testing.assert_allclose(two.affine, one.affine)


@pytest.mark.parametrize("shape", [(14, 14, 14), (14, 14, 14, 1)])
def test_probability_is_clipped_and_masked(images: VisitImages, shape: tuple[int, ...]) -> None:
    """Values outside the brain are set to 0, and values slightly above 1 to 1."""
    mask = load_volume(images.brain)
    data = np.full(shape, 0.25)
    data[5, 5, 5] = 1.0005
    path = save(images.folder / "p.nii", data, mask.affine)
    found = read_probability(path, images, name="x")
    assert found.data.dtype == np.float32
    assert found.data[5, 5, 5] == 1
    assert found.data.sum() == pytest.approx(0.25 * (6**3 - 1) + 1)
    assert not found.data[mask.data == 0].any()


def test_label_selects_lesion_voxels(images: VisitImages) -> None:
    mask = load_volume(images.brain)
    labels = np.where(mask.data > 0, 3, 0)
    labels[5, 5, 5] = 99
    path = save(images.folder / "labels.nii.gz", labels, mask.affine)
    assert read_probability(path, images, name="x", label=99).data.sum() == 1
    with pytest.raises(DataError, match="99"):
        read_probability(path, images, name="x")


def _moved(affine: np.ndarray) -> np.ndarray:
    moved = affine.copy()
    moved[0, 3] += 0.5
    return moved


@pytest.mark.parametrize("wrong", ["other shape", "moved", "series", "nan", "negative", "text"])
def test_invalid_probability_image_is_refused(images: VisitImages, wrong: str) -> None:
    affine, zero = load_volume(images.brain).affine, np.zeros((14, 14, 14))
    path = images.folder / "p.nii.gz"
    if wrong == "text":
        path.write_text("no image")
    elif wrong == "moved":
        save(path, zero, _moved(affine))
    else:
        data = {
            "other shape": np.zeros((14, 14, 13)),
            "series": np.zeros((14, 14, 14, 2)),
            "nan": zero + np.nan,
            "negative": zero - 0.5,
        }[wrong]
        save(path, data, affine)
    with pytest.raises(DataError, match=r"p\.nii\.gz"):
        read_probability(path, images, name="x")


def test_missing_output_file_is_refused(images: VisitImages) -> None:
    with pytest.raises(DataError) as caught:
        read_probability(images.folder / "p.nii.gz", images, name="bright")
    assert caught.value.message.startswith("bright ended")


def test_synthetic_brain_is_cube_of_six_voxels() -> None:
    """The tests above depend on this size."""
    assert brain().data.sum() == brain().data[BRAIN].sum() == 6**3
