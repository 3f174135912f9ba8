"""Running visits' workflows with nipype, one visit's failure never touching another."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Workflow

from bids_msseg.bids.paths import logs_dir
from bids_msseg.bids.record import BROKE_OFF, VisitRecord, read_record, write_record
from bids_msseg.errors import ExitCode
from bids_msseg.nodes.base import FAILURE_FILE, explained
from bids_msseg.nodes.outputs import Delivery
from bids_msseg.workflow.participant import (
    Settings,
    init_visit_wf,
    step_label,
    visit_workflow_name,
)
from bids_msseg.workflow.plugins import KILLED, SteadyMultiProcPlugin

TOP = "bids_msseg"
LOGGER = logging.getLogger("bids_msseg")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LEAST_ROOM = 2**20
"""Bytes; with less on its disk a step that fails without a word failed for that."""
QUICK_POLL_S = 0.2
NO_JOB = "the scheduler took no job"


@dataclass(frozen=True, slots=True)
class Execution:
    """How workflows run.

    Attributes
    ----------
    work_dir, out_dir : path
    plugin : str
        Name of a nipype plugin.
    plugin_args : mapping
    chunk : int
        Visits that run together.
    stop_on_first_crash, clean : bool
        ``clean`` removes a visit's folder when it has finished well.
    """

    work_dir: Path
    out_dir: Path
    plugin: str = "Linear"
    plugin_args: Mapping[str, Any] | None = None
    chunk: int = 1
    stop_on_first_crash: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """What a step took, for the resource monitor.

    Attributes
    ----------
    visit, step : str
    seconds : float
        Wall time.
    cpu_seconds : float
        Time of all its threads.
    memory_gb : float
        Peak resident memory of its process, GiB.
    """

    visit: str
    step: str
    seconds: float
    cpu_seconds: float
    memory_gb: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a visit's workflow ended.

    Attributes
    ----------
    delivery : Delivery
    ok : bool
    seconds : float
        Wall time.
    step, message, hint : str
        Where and why it failed.
    code : int
        Exit code that the failure asks for.
    crash_files : tuple of path
    stopped : bool
        Not failed itself: the run ended at another visit's crash.
    usage : tuple of Usage
    """

    delivery: Delivery
    ok: bool
    seconds: float
    step: str = ""
    message: str = ""
    hint: str = ""
    code: int = 0
    crash_files: tuple[Path, ...] = ()
    stopped: bool = False
    usage: tuple[Usage, ...] = ()


StepSeen = Callable[[str, str], None]


def run_visits(
    deliveries: Sequence[Delivery],
    settings: Settings,
    execution: Execution,
    *,
    on_step: StepSeen | None = None,
) -> Iterator[Outcome]:
    """Run visits, some at a time, and tell how each ended.

    Parameters
    ----------
    deliveries : sequence of Delivery
    settings : Settings
    execution : Execution
    on_step : callable, optional
        Called with (visit key, words) when a step of a visit begins.

    Yields
    ------
    Outcome
        In the order of the visits; nothing after the first failure where that was asked for.
    """
    for start in range(0, len(deliveries), execution.chunk):
        group = deliveries[start : start + execution.chunk]
        outcomes = _run_group(group, settings, execution, on_step)
        for outcome in outcomes:
            alone = outcome.code == ExitCode.TEMPORARY and len(group) > 1
            if alone and KILLED in outcome.message and not execution.stop_on_first_crash:
                # it may only have been beside the one that took too much
                _tell_of_another_try(outcome)
                yield from _run_group([outcome.delivery], settings, execution, on_step)
            else:
                yield outcome
        if execution.stop_on_first_crash and not all(outcome.ok for outcome in outcomes):
            return


