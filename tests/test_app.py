"""Unit tests of the app that need no images."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.app import environment, levels, locks, pages, selection
from bids_msseg.app import outcome as app_outcome
from bids_msseg.bids.record import UNFINISHED_REASON, VisitRecord, read_record, write_record
from bids_msseg.bids.record_values import ContrastUse, ModelUse
from bids_msseg.bids.visit import Selection, Skipped, Visit
from bids_msseg.config import RunConfig
from bids_msseg.errors import (
    CannotCreateError,
    ExitCode,
    InvalidDatasetError,
    NoInputError,
    NothingSelectedError,
    UsageError,
)
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.resources import Resources
from bids_msseg.workflow.locks import VisitLocks
from bids_msseg.workflow.outcome import Outcome

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def configure(tmp_path: Path) -> MakeConfig:
    (tmp_path / "raw").mkdir()

    def make(**options: Any) -> RunConfig:
        given = {"bids_dir": tmp_path / "raw", "output_dir": tmp_path / "out"}
        return RunConfig.from_options({**given, "levels": ["participant"], **options})

    return make


@pytest.fixture
def outcome(tmp_path: Path) -> Callable[..., Outcome]:
    def make(code: int, *, label: str = "01", **more: Any) -> Outcome:
        visit = Visit(label, None, tmp_path / "raw/flair.nii.gz")
        model = ModelUse("m", "1", "0" * 64)
        context = DerivativesContext(
            visit, tmp_path / "out", tmp_path / "raw", model, 0.1, 0.5, 3.0
        )
        return Outcome(context, code == 0, 1.0, code=code, **more)

    return make


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], ExitCode.SUCCESS),
        ([0, 0], ExitCode.SUCCESS),
        ([0, 65], ExitCode.DATA_ERROR),
        ([65, 65], ExitCode.DATA_ERROR),
        ([65, 75], ExitCode.FAILURE),
        ([0, 1], ExitCode.FAILURE),
    ],
)
def test_exit_code_of_visit_outcomes(
    outcome: Callable[..., Outcome], codes: list[int], expected: ExitCode
) -> None:
    assert app_outcome.exit_code_of([outcome(code) for code in codes]) == expected


def test_stopped_visit_does_not_change_exit_code(outcome: Callable[..., Outcome]) -> None:
    outcomes = [outcome(65), outcome(1, label="02", stopped=True)]
    assert app_outcome.exit_code_of(outcomes) == ExitCode.DATA_ERROR


def test_exit_code_of_both_levels_is_that_of_participant_level(
    configure: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    code = ExitCode.DATA_ERROR
    monkeypatch.setattr(levels, "_participant", lambda _: done.append("participant") or code)
    monkeypatch.setattr(levels, "_group", lambda _: done.append("group") or ExitCode.SUCCESS)
    assert levels.run(configure(levels=["participant", "group"])) == code
    assert done == ["participant", "group"]
    assert levels.run(configure(levels=["group"])) == ExitCode.SUCCESS


@pytest.mark.parametrize("more", [{"levels": ["group"]}, {"reports_only": True}])
def test_group_level_refuses_outputs_of_another_program(
    configure: MakeConfig, tmp_path: Path, more: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    write_record(out, VisitRecord("01", None, "", "skipped", reason="no FLAIR"))
    made = {"Name": "x", "DatasetType": "derivative", "GeneratedBy": [{"Name": "fmriprep"}]}
    (out / "dataset_description.json").write_text(json.dumps(made))
    with pytest.raises(UsageError, match="holds the outputs of fmriprep"):
        levels._group(configure(**{"levels": ["participant", "group"], **more}))
    assert not list(out.glob("group*"))


def test_group_level_logs_visits_without_result(
    configure: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_record(tmp_path / "out", VisitRecord("01", None, "", "skipped", reason="no FLAIR"))
    config = configure(levels=["group"], participant_label=["99"])
    assert levels._group(config) == ExitCode.SUCCESS
    assert "the group level covers every visit" in caplog.text
    assert "1 of 1 visit without a result: sub-01 (skipped)" in caplog.text
    assert (tmp_path / "out/group_lesions.tsv").is_file()
    assert not (tmp_path / "out/.work").exists()


def test_public_text_contains_no_local_folders(configure: MakeConfig, tmp_path: Path) -> None:
    config = configure(derivatives=[f"other={tmp_path}/raw/derivatives/other"])
    texts = {
        f"the image {tmp_path}/raw/sub-01/anat/f.nii.gz is damaged": (
            "the image sub-01/anat/f.nii.gz is damaged"
        ),
        f"datalad get {tmp_path}/raw/derivatives/other/m.nii.gz": "datalad get m.nii.gz",
        "no space in /scratch/anna/tmp-1/x": "no space in …/x",
        f"{tmp_path}/out/logs": "logs",
    }
    assert {text: app_outcome.public_text(text, config) for text in texts} == texts


def test_record_skipped_replaces_failed_but_keeps_ok_records(
    configure: MakeConfig, tmp_path: Path
) -> None:
    config, out = configure(), tmp_path / "out"
    for name in ("sub-01", "sub-02", "sub-03/ses-1"):
        (tmp_path / "raw" / name).mkdir(parents=True)
    write_record(out, VisitRecord("01", None, "sub-01", "ok", lesion_count=4))
    write_record(out, VisitRecord("02", None, "sub-02", "failed", reason="before"))
    gone = f"{tmp_path}/raw/sub-02/anat/f.nii.gz is not fetched"
    skipped = (
        Skipped("01", None, "no FLAIR"),
        Skipped("02", None, gone, "datalad get it"),
        Skipped("03", "2", "sub-03 has no ses-2"),
        Skipped("99", None, "sub-99 is not in the dataset"),
    )
    selection = Selection((), skipped)
    app_outcome.record_skipped(config, selection)
    found = {path.stem: path for path in (out / "logs/visits").iterdir()}
    assert set(found) == {"sub-01", "sub-02"}
    kept, replaced = (read_record(out, label, None) for label in ("01", "02"))
    assert kept is not None
    assert kept.lesion_count == 4
    assert replaced is not None
    assert replaced.status == "skipped"
    assert replaced.reason == "sub-02/anat/f.nii.gz is not fetched"
    before = found["sub-02"].stat().st_mtime_ns
    app_outcome.record_skipped(config, selection)
    assert found["sub-02"].stat().st_mtime_ns == before


@pytest.mark.parametrize("computed", [False, True])
def test_folder_at_record_path_raises_cannot_create_error(
    configure: MakeConfig, outcome: Callable[..., Outcome], tmp_path: Path, computed: bool
) -> None:
    """The error names the path, before the visit is computed or when its record is written."""
    place = tmp_path / "out/logs/visits/sub-01.json"
    place.mkdir(parents=True)
    config, failed = configure(), outcome(65)
    header: Any = None
    selection = Selection((failed.context.visit,), ())
    jobs: dict[bool, Callable[[], object]] = {
        True: lambda: app_outcome.record_failure(config, failed),
        False: lambda: levels._process(config, selection, header, None),
    }
    with pytest.raises(CannotCreateError, match=f"{place} cannot be written"):
        jobs[computed]()
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [
        "logs",
        "visits",
        "sub-01.json",
    ]


def test_missing_and_outdated_pages_are_listed(configure: MakeConfig, tmp_path: Path) -> None:
    out = tmp_path / "out"
    configure()
    for label in ("01", "02", "03"):
        write_record(out, VisitRecord(label, None, f"sub-{label}", "ok"))
        (out / f"sub-{label}.html").touch()
    record = out / "logs/visits/sub-02.json"
    os.utime(record, ns=(record.stat().st_atime_ns, record.stat().st_mtime_ns + 10**9))
    (out / "sub-03.html").unlink()
    visits = tuple(Visit(label, None, Path()) for label in ("01", "02", "03"))
    found = pages._with_old_page(out, Selection(visits, (Skipped("04", None, "never seen"),)))
    assert found == ["02", "03"]


def test_pages_of_processed_visits_are_listed_even_if_newer(
    outcome: Callable[..., Outcome], tmp_path: Path
) -> None:
    """A page of an earlier run is newer than its record if the clock was set back."""
    out = tmp_path / "out"
    for label in ("01", "02"):
        write_record(out, VisitRecord(label, None, f"sub-{label}", "ok"))
        (out / f"sub-{label}.html").touch()
        os.utime(out / f"sub-{label}.html", (4e9, 4e9))
    # the run did not reach the last visit
    visits = tuple(Visit(label, None, Path()) for label in ("01", "02", "03"))
    processed = [outcome(0, label=label).context for label in ("02", "03")]
    assert pages.participants_with_new_page(out, Selection(visits, ()), processed) == ["02"]
    assert pages.participants_with_new_page(out, Selection(visits, ()), []) == []


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names that another run has locked."""
    names: set[str] = set()
    take = VisitLocks.acquire
    monkeypatch.setattr(
        VisitLocks,
        "acquire",
        lambda self, name, wait=False: name not in names and take(self, name, wait=wait),
    )
    return names


