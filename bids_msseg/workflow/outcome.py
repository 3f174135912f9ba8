"""Outcomes of workflows, from the records, failure files and crash files that they left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bids_msseg.bids.files import read_json
from bids_msseg.bids.record import read_record
from bids_msseg.errors import ExitCode
from bids_msseg.nodes.base import FAILURE_FILE, as_msseg_error
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.workflow.execution import NO_JOB, TOP, Execution, RunState, Usage, visit_folder
from bids_msseg.workflow.plan import workflow_name
from bids_msseg.workflow.plugins import KILLED

DISK_FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MIN_FREE_BYTES = 2**20
"""With less free space, a step that failed without a message failed because of that."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of the workflow of one visit."""

    context: DerivativesContext
    ok: bool
    seconds: float  # wall time
    step: str = ""
    message: str = ""
    hint: str = ""
    code: int = 0  # exit code of the failure
    crash_files: tuple[Path, ...] = ()
    stopped: bool = False  # the run ended at the crash of another visit
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a workflow ended early."""

    message: str
    hint: str
    code: int  # exit code
    crash_files: tuple[Path, ...] = ()
    step: str = ""


def find_outcome(
    context: DerivativesContext, execution: Execution, state: RunState, crashes: set[Path]
) -> Outcome:
    """Return the outcome of a visit; its record, written last, shows success."""
    name, visit = workflow_name(context), context.visit
    folder = visit_folder(execution, context)
    seconds, usage = state.watch.seconds(name), state.watch.usage(name)
    record = read_record(execution.out_dir, visit.participant, visit.session)
    if record and record.status == "ok" and record.fingerprint == context.fingerprint:
        if execution.clean:
            shutil.rmtree(folder, ignore_errors=True)
        return Outcome(context, True, seconds, usage=usage)
    failure = find_failure(name, visit.key, execution, state, crashes)
    return Outcome(context, False, seconds, usage=usage, **asdict(failure))


def find_failure(
    name: str, key: str, execution: Execution, state: RunState, crashes: set[Path]
) -> Failure:
    """Return why a workflow failed, as a step recorded it or as inferred; take its crash files."""
    files = take_crash_files(crashes, name, key)
    recorded = read_json(execution.work_dir / TOP / name / FAILURE_FILE)
    failure = recorded or _infer_failure(name, state, files, execution)
    return Failure(
        message=str(failure.get("message", "")),
        hint=str(failure.get("hint", "")),
        code=int(failure.get("code", ExitCode.FAILURE)),
        crash_files=files,
        step=str(failure.get("step", "")),
    )


def _infer_failure(
    visit: str, state: RunState, crash_files: Sequence[Path], execution: Execution
) -> dict[str, Any]:
    """Infer why a step failed that could not record the reason itself."""
    step = next((node for node in state.killed if visit in node.split(".")), "")
    if step:
        return {
            "step": step.rpartition(".")[2],
            "message": f"{KILLED}, most likely for lack of memory",
            "hint": "give the job more memory, or lower --nprocs",
            "code": ExitCode.TEMPORARY,
        }
    number = _disk_full_error(state, crash_files, execution)
    if number:
        error = as_msseg_error(OSError(number, os.strerror(number)))
        return {"message": error.message, "hint": error.hint, "code": error.code}
    message = state.error or "a step failed without an error message"
    hint = "read the crash file; -vv also shows the messages of nipype"
    if not crash_files:
        hint = "run it again with -vv to see the messages of nipype"
    if message.startswith(NO_JOB):
        hint = "submit a job by hand with the options of the --use-plugin file to see its answer"
    return {"message": message, "hint": hint, "code": ExitCode.FAILURE}


def _disk_full_error(state: RunState, crash_files: Sequence[Path], execution: Execution) -> int:
    """Return the error number if nipype could not write a file for lack of space, else 0."""
    texts = [state.error, *(path.read_text(errors="replace") for path in crash_files)]
    numbers = [
        number for number in DISK_FULL_ERRORS if any(f"[Errno {number}]" in text for text in texts)
    ]
    folders = [folder for folder in (execution.work_dir, execution.out_dir) if folder.is_dir()]
    if not numbers and any(shutil.disk_usage(folder).free < MIN_FREE_BYTES for folder in folders):
        return errno.ENOSPC
    return numbers[0] if numbers else 0


def remove_crash_files(crashes: set[Path], group: Sequence[DerivativesContext]) -> None:
    """Remove the crash files of visits that a signal has stopped."""
    for context in group:
        for path in take_crash_files(crashes, workflow_name(context), context.visit.key):
            path.unlink(missing_ok=True)


def new_crash_files(crash_dir: Path, before: set[Path]) -> set[Path]:
    """List the crash files of this run; remove those that a full disk left empty."""
    new = set(crash_dir.glob("crash-*.txt")) - before
    empty = {path for path in new if not path.stat().st_size}
    for path in empty:
        path.unlink(missing_ok=True)
    return new - empty


def take_crash_files(crashes: set[Path], visit: str, key: str) -> tuple[Path, ...]:
    """Remove this visit's crash files from the set, and rename them after the visit."""
    mark = f"Node: {TOP}.{visit}."
    renamed = []
    for path in sorted(crashes):
        start = path.read_text(encoding="utf-8", errors="replace")[:2000]
        if mark not in start:
            continue
        step = start.partition(mark)[2].split()[0]
        moment = "-".join(path.name.split("-")[1:3])
        target = path.with_name(f"crash-{moment}_{key}_{step}.txt")
        renamed.append(path.rename(target))
        crashes.remove(path)
    return tuple(renamed)