def _tell_of_another_try(outcome: Outcome) -> None:
    """Say it in the log; crash files stay for failures that are final."""
    key = outcome.delivery.visit.key
    LOGGER.warning("%s: %s; it is tried again, alone", key, outcome.message)
    for path in outcome.crash_files:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a workflow beside the visits' own ended early.

    Attributes
    ----------
    message, hint : str
    code : int
        Exit code that it asks for.
    crash_files : tuple of path
    """

    message: str
    hint: str
    code: int
    crash_files: tuple[Path, ...] = ()


def run_workflows(workflows: Mapping[str, Workflow], execution: Execution) -> dict[str, Failure]:
    """Run workflows that are not a visit's, each failing alone.

    Parameters
    ----------
    workflows : mapping of str to Workflow
        What crash files are named after, to the workflow.
    execution : Execution

    Returns
    -------
    mapping of str to Failure
        What can be said of every one, should it not have done its work: whether it has is to be
        seen from its results.
    """
    top = Workflow(TOP, base_dir=str(execution.work_dir))
    crash_dir = logs_dir(execution.out_dir)
    crash_dir.mkdir(parents=True, exist_ok=True)
    top.config["execution"] = _nipype_settings(execution, crash_dir)
    top.add_nodes(list(workflows.values()))
    folders = {key: execution.work_dir / TOP / one.name for key, one in workflows.items()}
    for folder in folders.values():
        (folder / FAILURE_FILE).unlink(missing_ok=True)
    before = set(crash_dir.glob("crash-*.txt"))
    ended = _Ended(_Watch([], None, measure=False))
    here = Path.cwd()
    try:
        _run_nipype(top, execution, ended)
    finally:
        os.chdir(here)
    crashes = _new_crashes(crash_dir, before)
    failures = {}
    for key, workflow in workflows.items():
        files = _crash_files(crashes, workflow.name, key)
        told = _told(folders[key] / FAILURE_FILE) or _not_told(
            workflow.name, ended, files, execution
        )
        failures[key] = Failure(
            str(told.get("message", "")),
            str(told.get("hint", "")),
            int(told.get("code", ExitCode.FAILURE)),
            files,
        )
        if execution.clean:
            shutil.rmtree(folders[key], ignore_errors=True)
    return failures


class _Watch:
    """Listens to nipype's status callback."""

    def __init__(
        self, group: Sequence[Delivery], on_step: StepSeen | None, *, measure: bool
    ) -> None:
        self._keys = {visit_workflow_name(d.visit): d.visit.key for d in group}
        self._on_step = on_step
        self._measure = measure
        self._begun: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self._usage: dict[tuple[str, str], Usage] = {}

    def __call__(self, node: Any, status: str) -> None:
        """Note what a node does; end the run where a signal has ended the node."""
        interruption = getattr(node.interface, "interruption", None)
        if status == "exception" and interruption is not None:
            raise interruption
        name = str(node.fullname).split(".")
        visit = next((part for part in name if part in self._keys), None)
        if visit is None:
            return
        now = time.monotonic()
        self._begun.setdefault(visit, now)
        self._ended[visit] = now
        step = name[-1]
        words = step_label(step)
        if status == "start" and words and self._on_step:
            self._on_step(self._keys[visit], words)
        if status == "end" and words and self._measure:
            self._note_usage(visit, step, node)

    def _note_usage(self, visit: str, step: str, node: Any) -> None:
        took = node.result.outputs
        if isdefined(took.memory_gb):
            self._usage[visit, step] = Usage(
                self._keys[visit], step, took.seconds, took.cpu_seconds, took.memory_gb
            )

    def seconds(self, visit: str) -> float:
        """Wall time between a visit's first and last event."""
        return self._ended.get(visit, 0.0) - self._begun.get(visit, 0.0)

    def usage(self, visit: str) -> tuple[Usage, ...]:
        """Tell what the steps of a visit took."""
        return tuple(used for (name, _), used in self._usage.items() if name == visit)


@dataclass(slots=True)
class _Ended:
    """What is known after nipype has returned."""

    watch: _Watch
    killed: set[str] = field(default_factory=set)
    error: str = ""


