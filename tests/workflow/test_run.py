"""Outcomes of visits, with a stub in place of nipype that writes its possible results."""

# ruff: noqa: ARG001 (all stubs for nipype have the same signature)

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.utility import Merge
from nipype.pipeline.engine import Node, Workflow

from bids_msseg.bids.record import VisitRecord, read_record, write_record
from bids_msseg.bids.record_values import ModelUse
from bids_msseg.bids.visit import Visit
from bids_msseg.errors import ExitCode
from bids_msseg.nodes.base import FAILURE_FILE
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.workflow import run as module
from bids_msseg.workflow.execution import NO_JOB, Execution, RunState, Watch, run_nipype
from bids_msseg.workflow.outcome import Outcome
from bids_msseg.workflow.plan import Settings
from bids_msseg.workflow.run import run_visits

SimulateRun = Callable[[list[str], Execution, Any], None]
Run = Callable[..., list[Outcome]]


@pytest.fixture
def contexts(tmp_path: Path) -> list[DerivativesContext]:
    flair = tmp_path / "flair.nii.gz"
    flair.touch()
    model = ModelUse("m", "1", "0" * 64)
    return [
        DerivativesContext(
            Visit(label, None, flair), tmp_path, tmp_path, model, 0.1, 0.5, 3.0, fingerprint=label
        )
        for label in ("01", "02", "03")
    ]


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    return Execution(tmp_path / "work", tmp_path / "out", chunk=10)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, contexts: list[DerivativesContext], execution: Execution
) -> Run:
    """Run the first visits with a stub for nipype."""

    def go(simulate_run: SimulateRun, how: Execution = execution, count: int = 3) -> list[Outcome]:
        def instead(top: Any, execution: Execution, ended: Any) -> None:
            simulate_run([node.name for node in top._graph.nodes], execution, ended)

        monkeypatch.setattr(module, "run_nipype", instead)
        settings = Settings(contexts[0].visit.flair)
        moved = [replace(one, out_dir=how.out_dir) for one in contexts[:count]]
        return list(run_visits(moved, settings, how))

    return go


def store_record(execution: Execution, label: str, fingerprint: str) -> None:
    content = VisitRecord(label, None, f"sub-{label}", "ok", fingerprint=fingerprint)
    write_record(execution.out_dir, content)


def store_failure(execution: Execution, visit: str, code: int, message: str) -> None:
    folder = execution.work_dir / "bids_msseg" / visit
    folder.mkdir(parents=True, exist_ok=True)
    failure = {"step": "brain", "message": message, "hint": "c", "code": code}
    (folder / FAILURE_FILE).write_text(json.dumps(failure))


def store_crash_file(execution: Execution, visit: str, node: str) -> None:
    path = execution.out_dir / "logs" / f"crash-20260101-101112-anna-{node}-{visit}-uuid.txt"
    path.write_text(f"Node: bids_msseg.{visit}.{node}\nWorking directory: /x\n")


def test_outcome_follows_visit_record(run: Run) -> None:
    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        store_record(execution, "01", "01")
        store_record(execution, "02", "of another run")
        store_failure(execution, "sub_03", 65, "bad")
        store_crash_file(execution, "sub_03", "brain")
        ended.error = "RuntimeError: raised"

    first, second, third = run(simulate_run)
    assert first.ok
    assert (second.ok, second.message, second.code) == (False, "RuntimeError: raised", 1)
    assert (third.step, third.message, third.hint, third.code) == ("brain", "bad", "c", 65)
    assert [path.name for path in third.crash_files] == ["crash-20260101-101112_sub-03_brain.txt"]
    assert not second.crash_files
    assert not any(one.stopped for one in (first, second, third))


def test_results_of_earlier_run_are_ignored(run: Run, execution: Execution) -> None:
    """An old failure file, record and crash file are ignored when a visit starts."""
    (execution.out_dir / "logs").mkdir(parents=True)
    store_failure(execution, "sub_01", 65, "an old one")
    store_crash_file(execution, "sub_01", "old")
    store_record(execution, "01", "01")

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        record = read_record(execution.out_dir, "01", None)
        assert record is not None
        assert record.status == "failed"
        assert record.reason == "the run stopped before this visit was finished"

    (outcome,) = run(simulate_run, count=1)
    assert not outcome.ok
    assert outcome.message == "a step failed without an error message"
    assert outcome.crash_files == ()


def test_visit_without_result_is_stopped_after_crash(run: Run, execution: Execution) -> None:
    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        store_record(execution, "01", "01")
        store_failure(execution, "sub_02", 65, "bad")

    stopping = replace(execution, stop_on_first_crash=True)
    outcomes = run(simulate_run, stopping)
    assert [(one.ok, one.stopped) for one in outcomes] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_stop_on_first_crash_runs_no_later_group(run: Run, execution: Execution) -> None:
    seen: list[list[str]] = []

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        seen.append(names)
        store_failure(execution, names[0], 65, "bad")

    one_by_one = replace(execution, chunk=1)
    run(simulate_run, one_by_one)
    assert seen == [["sub_01"], ["sub_02"], ["sub_03"]]
    seen.clear()
    run(simulate_run, replace(one_by_one, stop_on_first_crash=True))
    assert seen == [["sub_01"]]


