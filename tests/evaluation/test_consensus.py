from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.files import load_tsv
from bids_msseg.cli.consensus import main
from bids_msseg.errors import ExitCode
from bids_msseg.evaluation.consensus_files import LEFT_OUT_COLUMNS, RATER_COLUMNS, name_datasets
from bids_msseg.lesions.raters.consensus import METHODS

GRID = (16, 14, 12)
AFFINE = np.diag([-1.0, 1, 2, 1])


def _lesions(seed: int, flips: float) -> np.ndarray:
    mask = np.zeros(GRID, bool)
    mask[3:8, 3:8, 3:8] = mask[10:14, 8:12, 4:8] = True
    return mask ^ (np.random.default_rng(seed).random(GRID) < flips)


def _save(path: Path, data: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.uint8), AFFINE), path)
    return path


def _mask(root: Path, visit: str, desc: str, data: np.ndarray) -> Path:
    stem = visit.replace("/", "_")
    return _save(root / visit / "anat" / f"{stem}_space-FLAIR_label-L{desc}_mask.nii.gz", data)


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Two visits with four raters, one with two empty masks, one with a single rater."""
    root = tmp_path / "raw"
    manual = root / "derivatives" / "manual"
    for visit in ("sub-01/ses-1", "sub-01/ses-2"):
        for rater in range(1, 5):
            _mask(manual, visit, f"_desc-rater{rater}", _lesions(rater, 0.03 * rater))
    for desc in ("_desc-AB", "_desc-CD"):
        _mask(manual, "sub-02", desc, np.zeros(GRID))
    _mask(manual, "sub-03", "_desc-rater1", _lesions(0, 0))
    for folder, kind in ((root, "raw"), (manual, "derivative")):
        about: dict[str, Any] = {"Name": "toy", "BIDSVersion": "1.10.1", "DatasetType": kind}
        if kind == "derivative":
            about["GeneratedBy"] = [{"Name": "manual"}]
        (folder / "dataset_description.json").write_text(json.dumps(about))
    return root


def _run(*words: object) -> int:
    return main([str(word) for word in words])


def test_every_visit_with_two_raters_is_fused(
    rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _run(rated, out) == ExitCode.SUCCESS
    log = capsys.readouterr().err
    assert "sub-03 skipped: only one rater, rater1" in log
    assert "sub-02: all 2 masks are empty" in log
    assert "3 visits fused, 0 failed" in log
    assert sorted(path.name for path in out.glob("sub-*")) == ["sub-01", "sub-02"]
    for method in METHODS:
        stem = f"sub-01/ses-2/anat/sub-01_ses-2_space-FLAIR_label-L_desc-{method}"
        mask, probability = (nib.load(out / f"{stem}_{s}.nii.gz") for s in ("mask", "probseg"))
        np.testing.assert_allclose(mask.affine, AFFINE)
        assert mask.get_data_dtype() == np.uint8
        assert probability.get_data_dtype() == np.float32
        np.testing.assert_array_equal(mask.get_fdata() > 0, probability.get_fdata() >= 0.5)
        about = json.loads((out / f"{stem}_mask.json").read_text())
        assert about["Sources"][3] == (
            "bids:manual:sub-01/ses-2/anat/"
            "sub-01_ses-2_space-FLAIR_label-L_desc-rater4_mask.nii.gz"
        )
        empty = nib.load(out / f"sub-02/anat/sub-02_space-FLAIR_label-L_desc-{method}_mask.nii.gz")
        assert not empty.get_fdata().any()


def test_tables_have_described_columns_and_expected_rows(rated: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    algorithm = tmp_path / "net 1"
    _mask(algorithm, "sub-01/ses-1", "", _lesions(9, 0))
    assert _run(rated, out, "--algorithm", algorithm) == ExitCode.SUCCESS
    raters, left_out = (load_tsv(out / f"group_{n}.tsv") for n in ("raters", "leave_one_out"))
    for name, rows, columns in (
        ("raters", raters, RATER_COLUMNS),
        ("leave_one_out", left_out, LEFT_OUT_COLUMNS),
    ):
        described = json.loads((out / f"group_{name}.json").read_text())
        assert list(rows[0]) == list(columns) == list(described)
        assert all(entry["Description"] for entry in described.values())
    assert len(raters) == (4 + 4 + 2) * len(METHODS)
    first = [row for row in raters if row["visit"] == "sub-01_ses-1"]
    for method in METHODS:
        rows = [row for row in first if row["consensus"] == method]
        dice = [float(row["dice"]) for row in rows]
        assert dice == sorted(dice, reverse=True)  # raters with more flipped voxels agree less
        estimated = [row["estimated_sensitivity"] for row in rows]
        assert (estimated == ["n/a"] * 4) == (method == "majority")
    assert {row["dice"] for row in raters if row["participant_id"] == "sub-02"} == {"n/a"}
    made = [row for row in left_out if row["kind"] == "algorithm"]
    assert {row["assessed"] for row in made} == {"net-1"}
    assert {row["visit"] for row in made} == {"sub-01_ses-1"}
    assert [row["left_out"] for row in made if row["consensus"] == "staple"] == [
        "rater1", "rater2", "rater3", "rater4", "n/a",
    ]  # fmt: skip
    assert all(row["assessed"] == row["left_out"] for row in left_out if row["kind"] == "rater")


def test_the_validator_accepts_the_output(
    rated: Path, tmp_path: Path, bids_issues: Callable[[Path], list[dict[str, Any]]]
) -> None:
    out = tmp_path / "out"
    assert _run(rated, out) == ExitCode.SUCCESS
    assert bids_issues(out) == []


def test_failed_visit_does_not_stop_other_visits(
    rated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manual = rated / "derivatives" / "manual"
    _mask(manual, "sub-01/ses-1", "_desc-rater2", _lesions(0, 0)[:-1])
    fractions = _lesions(0, 0) * np.linspace(0.1, 0.9, 12, dtype=np.float32)
    path = manual / "sub-02/anat/sub-02_space-FLAIR_label-L_desc-AB_mask.nii.gz"
    nib.save(nib.Nifti1Image(fractions, AFFINE), path)
    out = tmp_path / "out"
    assert _run(rated, out) == ExitCode.DATA_ERROR
    log = capsys.readouterr().err
    assert "is not on the grid of" in log
    assert "is not a binary mask" in log
    assert "resample the raters' masks" in log
    assert {row["visit"] for row in load_tsv(out / "group_raters.tsv")} == {"sub-01_ses-2"}


@pytest.mark.parametrize(
    ("options", "voxels"),
    [([], 6), (["--mask-values", "any"], 6), (["--mask-values", "1", "7"], 4),
     (["--mask-values", "5"], 2)],
)  # fmt: skip
def test_multi_label_masks_are_fused_by_mask_values_option(
    rated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    voxels: int,
) -> None:
    """Three raters with lesions of the values 1, 5 and 7, two voxels each; one has more."""
    drawn = np.zeros(GRID)
    for row, value in enumerate((1, 5, 7)):
        drawn[3:5, 4 * row, 6] = value
    more = drawn.copy()
    more[6, :, 6] = drawn[3, :, 6]
    for rater, mask in enumerate((drawn, drawn, more)):
        _mask(rated / "derivatives/manual", "sub-05", f"_desc-rater{rater}", mask)
    out = tmp_path / "out"
    assert _run(rated, out, *options) == ExitCode.SUCCESS
    stem = "sub-05/anat/sub-05_space-FLAIR_label-L_desc-majority_mask"
    assert nib.load(out / f"{stem}.nii.gz").get_fdata().sum() == voxels
    chosen = len(options) > 1 and options[1] != "any"
    assert ("all count as lesion" in capsys.readouterr().err) != chosen
    about = json.loads((out / f"{stem}.json").read_text())["Description"]
    assert all((f" {value}" in about) == chosen for value in options[1:] if value != "any")


def test_another_run_replaces_the_results(rated: Path) -> None:
    out = rated / "derivatives" / "bids_msseg-consensus"
    assert _run(rated, out) == ExitCode.SUCCESS
    before = (out / "group_raters.tsv").read_bytes()
    assert _run(rated, out) == ExitCode.SUCCESS
    assert (out / "group_raters.tsv").read_bytes() == before
    assert _run(rated, out, "--raters", "rater1", "desc-rater2", "rater3") == ExitCode.SUCCESS
    assert {row["rater"] for row in load_tsv(out / "group_raters.tsv")} == {
        "rater1", "rater2", "rater3",
    }  # fmt: skip


def test_raters_of_several_datasets_are_combined(rated: Path, tmp_path: Path) -> None:
    second, out = tmp_path / "second", tmp_path / "out"
    _mask(second, "sub-03", "_desc-AB", _lesions(1, 0.01))
    folders = (rated / "derivatives" / "manual", second)
    assert _run(rated, out, "--derivatives", *folders) == ExitCode.SUCCESS
    rows = [row for row in load_tsv(out / "group_raters.tsv") if row["visit"] == "sub-03"]
    assert {row["rater"] for row in rows} == {"AB", "rater1"}
    # a derivative dataset is also a valid input
    assert _run(folders[0], tmp_path / "out2") == ExitCode.SUCCESS


def test_sidecar_describes_margin(rated: Path, tmp_path: Path) -> None:
    assert _run(rated, tmp_path / "out", "--margin", 2) == ExitCode.SUCCESS
    stem = "out/sub-01/ses-1/anat/sub-01_ses-1_space-FLAIR_label-L_desc-staple_mask.json"
    assert "dilated by 2 voxels" in json.loads((tmp_path / stem).read_text())["Description"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["{raw}"], ExitCode.USAGE, "out_dir"),
        (["{raw}", "{out}", "--margin", "-1"], ExitCode.USAGE, "--margin"),
        (["{raw}", "{out}", "--mask-values", "0"], ExitCode.USAGE, "--mask-values"),
        (["{none}", "{out}"], ExitCode.NO_INPUT, "does not exist"),
        (["{empty}", "{out}"], ExitCode.INVALID_DATASET, "dataset_description.json"),
        (["{raw}", "{raw}"], ExitCode.USAGE, "output folder"),
        (["{raw}", "{raw}/derivatives/manual"], ExitCode.USAGE, "inside the input folder"),
        (["{raw}", "{raw}/derivatives/manual/new"], ExitCode.USAGE, "inside the input folder"),
        (["{raw}", "{raw}/new"], ExitCode.USAGE, "inside the BIDS dataset"),
        (["{raw}", "{other}"], ExitCode.USAGE, "contains another dataset"),
        (["{raw}", "{out}", "--space", "T1w"], ExitCode.NO_INPUT, "two raters"),
        (["{raw}", "{out}", "--raters", "rater1"], ExitCode.NO_INPUT, "two raters"),
        (["{raw}", "{out}", "--algorithm", "{none}"], ExitCode.NO_INPUT, "does not exist"),
    ],
)
def test_invalid_arguments_and_inputs_are_refused(
    words: list[str], code: int, said: str, rated: Path, tmp_path: Path, capsys: Any
) -> None:
    places = {name: tmp_path / name for name in ("out", "none", "empty", "other", "raw")}
    for name in ("empty", "other"):
        places[name].mkdir()
    about = {"DatasetType": "derivative", "GeneratedBy": [{"Name": "bids_msseg"}]}
    (places["other"] / "dataset_description.json").write_text(json.dumps(about))
    assert rated == places["raw"]
    assert _run(*(word.format(**places) for word in words)) == code
    log = capsys.readouterr().err
    assert said in log
    assert "hint:" in log
    assert not places["out"].exists()


def test_datasets_of_same_name_get_distinct_names() -> None:
    names = name_datasets([Path("/a/x"), Path("/b/x"), Path("/c/my labels")])
    assert list(names) == ["x", "x-2", "my-labels"]


@pytest.mark.realdata
def test_consensus_beats_most_simulated_raters_of_real_mask(
    shared_data: Path, tmp_path: Path
) -> None:
    """Four raters with random errors at the lesion rims; each consensus beats three of them."""
    from scipy import ndimage

    folder = shared_data / "label-maps" / "lesion-masks"
    source = nib.load(folder / "lj02_space-MNI152_label-L_mask.nii.gz")
    truth = np.asarray(source.dataobj) > 0
    rng = np.random.default_rng(0)
    rims = ndimage.binary_dilation(truth) ^ ndimage.binary_erosion(truth)
    manual = tmp_path / "raw" / "derivatives" / "manual"
    masks = [truth ^ (rims & (rng.random(truth.shape) < share)) for share in (0.1, 0.2, 0.2, 0.3)]
    for number, mask in enumerate(masks):
        _mask(manual, "sub-01", f"_desc-rater{number}", mask)
    for place in (tmp_path / "raw", manual):
        (place / "dataset_description.json").write_text(
            json.dumps({"Name": "x", "DatasetType": "raw"})
        )
    assert _run(tmp_path / "raw", tmp_path / "out") == ExitCode.SUCCESS
    best = max(_dice(mask, truth) for mask in masks[1:])
    for method in METHODS:
        name = f"sub-01/anat/sub-01_space-FLAIR_label-L_desc-{method}_mask.nii.gz"
        assert _dice(nib.load(tmp_path / "out" / name).get_fdata() > 0, truth) > best


def _dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))