def test_visit_locked_by_another_run_is_skipped(
    configure: MakeConfig,
    outcome: Callable[..., Outcome],
    busy: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran: list[str] = []
    compared: list[str] = []

    def run(_: object, todo: list[DerivativesContext], *__: object) -> list[Outcome]:
        ran.extend(one.visit.key for one in todo)
        for one in todo:
            write_record(tmp_path / "out", VisitRecord(one.visit.participant, None, "", "ok"))
        return [outcome(0, label=one.visit.participant) for one in todo]

    def compare(_: object, names: list[str], __: object) -> ExitCode:
        compared.extend(names)
        return ExitCode.SUCCESS

    monkeypatch.setattr(
        levels, "collect_context", lambda _, v, __: outcome(0, label=v.participant).context
    )
    monkeypatch.setattr(levels, "_run_all", run)
    monkeypatch.setattr(levels, "_compare_locked", compare)
    monkeypatch.setattr(levels, "analysis_options", lambda *_: {})
    monkeypatch.setattr(levels, "write_citation", lambda *_: None)
    # comparing all pairs of contexts would be slow for thousands of visits
    monkeypatch.setattr(
        DerivativesContext, "__eq__", lambda *_: pytest.fail("contexts are compared")
    )
    busy.add("sub-01")
    visits = tuple(Visit(label, None, tmp_path / "f.nii.gz") for label in ("01", "02"))
    header: Any = None
    code = levels._process(configure(), Selection(visits, ()), header, None)
    assert code == ExitCode.TEMPORARY
    assert ran == ["sub-02"]
    assert compared == ["02"]
    assert "sub-01 is not run: another run is processing it" in caplog.text
    assert not (tmp_path / "out/logs/visits/sub-01.json").exists()
    busy.clear()
    assert levels._process(configure(), Selection(visits, ()), header, None) == ExitCode.SUCCESS
    assert ran == ["sub-02", "sub-01", "sub-02"]
    assert not list((tmp_path / "out").rglob(".locks"))


def test_lock_all_locks_all_visits_of_participant_or_none(busy: set[str], tmp_path: Path) -> None:
    busy.add("sub-01_ses-2")
    with VisitLocks([tmp_path]) as held:
        assert not locks.lock_all(held, "01", ["sub-01_ses-1", "sub-01_ses-2"])
        assert locks.lock_all(held, "02", ["sub-02"])
        busy.clear()
        assert locks.lock_all(held, "01", ["sub-01_ses-1", "sub-01_ses-2"])


def test_participant_page_is_locked_while_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a run with older records could replace a page that has more visits."""
    code = (
        "import sys; from pathlib import Path; from bids_msseg.workflow.locks import VisitLocks\n"
    )
    code += "print(VisitLocks([Path(sys.argv[1])]).acquire('page of 01'))"
    printed: list[str] = []

    def write(out: Path, _participant: str, **_: object) -> Path:
        words = [sys.executable, "-c", code, str(out / "logs")]
        root = Path(__file__).parents[1]
        done = subprocess.run(words, cwd=root, check=True, capture_output=True, text=True)
        printed.append(done.stdout.strip())
        return out

    monkeypatch.setattr("bids_msseg.reports.participant.write_participant_page", write)
    pages.write_pages(tmp_path, ["01", "02"])
    assert printed == ["False", "True"]
    assert not list(tmp_path.rglob(".locks"))


def test_partial_files_are_removed_from_written_folders_only(
    outcome: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []
    monkeypatch.setattr(
        "bids_msseg.app.locks.remove_stale_files", lambda folder: looked.append(folder) or ()
    )
    locks.remove_partial_files(tmp_path / "out", [outcome(0).context])
    assert [path.relative_to(tmp_path / "out").as_posix() for path in looked] == [
        ".",
        "logs",
        "logs/visits",
        "logs/intermediate",
        "sub-01/anat",
        "sub-01/figures",
    ]


def test_run_environment_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("NO_ET", raising=False)
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    before = dict(os.environ)
    with environment.run_environment(tmp_path, dry=False):
        inside = {name: os.environ[name] for name in ("NO_ET", "NIPYPE_NO_ET", "MPLCONFIGDIR")}
        assert inside["NO_ET"] == inside["NIPYPE_NO_ET"] == "1"
        scratch = Path(tempfile.gettempdir())
        assert scratch.parent == tmp_path
        assert os.environ["TMPDIR"] == str(scratch)
    assert dict(os.environ) == before
    assert tempfile.tempdir is None
    assert list(tmp_path.iterdir()) == []


def test_logname_is_set_to_user_name_or_user_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cron and containers may not set LOGNAME, and some user IDs have no name."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setenv("LOGNAME", "anna")
    with environment.run_environment(tmp_path, dry=True):
        assert os.environ["LOGNAME"] == "anna"
    monkeypatch.delenv("LOGNAME")
    monkeypatch.setenv("USER", "berta")
    with environment.run_environment(tmp_path, dry=True):
        assert os.environ["LOGNAME"] == "berta"
    monkeypatch.setattr("getpass.getuser", nobody)
    with environment.run_environment(tmp_path, dry=True):
        assert os.environ["LOGNAME"] == str(os.getuid())
    assert "LOGNAME" not in os.environ


def test_dry_run_environment_creates_no_folder(tmp_path: Path) -> None:
    before = dict(os.environ)
    with environment.run_environment(tmp_path / "none", dry=True):
        assert os.environ["NIPYPE_NO_ET"] == "1"
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("existing", [False, True])
def test_refused_run_removes_only_folders_it_created(
    configure: MakeConfig, tmp_path: Path, existing: bool
) -> None:
    if existing:
        (tmp_path / "out").mkdir()
    with pytest.raises(InvalidDatasetError):
        levels.run(configure())
    assert (tmp_path / "out").exists() == existing
    assert not (tmp_path / "out/.work").exists()


def test_user_template_folder_is_preferred_to_work_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    with environment.run_environment(tmp_path, dry=False):
        assert os.environ["TEMPLATEFLOW_HOME"] == str(tmp_path / "templateflow")
    (tmp_path / ".cache/templateflow").mkdir(parents=True)
    with environment.run_environment(tmp_path, dry=False):
        assert "TEMPLATEFLOW_HOME" not in os.environ
    monkeypatch.setenv("TEMPLATEFLOW_HOME", "/templates")
    with environment.run_environment(tmp_path, dry=False):
        assert os.environ["TEMPLATEFLOW_HOME"] == "/templates"


def test_template_home_without_user_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``docker run -u 1234`` without HOME."""

    def nowhere(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    monkeypatch.delenv("TEMPLATEFLOW_HOME", raising=False)
    with environment.run_environment(tmp_path, dry=False):
        assert os.environ["TEMPLATEFLOW_HOME"] == str(tmp_path / "templateflow")


@pytest.mark.parametrize(
    ("nprocs", "threads", "plugin", "chunk"),
    [(1, 1, "Linear", 1), (2, 2, "MultiProc", 4), (8, 8, "MultiProc", 16), (3, 1, "MultiProc", 6)],
)
def test_choose_execution_uses_multiproc_from_two_cpus(
    configure: MakeConfig, nprocs: int, threads: int, plugin: str, chunk: int
) -> None:
    found = environment.choose_execution(configure(), Resources(nprocs, threads, 16.0), None)
    assert (found.plugin, found.chunk) == (plugin, chunk)
    if plugin == "MultiProc":
        assert found.plugin_args is not None
        assert found.plugin_args["n_procs"] == nprocs
        assert found.plugin_args["memory_gb"] == 16.0


def test_requested_plugin_gets_all_visits_in_one_chunk(configure: MakeConfig) -> None:
    asked = ("SLURM", {"sbatch_args": "--mem=8G"})
    found = environment.choose_execution(configure(), Resources(2, 2, 4.0), asked)
    assert (found.plugin, found.plugin_args) == asked
    assert found.chunk >= 1000


def test_check_device_refuses_missing_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for device in ("cuda:0", "cuda", "mps"):
        with pytest.raises(UsageError, match=f"--device {device}: "):
            environment.check_device(device)
    environment.check_device("auto")
    environment.check_device("cpu")


def test_analysis_options_name_files_without_their_folders(
    configure: MakeConfig, bright_model: Path, tmp_path: Path
) -> None:
    config = configure(
        model=str(bright_model),
        atlas=[f"tracts={tmp_path}/x.nii.gz:T1w"],
        output_spaces=["FLAIR", f"{tmp_path}/qsm.nii.gz"],
    )
    options = selection.analysis_options(config, selection.read_model_header(config))
    assert options["model"] == "bright"
    assert options["atlas"] == ["tracts=…/x.nii.gz:T1w"]
    assert options["output_spaces"] == ["FLAIR", "qsm=…/qsm.nii.gz:FLAIR"]
    assert str(bright_model.parent) not in str(options)
    assert str(tmp_path) not in str(options)


def write_stale_outputs(out: Path, record: VisitRecord) -> list[Path]:
    """Write a record, files with the old prefix of the visit, and one with the new prefix."""
    write_record(out, record)
    names = ("anat/sub-01_space-FLAIR_label-L_mask.nii.gz", "figures/sub-01_desc-brain_FLAIR.png")
    paths = [out / "sub-01" / name for name in (*names, "anat/sub-01_acq-new_desc-x_stats.tsv")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


@pytest.mark.parametrize(
    ("status", "prefix", "clean", "removed"),
    [
        ("ok", "sub-01_acq-new", True, True),
        ("ok", "sub-01_acq-new", False, False),
        ("ok", "sub-01", True, False),
        ("failed", "sub-01_acq-new", True, False),
    ],
)
def test_stale_files_of_renamed_flair_are_removed_on_request(
    configure: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    status: Any,
    prefix: str,
    clean: bool,
    removed: bool,
) -> None:
    """They are kept until the visit has results with the prefix of its current FLAIR."""
    *old, new = write_stale_outputs(tmp_path / "out", VisitRecord("01", None, prefix, status))
    visit = Visit("01", None, tmp_path / "f.nii.gz", entities={"acq": "new"})
    model = ModelUse("m", "1", "0" * 64)
    context = DerivativesContext(visit, tmp_path / "out", tmp_path / "raw", model, 0.1, 0.5, 3.0)
    caplog.set_level("INFO", logger="bids_msseg")
    with VisitLocks([tmp_path]) as held:
        selection.handle_stale(configure(clean_outputs=clean), [context], held)
    assert [path.exists() for path in old] == [not removed] * 2
    assert new.exists()
    (logged,) = caplog.records
    assert all(path.name in logged.message for path in old)
    assert ("--clean-outputs" in logged.message) == (not clean)


USED = ContrastUse("x.nii.gz", (1.0, 1.0, 1.0))
NOT_USED = replace(USED, used=False, note="it could not be aligned")


@pytest.mark.parametrize(
    ("given", "recorded", "fingerprint", "logged", "removed"),
    [
        # T1w used; ignored; not aligned; ignored, but the record is of other settings
        (True, {"T1w": USED}, "now", False, False),
        (False, {}, "now", True, True),
        (True, {"T1w": NOT_USED}, "now", True, True),
        (False, {"T1w": USED}, "before", True, False),
    ],
)
def test_stale_files_of_unused_contrast_are_logged_and_removed(
    configure: MakeConfig,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    given: bool,
    recorded: dict[str, ContrastUse],
    fingerprint: str,
    logged: bool,
    removed: bool,
) -> None:
    uses = {"FLAIR": USED, **recorded}
    record = VisitRecord("01", None, "sub-01", "ok", fingerprint=fingerprint, contrasts=uses)
    write_record(tmp_path / "out", record)
    image = tmp_path / "f.nii.gz"
    visit = Visit("01", None, image, image if given else None)
    model = ModelUse("m", "1", "0" * 64)
    context = DerivativesContext(
        visit, tmp_path / "out", tmp_path / "raw", model, 0.1, 0.5, 3.0, fingerprint="now"
    )
    stems = ("space-FLAIR_desc-preproc_T1w.nii.gz", "space-T1w_label-L_mask.json")
    names = [f"anat/sub-01_{one}" for one in (*stems, "from-T1w_to-FLAIR_mode-image_xfm.txt")]
    others = ["anat/sub-01_space-FLAIR_label-L_mask.json"]
    others += ["figures/sub-01_desc-registrationT1w_FLAIR.png"]
    for name in (*names, *others):
        path = tmp_path / "out/sub-01" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    caplog.set_level("INFO", logger="bids_msseg")
    with VisitLocks([tmp_path]) as held:
        selection.handle_stale(configure(clean_outputs=True), [context], held)
    assert all((tmp_path / "out/sub-01" / name).exists() for name in others)
    assert [(tmp_path / "out/sub-01" / name).exists() for name in names] == [not removed] * 3
    assert len(caplog.records) == logged


def test_dry_run_reports_failures_stale_files_and_visit_order(
    configure: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_stale_outputs(tmp_path / "out", VisitRecord("01", None, "sub-01", "ok"))
    monkeypatch.setattr(
        levels, "collect_context", lambda _, visit, __: SimpleNamespace(visit=visit)
    )
    monkeypatch.setattr(levels, "is_visit_finished", lambda *_: False)
    raw = tmp_path / "raw"
    visits = (
        Visit("01", None, raw / "a.nii.gz", entities={"acq": "new"}, problem="a.nii.gz is empty"),
        Visit("02", "pre", raw / "b.nii.gz"),
        Visit("02", "post", raw / "c.nii.gz"),
        Visit("03", "M12", raw / "d.nii.gz"),
        Visit("03", "M6", raw / "e.nii.gz"),
    )
    header: Any = SimpleNamespace(name="m", version="1", sha256="0" * 64)
    for asked in ((), ("pre", "post", "M6", "M12")):
        config = configure(dry_run=True, session_order=list(asked))
        assert levels._dry_run(config, Selection(visits, ()), header) == ExitCode.SUCCESS
        printed = capsys.readouterr().out
        assert "sub-01: would be processed, and would fail: a.nii.gz is empty" in printed
        assert "sub-01_space-FLAIR_label-L_mask.nii.gz" in printed
        assert "sub-03: order of the visits: ses-M6, ses-M12" in printed
        assert ("sub-02: the order of the visits ses-post, ses-pre is not known" in printed) == (
            not asked
        )
        assert (
            "sub-02: order of the visits: ses-pre, ses-post (--session-order)" in printed
        ) == bool(asked)


HEADER: Any = SimpleNamespace(name="m", version="1", sha256="0" * 64)


@pytest.mark.parametrize(
    "sessions", [("predrug", "postdrug"), ("baseline", "12months"), ("a", "b", "c")]
)
def test_select_visits_does_not_log_visit_order(
    configure: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sessions: tuple[str, ...],
) -> None:
    """The comparison logs an unknown order; it must not be logged twice."""
    visits = tuple(Visit("01", one, tmp_path / f"{one}.nii.gz") for one in sessions)
    monkeypatch.setattr(
        "bids_msseg.bids.query.find_visits", lambda *_, **__: Selection(visits, ())
    )
    caplog.set_level("INFO", logger="bids_msseg")
    assert selection.select_visits(configure()).visits == visits
    assert caplog.records == []


@pytest.mark.parametrize(
    ("space", "asked"),
    [
        ("MNI152NoSuch", ("MNI152NoSuch", 1)),
        ("OASIS30ANTs:res-1", ("OASIS30ANTs", 1)),
        ("MNI152NLin2009aSym:res-2", ("MNI152NLin2009aSym", 2)),
    ],
)
def test_dry_run_checks_same_output_spaces_as_real_run(
    configure: MakeConfig, monkeypatch: pytest.MonkeyPatch, space: str, asked: tuple[str, int]
) -> None:
    seen: list[tuple[str, int]] = []

    def load(name: str, *, resolution: int, home: Path | None) -> None:
        seen.append((name, resolution))
        raise NoInputError(f"no {name} in {home}", hint="name another")

    monkeypatch.setattr("bids_msseg.imaging.template.load_template", load)
    config = configure(output_spaces=["FLAIR", space])
    for check in (
        lambda: levels._dry_run(config, Selection((), ()), HEADER),
        lambda: environment._check_spaces(config),
    ):
        with pytest.raises(NoInputError):
            check()
    assert seen == [asked, asked]


def test_dry_run_does_not_check_default_spaces(
    configure: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "_check_spaces", lambda *_, **__: pytest.fail("looked up"))
    assert levels._dry_run(configure(), Selection((), ()), HEADER) == ExitCode.SUCCESS
    assert "model m 1" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["atlas", "output_spaces"])
@pytest.mark.parametrize(("file", "refused"), [("none.nii.gz", True), ("{subject}.nii.gz", False)])
def test_check_files_refuses_missing_shared_file(
    configure: MakeConfig, tmp_path: Path, option: str, file: str, refused: bool
) -> None:
    config = configure(**{option: [f"{tmp_path}/{file}:T1w"]})
    with pytest.raises(NoInputError) if refused else nullcontext():
        environment._check_files(config)


@pytest.fixture
def no_own_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no other template folder than the one in the work folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("TEMPLATEFLOW_HOME", "BIDS_MSSEG_TEMPLATES"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_own_templates")
@pytest.mark.parametrize("work", [None, "scratch"])
@pytest.mark.parametrize(
    ("filled", "fetched"),
    [
        ({("Made", 1), ("MNI152NLin6Asym", 2)}, []),
        ({("Made", 1)}, [("MNI152NLin6Asym", 2)]),
        ({("Made", 2), ("MNI152NLin6Asym", 1)}, [("Made", 1), ("MNI152NLin6Asym", 2)]),
        (None, [("Made", 1), ("MNI152NLin6Asym", 2)]),
    ],
)
def test_dry_run_downloads_only_missing_templates(
    configure: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    filled: set[tuple[str, int]] | None,
    fetched: list[tuple[str, int]],
    work: str | None,
) -> None:
    more = {} if work is None else {"work_dir": str(tmp_path / work)}
    config = configure(output_spaces=["T1w", "Made", "MNI152NLin6Asym:res-2"], **more)
    home = config.work_dir / "templateflow"
    if filled is not None:
        home.mkdir(parents=True)
    got: list[tuple[str, int]] = []

    def load(name: str, *, resolution: int, home: Path, online: bool = True) -> None:
        if online:
            assert not home.is_relative_to(config.work_dir)
            got.append((name, resolution))
        elif (name, resolution) not in (filled or ()):
            raise NoInputError(f"no {name} in {home}", hint="fetch it")

    monkeypatch.setattr("bids_msseg.imaging.template.load_template", load)
    assert levels._dry_run(config, Selection((), ()), HEADER) == ExitCode.SUCCESS
    assert got == fetched
    assert home.exists() == (filled is not None)


@pytest.mark.usefixtures("no_own_templates")
@pytest.mark.parametrize("name", ["Made", "MNI152NLin6Asym"])
def test_dry_run_does_not_modify_existing_templates(
    configure: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    config = configure(output_spaces=["FLAIR", name])
    folder = config.work_dir / f"templateflow/tpl-{name}"
    folder.mkdir(parents=True)
    brain = np.zeros((6, 7, 8), np.uint8)
    brain[2:4, 2:5, 2:6] = 1
    for ending in ("desc-brain_T1w", "desc-brain_mask"):
        image = nib.Nifti1Image(brain, np.diag([2.0, 2, 2, 1]))
        nib.save(image, folder / f"tpl-{name}_res-01_{ending}.nii.gz")
    before = {path: path.stat().st_mtime_ns for path in config.work_dir.rglob("*")}
    assert levels._dry_run(config, Selection((), ()), HEADER) == ExitCode.SUCCESS
    assert {path: path.stat().st_mtime_ns for path in config.work_dir.rglob("*")} == before


@pytest.fixture
def three(tmp_path: Path) -> Selection:
    image = tmp_path / "f.nii.gz"
    visits = tuple(Visit(label, None, image, image, image) for label in ("01", "02"))
    return Selection(visits, (Skipped("03", None, "no FLAIR"),))


@pytest.mark.parametrize(
    ("excluded", "left", "skipped", "notes"),
    [
        ((), ["01", "02"], ["03"], 0),
        (("02",), ["01"], ["03"], 0),
        (("02", "03"), ["01"], [], 0),
        # in the dataset, but not selected
        (("04",), ["01", "02"], ["03"], 0),
        (("04", "05", "02"), ["01"], ["03"], 0),
        (("99",), ["01", "02"], ["03"], 1),
        (("4", "05", "99"), ["01", "02"], ["03"], 2),
    ],
)
def test_excluded_participants_are_removed_from_selection(
    configure: MakeConfig,
    three: Selection,
    tmp_path: Path,
    excluded: tuple[str, ...],
    left: list[str],
    skipped: list[str],
    notes: int,
) -> None:
    for label in ("01", "02", "03", "04", "05"):
        (tmp_path / "raw" / f"sub-{label}").mkdir()
    config = configure(exclude_participant_label=list(excluded))
    found = selection._without_excluded(three, config)
    assert [one.participant for one in found.visits] == left
    assert [one.participant for one in found.skipped] == skipped
    assert len(found.notes) == notes


def test_excluding_all_visits_is_refused(configure: MakeConfig, three: Selection) -> None:
    with pytest.raises(NothingSelectedError):
        selection._without_excluded(three, configure(exclude_participant_label=["01", "02"]))


@pytest.mark.parametrize(
    ("words", "ignored"),
    [([], ()), (["t1w"], ("t1w",)), (["T2w"], ("t2w",)), (["T2w", "t1w"], ("t2w", "t1w"))],
)
def test_select_visits_passes_ignored_contrasts_to_query(
    configure: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    ignored: tuple[str, ...],
) -> None:
    asked: dict[str, Any] = {}

    def find(_: Path, **given: Any) -> Selection:
        asked.update(given)
        return Selection((), ())

    monkeypatch.setattr("bids_msseg.bids.query.find_visits", find)
    selection.select_visits(configure(ignore=words))
    assert asked["ignore"] == ignored


def test_run_logs_notes_of_config(
    configure: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(levels, "_participant", lambda _: ExitCode.SUCCESS)
    caplog.set_level("INFO", logger="bids_msseg")
    levels.run(replace(configure(), notes=("--low-mem has no effect",)))
    assert "--low-mem has no effect" in caplog.text


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({}, "ok"),
        ({"quality_reasons": ()}, "ok"),
        ({"quality_reasons": ("noisy",)}, "flagged"),
        ({"flags": ("template: the affine was implausible",)}, "flagged"),
        ({"flags": ("coregister_T1w: not aligned",), "quality_reasons": ()}, "flagged"),
        ({"changes": {"compared_with": "1", "fingerprint": "f", "n_new": 2}}, "ok"),
        ({"changes": {"compared_with": "1", "fingerprint": "f", "failed": "turned"}}, "flagged"),
        ({"changes": {"compared_with": "1", "failed": "a file is missing"}}, "flagged"),
    ],
)
def test_status_of_finished_visit_is_ok_or_flagged(
    configure: MakeConfig,
    outcome: Callable[..., Outcome],
    tmp_path: Path,
    found: dict[str, Any],
    status: str,
) -> None:
    write_record(tmp_path / "out", VisitRecord("01", None, "sub-01", "ok", **found))
    config, done = configure(), outcome(0)
    assert app_outcome.status_of(config, done) == status
    # just finished, or finished by an earlier run
    for seen in (done, None):
        assert app_outcome._row(config, done.context, seen, stopped=False).status == status
    assert app_outcome.status_of(config, outcome(65)) == "failed"


@pytest.mark.parametrize("at_work", [set(), {"sub-01"}, {"sub-01", "sub-02_ses-1"}])
def test_group_level_marks_locked_visits_as_running(
    configure: MakeConfig,
    busy: set[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    at_work: set[str],
) -> None:
    out = tmp_path / "out"
    for label, session in (("01", None), ("02", "1")):
        write_record(out, VisitRecord(label, session, "", "failed", reason=UNFINISHED_REASON))
    busy |= at_work
    assert levels._group(configure(levels=["group"])) == ExitCode.SUCCESS
    table = (out / "group_lesions.tsv").read_text(encoding="utf-8").splitlines()
    rows = [dict(zip(table[0].split("\t"), line.split("\t"), strict=True)) for line in table[1:]]
    states = ["running" if key in at_work else "failed" for key in ("sub-01", "sub-02_ses-1")]
    assert [row["status"] for row in rows] == states
    assert [row["reason"] == UNFINISHED_REASON for row in rows] == [
        one == "failed" for one in states
    ]
    assert caplog.text.count("still running") == len(at_work)
    page = (out / "group_lesions.html").read_text(encoding="utf-8")
    assert (f"{len(at_work)} still running" in page) == bool(at_work)
    # the group level does not change the records: the other run writes them
    assert {
        path.read_text().count(UNFINISHED_REASON) for path in (out / "logs/visits").iterdir()
    } == {1}


def test_participant_page_marks_locked_visit_as_running(busy: set[str], tmp_path: Path) -> None:
    write_record(tmp_path, VisitRecord("01", "1", "", "failed", reason=UNFINISHED_REASON))
    write_record(tmp_path, VisitRecord("01", "2", "", "failed", reason=UNFINISHED_REASON))
    busy.add("sub-01_ses-2")
    pages.write_pages(tmp_path, ["01"])
    page = (tmp_path / "sub-01.html").read_text(encoding="utf-8")
    assert page.count("This visit is still running") == page.count("This visit failed") == 1
