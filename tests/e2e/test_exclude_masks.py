"""The whole app with exclusion masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .conftest import THREADS, only_the_cut, record, rows
from .conftest import run_here as msseg

Files = Callable[..., dict[str, bytes]]
STEM = "sub-03/anat/sub-03_acq-sag"
MASK = f"{STEM}_space-FLAIR_desc-infarct_mask.nii.gz"
URI = f"bids:infarct:{MASK}"


def image(out: Path, name: str) -> np.ndarray:
    return np.asarray(nib.load(out / f"{STEM}_space-FLAIR_{name}.nii.gz").dataobj)


@dataclass(frozen=True)
class Masked:
    """A finished OUT, processed again without the largest lesion of sub-03."""

    out: Path
    masks: Path
    inside: np.ndarray
    code: int


@pytest.fixture(scope="module")
def masked(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Masked:
    top = tmp_path_factory.mktemp("masked")
    out = finished.copy(top / "derivatives" / "bids_msseg")
    first = nib.load(out / f"{STEM}_space-FLAIR_seg-lesions_dseg.nii.gz")
    inside = np.asarray(first.dataobj) == 1
    (top / "masks" / MASK).parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), first.affine), top / "masks" / MASK)
    words = [finished.bids, out, "participant", "group", "--model", finished.model, *THREADS]
    words += ["-w", top / "work", "--exclude-masks", f"infarct={top / 'masks'}"]
    with only_the_cut():
        return Masked(out, top / "masks", inside, msseg(*words))


def test_exclusion_mask_removes_lesion_from_finished_visit(
    masked: Masked, finished: Any, tmp_path: Path, files_of: Files
) -> None:
    out, before, after = masked.out, record(finished.out, "sub-03"), record(masked.out, "sub-03")
    assert masked.code == 0
    expected = np.where(masked.inside, 0, image(finished.out, "label-L_mask"))
    np.testing.assert_array_equal(image(out, "label-L_mask"), expected)
    assert not image(out, "label-L_probseg")[masked.inside].any()
    assert after["lesion_count"] == before["lesion_count"] - 1
    assert after["rejected_count"] == before["rejected_count"] + 1
    load = before["lesion_load_ml"] - after["lesion_load_ml"]
    assert load > 0
    assert after["excluded_ml"] == pytest.approx(load, abs=1e-4)
    # other visits are not stale
    for key in ("sub-01_ses-1", "sub-01_ses-2", "sub-02"):
        assert record(out, key)["fingerprint"] == record(finished.out, key)["fingerprint"]
        assert record(out, key)["excluded_ml"] is None
    # a complete run gives the same result
    whole = tmp_path / "whole" / "bids_msseg"
    words = [*finished.options(whole), "--participant-label", "03", "-w", tmp_path / "other"]
    assert msseg(*words, "--exclude-masks", f"infarct={masked.masks}") == 0
    assert files_of(out / "sub-03") == files_of(whole / "sub-03")
    one, other = after, record(whole, "sub-03")
    for content in (one, other):
        del content["timings_s"]
    assert one == other


def test_source_of_exclusion_masks_is_recorded(masked: Masked) -> None:
    out, found = masked.out, record(masked.out, "sub-03")
    assert found["exclude_masks"] == [URI]
    assert found["options"]["exclude_masks"] == "infarct"
    assert "exclusion masks infarct" in found["methods"]
    for name in ("label-L_mask", "seg-lesions_dseg", "label-L_probseg"):
        sidecar = json.loads((out / f"{STEM}_space-FLAIR_{name}.json").read_text())
        assert sidecar["Sources"] == [f"bids:raw:{STEM}_FLAIR.nii.gz", URI]
        assert "infarct" in sidecar["Description"]
    reasons = [row["reason"] for row in rows(out / f"{STEM}_desc-lesions_stats.tsv")]
    assert reasons.count("excluded") == 1
    about = json.loads((out / "dataset_description.json").read_text())
    assert "infarct" in about["DatasetLinks"]
    assert URI in (out / "sub-03.html").read_text(encoding="utf-8")
    table = {row["participant_id"]: row for row in rows(out / "group_lesions.tsv")}
    shown = float(table["sub-03"]["excluded_ml"])
    assert shown == pytest.approx(found["excluded_ml"], abs=1e-3)
    assert table["sub-02"]["excluded_ml"] == "n/a"


def test_bids_validator_reports_no_issues(
    masked: Masked, bids_issues: Callable[[Path], list[dict[str, Any]]]
) -> None:
    assert bids_issues(masked.out) == []


def test_removed_exclusion_mask_restores_lesion(
    masked: Masked, finished: Any, tmp_path: Path, files_of: Files
) -> None:
    out = shutil.copytree(masked.out, tmp_path / "bids_msseg")
    (tmp_path / "empty").mkdir()
    words = ["--exclude-masks", f"infarct={tmp_path / 'empty'}", "-w", tmp_path / "work"]
    with only_the_cut():
        assert msseg(*finished.options(out), *words) == 0
    assert files_of(out / "sub-03") == files_of(finished.out / "sub-03")
    assert record(out, "sub-03")["excluded_ml"] is None


def test_a_changed_mask_makes_its_visit_stale(
    masked: Masked, finished: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*finished.options(masked.out), "--dry-run"]
    words += ["--exclude-masks", f"infarct={masked.masks}"]
    assert msseg(*words) == 0
    assert "sub-03: already finished" in capsys.readouterr().out
    path = masked.masks / MASK
    kept, first = path.read_bytes(), nib.load(path)
    nib.save(nib.Nifti1Image(np.ones(first.shape, np.uint8), first.affine), path)
    try:
        assert msseg(*words) == 0
    finally:
        path.write_bytes(kept)
    printed = capsys.readouterr()
    assert "sub-03: would be processed" in printed.out
    assert "sub-02: already finished" in printed.out
    assert "1 of 4 visits have an exclusion mask in infarct" in printed.err


def test_exclusion_mask_on_other_grid_is_refused_with_hint(
    finished: Any,
    tmp_path: Path,
    make_phantom: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_phantom("RAS", (3.0, 3.0, 3.0))
    (tmp_path / "masks").mkdir()
    drawn = nib.Nifti1Image(other.lesions.astype(np.uint8), other.affine)
    nib.save(drawn, tmp_path / "masks/03.nii.gz")
    words = [*finished.options(tmp_path / "out"), "--participant-label", "03"]
    words += ["-w", finished.out / ".work", "--exclude-masks", tmp_path / "masks/{subject}.nii.gz"]
    assert msseg(*words, "--dry-run") == 0
    assert "is not on the grid of the FLAIR" in capsys.readouterr().out
    assert msseg(*words) == 65
    found = record(tmp_path / "out", "sub-03")
    assert found["status"] == "failed"
    assert "exclusion mask 03.nii.gz" in found["reason"]
    assert "resample_from_to" in found["hint"]