def test_plugin_error_fails_all_visits(run: Run, execution: Execution) -> None:
    """No node was run and no failure recorded: all visits fail, also with stop_on_first_crash."""

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "RuntimeError: no sbatch here"

    stopping = replace(execution, stop_on_first_crash=True)
    for how in (execution, stopping):
        outcomes = run(simulate_run, how)
        assert [one.message for one in outcomes] == ["RuntimeError: no sbatch here"] * 3
        assert not any(one.ok or one.stopped for one in outcomes)


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space"), (errno.EFBIG, "size limit")],
)
def test_write_errors_in_crash_files_give_exit_code_74(
    run: Run, number: int, message: str
) -> None:
    """No step recorded a failure: the cause is only in a crash file or in the error."""

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "RuntimeError: 3 raised. Re-raising first."
        for name in names[:2]:
            text = f"Node: bids_msseg.{name}.brain\n\nOSError: [Errno {number}] No"
            (execution.out_dir / "logs" / f"crash-20260101-1-root-{name}.txt").write_text(text)

    outcomes = run(simulate_run)
    assert [one.code for one in outcomes] == [74, 74, 1]
    for one in outcomes[:2]:
        assert message in one.message
        assert one.hint
        assert len(one.crash_files) == 1
    assert outcomes[2].message == "RuntimeError: 3 raised. Re-raising first."


def test_missing_results_on_full_disk_give_exit_code_74(
    run: Run, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that cannot write its result gives no other error message."""

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "RuntimeError: 6 raised. Re-raising first."

    room = shutil.disk_usage(execution.out_dir.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=2**20 - 1))
    outcomes = run(simulate_run)
    assert [(one.code, one.message) for one in outcomes] == [(74, "no space left on the disk")] * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=2**20))
    assert {one.code for one in run(simulate_run)} == {1}


def test_empty_crash_file_is_removed(run: Run, execution: Execution) -> None:
    logs = execution.out_dir / "logs"

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "OSError: [Errno 28] No space left on device"
        (logs / "crash-20260101-1-root-publish-1.txt").touch()
        (logs / "crash-20260101-1-root-publish-2.txt").write_text("Node: another\n")

    outcomes = run(simulate_run)
    assert {one.code for one in outcomes} == {74}
    assert [path.name for path in logs.glob("crash-*")] == ["crash-20260101-1-root-publish-2.txt"]


def test_visits_failed_by_killed_worker_are_retried_alone(
    run: Run, execution: Execution, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[list[str]] = []

    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        seen.append(names)
        for name in names[1:] if len(names) > 1 else names[:0]:
            crash = f"crash-20260101-{len(seen)}-root-{name}.txt"
            text = f"Node: bids_msseg.{name}.brain\n"
            (execution.out_dir / "logs" / crash).write_text(text)
        if "sub_01" in names:
            store_record(execution, "01", "01")
        if "sub_02" in names:
            ended.killed.add("bids_msseg.sub_02.segment")
        if names == ["sub_03"]:
            store_record(execution, "03", "03")
        else:
            ended.killed.add("bids_msseg.sub_03.brain")

    outcomes = run(simulate_run)
    assert seen == [["sub_01", "sub_02", "sub_03"], ["sub_02"], ["sub_03"]]
    assert [one.ok for one in outcomes] == [True, False, True]
    assert outcomes[1].code == ExitCode.TEMPORARY
    assert outcomes[1].step == "segment"
    assert "lack of memory" in outcomes[1].message
    messages = [one.getMessage() for one in caplog.records]
    assert [text.partition(":")[0] for text in messages] == ["sub-02", "sub-03"]
    assert all("lack of memory; retrying it alone" in text for text in messages)
    # crash files of the first attempt are removed
    assert list((execution.out_dir / "logs").glob("crash-*")) == []


@pytest.mark.parametrize("clean", [False, True])
def test_clean_removes_work_folders_of_finished_visits(
    run: Run, execution: Execution, clean: bool
) -> None:
    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        for name in names:
            (execution.work_dir / "bids_msseg" / name).mkdir(parents=True)
        store_record(execution, "01", "01")

    run(simulate_run, replace(execution, clean=clean), count=2)
    left = {path.name for path in (execution.work_dir / "bids_msseg").iterdir()}
    assert left == ({"sub_02"} if clean else {"sub_01", "sub_02"})


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        ("", "a step failed without an error message", "run it again with -vv"),
        ("RuntimeError: raised", "RuntimeError: raised", "run it again with -vv"),
        (NO_JOB, NO_JOB, "submit a job by hand with the options of the --use-plugin file"),
    ],
)
def test_nipype_error_becomes_outcome_message_and_hint(
    run: Run, error: str, message: str, hint: str
) -> None:
    def simulate_run(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = error

    outcome = run(simulate_run, count=1)[0]
    assert (outcome.message, outcome.crash_files, outcome.code) == (message, (), 1)
    assert outcome.hint.startswith(hint)


@pytest.mark.parametrize(
    "script", ["echo 'sbatch: error: no partition' >&2; exit 1", "echo queued", "true"]
)
def test_failed_job_submission_is_reported(
    script: str, execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/sbatch"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOGNAME", "anna")
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    monkeypatch.chdir(tmp_path)
    top = Workflow("top", base_dir=str(tmp_path))
    top.add_nodes([Node(Merge(1), name="first")])
    ended = RunState(Watch([], None, measure=False))
    run_nipype(top, replace(execution, plugin="SLURM"), ended)
    assert ended.error == NO_JOB
