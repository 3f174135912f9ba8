"""The whole app with given lesion masks in place of the networks."""

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

from bids_msseg.nodes import segment
from bids_msseg.workflow import run as workflow_run

from .conftest import THREADS, only_the_cut, record, rows
from .conftest import run_here as msseg

VISITS = {
    "sub-01/ses-1": "sub-01/ses-1/anat/sub-01_ses-1",
    "sub-01/ses-2": "sub-01/ses-2/anat/sub-01_ses-2",
    "sub-03": "sub-03/anat/sub-03_acq-sag",
}


def bright(flair: Path) -> nib.Nifti1Image:
    """Return a mask of the phantom's lesions by an intensity threshold."""
    image = nib.load(flair)
    return nib.Nifti1Image((image.get_fdata() > 200).astype(np.uint8), image.affine)


def draw(bids: Path, target: Path) -> Path:
    """Write a derivative dataset with a mask of every visit but that of sub-02."""
    target.mkdir(parents=True)
    about = {"Name": "By hand", "BIDSVersion": "1.10.1", "DatasetType": "derivative"}
    about["GeneratedBy"] = [{"Name": "a reader"}]  # type: ignore[assignment]
    (target / "dataset_description.json").write_text(json.dumps(about))
    for stem in VISITS.values():
        path = target / f"{stem}_space-FLAIR_label-L_mask.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(bright(bids / f"{stem}_FLAIR.nii.gz"), path)
    return target


@dataclass(frozen=True)
class Drawn:
    """A run with given masks, over existing results of the networks."""

    out: Path
    masks: Path
    code: int
    words: list[object]
    """Arguments of the run."""


