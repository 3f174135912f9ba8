from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.errors import DataError
from bids_msseg.imaging.normalise import BACKGROUND
from bids_msseg.training.data.cohort import prepare_visit


def _paths(cohort: Path, name: str) -> tuple[dict[str, Path], Path, Path]:
    anat = cohort / name / "anat"
    manual = cohort / "derivatives" / "manual" / name / "anat"
    images = {
        contrast: anat / f"{name}_{contrast}.nii.gz"
        for contrast in ("FLAIR", "T1w", "T2w")
        if (anat / f"{name}_{contrast}.nii.gz").exists()
    }
    stem = f"{name}_space-FLAIR"
    return (
        images,
        manual / f"{stem}_desc-brain_mask.nii.gz",
        manual / f"{stem}_label-L_mask.nii.gz",
    )


def test_prepared_visit_is_on_working_grid(labelled_cohort: Path) -> None:
    images, brain, truth = _paths(labelled_cohort, "sub-02")
    visit = prepare_visit("sub-02", "A", images, brain, truth)
    assert (visit.name, visit.site, visit.slice_mm) == ("sub-02", "A", 1.0)
    assert visit.present == (True, True, False)
    assert visit.images.shape == (3, *visit.brain.shape) == (3, *visit.truth.shape)
    assert visit.images.dtype == visit.truth.dtype == np.float16
    assert (visit.images[:2, ~visit.brain] == BACKGROUND).all()
    assert not visit.images[2].any()
    # 1 mm voxels are not interpolated: no lesion voxel is lost or divided
    drawn = np.asarray(nib.load(truth).dataobj)
    assert visit.truth.sum() == drawn.sum()
    assert set(np.unique(visit.truth)) == {0, 1}
    assert (
        visit.images[0][visit.truth == 1].mean()
        > 1
        > -1
        > visit.images[1][visit.truth == 1].mean()
    )


def test_thick_slices_are_detected(labelled_cohort: Path, tmp_path: Path) -> None:
    images, brain, truth = _paths(labelled_cohort, "sub-01")
    thick = {}
    for name, path in {**images, "brain": brain, "truth": truth}.items():
        thick[name] = tmp_path / path.name
        data = np.asarray(nib.load(path).dataobj)[:, :, ::3]
        nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1, 3, 1])), thick[name])
    visit = prepare_visit("sub-01", "B", {"FLAIR": thick["FLAIR"]}, thick["brain"], thick["truth"])
    assert visit.thick
    assert visit.present == (True, False, False)
    assert visit.truth[(visit.truth > 0) & (visit.truth < 1)].size > 0


@pytest.mark.parametrize("which", ["brain", "truth"])
def test_a_mask_on_another_grid_is_refused(
    which: str, labelled_cohort: Path, tmp_path: Path
) -> None:
    images, brain, truth = _paths(labelled_cohort, "sub-01")
    masks = {"brain": brain, "truth": truth}
    shifted = tmp_path / "shifted.nii.gz"
    affine = np.diag([-1.0, 1, 1, 1])
    affine[0, 3] = 5
    nib.save(nib.Nifti1Image(np.asarray(nib.load(masks[which]).dataobj), affine), shifted)
    masks[which] = shifted
    with pytest.raises(DataError, match=r"shifted\.nii\.gz is not on the grid") as caught:
        prepare_visit("sub-01", "B", images, masks["brain"], masks["truth"])
    assert "resample" in caught.value.hint
