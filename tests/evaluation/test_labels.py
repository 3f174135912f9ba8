from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.visit import Visit
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.evaluation.labels import (
    find_labelled,
    find_raters,
    find_truth,
    fuse_raters,
    plain_mask,
    require_labels,
)

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
def test_find_truth_ignores_other_masks(name: str, tmp_path: Path) -> None:
    _touch(tmp_path, name)
    assert find_truth(tmp_path, PLAIN) is None


def test_find_truth_returns_mask_of_session(tmp_path: Path) -> None:
    names = [f"sub-01/ses-{n}/anat/sub-01_ses-{n}_space-FLAIR_label-L_mask.nii.gz" for n in "123"]
    _touch(tmp_path, *names)
    assert find_truth(tmp_path, SESSION) == tmp_path / names[1]


def test_find_truth_prefers_label_recommended_by_bids(tmp_path: Path) -> None:
    _touch(
        tmp_path,
        "sub-01/anat/sub-01_space-FLAIR_label-lesion_mask.nii.gz",
        "sub-01/anat/sub-01_space-FLAIR_label-L_mask.nii.gz",
    )
    found = find_truth(tmp_path, PLAIN)
    assert found is not None
    assert "label-L_" in found.name


def test_missing_labels_folder_is_refused(tmp_path: Path) -> None:
    assert require_labels(tmp_path) == tmp_path
    with pytest.raises(NoInputError, match="nowhere") as caught:
        require_labels(tmp_path / "nowhere")
    assert "--labels" in caught.value.hint


def test_find_raters_returns_one_file_per_rater(tmp_path: Path) -> None:
    names = [
        "sub-01_space-FLAIR_desc-rater1_mask.nii.gz",
        "sub-01_space-FLAIR_label-L_desc-rater1_mask.nii.gz",
        "sub-01_space-FLAIR_desc-raterB_mask.nii.gz",
        "sub-01_label-lesion_desc-rater2_mask.nii",
        "sub-01_space-T1w_label-L_desc-rater3_mask.nii.gz",
        "sub-01_space-FLAIR_label-WM_desc-rater4_mask.nii.gz",
        "sub-01_space-FLAIR_label-L_desc-rater5_probseg.nii.gz",
        "sub-01_space-FLAIR_desc-brain_mask.nii.gz",
    ]
    _touch(tmp_path, *(f"sub-01/anat/{name}" for name in names))
    _touch(tmp_path, "sub-01/ses-2/anat/sub-01_ses-2_space-FLAIR_desc-rater9_mask.nii.gz")
    found = [path.name for path in find_raters(tmp_path, PLAIN)]
    assert found == [names[1], names[3], names[2]]
    assert len(find_raters(tmp_path, SESSION)) == 1
    assert find_truth(tmp_path, PLAIN) is None


def _write(path: Path, data: np.ndarray, edge: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.uint8), np.diag([edge, 1, 1, 1])), path)
    return path


def _draw(*voxels: int) -> np.ndarray:
    mask = np.zeros((4, 2, 2))
    mask[list(voxels), 0, 0] = 1
    return mask


def test_consensus_contains_voxels_of_at_least_half_of_raters(tmp_path: Path) -> None:
    raters = [
        _write(tmp_path / "r1.nii.gz", _draw(0, 1)),
        _write(tmp_path / "r2.nii.gz", _draw(0, 2) * 255),
    ]
    mask, share = fuse_raters(raters, SESSION, tmp_path / "consensus")
    place = tmp_path / "consensus" / "sub-01" / "ses-2" / "anat"
    assert mask == place / "sub-01_ses-2_space-FLAIR_label-L_mask.nii.gz"
    assert share == place / "sub-01_ses-2_space-FLAIR_label-L_probseg.nii.gz"
    np.testing.assert_array_equal(nib.load(share).get_fdata()[:, 0, 0], [1, 0.5, 0.5, 0])
    np.testing.assert_array_equal(nib.load(mask).get_fdata()[:, 0, 0], [1, 1, 1, 0])
    assert json.loads(mask.with_name(mask.name[:-7] + ".json").read_text())["Sources"] == [
        "r1.nii.gz",
        "r2.nii.gz",
    ]
    assert (tmp_path / "consensus" / "dataset_description.json").is_file()
    # find_truth finds the consensus like a manual mask
    assert find_truth(tmp_path / "consensus", SESSION) == mask
    # two of three are a majority, one of three is none
    raters.append(_write(tmp_path / "r3.nii.gz", _draw(1)))
    fuse_raters(raters, SESSION, tmp_path / "consensus")
    np.testing.assert_array_equal(nib.load(mask).get_fdata()[:, 0, 0], [1, 1, 0, 0])