@pytest.fixture(scope="module")
def drawn(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    top = tmp_path_factory.mktemp("drawn")
    masks = draw(finished.bids, top / "manual")
    out = finished.copy(top / "derivatives" / "bids_msseg")
    # sub-02 has no mask, and no result of an earlier run
    shutil.rmtree(out / "sub-02")
    (out / "logs/visits/sub-02.json").unlink()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a network was run")

    words = [finished.bids, out, "participant", "group", *THREADS]
    words += ["--model", finished.model, "-w", finished.out / ".work"]
    words += ["--lesion-masks", f"drawn={masks}"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(segment, "segment_stack", refuse)
        return Drawn(out, masks, msseg(*words), words)


def test_given_masks_are_used_without_running_networks(drawn: Drawn) -> None:
    assert drawn.code == 0
    for stem in VISITS.values():
        mask = nib.load(drawn.out / f"{stem}_space-FLAIR_label-L_mask.nii.gz")
        given = nib.load(drawn.masks / f"{stem}_space-FLAIR_label-L_mask.nii.gz")
        np.testing.assert_allclose(mask.affine, given.affine, atol=1e-4)
        assert np.array_equal(mask.get_fdata() > 0, given.get_fdata() > 0)


@pytest.mark.parametrize("visit", VISITS)
def test_given_masks_have_no_probability_outputs(drawn: Drawn, visit: str) -> None:
    """Probability outputs of the earlier run with networks are removed, too."""
    stem = drawn.out / VISITS[visit]
    left = {path.name for path in stem.parent.iterdir()}
    gone = ("probseg", "candidates", "seg-anatomy")
    assert not {name for name in left if any(one in name for one in gone)}
    table = rows(Path(f"{stem}_desc-lesions_stats.tsv"))
    assert [row["status"] for row in table] == ["kept"] * 3
    for row in table:
        unknown = ("p_cnn1", "p_final", "p_cnn2_lesion", "confidence")
        assert {row[name] for name in unknown} == {"n/a"}
        assert row["region"] != "n/a"
    found = record(drawn.out, visit.replace("/", "_"))
    assert found["load_interval_ml"] is None
    assert found["load_interval_reason"]
    assert found["model"] is None
    assert (found["brain_measures"], found["anatomy_implausible"]) == ({}, None)
    assert any("anatomy" in note for note in found["notes"])
    assert not {"threshold", "candidate_threshold", "model", "fast"} & set(found["options"])
    assert found["options"]["lesion_masks"] == "drawn"
    assert "segment" not in found["timings_s"]


def test_source_of_lesion_mask_is_recorded(drawn: Drawn) -> None:
    stem = VISITS["sub-03"]
    uri = f"bids:drawn:{stem}_space-FLAIR_label-L_mask.nii.gz"
    assert record(drawn.out, "sub-03")["lesion_mask"] == uri
    for name in ("space-FLAIR_label-L_mask", "space-FLAIR_seg-lesions_dseg"):
        sidecar = json.loads((drawn.out / f"{stem}_{name}.json").read_text())
        assert sidecar["Sources"] == [f"bids:raw:{stem}_FLAIR.nii.gz", uri]
        assert "drawn" in sidecar["SegmentationMethod"]
        assert not {"Manual", "ModelName", "Threshold"} & set(sidecar)
    about = json.loads((drawn.out / "dataset_description.json").read_text())
    assert "drawn" in about["DatasetLinks"]
    assert "drawn" in about["GeneratedBy"][0]["Description"]
    page = (drawn.out / "sub-03.html").read_text(encoding="utf-8")
    assert uri in page
    assert "drawn" in record(drawn.out, "sub-03")["methods"]
    assert "convolutional" not in record(drawn.out, "sub-03")["methods"]
    assert "drawn" in (drawn.out / "logs/CITATION.md").read_text()


def test_group_table_and_changes_use_given_masks(drawn: Drawn) -> None:
    table = {(row["participant_id"], row["session_id"]): row for row in rows(
        drawn.out / "group_lesions.tsv")}  # fmt: skip
    row = table["sub-03", "n/a"]
    assert (row["lesion_count"], row["model"], row["threshold"]) == ("3", "n/a", "n/a")
    assert row["lesion_mask"].startswith("bids:drawn:")
    assert float(row["periventricular_load_ml"]) >= 0
    assert (row["ventricles_ml"], row["anatomy"]) == ("n/a", "n/a")
    later = table["sub-01", "ses-2"]
    assert (later["compared_with"], later["n_new"]) == ("ses-1", "0")
    skipped = table["sub-02", "n/a"]
    assert (skipped["status"], skipped["lesion_load_ml"]) == ("skipped", "n/a")
    assert skipped["reason"] == "no lesion mask in drawn"


def test_bids_validator_reports_no_issues(
    drawn: Drawn, bids_issues: Callable[[Path], list[dict[str, Any]]]
) -> None:
    assert bids_issues(drawn.out) == []


def test_a_changed_mask_makes_its_visit_stale(
    drawn: Drawn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a visit was run")

    monkeypatch.setattr(workflow_run, "_run_group", refuse)
    assert msseg(*drawn.words) == 0
    assert "3 of 3 visits are already finished" in capsys.readouterr().err
    path = drawn.masks / f"{VISITS['sub-03']}_space-FLAIR_label-L_mask.nii.gz"
    kept = path.read_bytes()
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[tuple(size // 2 for size in data.shape)] = 1
    nib.save(nib.Nifti1Image(data, image.affine), path)
    try:
        assert msseg(*drawn.words, "--dry-run") == 0
    finally:
        path.write_bytes(kept)
    printed = capsys.readouterr().out
    assert "sub-03: would be processed" in printed
    assert "sub-01_ses-1: already finished" in printed
    assert "lesion masks drawn, no network" in printed


def test_new_minimum_volume_runs_only_delineation(drawn: Drawn, tmp_path: Path) -> None:
    out = shutil.copytree(drawn.out, tmp_path / "bids_msseg")
    words = ["--participant-label", "03", "--min-lesion-volume", "1000", "-w", tmp_path / "work"]
    with only_the_cut():
        assert msseg(drawn.words[0], out, "participant", *drawn.words[4:], *words) == 0
    found = record(out, "sub-03")
    assert (found["lesion_count"], found["rejected_count"]) == (1, 2)
    assert found["candidate_count"] is None
    page = (out / "sub-03.html").read_text(encoding="utf-8")
    assert "2 rejected components" in page


def test_corrected_lesion_mask_runs_only_delineation(drawn: Drawn, tmp_path: Path) -> None:
    out = shutil.copytree(drawn.out, tmp_path / "bids_msseg")
    masks = shutil.copytree(drawn.masks, tmp_path / "manual")
    name = f"{VISITS['sub-03']}_space-FLAIR_label-L_mask.nii.gz"
    image = nib.load(masks / name)
    data = np.asarray(image.dataobj).copy()
    data[: data.shape[0] // 2] = 0
    nib.save(nib.Nifti1Image(data, image.affine), masks / name)
    words = [drawn.words[0], out, "participant", *drawn.words[4:-1], f"drawn={masks}"]
    with only_the_cut():
        assert msseg(*words, "--participant-label", "03", "-w", tmp_path / "work") == 0
    found = nib.load(out / name).get_fdata() > 0
    assert found.any()
    np.testing.assert_array_equal(found, data > 0)


def test_filling_runs_networks_for_anatomy_only(
    finished: Any, drawn: Drawn, tmp_path: Path
) -> None:
    out = tmp_path / "derivatives" / "bids_msseg"
    words = [finished.bids, out, "participant", *THREADS, "--model", finished.model]
    words += ["--participant-label", "03", "--lesion-masks", f"drawn={drawn.masks}"]
    assert msseg(*words, "--fill-lesions", "-w", tmp_path / "work") == 0
    found, stem = record(out, "sub-03"), VISITS["sub-03"]
    assert found["model"]["sha256"]
    assert found["brain_measures"]
    assert "threshold" not in found["options"]
    name = f"{stem}_space-FLAIR_label-L_mask.nii.gz"
    mask, given = (nib.load(top / name).get_fdata() > 0 for top in (out, drawn.masks))
    assert np.array_equal(mask, given)
    image, raw = (
        nib.load(path).get_fdata()
        for path in (
            out / f"{stem}_space-FLAIR_desc-filled_FLAIR.nii.gz",
            finished.bids / f"{stem}_FLAIR.nii.gz",
        )
    )
    assert np.median(image[given]) < np.median(raw[given])
    sidecar = json.loads((out / f"{stem}_space-FLAIR_desc-filled_FLAIR.json").read_text())
    assert f"bids:drawn:{name}" in sidecar["Sources"]
    assert "drawn" in sidecar["SegmentationMethod"]
    left = {path.name for path in (out / stem).parent.iterdir()}
    assert not {one for one in left if "probseg" in one or "candidates" in one}


@pytest.mark.parametrize("pattern", ["{place}/{{subject}}.nii.gz", "{place}/s{{subject}}/m.nii"])
def test_lesion_mask_on_other_grid_is_refused_with_hint(
    finished: Any,
    tmp_path: Path,
    make_phantom: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    pattern: str,
) -> None:
    """The file is found by a pattern; the visit fails with a hint."""
    place = pattern.format(place=tmp_path / "masks")
    other = make_phantom("RAS", (3.0, 3.0, 3.0))
    path = Path(place.format(subject="03"))
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(other.lesions.astype(np.uint8), other.affine), path)
    words = [finished.bids, tmp_path / "out", "participant", "--model", finished.model, *THREADS]
    words += ["-w", finished.out / ".work", "--lesion-masks", f"drawn={place}"]
    assert msseg(*words, "--dry-run") == 0
    assert "is not on the grid of the FLAIR" in capsys.readouterr().out
    assert msseg(*words) == 65
    found = record(tmp_path / "out", "sub-03")
    assert found["status"] == "failed"
    assert "not on the grid of the FLAIR" in found["reason"]
    assert "resample_from_to" in found["hint"]
    assert record(tmp_path / "out", "sub-02")["status"] == "skipped"


def test_missing_lesion_masks_are_refused(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    words = [finished.bids, tmp_path / "out", "participant", "--model", finished.model, *THREADS]
    assert msseg(*words, "--lesion-masks", tmp_path / "empty") == 66
    log = capsys.readouterr().err
    assert "no lesion mask in empty" in log
    assert "label-L_mask.nii.gz" in log


def test_mask_values_option_selects_lesion_labels(
    finished: Any, tmp_path: Path, make_phantom: Callable[..., Any]
) -> None:
    """Two of three lesions have the requested value."""
    phantom = make_phantom("LIP", (2.0, 3.0, 2.0))
    data = np.zeros(phantom.shape, np.uint8)
    for value, centre in ((1, (22, 8, 12)), (1, (-26, -18, 18)), (5, (20, -26, 8))):
        data[phantom.inside(centre, (6, 5, 6))] = value
    (tmp_path / "masks").mkdir()
    nib.save(nib.Nifti1Image(data, phantom.affine), tmp_path / "masks/03.nii.gz")
    words = [finished.bids, tmp_path / "out", "participant", "--model", finished.model, *THREADS]
    words += ["--participant-label", "03", "-w", finished.out / ".work"]
    words += ["--lesion-masks", tmp_path / "masks/{subject}.nii.gz"]
    assert msseg(*words, "--mask-values", "1") == 0
    found = record(tmp_path / "out", "sub-03")
    assert found["lesion_count"] == 2
    assert found["options"]["mask_values"] == "1"
    assert found["lesion_mask"] == "bids:masks:03.nii.gz"
