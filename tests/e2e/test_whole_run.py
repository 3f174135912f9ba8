"""Both levels on the phantoms: output files, their content, and no files elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .conftest import rows

EXPECTED = Path(__file__).with_name("expected_outputs.txt")


def records(out: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in (out / "logs/visits").iterdir()}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_run_succeeds_and_logs_exit_code(finished: Any) -> None:
    assert finished.ended.code == 0, finished.ended.err
    assert finished.ended.err.rstrip().endswith("exit code 0 (success)")
    assert "sub-04 skipped: no FLAIR" in finished.ended.err
    assert finished.ended.out == ""


def test_output_files_match_expected_list(finished: Any) -> None:
    """This also checks that OUT has no temporary files."""
    found = sorted(
        path.relative_to(finished.out).as_posix()
        for path in finished.out.rglob("*")
        if path.is_file() and ".work" not in path.relative_to(finished.out).parts
    )
    assert found == EXPECTED.read_text(encoding="utf-8").splitlines()


def test_bids_validator_reports_no_issues(
    finished: Any, bids_issues: Callable[[Path], list[dict[str, Any]]]
) -> None:
    assert bids_issues(finished.out) == []


def test_run_writes_only_to_output_folder(finished: Any) -> None:
    """HOME does not exist; the current folder and TMPDIR stay empty."""
    left = sorted(path.name for path in finished.elsewhere.rglob("*"))
    assert left == ["cwd", "tmp"]
    assert sorted(path.name for path in finished.out.parents[1].iterdir()) == [
        "derivatives",
        "elsewhere",
        "raw",
    ]


def test_input_dataset_is_unchanged(finished: Any) -> None:
    names = {path.name for path in finished.bids.iterdir()}
    assert names == {"dataset_description.json", "FLAIR.json", *(f"sub-0{i}" for i in range(1, 5))}


def test_output_texts_contain_no_local_paths(finished: Any) -> None:
    texts = {
        path
        for path in finished.out.rglob("*")
        if path.suffix in (".json", ".tsv", ".html", ".md", ".txt")
        and ".work" not in path.relative_to(finished.out).parts
    }
    assert len(texts) > 60
    for place in (str(finished.out.parents[1]), str(finished.model.parent), sys.prefix):
        leaking = [path.name for path in texts if place in path.read_text(encoding="utf-8")]
        assert leaking == [], place


def test_group_table_has_one_row_per_visit(finished: Any) -> None:
    table = rows(finished.out / "group_lesions.tsv")
    dictionary = json.loads((finished.out / "group_lesions.json").read_text())
    assert set(dictionary) == set(table[0])
    assert [(row["participant_id"], row["session_id"], row["status"]) for row in table] == [
        ("sub-01", "ses-1", "ok"),
        ("sub-01", "ses-2", "ok"),
        ("sub-02", "n/a", "ok"),
        ("sub-03", "n/a", "ok"),
        ("sub-04", "n/a", "skipped"),
    ]
    assert [row["contrasts"] for row in table[:4]] == [
        "FLAIR+T1w+T2w",
        "FLAIR+T1w",
        "FLAIR+T2w",
        "FLAIR",
    ]
    assert table[4]["lesion_load_ml"] == "n/a"
    assert table[4]["reason"].startswith("no FLAIR")
    for row in table[:4]:
        # three ellipsoids, 3.1 mL together; the brain is 0.88 L
        assert row["lesion_count"] == "3"
        assert 1.5 < float(row["lesion_load_ml"]) < 4.0
        assert 800 < float(row["brain_volume_ml"]) < 950


@pytest.mark.parametrize("visit", ["sub-01/ses-1", "sub-01/ses-2", "sub-02", "sub-03"])
def test_tables_masks_and_record_agree(finished: Any, visit: str) -> None:
    anat = finished.out / visit / "anat"
    record = records(finished.out)[visit.replace("/", "_")]
    stem = record["prefix"]
    stats = rows(anat / f"{stem}_desc-lesions_stats.tsv")
    kept = [row for row in stats if row["status"] == "kept"]
    dseg = nib.load(anat / f"{stem}_space-FLAIR_seg-lesions_dseg.nii.gz")
    labels = np.asarray(dseg.dataobj)
    volume = abs(np.linalg.det(dseg.affine[:3, :3]))
    assert len(kept) == record["lesion_count"] == labels.max() == 3
    assert len(stats) == record["candidate_count"]
    assert len(stats) - len(kept) == record["rejected_count"] >= 1
    for row in kept:
        voxels = int((labels == int(row["index"])).sum())
        assert int(row["n_voxels"]) == voxels
        assert float(row["volume_mm3"]) == pytest.approx(voxels * volume, rel=1e-3)
    masks = {
        name: np.asarray(nib.load(anat / f"{stem}_space-FLAIR_{name}_mask.nii.gz").dataobj) > 0
        for name in ("label-L", "label-L_desc-candidates", "label-L_desc-rejected", "desc-brain")
    }
    lesions, candidates, rejected, brain = masks.values()
    assert (lesions == (labels > 0)).all()
    assert not (lesions & rejected).any()
    assert ((lesions | rejected) <= candidates).all()
    assert (candidates <= brain).all()
    total = record["lesion_load_ml"]
    assert total == pytest.approx(lesions.sum() * volume / 1000, rel=1e-4)
    assert sum(load for load, _ in record["regions"].values()) == pytest.approx(total, rel=1e-3)


@pytest.mark.parametrize(
    ("stem", "raw"),
    [
        ("sub-01/ses-1/anat/sub-01_ses-1", "sub-01/ses-1/anat/sub-01_ses-1_FLAIR.nii.gz"),
        ("sub-03/anat/sub-03_acq-sag", "sub-03/anat/sub-03_acq-sag_FLAIR.nii.gz"),
    ],
)
def test_results_have_flair_grid_and_match_phantom_lesions(
    finished: Any, make_phantom: Callable[..., Any], stem: str, raw: str
) -> None:
    image = nib.load(finished.bids / raw)
    axes = "LIP" if "sag" in stem else "RAS"
    truth = make_phantom(axes, (2.0, 3.0, 2.0) if "sag" in stem else (2.0, 2.0, 4.0))
    for name in ("label-L_mask", "label-L_probseg", "desc-brain_mask", "desc-preproc_FLAIR"):
        found = nib.load(finished.out / f"{stem}_space-FLAIR_{name}.nii.gz")
        assert found.shape == image.shape
        np.testing.assert_allclose(found.affine, image.affine, atol=1e-4)
    mask = nib.load(finished.out / f"{stem}_space-FLAIR_label-L_mask.nii.gz")
    assert dice(np.asarray(mask.dataobj) > 0, truth.lesions) > 0.75


def test_t1w_space_mask_matches_lesions_of_t1w(
    finished: Any, make_phantom: Callable[..., Any]
) -> None:
    """The T1w is rotated by 4 degrees against its header, so only registration aligns it."""
    stem = "sub-01/ses-1/anat/sub-01_ses-1"
    mask = nib.load(finished.out / f"{stem}_space-T1w_label-L_mask.nii.gz")
    raw = nib.load(finished.bids / f"{stem}_T1w.nii.gz")
    assert mask.shape == raw.shape
    np.testing.assert_allclose(mask.affine, raw.affine, atol=1e-4)
    truth = make_phantom("LPS", (2.0, 2.0, 2.0), turn=4.0)
    assert dice(np.asarray(mask.dataobj) > 0, truth.lesions) > 0.7


def test_sidecars_name_their_sources(finished: Any) -> None:
    stem = "sub-01/ses-1/anat/sub-01_ses-1"
    sidecar = json.loads((finished.out / f"{stem}_space-FLAIR_label-L_mask.json").read_text())
    assert sidecar["Sources"] == [
        f"bids:raw:{stem}_{contrast}.nii.gz" for contrast in ("FLAIR", "T1w", "T2w")
    ]
    assert sidecar["Type"] == "Lesion"
    assert sidecar["Threshold"] == 0.5
    assert sidecar["MinLesionVolume"] == 3.0
    assert sidecar["ModelName"] == "bright"
    assert len(sidecar["ModelSHA256"]) == 64


def test_preprocessed_images_are_zero_outside_the_brain(finished: Any) -> None:
    stem = finished.out / "sub-01/ses-1/anat/sub-01_ses-1_space-FLAIR"
    brain = np.asarray(nib.load(f"{stem}_desc-brain_mask.nii.gz").dataobj) > 0
    for contrast in ("FLAIR", "T1w", "T2w"):
        data = nib.load(f"{stem}_desc-preproc_{contrast}.nii.gz").get_fdata()
        assert not data[~brain].any()
        assert (data[brain] > 0).mean() > 0.99


@pytest.mark.parametrize("visit", ["sub-01/ses-1", "sub-02", "sub-03"])
def test_anatomy_volumes_match_label_image(finished: Any, visit: str) -> None:
    record = records(finished.out)[visit.replace("/", "_")]
    stem = finished.out / visit / "anat" / f"{record['prefix']}_space-FLAIR_seg-anatomy_dseg"
    image = nib.load(f"{stem}.nii.gz")
    counts = np.bincount(np.asarray(image.dataobj).ravel(), minlength=12)
    voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
    listed = {int(row["index"]): float(row["volume_ml"]) for row in rows(Path(f"{stem}.tsv"))}
    assert list(listed) == list(range(2, 12))
    for label, volume in listed.items():
        assert volume == pytest.approx(counts[label] * voxel_ml, rel=1e-3)
    measures = record["brain_measures"]
    assert measures["ventricles_ml"] == pytest.approx(listed[3] + listed[11], rel=1e-3)


def test_pages_show_every_visit(finished: Any) -> None:
    page = (finished.out / "sub-01.html").read_text(encoding="utf-8")
    assert 'id="ses-1"' in page
    assert 'id="ses-2"' in page
    assert "no FLAIR" in (finished.out / "sub-04.html").read_text(encoding="utf-8")
