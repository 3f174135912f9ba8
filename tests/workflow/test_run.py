"""How outcomes are told apart, with nipype replaced by what it may leave behind."""

# ruff: noqa: ARG001 (what stands in for nipype has one signature)

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
from bids_msseg.nodes.delivery import DerivativesContext
from bids_msseg.workflow import run as module
from bids_msseg.workflow.execution import NO_JOB, Execution, RunState, Watch, run_nipype
from bids_msseg.workflow.outcome import Outcome
from bids_msseg.workflow.plan import Settings
from bids_msseg.workflow.run import run_visits

Leave = Callable[[list[str], Execution, Any], None]


@pytest.fixture
def deliveries(tmp_path: Path) -> list[DerivativesContext]:
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


def run(
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[DerivativesContext],
    execution: Execution,
    leave: Leave,
) -> list[Outcome]:
    def instead(top: Any, execution: Execution, ended: Any) -> None:
        leave([node.name for node in top._graph.nodes], execution, ended)

    monkeypatch.setattr(module, "run_nipype", instead)
    settings = Settings(deliveries[0].visit.flair)
    moved = [replace(one, out_dir=execution.out_dir) for one in deliveries]
    return list(run_visits(moved, settings, execution))


def leave_record(execution: Execution, label: str, fingerprint: str) -> None:
    content = VisitRecord(label, None, f"sub-{label}", "ok", fingerprint=fingerprint)
    write_record(execution.out_dir, content)


def leave_failure(execution: Execution, visit: str, code: int, message: str) -> None:
    folder = execution.work_dir / "bids_msseg" / visit
    folder.mkdir(parents=True, exist_ok=True)
    told = {"step": "brain", "message": message, "hint": "c", "code": code}
    (folder / FAILURE_FILE).write_text(json.dumps(told))


def leave_crash(execution: Execution, visit: str, node: str) -> None:
    path = execution.out_dir / "logs" / f"crash-20260101-101112-anna-{node}-{visit}-uuid.txt"
    path.write_text(f"Node: bids_msseg.{visit}.{node}\nWorking directory: /x\n")