def _run_group(
    group: Sequence[Delivery],
    settings: Settings,
    execution: Execution,
    on_step: StepSeen | None,
) -> list[Outcome]:
    """Run some visits' workflows as one."""
    top = Workflow(TOP, base_dir=str(execution.work_dir))
    crash_dir = logs_dir(execution.out_dir)
    crash_dir.mkdir(parents=True, exist_ok=True)
    top.config["execution"] = _nipype_settings(execution, crash_dir)
    for delivery in group:
        _begin(delivery, execution)
        top.add_nodes([init_visit_wf(delivery=delivery, settings=settings)])
    before = set(crash_dir.glob("crash-*.txt"))
    ended = _Ended(_Watch(group, on_step, measure=settings.measure))
    folder = Path.cwd()
    try:
        _run_nipype(top, execution, ended)
    except BaseException:
        # a signal is no crash
        _forget(_new_crashes(crash_dir, before), group)
        raise
    finally:
        os.chdir(folder)
    crashes = _new_crashes(crash_dir, before)
    outcomes = [_outcome(delivery, execution, ended, crashes) for delivery in group]
    if execution.stop_on_first_crash and any(outcome.step for outcome in outcomes):
        # nothing is told of those that another one's crash has stopped
        return [replace(one, stopped=not (one.ok or one.step)) for one in outcomes]
    return outcomes


def _nipype_settings(execution: Execution, crash_dir: Path) -> dict[str, str]:
    settings = {
        "crashdump_dir": str(crash_dir),
        "crashfile_format": "txt",
        "hash_method": "content",
        "stop_on_first_crash": str(execution.stop_on_first_crash).lower(),
        "remove_unnecessary_outputs": "false",
        "check_version": "false",
        "create_report": "false",
    }
    if execution.plugin == "MultiProc":
        # others ask a cluster's scheduler, which has more to do than to answer us
        settings["poll_sleep_duration"] = str(QUICK_POLL_S)
    return settings


def _begin(delivery: Delivery, execution: Execution) -> None:
    """Mark a visit as begun: what an earlier run left is no longer what this one would leave."""
    (visit_folder(execution, delivery) / FAILURE_FILE).unlink(missing_ok=True)
    visit = delivery.visit
    write_record(
        execution.out_dir,
        VisitRecord(
            visit.participant,
            visit.session,
            visit.prefix,
            "failed",
            reason=BROKE_OFF,
            hint="run the same command again: steps that were finished are not repeated",
            versions=delivery.versions,
        ),
    )


def _run_nipype(top: Workflow, execution: Execution, ended: _Ended) -> None:
    arguments = {**(execution.plugin_args or {}), "status_callback": ended.watch}
    steady = SteadyMultiProcPlugin(arguments) if execution.plugin == "MultiProc" else None
    try:
        with _quiet_nipype():
            top.run(plugin=steady or execution.plugin, plugin_args=arguments)
    except Exception as error:
        # nipype raises once all other branches are done; each visit's own end is looked up later
        ended.error = _in_a_line(error)
        LOGGER.debug("a workflow ended with %s", error, exc_info=True)
    except BaseException:
        if steady is not None:
            steady.close(wait=False)
        raise
    if steady is not None:
        steady.close(wait=True)
        ended.killed = steady.killed


def _in_a_line(error: Exception) -> str:
    """Tell an error by its first line; of a job that was refused, what the scheduler said."""
    first = (str(error).splitlines() or [""])[0]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_submit_batchtask":
            # nipype looks for the job's number only
            runtime = getattr(frame.f_locals.get("result"), "runtime", None)
            said = "\n".join(str(getattr(runtime, name, "")) for name in ("stderr", "stdout"))
            return f"{NO_JOB}: {' '.join(said.split()) or first}"
    return f"{type(error).__name__}: {first}"


@contextmanager
def _quiet_nipype() -> Iterator[None]:
    """Keep nipype's traces of failures, which are told in our words, for -v and crash files."""
    logger = logging.getLogger("nipype.workflow")
    before = logger.level
    if not LOGGER.isEnabledFor(logging.DEBUG):
        # it calls a file that it cannot write critical, before it raises
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def visit_folder(execution: Execution, delivery: Delivery) -> Path:
    """Return the folder of a visit's nodes."""
    return execution.work_dir / TOP / visit_workflow_name(delivery.visit)


