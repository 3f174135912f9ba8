from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.cascade import heads
from bids_msseg.cascade.heads import Tissue, load_head
from bids_msseg.commands import made
from bids_msseg.commands.made import prepare_heads
from bids_msseg.errors import DataError, NoInputError


@pytest.fixture(autouse=True)
def few_lesions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ball of 29 mL has no room for the loads of a brain."""
    monkeypatch.setattr(heads, "LOAD_ML", (0.1, 0.3))
    monkeypatch.setattr(made, "DRAWS", 2)


def _anatomy(folder: Path, name: str, edge: float = 1.0) -> Path:
    axes = np.indices((44, 44, 44)) - 21.5
    away = np.sqrt((axes**2).sum(0))
    labels = np.where(away < 16, 2, np.where(away < 19, 3, 0)).astype(np.int16)
    labels[18:21, 16:28, 20:24] = 4
    labels[23:26, 16:28, 20:24] = 43
    path = folder / "anatomy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([edge, edge, edge, 1.0])), path)
    return path


def _patient(folder: Path, name: str) -> Path:
    """Voxels of 1 x 1 x 2 mm, stored with the first axis pointing left."""
    codes = np.zeros((36, 36, 18), np.uint8)
    codes[4:32, 4:32, 2:16] = 1
    codes[6:30, 6:30, 3:15] = 2
    codes[8:28, 8:28, 4:14] = 3
    codes[10:16, 10:14, 6:9] = 4
    path = folder / "tissue-lesion" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(codes, np.diag([-1.0, 1.0, 2.0, 1.0])), path)
    return path


def test_every_map_becomes_a_head_once(tmp_path: Path) -> None:
    _anatomy(tmp_path, "headA_dseg.nii.gz")
    _patient(tmp_path, "lj99_dseg.nii.gz")
    folder = tmp_path / "heads"
    assert prepare_heads(tmp_path, folder) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["headA.npz", "lj99.npz"]
    head = load_head(folder / "headA.npz")
    assert (head.name, head.patient, len(head.draws)) == ("headA", "", 2)
    assert load_head(folder / "lj99.npz").patient == "sub-lj99"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert prepare_heads(tmp_path, folder) == 2
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_patients_map_is_brought_to_one_mm_with_its_lesion_as_a_share(tmp_path: Path) -> None:
    _patient(tmp_path, "lj99_dseg.nii.gz")
    prepare_heads(tmp_path, tmp_path / "heads")
    head = load_head(tmp_path / "heads" / "lj99.npz")
    assert head.patient == "sub-lj99"
    # 28 x 28 x 28 mm of head, and the margin as far as the image goes
    assert np.count_nonzero(head.tissue) == pytest.approx(28**3, rel=0.05)
    assert set(np.unique(head.tissue)) == {
        Tissue.AIR, Tissue.WHITE, Tissue.CORTEX, Tissue.FLUID,
    }  # fmt: skip
    (draw,) = head.draws
    volume = draw.fraction.sum() / 255
    assert volume == pytest.approx(6 * 4 * 3 * 2, rel=0.05)
    assert draw.owner.max() == 1
    # the lesion is white matter with something in it
    core = draw.voxels[draw.owner == 1]
    assert (head.tissue.ravel()[core] == Tissue.WHITE).all()
    # left in the file is right in the array: columns 10 to 15 of 36 are 20 to 25
    places = np.unravel_index(core, head.tissue.shape)
    brain = np.argwhere(head.tissue > 0)
    assert places[0].mean() - brain[:, 0].min() == pytest.approx((36 - 1 - 12.5) - 4, abs=0.6)


@pytest.mark.parametrize(
    "name", ["lj07_dseg.nii.gz", "sub-lj07_dseg.nii.gz", "sub-lj07_ses-1_dseg.nii"]
)
def test_whose_map_it_is_does_not_hang_on_how_the_file_is_called(
    tmp_path: Path, name: str
) -> None:
    _patient(tmp_path, name)
    prepare_heads(tmp_path, tmp_path / "heads")
    (path,) = (tmp_path / "heads").iterdir()
    assert load_head(path).patient == "sub-lj07"


def test_two_visits_of_a_patient_are_two_heads(tmp_path: Path) -> None:
    for visit in (1, 2):
        _patient(tmp_path, f"sub-lj07_ses-{visit}_dseg.nii.gz")
    assert prepare_heads(tmp_path, tmp_path / "heads") == 2
    found = [load_head(path).patient for path in (tmp_path / "heads").iterdir()]
    assert found == ["sub-lj07", "sub-lj07"]


def test_two_maps_of_one_name_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    _patient(tmp_path, "sub-lj07_dseg.nii.gz")
    _anatomy(tmp_path, "lj07_dseg.nii.gz")
    with pytest.raises(DataError, match="called lj07"):
        prepare_heads(tmp_path, tmp_path / "heads")
    assert not list((tmp_path / "heads").iterdir())


def test_anatomy_of_other_voxels_is_refused(tmp_path: Path) -> None:
    _anatomy(tmp_path, "coarse_dseg.nii.gz", edge=2.0)
    with pytest.raises(DataError, match="2 x 2 x 2 mm") as caught:
        prepare_heads(tmp_path, tmp_path / "heads")
    assert "1 mm" in caught.value.hint
    assert not list((tmp_path / "heads").iterdir())


def test_a_folder_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no label map") as caught:
        prepare_heads(tmp_path, tmp_path / "heads")
    assert "anatomy" in caught.value.hint


def test_the_seed_and_the_name_decide_which_lesions_are_placed(tmp_path: Path) -> None:
    _anatomy(tmp_path, "headA_dseg.nii.gz")
    drawn = []
    for folder, seed in (("one", 11), ("two", 11), ("three", 12)):
        prepare_heads(tmp_path, tmp_path / folder, seed=seed)
        drawn.append(load_head(tmp_path / folder / "headA.npz").draws[0].voxels.tolist())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.realdata
def test_the_shared_maps_have_voxels_of_one_mm(shared_data: Path) -> None:
    for path in sorted((shared_data / "label-maps" / "anatomy").glob("*.nii.gz")):
        assert nib.load(path).header.get_zooms()[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_a_recipe_says_whether_the_lesions_of_maps_are_white_matter() -> None:
    from bids_msseg.commands.recipes import lesion_is_white
    from bids_msseg.errors import UsageError

    assert not lesion_is_white({})
    assert lesion_is_white({"heads": {"lesion_is_white": True}})
    for wrong in ({"lesions": True}, {"lesion_is_white": "yes"}, []):
        with pytest.raises(UsageError, match="the recipe is wrong"):
            lesion_is_white({"heads": wrong})
