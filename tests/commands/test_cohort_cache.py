from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.visit import Visit
from bids_msseg.commands.cohort_cache import has_begun, is_newer, prepare_cohort, read_images
from bids_msseg.commands.labels import LabelledFiles
from bids_msseg.errors import UsageError


@pytest.fixture
def item(labelled_cohort: Path, tmp_path: Path) -> LabelledFiles:
    for name in ("sub-02", "derivatives/manual/sub-02"):
        shutil.copytree(labelled_cohort / name, tmp_path / "raw" / name)
    anat = tmp_path / "raw" / "sub-02" / "anat"
    stem = tmp_path / "raw/derivatives/manual/sub-02/anat/sub-02_space-FLAIR"
    visit = Visit("02", None, anat / "sub-02_FLAIR.nii.gz", anat / "sub-02_T1w.nii.gz")
    brain, truth = (Path(f"{stem}_{end}_mask.nii.gz") for end in ("desc-brain", "label-L"))
    return LabelledFiles(visit, brain, truth, "A")


def _state(out: Path) -> tuple[int, str]:
    cohort = out / "cohort"
    record = json.loads((cohort / "sub-02.json").read_text())
    return (cohort / "sub-02.npz").stat().st_mtime_ns, record["files"]["truth"]["sha256"]


def _erase_some(truth: Path) -> None:
    image = nib.load(truth)
    data = np.asarray(image.dataobj).copy()
    data[:16] = 0
    nib.save(nib.Nifti1Image(data, image.affine), truth)


def test_what_is_prepared_stays(item: LabelledFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    loads = prepare_cohort(out, [item], 1)
    before = _state(out)
    assert prepare_cohort(out, [item], 1) == loads
    # the same content at another time, as after copying
    os.utime(item.truth, ns=(1, 1))
    assert prepare_cohort(out, [item], 1) == loads
    assert _state(out) == before
    record = json.loads((out / "cohort" / "sub-02.json").read_text())
    assert record["files"]["truth"]["mtime_ns"] == 1
    assert set(record["files"]) == {"FLAIR", "T1w", "brain", "truth"}
    images = read_images(out / "cohort", ["sub-02", "sub-03"])
    assert images == {"sub-02": record["files"]["FLAIR"]["sha256"]}


def test_changed_files_are_prepared_again(item: LabelledFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare_cohort(out, [item], 1)["sub-02"]
    before = _state(out)
    _erase_some(item.truth)
    assert prepare_cohort(out, [item], 1)["sub-02"] < first
    assert _state(out)[0] > before[0]
    assert _state(out)[1] != before[1]


@pytest.mark.parametrize("change", ["site", "contrast", "content"])
def test_a_training_that_has_begun_refuses_other_files(
    change: str, item: LabelledFiles, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare_cohort(out, [item], 1)
    assert not has_begun(out)
    (out / "checkpoints").mkdir()
    (out / "checkpoints" / "candidate-0.pt").touch()
    assert has_begun(out)
    prepare_cohort(out, [item], 1)
    before = _state(out)
    if change == "site":
        item = replace(item, site="B")
    elif change == "contrast":
        item = replace(item, visit=replace(item.visit, t1w=None))
    else:
        _erase_some(item.truth)
    with pytest.raises(UsageError, match="sub-02: ") as caught:
        prepare_cohort(out, [item], 1)
    assert "another output_dir" in caught.value.hint
    assert _state(out) == before


def test_a_cohort_without_records_is_taken_over_unless_files_are_newer(
    item: LabelledFiles, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepare_cohort(out, [item], 1)
    record = out / "cohort" / "sub-02.json"
    before = _state(out)
    record.unlink()
    prepare_cohort(out, [item], 1)
    assert _state(out) == before
    record.unlink()
    future = before[0] + 10**12
    os.utime(item.brain, ns=(future, future))
    prepare_cohort(out, [item], 1)
    assert _state(out)[0] > before[0]


def test_newer_means_that_no_source_is_younger(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for number, path in enumerate((old, new)):
        path.touch()
        os.utime(path, ns=(number, number))
    assert is_newer([new], [old])
    assert is_newer([new], [new])
    assert not is_newer([old], [new])
    assert not is_newer([new, tmp_path / "none"], [old])
    assert not is_newer([], [old])