def _outcome(
    delivery: Delivery, execution: Execution, ended: _Ended, crashes: set[Path]
) -> Outcome:
    """Look up how a visit ended: its record, which is written last of all, says whether well."""
    name, visit = visit_workflow_name(delivery.visit), delivery.visit
    folder = visit_folder(execution, delivery)
    seconds, usage = ended.watch.seconds(name), ended.watch.usage(name)
    record = read_record(execution.out_dir, visit.participant, visit.session)
    if record and record.status == "ok" and record.fingerprint == delivery.fingerprint:
        if execution.clean:
            shutil.rmtree(folder, ignore_errors=True)
        return Outcome(delivery, True, seconds, usage=usage)
    files = _crash_files(crashes, name, visit.key)
    told = _told(folder / FAILURE_FILE) or _not_told(name, ended, files, execution)
    return Outcome(
        delivery,
        False,
        seconds,
        step=str(told.get("step", "")),
        message=str(told.get("message", "")),
        hint=str(told.get("hint", "")),
        code=int(told.get("code", ExitCode.FAILURE)),
        crash_files=files,
        usage=usage,
    )


def _told(failure: Path) -> dict[str, Any]:
    try:
        content = json.loads(failure.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _not_told(
    visit: str, ended: _Ended, crash_files: Sequence[Path], execution: Execution
) -> dict[str, Any]:
    """Say what can be said of a step that could not say it itself."""
    step = next((one for one in ended.killed if visit in one.split(".")), "")
    if step:
        return {
            "step": step.rpartition(".")[2],
            "message": f"{KILLED}, most likely for lack of memory",
            "hint": "give the job more memory, or lower --nprocs",
            "code": ExitCode.TEMPORARY,
        }
    number = _lack_of_room(ended, crash_files, execution)
    if number:
        found = explained(OSError(number, os.strerror(number)))
        return {"message": found.message, "hint": found.hint, "code": found.code}
    told = ended.error or "a step ended without saying why"
    hint = "look into the crash file; -vv shows what nipype says"
    if not crash_files:
        hint = "run it again with -vv, which shows what nipype says"
    if told.startswith(NO_JOB):
        hint = "correct what the file of --use-plugin asks of the scheduler, or ask its keepers"
    return {"message": told, "hint": hint, "code": ExitCode.FAILURE}


def _lack_of_room(ended: _Ended, crash_files: Sequence[Path], execution: Execution) -> int:
    """Find the number of the error if a file of nipype's own had no room; else 0.

    A step that could not write its result is taken for one that left none, so that nothing but
    the full disk itself tells.
    """
    texts = [ended.error, *(path.read_text(errors="replace") for path in crash_files)]
    named = [number for number in NO_ROOM if any(f"[Errno {number}]" in text for text in texts)]
    places = [place for place in (execution.work_dir, execution.out_dir) if place.is_dir()]
    if not named and any(shutil.disk_usage(place).free < LEAST_ROOM for place in places):
        return errno.ENOSPC
    return named[0] if named else 0


def _forget(crashes: set[Path], group: Sequence[Delivery]) -> None:
    for delivery in group:
        visit = delivery.visit
        for path in _crash_files(crashes, visit_workflow_name(visit), visit.key):
            path.unlink(missing_ok=True)


def _new_crashes(crash_dir: Path, before: set[Path]) -> set[Path]:
    """List the crash files of this run; those that a full disk left empty go."""
    new = set(crash_dir.glob("crash-*.txt")) - before
    empty = {path for path in new if not path.stat().st_size}
    for path in empty:
        path.unlink(missing_ok=True)
    return new - empty


def _crash_files(crashes: set[Path], visit: str, key: str) -> tuple[Path, ...]:
    """Take this visit's crash files out of the set, named after it instead of after the user."""
    mark = f"Node: {TOP}.{visit}."
    found = []
    for path in sorted(crashes):
        start = path.read_text(encoding="utf-8", errors="replace")[:2000]
        if mark not in start:
            continue
        step = start.partition(mark)[2].split()[0]
        moment = "-".join(path.name.split("-")[1:3])
        named = path.with_name(f"crash-{moment}_{key}_{step}.txt")
        found.append(path.rename(named))
        crashes.remove(path)
    return tuple(found)
