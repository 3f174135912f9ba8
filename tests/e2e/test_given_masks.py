"""Lesion masks from elsewhere in place of the networks, through the whole app."""

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
    """Draw the phantom's lesions, which nothing else is as bright as."""
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
    """A run on masks that were drawn, on top of what networks had left."""

    out: Path
    masks: Path
    code: int
    told: list[object]
    """Words of the run."""


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


def test_no_network_runs_and_the_masks_are_those_given(drawn: Drawn) -> None:
    assert drawn.code == 0
    for stem in VISITS.values():
        mask = nib.load(drawn.out / f"{stem}_space-FLAIR_label-L_mask.nii.gz")
        given = nib.load(drawn.masks / f"{stem}_space-FLAIR_label-L_mask.nii.gz")
        np.testing.assert_allclose(mask.affine, given.affine, atol=1e-4)
        assert np.array_equal(mask.get_fdata() > 0, given.get_fdata() > 0)


@pytest.mark.parametrize("visit", VISITS)
def test_nothing_of_a_probability_is_left(drawn: Drawn, visit: str) -> None:
    """Also not of the networks that had segmented these visits before."""
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


def test_where_the_mask_comes_from_is_said(drawn: Drawn) -> None:
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


def test_the_cohort_and_the_changes_are_those_of_the_masks(drawn: Drawn) -> None:
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


def test_the_official_validator_has_nothing_to_say(
    drawn: Drawn, bids_issues: Callable[[Path], list[dict[str, Any]]]
) -> None:
    assert bids_issues(drawn.out) == []


def test_a_changed_mask_makes_its_visit_stale(
    drawn: Drawn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a visit was run")

    monkeypatch.setattr(workflow_run, "_run_group", refuse)
    assert msseg(*drawn.told) == 0
    assert "3 of 3 visits are already finished" in capsys.readouterr().err
    path = drawn.masks / f"{VISITS['sub-03']}_space-FLAIR_label-L_mask.nii.gz"
    kept = path.read_bytes()
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[tuple(size // 2 for size in data.shape)] = 1
    nib.save(nib.Nifti1Image(data, image.affine), path)
    try:
        assert msseg(*drawn.told, "--dry-run") == 0
    finally:
        path.write_bytes(kept)
    told = capsys.readouterr().out
    assert "sub-03: would be processed" in told
    assert "sub-01_ses-1: already finished" in told
    assert "lesion masks drawn, no network" in told


def test_small_lesions_are_left_out_again_without_other_steps(
    drawn: Drawn, tmp_path: Path
) -> None:
    out = shutil.copytree(drawn.out, tmp_path / "bids_msseg")
    words = ["--participant-label", "03", "--min-lesion-volume", "1000", "-w", tmp_path / "work"]
    with only_the_cut():
        assert msseg(drawn.told[0], out, "participant", *drawn.told[4:], *words) == 0
    found = record(out, "sub-03")
    assert (found["lesion_count"], found["rejected_count"]) == (1, 2)
    assert found["candidate_count"] is None
    page = (out / "sub-03.html").read_text(encoding="utf-8")
    assert "2 rejected components" in page


def test_a_corrected_mask_is_taken_without_other_steps(drawn: Drawn, tmp_path: Path) -> None:
    out = shutil.copytree(drawn.out, tmp_path / "bids_msseg")
    masks = shutil.copytree(drawn.masks, tmp_path / "manual")
    name = f"{VISITS['sub-03']}_space-FLAIR_label-L_mask.nii.gz"
    image = nib.load(masks / name)
    data = np.asarray(image.dataobj).copy()
    data[: data.shape[0] // 2] = 0
    nib.save(nib.Nifti1Image(data, image.affine), masks / name)
    words = [drawn.told[0], out, "participant", *drawn.told[4:-1], f"drawn={masks}"]
    with only_the_cut():
        assert msseg(*words, "--participant-label", "03", "-w", tmp_path / "work") == 0
    found = nib.load(out / name).get_fdata() > 0
    assert found.any()
    np.testing.assert_array_equal(found, data > 0)


def test_filling_runs_the_networks_for_the_anatomy_alone(
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
def test_another_grid_is_refused_with_what_resamples(
    finished: Any,
    tmp_path: Path,
    make_phantom: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    pattern: str,
) -> None:
    """The file is found by a pattern; the visit fails and says how to go on."""
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


def test_no_mask_at_all(finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    words = [finished.bids, tmp_path / "out", "participant", "--model", finished.model, *THREADS]
    assert msseg(*words, "--lesion-masks", tmp_path / "empty") == 66
    told = capsys.readouterr().err
    assert "no lesion mask in empty" in told
    assert "label-L_mask.nii.gz" in told


def test_values_of_a_mask(finished: Any, tmp_path: Path, make_phantom: Callable[..., Any]) -> None:
    """Two of three lesions have the value that is asked for."""
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
