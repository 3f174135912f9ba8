from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.files import is_newer
from bids_msseg.bids.visit import Visit
from bids_msseg.errors import UsageError
from bids_msseg.evaluation.labels import LabelledFiles
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.pipeline import preprocess as steps
from bids_msseg.training.data.cohort_cache import has_begun, prepare_cohort, read_images
from bids_msseg.training.data.visits import load_visit


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


def _erase_part_of_mask(truth: Path) -> None:
    image = nib.load(truth)
    data = np.asarray(image.dataobj).copy()
    data[:16] = 0
    nib.save(nib.Nifti1Image(data, image.affine), truth)


def test_unchanged_visit_is_not_prepared_again(item: LabelledFiles, tmp_path: Path) -> None:
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
    _erase_part_of_mask(item.truth)
    assert prepare_cohort(out, [item], 1)["sub-02"] < first
    assert _state(out)[0] > before[0]
    assert _state(out)[1] != before[1]


@pytest.mark.parametrize("change", ["site", "contrast", "content"])
def test_changed_files_are_refused_after_training_has_begun(
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
        _erase_part_of_mask(item.truth)
    with pytest.raises(UsageError, match="sub-02: ") as caught:
        prepare_cohort(out, [item], 1)
    assert "another output_dir" in caught.value.hint
    assert _state(out) == before


def test_visit_without_record_is_kept_unless_files_are_newer(
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


def test_is_newer_requires_that_no_source_is_newer(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for number, path in enumerate((old, new)):
        path.touch()
        os.utime(path, ns=(number, number))
    assert is_newer([new], [old])
    assert is_newer([new], [new])
    assert not is_newer([old], [new])
    assert not is_newer([new, tmp_path / "none"], [old])
    assert not is_newer([], [old])


@pytest.fixture
def aligned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace registrations by the identity transform, and record each call."""
    done: list[str] = []

    def rigid(*_: object, **__: object) -> Registration:
        done.append("contrast")
        return Registration(np.eye(4), 0.2, 0.3)

    def affine(*_: object, **__: object) -> Registration:
        done.append("template")
        return Registration(np.eye(4), 0.2, 0.3, (), "this ball is no brain")

    monkeypatch.setattr(steps, "register_rigid", rigid)
    monkeypatch.setattr(steps, "register_affine", affine)
    return done


def test_visit_without_brain_mask_is_prepared_as_by_app(
    item: LabelledFiles, tmp_path: Path, aligned: list[str]
) -> None:
    """The images are skull-stripped, so the computed brain mask equals the given one."""
    given, out = tmp_path / "given", tmp_path / "out"
    loads = prepare_cohort(given, [item], 1)
    assert aligned == []
    found = replace(item, brain=tmp_path / "consensus" / "brain.nii.gz", brain_given=False)
    assert prepare_cohort(out, [found], 1) == loads
    assert aligned == ["contrast", "template"]
    one, other = (load_visit(place / "cohort" / "sub-02.npz") for place in (given, out))
    np.testing.assert_array_equal(one.brain, other.brain)
    np.testing.assert_array_equal(one.truth, other.truth)
    np.testing.assert_allclose(one.images, other.images, atol=5e-3)
    masks = [np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
             for path in (item.brain, found.brain)]  # fmt: skip
    np.testing.assert_array_equal(*masks)
    record = json.loads((out / "cohort" / "sub-02.json").read_text())
    assert set(record["files"]) == {"FLAIR", "T1w", "truth"}
    # prepared only once, unless the brain mask that scoring needs is missing
    prepare_cohort(out, [found], 1)
    assert len(aligned) == 2
    found.brain.unlink()
    prepare_cohort(out, [found], 1)
    assert found.brain.is_file()


@pytest.mark.parametrize("change", ["shifted", "finer", "cropped"])
def test_a_contrast_on_another_grid_is_aligned(
    item: LabelledFiles, tmp_path: Path, aligned: list[str], change: str
) -> None:
    t1w = item.visit.contrasts["T1w"]
    image = nib.load(t1w)
    data, affine = np.asarray(image.dataobj), image.affine.copy()
    if change == "shifted":
        affine[1, 3] += 2
    elif change == "finer":
        data, affine = data.repeat(2, axis=2), affine @ np.diag([1, 1, 0.5, 1])
    else:
        data = data[:, :-1]
    nib.save(nib.Nifti1Image(data, affine), t1w)
    prepare_cohort(tmp_path / "out", [item], 1)
    assert aligned == ["contrast", "template"]


@pytest.mark.parametrize("flips", [(0,), (1, 2), (0, 1, 2)])
def test_reoriented_contrast_is_not_registered(
    item: LabelledFiles, tmp_path: Path, aligned: list[str], flips: tuple[int, ...]
) -> None:
    t1w = item.visit.contrasts["T1w"]
    image = nib.load(t1w)
    turned = [[axis, -1 if axis in flips else 1] for axis in range(3)]
    nib.save(image.as_reoriented(np.array(turned)), t1w)
    prepare_cohort(tmp_path / "out", [item], 1)
    assert aligned == []
