from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.errors import DataError, InvalidDatasetError, NoInputError
from bids_msseg.evaluation.raters import (
    choose_raters,
    find_rated,
    rater_datasets,
    read_masks,
    read_on_one_grid,
)

ANAT = "sub-01/ses-1/anat/sub-01_ses-1"


def _touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def _describe(root: Path, **content: object) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text(json.dumps({"Name": "x", **content}))
    return root


def _write(path: Path, data: np.ndarray, edge: float = 1.0) -> Path:
    nib.save(nib.Nifti1Image(data, np.diag([edge, 1, 1, 1])), path)
    return path


@pytest.mark.parametrize(
    ("labels", "any_name", "expected"),
    [
        (None, False, ["rater1", "rater2"]),
        (None, True, ["AB", "rater1", "rater2"]),
        (["AB", "rater2"], False, ["AB", "rater2"]),
        (["consensus"], True, ["consensus"]),
    ],
)
def test_choose_raters_ignores_other_masks(
    labels: list[str] | None, any_name: bool, expected: list[str]
) -> None:
    names = [
        "sub-1_space-FLAIR_desc-rater1_mask.nii.gz",
        "sub-1_label-L_desc-rater2_mask.nii.gz",
        "sub-1_label-lesion_desc-AB_mask.nii.gz",
        "sub-1_desc-CD_mask.nii.gz",
        "sub-1_label-GM_desc-EF_mask.nii.gz",
        "sub-1_label-L_mask.nii.gz",
        "sub-1_space-T1w_label-L_desc-rater3_mask.nii.gz",
        "sub-1_label-L_desc-rater4_probseg.nii.gz",
        *(f"sub-1_label-L_desc-{d}_mask.nii.gz" for d in ("rejected", "candidates", "consensus")),
    ]
    chosen = choose_raters(map(Path, names), labels=labels, any_name=any_name)
    assert list(chosen) == expected


def test_choose_raters_prefers_lesion_label() -> None:
    names = ["sub-1_desc-rater1_mask.nii", "sub-1_label-L_desc-rater1_mask.nii"]
    assert choose_raters(map(Path, names)) == {"rater1": Path(names[1])}


def test_choose_raters_selects_requested_space() -> None:
    names = [f"sub-1_{space}desc-rater1_mask.nii" for space in ("", "space-T1w_", "space-FLAIR_")]
    paths = [Path(name) for name in names]
    assert choose_raters(paths, space="T1w") == {"rater1": paths[1]}
    assert choose_raters(paths[:2])["rater1"] == paths[0]


def test_find_rated_separates_visits_and_runs(tmp_path: Path) -> None:
    _touch(
        tmp_path / "a",
        f"{ANAT}_run-1_desc-rater1_mask.nii.gz",
        f"{ANAT}_run-2_desc-rater1_mask.nii.gz",
        f"{ANAT}_run-2_desc-rater2_mask.nii.gz",
        "sub-10/anat/sub-10_desc-rater1_mask.nii.gz",
        "sub-2/anat/sub-2_desc-rater1_mask.nii",
        "sub-2/anat/sub-2_desc-brain_mask.nii",
        "sub-3/anat/sub-3_desc-brain_mask.nii",
        "sub-2/figures/sub-2_desc-rater2_mask.nii",
    )
    _touch(tmp_path / "b", "sub-2/anat/sub-2_label-L_desc-AB_mask.nii.gz")
    found = find_rated([tmp_path / "a", tmp_path / "b"])
    assert [(one.visit.prefix, list(one.raters)) for one in found] == [
        ("sub-01_ses-1_run-1", ["rater1"]),
        ("sub-01_ses-1_run-2", ["rater1", "rater2"]),
        ("sub-2", ["AB", "rater1"]),
        ("sub-10", ["rater1"]),
    ]
    assert found[2].visit.flair == tmp_path / "b/sub-2/anat/sub-2_label-L_desc-AB_mask.nii.gz"


@pytest.mark.parametrize("start", ["c1_sub-01_ses-1", "rsub-01_ses-1", "sub-07_ses-1"])
def test_misnamed_masks_are_ignored_and_listed_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, start: str
) -> None:
    odd = f"{start}_label-L_desc-rater2_mask.nii.gz"
    _touch(tmp_path, f"{ANAT}_desc-rater1_mask.nii.gz", f"sub-01/ses-1/anat/{odd}")
    (rated,) = find_rated([tmp_path])
    assert list(rated.raters) == ["rater1"]
    assert caplog.text.count(odd) == 1


