"""One run of nipype: settings, observation of steps, and final state."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Workflow

from bids_msseg.bids.files import write_tsv
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.reports.tables import read_tsv
from bids_msseg.workflow.locks import VisitLocks
from bids_msseg.workflow.plan import step_label, workflow_name
from bids_msseg.workflow.plugins import SteadyMultiProcPlugin

TOP = "bids_msseg"
LOGGER = logging.getLogger("bids_msseg")
QUICK_POLL_S = 0.01  # SteadyMultiProcPlugin waits for events
NO_JOB = "the scheduler did not accept a job"
StepCallback = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Execution:
    """Settings for running workflows with nipype."""

    work_dir: Path
    out_dir: Path
    plugin: str = "Linear"
    plugin_args: Mapping[str, Any] | None = None
    chunk: int = 1  # visits that run together
    stop_on_first_crash: bool = False
    clean: bool = False  # remove the work folder of a visit that finished without error


@dataclass(frozen=True, slots=True)
class Usage:
    """Time and memory that one step used."""

    visit: str
    step: str
    seconds: float  # wall time
    cpu_seconds: float  # of all threads
    memory_gb: float  # peak resident memory of the process, GiB


class Watch:
    """Listener for nipype's status callback."""

    def __init__(
        self, group: Sequence[DerivativesContext], on_step: StepCallback | None, *, measure: bool
    ) -> None:
        self._keys = {workflow_name(d): d.visit.key for d in group}
        self._on_step = on_step
        self._measure = measure
        self._start_times: dict[str, float] = {}
        self._end_times: dict[str, float] = {}
        self._usage: dict[tuple[str, str], Usage] = {}

    def __call__(self, node: Any, status: str) -> None:
        """Record the status of a node; end the run if a signal has ended the node."""
        interruption = getattr(node.interface, "interruption", None)
        if status == "exception" and interruption is not None:
            raise interruption
        name = str(node.fullname).split(".")
        visit = next((part for part in name if part in self._keys), None)
        if visit is None:
            return
        now = time.monotonic()
        self._start_times.setdefault(visit, now)
        self._end_times[visit] = now
        step = name[-1]
        label = step_label(step)
        if status == "start" and label and self._on_step:
            self._on_step(self._keys[visit], label)
        if status == "end" and label and self._measure:
            self._note_usage(visit, step, node)

    def _note_usage(self, visit: str, step: str, node: Any) -> None:
        outputs = node.result.outputs
        if isdefined(outputs.memory_gb):
            self._usage[visit, step] = Usage(
                self._keys[visit], step, outputs.seconds, outputs.cpu_seconds, outputs.memory_gb
            )

    def seconds(self, visit: str) -> float:
        """Return the wall time between a visit's first and last event."""
        return self._end_times.get(visit, 0.0) - self._start_times.get(visit, 0.0)

    def usage(self, visit: str) -> tuple[Usage, ...]:
        """Return the time and memory that the steps of a visit used."""
        return tuple(used for (name, _), used in self._usage.items() if name == visit)


@dataclass(slots=True)
class RunState:
    """State of a run after nipype has returned."""

    watch: Watch
    killed: set[str] = field(default_factory=set)
    error: str = ""


def nipype_settings(execution: Execution, crash_dir: Path) -> dict[str, str]:
    """Return nipype's settings for crash files, hashing and polling."""
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
        # other plugins poll the scheduler of a cluster, which should not be loaded
        settings["poll_sleep_duration"] = str(QUICK_POLL_S)
    return settings


def run_nipype(top: Workflow, execution: Execution, state: RunState) -> None:
    """Run workflows as one, and store the final state in ``state``."""
    arguments = {**(execution.plugin_args or {}), "status_callback": state.watch}
    steady = SteadyMultiProcPlugin(arguments) if execution.plugin == "MultiProc" else None
    try:
        with _quiet_nipype():
            top.run(plugin=steady or execution.plugin, plugin_args=arguments)
    except Exception as error:
        # nipype raises once all other branches are done; each visit's own end is looked up later
        state.error = _describe_error(error)
        LOGGER.debug("a workflow ended with %s", error, exc_info=True)
    except BaseException:
        if steady is not None:
            steady.close(wait=False)
        raise
    if steady is not None:
        steady.close(wait=True)
        state.killed = steady.killed


def _describe_error(error: Exception) -> str:
    """Describe an error by its first line, or a refused job by the scheduler's message."""
    frames = traceback.extract_tb(error.__traceback__)
    if any(frame.name == "_submit_batchtask" for frame in frames):
        # nipype's parser of the job number raises these
        reply = "" if isinstance(error, IndexError | AttributeError) else str(error)
        return ": ".join(filter(None, (NO_JOB, " ".join(reply.split()))))
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"


@contextmanager
def _quiet_nipype() -> Iterator[None]:
    """Suppress nipype's log of failures without -v; the details are in crash files."""
    logger = logging.getLogger("nipype.workflow")
    before = logger.level
    if not LOGGER.isEnabledFor(logging.DEBUG):
        # it logs a file that it cannot write as critical, before it raises
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def visit_folder(execution: Execution, context: DerivativesContext) -> Path:
    """Return the folder of a visit's nodes."""
    return execution.work_dir / TOP / workflow_name(context)


def add_usage(path: Path, usage: Iterable[Usage], locks: VisitLocks) -> None:
    """Add or replace the usage of steps in a table that other runs may change, with a lock."""
    locks.acquire(path.name, wait=True)
    try:
        rows = {(row.get("visit"), row.get("step")): row for row in read_tsv(path)}
        rows |= {(step_usage.visit, step_usage.step): asdict(step_usage) for step_usage in usage}
        write_tsv(path, [column.name for column in fields(Usage)], rows.values())
    finally:
        locks.release(path.name)
