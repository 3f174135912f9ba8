"""Python API and ``msseg-file``: the same results as the app, and errors with hints."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import bids_msseg
from bids_msseg.api import segment
from bids_msseg.cli.segment_file import main
from bids_msseg.demo.dataset import DemoOptions, write_demo
from bids_msseg.errors import (
    CannotCreateError,
    DataError,
    ExitCode,
    MssegError,
    NoInputError,
    UsageError,
)
from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.filling import BORDER_MM
from bids_msseg.lesions.load import rows_to_table
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.brain_volumes import measure_volumes
from bids_msseg.models.weights import DEFAULT_MODEL
from bids_msseg.pipeline.segment import segment_stack
from bids_msseg.result import SegmentationResult
from bids_msseg.training.data.cohort import prepare_raw_visit

WEIGHTS = resources.files("bids_msseg") / "data" / "weights" / f"{DEFAULT_MODEL}.safetensors"
ROOT = Path(__file__).resolve().parents[1]
FILES = (
    "anatomy.nii.gz",
    "anatomy.tsv",
    "lesions.nii.gz",
    "lesions.tsv",
    "probability.nii.gz",
    "summary.json",
)
STEM = "sub-01/ses-1/anat/sub-01_ses-1"
OTHER_GRID = nib.Nifti1Image(np.ones((3, 4, 5), np.uint8), np.eye(4))


@dataclass(frozen=True)
class Head:
    """A raw head of the demo dataset, and the outputs of the app for it."""

    bids: Path
    out: Path
    model: Path

    @property
    def images(self) -> dict[str, Path]:
        return {name: self.bids / f"{STEM}_{name}.nii.gz" for name in ("FLAIR", "T1w", "T2w")}

    def output(self, name: str) -> Path:
        return self.out / f"{STEM}_{name}"

    @property
    def record(self) -> dict[str, Any]:
        text = (self.out / "logs/visits/sub-01_ses-1.json").read_text(encoding="utf-8")
        return dict(json.loads(text))


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, bright_model: Path) -> Head:
    """One visit with skull and three contrasts that are not aligned, segmented by the app."""
    top = tmp_path_factory.mktemp("api")
    write_demo(DemoOptions(top / "bids", grid="coarse", participants=1, heads="all"))
    words = ["participant", "--session-label", "1", "--model", bright_model, "--nprocs", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "bids_msseg", *map(str, [top / "bids", top / "out", *words])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return Head(top / "bids", top / "out", bright_model)


@pytest.fixture(scope="module")
def result(head: Head) -> SegmentationResult:
    flair, t1w, t2w = head.images.values()
    return segment(flair, t1w, t2w, model=head.model, device="cpu", threads=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("mask", "space-FLAIR_label-L_mask.nii.gz"),
        ("probability", "space-FLAIR_label-L_probseg.nii.gz"),
        ("anatomy", "space-FLAIR_seg-anatomy_dseg.nii.gz"),
    ],
)
def test_images_are_byte_identical_to_app_outputs(
    head: Head, result: SegmentationResult, tmp_path: Path, name: str, output: str
) -> None:
    nib.save(getattr(result, name), tmp_path / "ours.nii.gz")
    assert (tmp_path / "ours.nii.gz").read_bytes() == head.output(output).read_bytes()


@pytest.mark.slow
def test_measures_and_flags_equal_app_record(head: Head, result: SegmentationResult) -> None:
    record = head.record
    assert result.lesion_load_ml == record["lesion_load_ml"]
    assert result.lesion_count == record["lesion_count"]
    assert list(result.flags) == record["quality_reasons"]
    assert result.model_sha256 == record["model"]["sha256"]
    assert (result.interval, result.interval_note) == (None, record["load_interval_reason"])
    assert result.summary()["brain"] == record["brain_measures"]
    used = [name for name, one in record["contrasts"].items() if one["used"]]
    assert list(result.contrasts) == used
    # the quality notes of the record are flags of the result, not notes
    notes = [one for one in record["flags"] if not one.startswith("quality: ")]
    assert sorted(result.notes) == sorted(notes)


@pytest.mark.slow
def test_lesion_table_equals_that_of_app(head: Head, result: SegmentationResult) -> None:
    with head.output("desc-lesions_stats.tsv").open(encoding="utf-8", newline="") as stream:
        theirs = list(csv.DictReader(stream, delimiter="\t"))
    assert rows_to_table(result.lesions) == theirs


@pytest.mark.slow
def test_prepare_raw_visit_equals_stack_of_app(head: Head) -> None:
    """The stacks of a raw head without a given brain mask are identical in half precision."""
    (file,) = head.out.rglob("stack.npz")
    stack = Stack.load(file)
    truth = head.bids / "derivatives/truth" / f"{STEM}_space-FLAIR_label-L_mask.nii.gz"
    visit, brain = prepare_raw_visit("sub-01_ses-1", "A", head.images, None, truth)
    assert visit.present == stack.present
    np.testing.assert_array_equal(visit.images, stack.data.astype(np.float16))
    np.testing.assert_array_equal(visit.brain, stack.brain)
    assert visit.slice_mm == pytest.approx(stack.slice_mm)
    assert visit.thick
    drawn = nib.load(truth)
    volume = float(np.prod(drawn.header.get_zooms()))
    assert visit.truth.sum(dtype=float) == pytest.approx(
        np.asarray(drawn.dataobj).sum() * volume, rel=0.1
    )
    assert brain.data.any()


@pytest.fixture(scope="module")
def phantom(
    tmp_path_factory: pytest.TempPathFactory, make_phantom: Callable[..., Any]
) -> dict[str, Path]:
    """A skull-stripped phantom: FLAIR with another axis order, T1w on another grid."""
    folder = tmp_path_factory.mktemp("phantom")
    flair = make_phantom("LIP", (2.0, 3.0, 2.0))
    t1w = make_phantom("LPS", (2.0, 2.0, 2.0), turn=4.0)
    return {
        "flair": flair.write(folder / "flair.nii.gz", "FLAIR", kind="int16"),
        "t1w": t1w.write(folder / "t1w.nii.gz", "T1w", seed=1),
    }


@pytest.fixture(scope="module")
def from_paths(phantom: dict[str, Path], bright_model: Path) -> SegmentationResult:
    return segment(**phantom, model=bright_model, device="cpu", threads=1)


def _same(one: SegmentationResult, other: SegmentationResult) -> None:
    for name in ("mask", "probability", "anatomy"):
        assert getattr(one, name).to_bytes() == getattr(other, name).to_bytes()
    # NaN is not equal to itself, so cells are compared
    assert rows_to_table(one.lesions) == rows_to_table(other.lesions)
    assert one.summary() == other.summary()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "loaded", "in memory", "without a header"])
def test_paths_and_nibabel_images_give_same_result(
    phantom: dict[str, Path], bright_model: Path, from_paths: SegmentationResult, kind: str
) -> None:
    images: dict[str, Any] = {}
    for name, path in phantom.items():
        image = nib.load(path)
        images[name] = {
            "text": str(path),
            "loaded": image,
            "in memory": nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header),
            "without a header": nib.Nifti2Image(image.get_fdata(), image.affine),
        }[kind]
    _same(segment(**images, model=bright_model, device="cpu", threads=1), from_paths)


@pytest.mark.slow
def test_outputs_are_on_grid_of_given_flair(
    phantom: dict[str, Path], from_paths: SegmentationResult, make_phantom: Callable[..., Any]
) -> None:
    flair = nib.load(phantom["flair"])
    truth = make_phantom("LIP", (2.0, 3.0, 2.0)).lesions
    for image in (from_paths.mask, from_paths.probability, from_paths.anatomy):
        assert image.shape == flair.shape
        np.testing.assert_array_equal(image.affine, flair.affine)
    mask = np.asarray(from_paths.mask.dataobj) > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.7
    assert from_paths.lesion_count == 3
    assert from_paths.contrasts == ("FLAIR", "T1w")


@pytest.mark.slow
def test_msseg_file_writes_same_files_as_result_save(
    phantom: dict[str, Path], bright_model: Path, from_paths: SegmentationResult, tmp_path: Path
) -> None:
    out = tmp_path / "a" / "b"
    words = [phantom["flair"], "--t1w", phantom["t1w"], "-o", out, "--model", bright_model]
    assert main([*map(str, words), "--device", "cpu", "--threads", "1"]) == ExitCode.SUCCESS
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    from_paths.save(tmp_path / "own")
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["lesion_load_ml"] == from_paths.lesion_load_ml
    assert summary["lesion_count"] == 3
    assert str(tmp_path) not in (out / "summary.json").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"the weights {WEIGHTS.name} are not there")
def test_documentation_example_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/python.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].partition("```")[0]
    write_demo(DemoOptions(tmp_path / "demo", grid="coarse", participants=1))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert " mL" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(FILES)


@pytest.mark.slow
def test_requested_threshold_is_used(
    phantom: dict[str, Path], bright_model: Path, from_paths: SegmentationResult
) -> None:
    found = segment(phantom["flair"], model=bright_model, threshold=0.9, device="cpu", threads=1)
    assert (from_paths.threshold, found.threshold) == (0.5, 0.9)
    probability = np.asarray(found.probability.dataobj)
    assert (probability[np.asarray(found.mask.dataobj) > 0] >= 0.9).all()


@pytest.mark.slow
def test_given_lesion_mask_replaces_networks(
    phantom: dict[str, Path], bright_model: Path, from_paths: SegmentationResult, tmp_path: Path
) -> None:
    common = {"model": bright_model, "device": "cpu", "threads": 1}
    found = segment(**phantom, lesion_mask=from_paths.mask, **common)
    np.testing.assert_array_equal(found.mask.dataobj, from_paths.mask.dataobj)
    assert found.lesion_load_ml == pytest.approx(from_paths.lesion_load_ml)
    assert (found.probability, found.interval) == (None, None)
    assert found.brain == from_paths.brain
    from_paths.save(tmp_path)
    found.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        set(FILES) - {"probability.nii.gz"}
    )


@pytest.mark.slow
@pytest.mark.parametrize("lesion", [1, 2, 3])
def test_lesion_inside_exclusion_mask_is_removed(
    phantom: dict[str, Path],
    bright_model: Path,
    from_paths: SegmentationResult,
    tmp_path: Path,
    lesion: int,
) -> None:
    labels, count = ndimage.label(np.asarray(from_paths.mask.dataobj), np.ones((3, 3, 3)))
    assert count == 3
    excluded = (labels == lesion).astype(np.uint8)
    path = tmp_path / "infarct.nii.gz"
    nib.save(nib.Nifti1Image(excluded, from_paths.mask.affine), path)
    words = [phantom["flair"], "--t1w", phantom["t1w"], "-o", tmp_path / "out"]
    words += ["--model", bright_model, "--device", "cpu", "--threads", "1"]
    words += ["--exclude-mask", path, "--min-lesion-volume", "0"]
    assert main([*map(str, words)]) == ExitCode.SUCCESS
    summary = json.loads((tmp_path / "out/summary.json").read_text(encoding="utf-8"))
    assert summary["lesion_count"] == 2
    voxel_ml = abs(np.linalg.det(from_paths.mask.affine[:3, :3])) / 1000
    assert summary["excluded_ml"] == pytest.approx(excluded.sum() * voxel_ml)


@pytest.mark.slow
def test_smaller_lesions_than_minimum_are_dropped(
    phantom: dict[str, Path], bright_model: Path, from_paths: SegmentationResult
) -> None:
    volumes = [row.volume_mm3 for row in from_paths.lesions if row.status == "kept"]
    common = {"model": bright_model, "device": "cpu", "threads": 1}
    for least in (min(volumes) + 0.1, max(volumes) + 0.1):
        found = segment(**phantom, min_lesion_volume=least, **common)
        assert found.lesion_count == sum(volume >= least for volume in volumes)


@pytest.mark.slow
def test_lesion_load_of_regions_sums_to_total_load(
    phantom: dict[str, Path], bright_model: Path, tmp_path: Path
) -> None:
    flair = nib.load(phantom["flair"])
    halves = np.ones(flair.shape, np.uint8)
    halves[flair.shape[0] // 2 :] = 2
    nib.save(nib.Nifti1Image(halves, flair.affine), tmp_path / "halves.nii.gz")
    atlases = ["sides", f"{tmp_path}/halves.nii.gz:FLAIR"]
    common = {"model": bright_model, "device": "cpu", "threads": 1}
    found = segment(phantom["flair"], atlas=atlases, **common)
    assert list(found.regions) == ["sides", "halves"]
    for rows in found.regions.values():
        total = sum(row.lesion_ml for row in rows)
        assert total == pytest.approx(found.lesion_load_ml, rel=1e-4)
        assert sum(row.lesion_count for row in rows) == found.lesion_count
    found.save(tmp_path / "out")
    lines = (tmp_path / "out" / "regions.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + sum(map(len, found.regions.values()))


@pytest.mark.slow
def test_lesion_filling_changes_only_lesions_and_their_border(
    phantom: dict[str, Path],
    bright_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def all_white(stack: Stack, model: Path, **options: Any) -> dict[str, Volume]:
        maps = segment_stack(stack, model, **options)
        labels = np.where(stack.brain, Anatomy.WHITE_MATTER, 0).astype(np.uint8)
        return {**maps, "anatomy": maps["probability"].with_data(labels)}

    monkeypatch.setattr("bids_msseg.pipeline.visit.segment_stack", all_white)
    common = {"model": bright_model, "device": "cpu", "threads": 1}
    found = segment(**phantom, fill_lesions=True, **common)
    assert list(found.filled) == ["FLAIR", "T1w"]
    for name, image in found.filled.items():
        given = nib.load(phantom[name.lower()])
        assert image.get_data_dtype() == given.get_data_dtype()
        changed = np.asarray(image.dataobj) != np.asarray(given.dataobj)
        assert 0 < changed.mean() < 0.1
    lesions = np.asarray(found.mask.dataobj) > 0
    spacing = found.mask.header.get_zooms()
    far = ndimage.distance_transform_edt(~lesions, sampling=spacing) > BORDER_MM
    given, filled = nib.load(phantom["flair"]), found.filled["FLAIR"]
    np.testing.assert_array_equal(np.asarray(filled.dataobj)[far], np.asarray(given.dataobj)[far])
    found.save(tmp_path)
    names = {"filled_FLAIR.nii.gz", "filled_T1w.nii.gz"}
    assert {path.name for path in tmp_path.iterdir()} == names | set(FILES)
    replace(found, filled={}).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def _small(data: np.ndarray) -> nib.Nifti1Image:
    return nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"flair": None}, UsageError),
        ({"flair": 3}, UsageError),
        ({"t1w": np.zeros((8, 8, 8))}, UsageError),
        ({"flair": "nowhere.nii.gz"}, NoInputError),
        ({"t2w": "nowhere.nii.gz"}, NoInputError),
        ({"flair": _small(np.zeros((8, 8, 8), np.float32))}, DataError),
        ({"flair": _small(np.ones((8, 8, 8, 3), np.float32))}, DataError),
        ({"t1w": _small(np.ones((8, 8, 8), np.complex64))}, DataError),
        ({"threshold": 1.5}, UsageError),
        ({"threads": 0}, UsageError),
        ({"device": "tpu"}, UsageError),
        ({"model": "no-such-model"}, UsageError),
        ({"model": "no/such/model.safetensors"}, NoInputError),
        ({"fill_lesions": "T1w"}, UsageError),
        ({"atlas": "aparc+aseg"}, UsageError),
        ({"atlas": ["x.txt"]}, UsageError),
        ({"atlas": "nowhere.nii.gz:FLAIR"}, NoInputError),
        ({"min_lesion_volume": -1}, UsageError),
        ({"lesion_mask": "nowhere.nii.gz"}, NoInputError),
        ({"exclude_masks": ["nowhere.nii.gz"]}, NoInputError),
        ({"lesion_mask": 1}, UsageError),
        ({"exclude_masks": 1}, UsageError),
        ({"lesion_mask": OTHER_GRID}, DataError),
        ({"exclude_masks": [OTHER_GRID, OTHER_GRID]}, DataError),
    ],
)
def test_invalid_arguments_raise_msseg_errors_with_hint(
    phantom: dict[str, Path], bright_model: Path, change: dict[str, Any], kind: type[MssegError]
) -> None:
    given = {**phantom, "model": bright_model, "device": "cpu", **change}
    with pytest.raises(kind) as caught:
        segment(**given)
    assert caught.value.hint


def test_truncated_image_raises_data_error(
    phantom: dict[str, Path], bright_model: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(phantom["flair"].read_bytes()[:-200])
    for given in (cut, nib.load(cut)):
        with pytest.raises(DataError):
            segment(given, model=bright_model, device="cpu")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["{flair}"], ExitCode.USAGE),
        (["-o", "{out}"], ExitCode.USAGE),
        (["{flair}", "-o", "{out}", "--spin"], ExitCode.USAGE),
        (["{flair}", "-o", "{out}", "--threshold", "2"], ExitCode.USAGE),
        (["{flair}", "-o", "{out}", "--threads", "many"], ExitCode.USAGE),
        (["{flair}", "-o", "{out}", "--device", "tpu"], ExitCode.USAGE),
        (["{flair}", "-o", "{out}", "--model", "none"], ExitCode.USAGE),
        (["{flair}", "-o", "{out}", "--atlas", "aseg"], ExitCode.USAGE),
        (["", "-o", "{out}"], ExitCode.USAGE),
        (["nowhere.nii.gz", "-o", "{out}"], ExitCode.NO_INPUT),
        (["{flair}", "--t1w", "nowhere.nii.gz", "-o", "{out}"], ExitCode.NO_INPUT),
        (["{flair}", "-o", "{out}", "--model", "no/model.safetensors"], ExitCode.NO_INPUT),
        (["{flair}", "-o", "{out}", "--lesion-mask", "nowhere.nii"], ExitCode.NO_INPUT),
        (["{flair}", "-o", "{out}", "--exclude-mask", "nowhere.nii"], ExitCode.NO_INPUT),
        (["{flair}", "-o", "{out}", "--min-lesion-volume", "-1"], ExitCode.USAGE),
        (["{text}", "-o", "{out}"], ExitCode.DATA_ERROR),
        (["{flair}", "-o", "{text}"], ExitCode.CANNOT_CREATE),
        (["{flair}", "-o", "{text}/below"], ExitCode.CANNOT_CREATE),
    ],
)
def test_exit_codes_of_msseg_file_errors(
    phantom: dict[str, Path],
    bright_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: ExitCode,
) -> None:
    (tmp_path / "text.nii.gz").write_text("no image")
    places = {"flair": phantom["flair"], "text": tmp_path / "text.nii.gz", "out": tmp_path / "o"}
    model = [] if "--model" in words else ["--model", str(bright_model)]
    assert main([*(word.format(**places) for word in words), *model]) == code
    assert "hint:" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_failed_save_raises_error_and_leaves_no_summary(tmp_path: Path) -> None:
    image = _small(np.zeros((2, 2, 2), np.uint8))
    values = ((), 0.0, None, "unknown", (), (), "bright", "0", 0.5, ("FLAIR",))
    brain = measure_volumes(np.zeros((2, 2, 2), np.uint8), voxel_volume=8.0)
    empty = SegmentationResult(image, image, *values, image, brain)
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreateError):
        empty.save(tmp_path / "file")
    empty.save(tmp_path / "folder")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == sorted(FILES)
    # an incomplete result has no summary
    (tmp_path / "folder" / "lesions.tsv").unlink()
    (tmp_path / "folder" / "lesions.tsv").mkdir()
    with pytest.raises(CannotCreateError):
        empty.save(tmp_path / "folder")
    assert not (tmp_path / "folder" / "summary.json").exists()


def test_package_exports_public_api() -> None:
    assert bids_msseg.segment is segment
    assert bids_msseg.SegmentationResult is SegmentationResult
    assert set(bids_msseg.__all__) == {"SegmentationResult", "__version__", "segment"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = bids_msseg.nothing