def test_unchanged_consensus_is_not_rewritten(tmp_path: Path) -> None:
    raters = [_write(tmp_path / f"r{n}.nii.gz", _draw(n)) for n in range(3)]
    mask, share = fuse_raters(raters, PLAIN, tmp_path / "consensus")
    before = (mask.stat().st_mtime_ns, share.stat().st_mtime_ns)
    assert fuse_raters(raters, PLAIN, tmp_path / "consensus") == (mask, share)
    assert (mask.stat().st_mtime_ns, share.stat().st_mtime_ns) == before


def test_raters_on_different_grids_are_refused(tmp_path: Path) -> None:
    raters = [_write(tmp_path / f"r{n}.nii.gz", _draw(n), 1 + n / 10) for n in range(2)]
    with pytest.raises(DataError, match=r"r1\.nii\.gz is not on the grid of r0\.nii\.gz"):
        fuse_raters(raters, PLAIN, tmp_path / "consensus")
    assert not (tmp_path / "consensus").exists()


@pytest.fixture
def rated(labelled_cohort: Path, tmp_path: Path) -> Path:
    """The cohort with two raters for sub-01 and sub-02, one for sub-03; sub-02 has a mask, too."""
    root = tmp_path / "rated"
    shutil.copytree(labelled_cohort, root)
    for who, raters in (("sub-01", (1, 2)), ("sub-02", (1, 2)), ("sub-03", (1,))):
        stem = root / "derivatives" / "manual" / who / "anat" / f"{who}_space-FLAIR"
        for rater in raters:
            shutil.copy(f"{stem}_label-L_mask.nii.gz", f"{stem}_desc-rater{rater}_mask.nii.gz")
        if who != "sub-02":
            Path(f"{stem}_label-L_mask.nii.gz").unlink()
    return root


def test_single_manual_mask_takes_precedence_over_raters(
    rated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="bids_msseg"):
        files = find_labelled(rated, rated / "derivatives/manual", tmp_path / "consensus")
    by_name = {item.visit.key: item for item in files}
    assert len(files) == 6
    first, second, third = (by_name[f"sub-0{n}"] for n in (1, 2, 3))
    assert first.share is not None
    assert first.learnt == first.share
    assert first.truth.is_relative_to(tmp_path / "consensus")
    assert second.share is None
    assert second.learnt == second.truth
    assert second.truth.name == "sub-02_space-FLAIR_label-L_mask.nii.gz"
    assert third.truth.name == "sub-03_space-FLAIR_desc-rater1_mask.nii.gz"
    assert (first.site, second.site) == ("B", "A")
    for words in (
        "sub-01: consensus of 2 raters",
        "sub-02: using sub-02_space-FLAIR_label-L_mask.nii.gz, not the masks of 2 raters",
        "5 visits have one mask, 1 a consensus of several raters",
    ):
        assert words in caplog.text


def _levels(path: Path) -> list[float]:
    data: list[float] = np.unique(nib.load(path).get_fdata()).tolist()
    return data


