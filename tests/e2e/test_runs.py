"""Repeated, failed, interrupted and special runs: repeated steps and messages."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from bids_msseg.nodes import preprocess, segment
from bids_msseg.workflow import run as workflow_run

from .conftest import THREADS, record
from .conftest import run_here as msseg

Files = Callable[..., dict[str, bytes]]
Times = Callable[[Path], dict[str, int]]


def group_row(out: Path, participant: str) -> dict[str, str]:
    with (out / "group_lesions.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return next(row for row in rows if row["participant_id"] == participant)


def dataset(root: Path, source: Path, *participants: str, damaged: tuple[str, ...] = ()) -> Path:
    """Copy some participants of the phantoms; damaged ones have a truncated FLAIR."""
    root.mkdir(parents=True)
    for name in ("dataset_description.json", "FLAIR.json"):
        shutil.copy(source / name, root)
    for name in participants:
        shutil.copytree(source / name, root / name)
    whole = (source / "sub-02/anat/sub-02_FLAIR.nii.gz").read_bytes()
    for name in damaged:
        path = root / name / "anat" / f"{name}_FLAIR.nii.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(whole[: len(whole) // 2])
    return root


@pytest.fixture
def out(finished: Any, tmp_path: Path) -> Path:
    """Copy of a finished OUT."""
    target: Path = finished.copy(tmp_path / "derivatives" / "bids_msseg")
    return target


@pytest.fixture
def again(finished: Any, out: Path) -> Callable[..., int]:
    """Run the participant level again with the work folder of the first run."""

    def run(*words: object) -> int:
        work = finished.out / ".work"
        return msseg(*finished.options(out), "-w", work, *words)

    return run


@pytest.fixture
def no_visit_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a visit was run")

    monkeypatch.setattr(workflow_run, "_run_group", refuse)


# Re-runs


@pytest.mark.usefixtures("no_visit_runs")
def test_rerun_changes_no_file(
    finished: Any, times_of: Times, capsys: pytest.CaptureFixture[str]
) -> None:
    before = times_of(finished.out)
    assert msseg(*finished.options()) == 0
    assert times_of(finished.out) == before
    assert "4 of 4 visits are already finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lost",
    [
        "sub-03/anat/sub-03_acq-sag_space-FLAIR_label-L_mask.nii.gz",
        "sub-03/figures/sub-03_acq-sag_desc-brain_FLAIR.png",
        "sub-03/anat/sub-03_acq-sag_from-FLAIR_to-MNI152NLin2009aSym_mode-image_xfm.txt",
    ],
)
def test_missing_file_is_restored_and_others_are_unchanged(
    again: Callable[..., int], out: Path, files_of: Files, times_of: Times, lost: str
) -> None:
    # the description has the path of the raw data relative to OUT, which is a copy
    may_change = ("logs", "sub-03.html", "dataset_description.json")
    before, moments = files_of(out, without=may_change), times_of(out)
    (out / lost).unlink()
    assert again() == 0
    assert files_of(out, without=may_change) == before
    after = times_of(out)
    changed = {name for name, moment in after.items() if moment != moments[name]}
    assert lost in changed
    tops = {name.split("/")[0].removesuffix(".html") for name in changed}
    assert tops - {"dataset_description.json"} == {"sub-03", "logs"}


def _removable_outputs() -> list[str]:
    """Every output of one visit, of a pair of visits and of the dataset.

    A finished visit does not need its intermediate results.
    """
    expected = Path(__file__).with_name("expected_outputs.txt").read_text(encoding="utf-8")
    return [
        name
        for name in expected.splitlines()
        if ("sub-03" in name and "intermediate" not in name)
        or "changes" in name
        or "from-ses" in name
        or not ("/" in name or name.startswith(("group", "sub")))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("lost", _removable_outputs())
def test_each_missing_output_is_restored(
    again: Callable[..., int], out: Path, files_of: Files, lost: str
) -> None:
    may_change = ("logs", "sub-01.html", "sub-03.html", "dataset_description.json")
    before = files_of(out, without=may_change)
    (out / lost).unlink()
    assert again() == 0
    assert (out / lost).is_file()
    assert files_of(out, without=may_change) == before


def test_changed_option_processes_visit_again(again: Callable[..., int], out: Path) -> None:
    assert record(out, "sub-03")["lesion_count"] == 3
    assert again("--participant-label", "03", "--min-lesion-volume", "1000") == 0
    found = record(out, "sub-03")
    assert found["lesion_count"] == 1
    assert found["options"]["min_lesion_volume"] == 1000
    stem = out / "sub-03/anat/sub-03_acq-sag"
    sidecar = json.loads(Path(f"{stem}_space-FLAIR_label-L_mask.json").read_text())
    assert sidecar["MinLesionVolume"] == 1000
    assert Path(f"{stem}_desc-lesions_stats.tsv").read_text().count("kept") == 1
    page = (out / "sub-03.html").read_text(encoding="utf-8")
    assert "<dt>lesions</dt><dd>1</dd>" in page


@pytest.fixture
def no_step_before_the_cut(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Make networks, registrations and bias field correction raise an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a step before the cut was run")

    for name in ("align_contrast", "correct_contrasts", "find_brain", "fit_template"):
        monkeypatch.setattr(preprocess, name, refuse)
    monkeypatch.setattr(segment, "segment_stack", refuse)
    return monkeypatch


@pytest.mark.parametrize("label", [pytest.param("01", marks=pytest.mark.slow), "03"])
def test_new_threshold_gives_same_result_as_complete_run(
    finished: Any,
    out: Path,
    tmp_path: Path,
    files_of: Files,
    no_step_before_the_cut: pytest.MonkeyPatch,
    label: str,
) -> None:
    words = ["--participant-label", label, "--threshold", "0.3", "--min-lesion-volume", "1000"]
    assert msseg(*finished.options(out), "-w", tmp_path / "empty", *words) == 0
    no_step_before_the_cut.undo()
    whole = tmp_path / "whole" / "bids_msseg"
    assert msseg(*finished.options(whole), "-w", tmp_path / "other", *words) == 0
    assert files_of(out / f"sub-{label}") == files_of(whole / f"sub-{label}")
    keys = [path.stem for path in (whole / "logs/visits").iterdir()]
    assert len(keys) == (2 if label == "01" else 1)
    for key in keys:
        one, other = record(out, key), record(whole, key)
        assert one["options"]["threshold"] == 0.3
        for content in (one, other):
            # a new delineation keeps the times of the earlier steps
            assert set(content.pop("timings_s")) >= {"segment", "delineate", "draw"}
        assert one == other


def test_missing_intermediate_archive_is_recreated_when_needed(
    again: Callable[..., int], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = out / "logs/intermediate/sub-03.zip"
    archive.unlink()
    assert again() == 0
    assert "4 of 4 visits are already finished" in capsys.readouterr().err
    assert not archive.exists()
    assert again("--participant-label", "03", "--min-lesion-volume", "1000") == 0
    assert record(out, "sub-03")["lesion_count"] == 1
    assert archive.is_file()


@pytest.mark.usefixtures("no_visit_runs")
def test_changed_voxel_makes_visit_stale(
    finished: Any, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bids = shutil.copytree(finished.bids, tmp_path / "raw")
    path = bids / "sub-02/anat/sub-02_T2w.nii.gz"
    image = nib.load(path)
    data = image.get_fdata().astype("int16")
    data[5, 5, 5] += 1
    nib.save(nib.Nifti1Image(data, image.affine, image.header), path)
    words = [bids, out, "participant", "--dry-run", "--model", finished.model]
    assert msseg(*words) == 0
    printed = capsys.readouterr().out
    assert "sub-02: would be processed" in printed
    for key in ("sub-01_ses-1", "sub-01_ses-2", "sub-03"):
        assert f"{key}: already finished" in printed


def test_brain_mask_of_derivative_dataset_is_used(
    finished: Any, out: Path, again: Callable[..., int]
) -> None:
    dotted = finished.bids / "sub-01" / ".."
    words = ["--participant-label", "03", "-d", f"mine={finished.out}"]
    work = finished.out / ".work"
    model = ["--model", finished.model, *THREADS]
    assert msseg(dotted, out, "participant", *model, "-w", work, *words) == 0
    stem = "sub-03/anat/sub-03_acq-sag"
    sidecar = json.loads((out / f"{stem}_space-FLAIR_desc-brain_mask.json").read_text())
    assert sidecar["Sources"] == [
        f"bids:raw:{stem}_FLAIR.nii.gz",
        f"bids:mine:{stem}_space-FLAIR_desc-brain_mask.nii.gz",
    ]
    assert any("brain mask taken from mine" in note for note in record(out, "sub-03")["notes"])
    # the same visit without the mask can still be planned
    assert again("--participant-label", "03", "--dry-run") == 0


def test_resource_monitor_records_steps_that_ran(again: Callable[..., int], out: Path) -> None:
    (out / "sub-02/anat/sub-02_space-FLAIR_label-L_mask.json").unlink()
    assert again("--resource-monitor") == 0
    with (out / "logs/resources.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    # earlier steps were not repeated
    assert {row["visit"] for row in rows} == {"sub-02"}
    assert {"draw", "publish"} <= {row["step"] for row in rows}
    assert all(0.05 < float(row["memory_gb"]) < 64 for row in rows)


# Modes


def test_dry_run_writes_nothing(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "out"
    assert msseg(finished.bids, target, "participant", "--dry-run", "--model", finished.model) == 0
    assert list(tmp_path.iterdir()) == []
    printed = capsys.readouterr().out
    assert "model bright 0, sha256" in printed
    assert (
        "sub-02: would be processed\n"
        "  FLAIR: sub-02/anat/sub-02_FLAIR.nii.gz\n"
        "  T1w: none\n"
        "  T2w: sub-02/anat/sub-02_T2w.nii.gz\n"
    ) in printed
    assert "sub-04: would be skipped: no FLAIR (found: sub-04_T1w.nii.gz)" in printed


@pytest.mark.usefixtures("no_visit_runs")
def test_reports_only_restores_pages(finished: Any, out: Path, files_of: Files) -> None:
    before = files_of(out)
    (out / "sub-01.html").unlink()
    (out / "sub-02.html").write_text("lost")
    shutil.move(finished.bids, finished.bids.with_name("away"))
    try:
        assert msseg(*finished.options(out), "--reports-only", "--participant-label", "01") == 66
    finally:
        shutil.move(finished.bids.with_name("away"), finished.bids)
    assert msseg(*finished.options(out), "--reports-only") == 0
    assert files_of(out) == before


@pytest.mark.usefixtures("no_visit_runs")
def test_threshold_sweep_agrees_with_lesion_masks(finished: Any, out: Path) -> None:
    assert msseg(finished.bids, out, "group", "--threshold-sweep") == 0
    with (out / "group_lesions_thresholds.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == 4 * 9
    for row in rows:
        # the threshold of these weights
        if row["threshold"] == row["mask_threshold"] == "0.5":
            key = row["participant_id"]
            key += "" if row["session_id"] == "n/a" else f"_{row['session_id']}"
            found = record(out, key)
            assert int(row["lesion_count"]) == found["lesion_count"]
            load = pytest.approx(found["lesion_load_ml"], abs=1e-4)
            assert float(row["lesion_load_ml"]) == load
    assert sum(row["threshold"] == row["mask_threshold"] for row in rows) == 4


def test_reports_only_without_results_fails(finished: Any, out: Path, tmp_path: Path) -> None:
    assert msseg(*finished.options(tmp_path / "empty"), "--reports-only") == 66
    assert msseg(*finished.options(out), "--reports-only", "--participant-label", "99") == 18


@pytest.mark.usefixtures("no_visit_runs")
def test_boilerplate_only_prints_citation_text(
    finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert msseg(*finished.options(tmp_path / "out"), "--boilerplate-only") == 0
    text = capsys.readouterr().out
    assert text.rstrip() == (tmp_path / "out/logs/CITATION.md").read_text().rstrip()
    assert "model bright" in text
    assert "# References" in text


# Selection


@pytest.mark.usefixtures("no_visit_runs")
def test_participant_label_selection_and_exit_codes(
    finished: Any, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert msseg(*finished.options(out), "--participant-label", "99") == 18
    assert msseg(*finished.options(out), "--participant-label", "04") == 66
    assert msseg(*finished.options(out), "--participant-label", "sub-03", "99") == 0
    assert "sub-99 skipped: sub-99 is not in the dataset" in capsys.readouterr().err
    assert not list(out.rglob("sub-99*")), "a label that was mistyped left something"


def test_uncreatable_output_or_work_folder_is_refused(finished: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert msseg(*finished.options(tmp_path / "file" / "out")) == 73
    assert msseg(*finished.options(tmp_path / "out"), "-w", tmp_path / "file" / "work") == 73


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_output_folder_is_refused(finished: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert msseg(*finished.options(tmp_path / "out")) == 73


# Failures


@pytest.fixture(scope="session")
def one_damaged(
    finished: Any,
    tmp_path_factory: pytest.TempPathFactory,
    msseg: Callable[..., Any],
) -> tuple[Path, Any]:
    """Run both levels on two good visits and a damaged one, with several processes."""
    top = tmp_path_factory.mktemp("damaged")
    bids = dataset(top / "raw", finished.bids, "sub-02", "sub-03", damaged=("sub-05",))
    words = ["participant", "group", "--model", finished.model]
    threads = ["--nprocs", "2", "--omp-nthreads", "1"]
    target = top / "derivatives" / "bids_msseg"
    return target, msseg(bids, target, *words, *threads)


def test_a_damaged_visit_does_not_stop_others(one_damaged: tuple[Path, Any]) -> None:
    out, ended = one_damaged
    assert ended.code == 65, ended.err
    assert ended.err.rstrip().endswith("exit code 65 (data error)")
    assert [record(out, f"sub-0{n}")["status"] for n in (2, 3, 5)] == ["ok", "ok", "failed"]
    assert "nipype" not in ended.err
    assert ended.out == ""


def test_failed_visit_has_reason_and_hint_in_record_and_page(
    one_damaged: tuple[Path, Any],
) -> None:
    out, ended = one_damaged
    found = record(out, "sub-05")
    name = "sub-05/anat/sub-05_FLAIR.nii.gz"
    assert found["reason"].startswith(f"the FLAIR image {name} is damaged or not NIfTI")
    assert found["hint"] == "copy or convert it again from its source"
    page = (out / "sub-05.html").read_text(encoding="utf-8")
    assert "This visit failed" in page
    assert "copy or convert it again" in page
    (crash,) = found["crash_files"]
    assert crash in page
    assert crash in ended.err
    assert "_sub-05_conform_FLAIR.txt" in crash
    assert "DataError" in (out / crash).read_text(encoding="utf-8")
    assert [path.name for path in (out / "logs").glob("crash-*")] == [Path(crash).name]


def test_failed_visit_has_no_measures_in_group_table(one_damaged: tuple[Path, Any]) -> None:
    row = group_row(one_damaged[0], "sub-05")
    assert row["status"] == "failed"
    assert row["lesion_load_ml"] == row["lesion_count"] == "n/a"
    assert "damaged" in row["reason"]


def test_parallel_and_serial_runs_give_identical_files(
    one_damaged: tuple[Path, Any], finished: Any, files_of: Files
) -> None:
    for name in ("sub-02", "sub-03"):
        parallel, serial = (files_of(place / name) for place in (one_damaged[0], finished.out))
        assert parallel.keys() == serial.keys()
        assert [file for file in serial if parallel[file] != serial[file]] == []


@pytest.fixture
def two_damaged(finished: Any, tmp_path: Path) -> Path:
    return dataset(tmp_path / "raw", finished.bids, damaged=("sub-05", "sub-06"))


def test_common_error_code_of_failed_visits_is_exit_code(
    two_damaged: Path, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert msseg(two_damaged, out, "participant", "--model", finished.model, *THREADS) == 65
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert "[2/2] sub-06 failed" in captured.err
    assert {record(out, f"sub-0{n}")["status"] for n in (5, 6)} == {"failed"}


def test_stop_on_first_crash(
    two_damaged: Path, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [two_damaged, out, "participant", "--model", finished.model, "--stop-on-first-crash"]
    assert msseg(*words, *THREADS) == 65
    assert record(out, "sub-05")["status"] == "failed"
    assert not (out / "logs/visits/sub-06.json").exists()
    assert "1 failed, 1 not run" in capsys.readouterr().err


def test_stop_on_first_crash_with_multiproc_plugin(
    two_damaged: Path, finished: Any, tmp_path: Path, msseg: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    plugin = tmp_path / "plugin.yml"
    plugin.write_text("plugin: MultiProc\nplugin_args: {n_procs: 1, memory_gb: 4}\n")
    words = ["--model", finished.model, "--stop-on-first-crash", "--use-plugin", plugin]
    ended = msseg(two_damaged, out, "participant", *words)
    assert ended.code == 65, ended.err
    found = [record(out, f"sub-0{n}") for n in (5, 6)]
    damaged = [one for one in found if "damaged" in one["reason"]]
    assert len(damaged) == 1
    assert [one["reason"] for one in found if one not in damaged] == [
        "the run stopped before this visit was finished"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "plugin: [",
        "- plugin",
        "plugin: 5",
        "plugin: Linear\nplugin_args: 5",
        "plugin_args: {}",
        "plugin: Lineal",
        "\x00",
    ],
)
@pytest.mark.usefixtures("no_visit_runs")
def test_invalid_plugin_file_is_refused(
    two_damaged: Path, finished: Any, tmp_path: Path, text: str
) -> None:
    plugin = tmp_path / "plugin.yml"
    plugin.write_text(text)
    words = ["--model", finished.model, "--use-plugin", plugin]
    assert msseg(two_damaged, tmp_path / "out", "participant", *words) == 64


def test_a_plugin_file_is_used(
    two_damaged: Path, finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "plugin.yml"
    plugin.write_text("plugin: Linear\n")
    words = ["--model", finished.model, "--use-plugin", plugin, "-vv"]
    assert msseg(two_damaged, tmp_path / "out", "participant", *words) == 65
    captured = capsys.readouterr()
    assert "Running serially" in captured.err
    assert captured.out == ""


def test_result_is_kept_if_flair_is_removed(finished: Any, out: Path, tmp_path: Path) -> None:
    bids = dataset(tmp_path / "raw", finished.bids, "sub-02", "sub-03")
    (bids / "sub-03/anat/sub-03_acq-sag_FLAIR.nii.gz").unlink()
    words = [bids, out, "participant", "--model", finished.model, "-w", finished.out / ".work"]
    assert msseg(*words, *THREADS) == 0
    assert record(out, "sub-03")["status"] == "ok"


# A run that is killed


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.02)


def test_killed_run_is_resumed_from_finished_steps(
    finished: Any, tmp_path: Path, files_of: Files, times_of: Times
) -> None:
    """The run is killed after brain extraction; the next run gives the usual outputs."""
    bids = dataset(tmp_path / "raw", finished.bids, "sub-03")
    out, work = tmp_path / "derivatives" / "bids_msseg", tmp_path / "work"
    words = [bids, out, "participant", "--model", finished.model, "-w", work, *THREADS]
    folder = work / "bids_msseg" / "sub_03"
    process = subprocess.Popen(
        [sys.executable, "-m", "bids_msseg", *map(str, words)],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: bool(list(folder.glob("brain/result_*"))), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not list(out.rglob("*.nii.gz"))
    assert record(out, "sub-03")["reason"] == "the run stopped before this visit was finished"
    assert msseg(bids, out, "group") == 0
    assert group_row(out, "sub-03")["status"] == "failed"
    before = times_of(folder / "brain")
    assert msseg(*words) == 0
    assert {name: times_of(folder / "brain")[name] for name in before} == before
    assert files_of(out / "sub-03") == files_of(finished.out / "sub-03")
    assert record(out, "sub-03")["status"] == "ok"

    # --clean-workdir removes the work folder of the finished visit
    (out / "sub-03/anat/sub-03_acq-sag_space-FLAIR_label-L_mask.nii.gz").unlink()
    stale = work / "bids_msseg" / "sub_77"
    stale.mkdir()
    assert msseg(*words, "--clean-workdir") == 0
    assert [path.name for path in (work / "bids_msseg").iterdir()] == ["sub_77"]
    assert files_of(out / "sub-03") == files_of(finished.out / "sub-03")


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_interrupted_publication_marks_visit_unfinished(
    finished: Any,
    out: Path,
    again: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    interruption: type[BaseException],
) -> None:
    """The record becomes unfinished, because OUT may hold a mixture of old and new files."""
    from bids_msseg.nodes import outputs

    def interrupt(*_: object) -> None:
        raise interruption

    monkeypatch.setattr(outputs, "_publish_tables", interrupt)
    words = ["--participant-label", "02", "03", "--min-lesion-volume", "1000"]
    if interruption is KeyboardInterrupt:
        assert again(*words) == 130
    else:
        with pytest.raises(SystemExit):
            again(*words)
    assert record(out, "sub-02")["reason"] == "the run stopped before this visit was finished"
    # the next visit did not start, so its old result is still valid
    assert record(out, "sub-03")["lesion_count"] == 3
    assert not list((out / "logs").glob("crash-*"))
    monkeypatch.undo()
    assert again() == 0
    assert record(out, "sub-02")["lesion_count"] == 3
    stem = "sub-02/anat/sub-02_space-FLAIR_label-L_mask.nii.gz"
    assert (out / stem).read_bytes() == (finished.out / stem).read_bytes()