def test_one_rater_in_two_datasets_is_refused(tmp_path: Path) -> None:
    for place in "ab":
        _touch(tmp_path / place, f"{ANAT}_desc-rater1_mask.nii.gz")
    with pytest.raises(DataError, match="same rater") as caught:
        find_rated([tmp_path / "a", tmp_path / "b"])
    assert "--derivatives" in caught.value.hint


def test_own_derivatives_are_not_rater_datasets(tmp_path: Path) -> None:
    raw = _describe(tmp_path, DatasetType="raw")
    manual = _describe(raw / "derivatives/manual", DatasetType="derivative")
    _describe(raw / "derivatives/ours", GeneratedBy=[{"Name": "bids_msseg"}])
    (raw / "derivatives/other").mkdir()
    assert rater_datasets(raw) == (manual, raw / "derivatives/other")
    assert rater_datasets(manual) == (manual,)
    assert rater_datasets(raw, [raw / "derivatives/ours"]) == (raw / "derivatives/ours",)


def test_missing_or_invalid_rater_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="does not exist"):
        rater_datasets(tmp_path / "nowhere")
    with pytest.raises(InvalidDatasetError, match=r"dataset_description\.json"):
        rater_datasets(tmp_path)
    raw = _describe(tmp_path, DatasetType="raw")
    with pytest.raises(NoInputError, match="does not exist"):
        rater_datasets(raw, [tmp_path / "nowhere"])
    with pytest.raises(NoInputError, match="no derivatives") as caught:
        rater_datasets(raw)
    assert "--derivatives" in caught.value.hint


def test_read_masks_accepts_any_single_value(tmp_path: Path) -> None:
    mask = np.zeros((4, 3, 2), np.uint8)
    mask[1] = 1
    paths = [
        _write(tmp_path / "a.nii.gz", mask),
        _write(tmp_path / "b.nii.gz", mask * 255),
        _write(tmp_path / "c.nii.gz", mask * np.float32(0.5)),
        _write(tmp_path / "d.nii.gz", mask * 0),
    ]
    masks, grid = read_masks(paths)
    for one in masks[:3]:
        np.testing.assert_array_equal(one, mask == 1)
    assert not masks[3].any()
    assert grid.shape == (4, 3, 2)


@pytest.mark.parametrize("values", [(0.3, 0.7), (-1, -1), (np.nan, 1)])
def test_non_binary_mask_is_refused(values: tuple[float, float], tmp_path: Path) -> None:
    mask = np.zeros((4, 3, 2), np.float32)
    mask[0, 0] = values
    with pytest.raises(DataError, match=r"m\.nii is not a binary mask"):
        read_masks([_write(tmp_path / "m.nii", mask)])


@pytest.mark.parametrize(
    ("wanted", "drawn"), [(None, [1, 2, 3]), ((5,), [2]), ((1, 7), [1, 3]), ((2,), [])]
)
def test_mask_values_apply_to_raters_not_algorithms(
    tmp_path: Path, wanted: tuple[int, ...] | None, drawn: list[int]
) -> None:
    mask = np.zeros((4, 1, 1), np.uint8)
    mask[:, 0, 0] = (0, 1, 5, 7)
    paths = [_write(tmp_path / f"{name}.nii.gz", mask) for name in ("rater", "algorithm")]
    (rater, algorithm), _ = read_masks(paths[:1], values=wanted, algorithms=paths[1:])
    assert np.flatnonzero(rater).tolist() == drawn
    assert np.flatnonzero(algorithm).tolist() == [1, 2, 3]


def test_unreadable_or_mismatched_masks_are_refused(tmp_path: Path) -> None:
    mask = np.zeros((4, 3, 2), np.uint8)
    first = _write(tmp_path / "first.nii", mask)
    (tmp_path / "text.nii").write_text("text")
    (tmp_path / "cut.nii.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    for name, words in (
        ("text.nii", "cannot be read"),
        ("cut.nii.gz", "cannot be read"),
        ("gone.nii", "cannot be read"),
        (_write(tmp_path / "moved.nii", mask, 1.1).name, "not on the grid of first"),
        (_write(tmp_path / "small.nii", mask[:3]).name, "not on the grid of first"),
        (_write(tmp_path / "four.nii", mask[..., None, None]).name, "dimensions"),
    ):
        with pytest.raises(DataError, match=words):
            read_on_one_grid([first, tmp_path / name])