def _save(path: Path, *values: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.array([0, *values], np.float32).reshape(-1, 1, 1)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    return path


@pytest.mark.parametrize(
    ("values", "wanted", "drawn"),
    [
        ((1, 5, 7), None, [1, 2, 3]),
        ((1, 5, 7), (1, 5), [1, 2]),
        ((1, 1, 0), (2,), []),
        ((255, 0, 255), None, [1, 3]),
        ((0.5, 0.5, 0), None, [1, 2]),
    ],
)
def test_plain_mask_writes_binary_copy_of_other_values(
    tmp_path: Path, values: tuple[float, ...], wanted: tuple[int, ...] | None, drawn: list[int]
) -> None:
    given = _save(tmp_path / "given.nii.gz", *values)
    found = plain_mask(given, PLAIN, tmp_path / "consensus", wanted)
    assert found.is_relative_to(tmp_path / "consensus")
    assert np.flatnonzero(nib.load(found).get_fdata()).tolist() == drawn
    assert set(_levels(found)) <= {0, 1}
    before = found.stat().st_mtime_ns
    assert plain_mask(given, PLAIN, tmp_path / "consensus", wanted) == found
    assert found.stat().st_mtime_ns == before
    assert plain_mask(found, PLAIN, tmp_path / "other") == found


@pytest.mark.parametrize("values", [(1, 0, 1), (0, 0, 0), (0.25, 1, 0.75)])
def test_binary_mask_or_share_map_is_used_unchanged(
    tmp_path: Path, values: tuple[float, ...]
) -> None:
    given = _save(tmp_path / "given.nii.gz", *values)
    assert plain_mask(given, PLAIN, tmp_path / "consensus") == given
    assert not (tmp_path / "consensus").exists()


def test_changed_mask_values_update_consensus(tmp_path: Path) -> None:
    raters = [_save(tmp_path / f"r{n}.nii.gz", 1, 5, 7) for n in range(3)]
    for wanted, drawn in ((None, [1, 2, 3]), ((5,), [2]), ((1, 7), [1, 3]), (None, [1, 2, 3])):
        mask, share = fuse_raters(raters, PLAIN, tmp_path / "consensus", wanted)
        for path in (mask, share):
            assert np.flatnonzero(nib.load(path).get_fdata()).tolist() == drawn


@pytest.mark.parametrize("values", [(0.1, 0.2, 0.3), (-1, 1, 2), (np.nan, 1, 1)])
def test_invalid_mask_values_are_refused(tmp_path: Path, values: tuple[float, ...]) -> None:
    given = _save(tmp_path / "given.nii.gz", *values)
    with pytest.raises(DataError, match=r"given\.nii\.gz"):
        plain_mask(given, PLAIN, tmp_path / "consensus")
    with pytest.raises(DataError, match=r"given\.nii\.gz"):
        fuse_raters([given, given], PLAIN, tmp_path / "consensus")


@pytest.mark.parametrize(
    "start", ["c1_sub-01", "rsub-01", "brain_sub-07", "sub-01_c1", "sub-07", "sub-01_ses-1"]
)
@pytest.mark.parametrize("end", ["label-L", "desc-rater1"])
def test_misnamed_masks_are_ignored_and_listed_once(
    labelled_cohort: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    start: str,
    end: str,
) -> None:
    root = shutil.copytree(labelled_cohort, tmp_path / "raw")
    manual, consensus = root / "derivatives/manual", tmp_path / "consensus"
    before = find_labelled(root, manual, consensus)
    caplog.clear()
    odd = manual / f"sub-01/anat/{start}_space-FLAIR_{end}_mask.nii.gz"
    shutil.copy(before[0].truth, odd)
    assert find_labelled(root, manual, consensus) == before
    assert caplog.text.count(odd.name) == 1


@pytest.mark.parametrize("removed", ["*_label-L_mask.nii.gz", "*_mask.nii.gz", "*"])
def test_dataset_without_manual_masks_is_refused(
    labelled_cohort: Path, tmp_path: Path, removed: str
) -> None:
    root = tmp_path / "raw"
    shutil.copytree(labelled_cohort, root)
    for path in (root / "derivatives/manual").rglob(removed):
        if path.is_file():
            path.unlink()
    with pytest.raises(NoInputError) as caught:
        find_labelled(root, root / "derivatives/manual", tmp_path / "consensus")
    assert "manual mask" in caught.value.message
    assert "label-L_mask.nii.gz" in caught.value.hint


def test_missing_brain_mask_gets_path_in_consensus_folder(
    labelled_cohort: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, consensus = tmp_path / "raw", tmp_path / "consensus"
    shutil.copytree(labelled_cohort, root)
    for name, what in (("sub-01", "desc-brain"), ("sub-02", "label-L"), ("sub-03", "")):
        for path in (root / "derivatives/manual" / name).rglob(f"*{what}_mask.nii.gz"):
            path.unlink()
    files = find_labelled(root, root / "derivatives/manual", consensus)
    assert [item.visit.participant for item in files] == ["01", "04", "04", "05"]
    assert [item.brain_given for item in files] == [False, True, True, True]
    name = "sub-01_space-FLAIR_desc-brain_mask.nii.gz"
    assert files[0].brain == consensus / "sub-01" / "anat" / name
    assert not files[0].brain.exists()
    assert (consensus / "dataset_description.json").is_file()
    for name in ("sub-02", "sub-03"):
        assert f"{name} skipped: no manual lesion mask" in caplog.text