def test_the_record_decides(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        leave_record(execution, "01", "01")
        leave_record(execution, "02", "of another run")
        leave_failure(execution, "sub_03", 65, "bad")
        leave_crash(execution, "sub_03", "brain")
        ended.error = "RuntimeError: told"

    first, second, third = run(monkeypatch, deliveries, execution, leave)
    assert first.ok
    assert (second.ok, second.message, second.code) == (False, "RuntimeError: told", 1)
    assert (third.step, third.message, third.hint, third.code) == ("brain", "bad", "c", 65)
    assert [path.name for path in third.crash_files] == ["crash-20260101-101112_sub-03_brain.txt"]
    assert not second.crash_files
    assert not any(one.stopped for one in (first, second, third))


def test_what_an_earlier_run_left_does_not_count(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    """An old failure, an old result and old crash files are gone from view when a visit begins."""
    (execution.out_dir / "logs").mkdir(parents=True)
    leave_failure(execution, "sub_01", 65, "an old one")
    leave_crash(execution, "sub_01", "old")
    leave_record(execution, "01", "01")

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        record = read_record(execution.out_dir, "01", None)
        assert record is not None
        assert record.status == "failed"
        assert record.reason == "the run stopped before this visit was finished"

    (outcome,) = run(monkeypatch, deliveries[:1], execution, leave)
    assert not outcome.ok
    assert outcome.message == "a step failed without an error message"
    assert outcome.crash_files == ()


def test_stopped_by_another_ones_crash(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        leave_record(execution, "01", "01")
        leave_failure(execution, "sub_02", 65, "bad")

    stopping = replace(execution, stop_on_first_crash=True)
    outcomes = run(monkeypatch, deliveries, stopping, leave)
    assert [(one.ok, one.stopped) for one in outcomes] == [
        (True, False),
        (False, False),
        (False, True),
    ]


def test_no_later_group_after_a_crash_where_that_was_asked(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    seen: list[list[str]] = []

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        seen.append(names)
        leave_failure(execution, names[0], 65, "bad")

    one_by_one = replace(execution, chunk=1)
    run(monkeypatch, deliveries, one_by_one, leave)
    assert seen == [["sub_01"], ["sub_02"], ["sub_03"]]
    seen.clear()
    run(monkeypatch, deliveries, replace(one_by_one, stop_on_first_crash=True), leave)
    assert seen == [["sub_01"]]


def test_a_plugin_that_fails_is_no_success(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    """Nothing was run and nothing was told: all have failed, also where one crash ends the run."""

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "RuntimeError: no sbatch here"

    stopping = replace(execution, stop_on_first_crash=True)
    for how in (execution, stopping):
        outcomes = run(monkeypatch, deliveries, how, leave)
        assert [one.message for one in outcomes] == ["RuntimeError: no sbatch here"] * 3
        assert not any(one.ok or one.stopped for one in outcomes)


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space"), (errno.EFBIG, "size limit")],
)
def test_a_file_of_nipypes_own_that_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[DerivativesContext],
    execution: Execution,
    number: int,
    says: str,
) -> None:
    """No step of ours was running: what is known stands in a crash file, or in the error."""

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "RuntimeError: 3 raised. Re-raising first."
        for name in names[:2]:
            text = f"Node: bids_msseg.{name}.brain\n\nOSError: [Errno {number}] No"
            (execution.out_dir / "logs" / f"crash-20260101-1-root-{name}.txt").write_text(text)

    outcomes = run(monkeypatch, deliveries, execution, leave)
    assert [one.code for one in outcomes] == [74, 74, 1]
    for one in outcomes[:2]:
        assert says in one.message
        assert one.hint
        assert len(one.crash_files) == 1
    assert outcomes[2].message == "RuntimeError: 3 raised. Re-raising first."


def test_silence_on_a_full_disk_is_put_down_to_it(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    """A worker that cannot write its result leaves nothing but a result that is missing."""

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "RuntimeError: 6 raised. Re-raising first."

    room = shutil.disk_usage(execution.out_dir.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=2**20 - 1))
    outcomes = run(monkeypatch, deliveries, execution, leave)
    assert [(one.code, one.message) for one in outcomes] == [(74, "no space left on the disk")] * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room._replace(free=2**20))
    assert {one.code for one in run(monkeypatch, deliveries, execution, leave)} == {1}


def test_a_crash_file_that_had_no_room_does_not_stay(
    monkeypatch: pytest.MonkeyPatch, deliveries: list[DerivativesContext], execution: Execution
) -> None:
    logs = execution.out_dir / "logs"

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = "OSError: [Errno 28] No space left on device"
        (logs / "crash-20260101-1-root-publish-1.txt").touch()
        (logs / "crash-20260101-1-root-publish-2.txt").write_text("Node: another\n")

    outcomes = run(monkeypatch, deliveries, execution, leave)
    assert {one.code for one in outcomes} == {74}
    assert [path.name for path in logs.glob("crash-*")] == ["crash-20260101-1-root-publish-2.txt"]


def test_beside_a_killed_worker_is_tried_alone(
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[DerivativesContext],
    execution: Execution,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[list[str]] = []

    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        seen.append(names)
        for name in names[1:] if len(names) > 1 else names[:0]:
            crash = f"crash-20260101-{len(seen)}-root-{name}.txt"
            text = f"Node: bids_msseg.{name}.brain\n"
            (execution.out_dir / "logs" / crash).write_text(text)
        if "sub_01" in names:
            leave_record(execution, "01", "01")
        if "sub_02" in names:
            ended.killed.add("bids_msseg.sub_02.segment")
        if names == ["sub_03"]:
            leave_record(execution, "03", "03")
        else:
            ended.killed.add("bids_msseg.sub_03.brain")

    outcomes = run(monkeypatch, deliveries, execution, leave)
    assert seen == [["sub_01", "sub_02", "sub_03"], ["sub_02"], ["sub_03"]]
    assert [one.ok for one in outcomes] == [True, False, True]
    assert outcomes[1].code == ExitCode.TEMPORARY
    assert outcomes[1].step == "segment"
    assert "lack of memory" in outcomes[1].message
    told = [one.getMessage() for one in caplog.records]
    assert [text.partition(":")[0] for text in told] == ["sub-02", "sub-03"]
    assert all("lack of memory; retrying it alone" in text for text in told)
    # those of the first try say nothing about how it ended
    assert list((execution.out_dir / "logs").glob("crash-*")) == []


@pytest.mark.parametrize("clean", [False, True])
def test_work_folders_of_finished_visits(
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[DerivativesContext],
    execution: Execution,
    clean: bool,
) -> None:
    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        for name in names:
            (execution.work_dir / "bids_msseg" / name).mkdir(parents=True)
        leave_record(execution, "01", "01")

    run(monkeypatch, deliveries[:2], replace(execution, clean=clean), leave)
    left = {path.name for path in (execution.work_dir / "bids_msseg").iterdir()}
    assert left == ({"sub_02"} if clean else {"sub_01", "sub_02"})


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        ("", "a step failed without an error message", "run it again with -vv"),
        ("RuntimeError: told", "RuntimeError: told", "run it again with -vv"),
        (f"{NO_JOB}: down", f"{NO_JOB}: down", "correct the options in the --use-plugin file"),
    ],
)
def test_what_nipype_itself_says(
    error: str,
    message: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    deliveries: list[DerivativesContext],
    execution: Execution,
) -> None:
    def leave(names: list[str], execution: Execution, ended: Any) -> None:
        ended.error = error

    outcome = run(monkeypatch, deliveries[:1], execution, leave)[0]
    assert (outcome.message, outcome.crash_files, outcome.code) == (message, (), 1)
    assert outcome.hint.startswith(hint)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'sbatch: error: no partition' >&2; exit 1", "sbatch: error: no partition"),
        ("echo queued", "queued"),
        ("true", "list index out of range"),
    ],
)
def test_a_scheduler_that_takes_no_job(
    script: str, said: str, execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert ended.error == f"{NO_JOB}: {said}"
