from __future__ import annotations

from pathlib import Path

import pytest

from bids_msseg.bids.visit import Visit
from bids_msseg.commands.labels import find_truth, require_labels
from bids_msseg.errors import NoInputError

PLAIN = Visit("01", None, Path("f.nii.gz"))
SESSION = Visit("01", "2", Path("f.nii.gz"))


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    "name",
    [
        "sub-01_space-FLAIR_label-L_mask.nii.gz",
        "sub-01_space-FLAIR_label-lesion_mask.nii",
        "sub-01_acq-3D_space-FLAIR_label-L_mask.nii.gz",
        "sub-01_label-L_mask.nii.gz",
    ],
)
def test_a_manual_mask_is_found(name: str, tmp_path: Path) -> None:
    _touch(tmp_path, f"sub-01/anat/{name}")
    assert find_truth(tmp_path, PLAIN) == tmp_path / "sub-01" / "anat" / name


@pytest.mark.parametrize(
    "name",
    [
        "sub-01/anat/sub-01_space-T1w_label-L_mask.nii.gz",
        "sub-01/anat/sub-01_space-MNI152NLin2009aSym_label-L_mask.nii.gz",
        "sub-01/anat/sub-01_space-FLAIR_label-L_desc-rejected_mask.nii.gz",
        "sub-01/anat/sub-01_space-FLAIR_label-L_probseg.nii.gz",
        "sub-01/anat/sub-01_space-FLAIR_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-011_space-FLAIR_label-L_mask.nii.gz",
        "sub-01/ses-2/anat/sub-01_ses-2_space-FLAIR_label-L_mask.nii.gz",
        "sub-02/anat/sub-02_space-FLAIR_label-L_mask.nii.gz",
    ],
)
def test_another_mask_is_not_taken_for_it(name: str, tmp_path: Path) -> None:
    _touch(tmp_path, name)
    assert find_truth(tmp_path, PLAIN) is None


def test_sessions_have_their_own(tmp_path: Path) -> None:
    names = [f"sub-01/ses-{n}/anat/sub-01_ses-{n}_space-FLAIR_label-L_mask.nii.gz" for n in "123"]
    _touch(tmp_path, *names)
    assert find_truth(tmp_path, SESSION) == tmp_path / names[1]


def test_the_spelling_that_bids_advises_comes_first(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_space-FLAIR_label-lesion_mask.nii.gz",
        "sub-01/anat/sub-01_space-FLAIR_label-L_mask.nii.gz",
    )
    found = find_truth(tmp_path, PLAIN)
    assert found is not None
    assert "label-L_" in found.name


def test_the_folder_of_labels_has_to_be_there(tmp_path: Path) -> None:
    assert require_labels(tmp_path) == tmp_path
    with pytest.raises(NoInputError, match="nowhere") as caught:
        require_labels(tmp_path / "nowhere")
    assert "--labels" in caught.value.cure
