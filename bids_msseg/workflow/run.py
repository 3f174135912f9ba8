"""Running visits' workflows with nipype, one visit's failure never touching another."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nipype.pipeline.engine import Workflow

from bids_msseg.bids.paths import logs_dir
from bids_msseg.nodes.base import FAILURE_FILE
from bids_msseg.nodes.outputs import Delivery
from bids_msseg.workflow.participant import (
    STEP_LABELS,
    Settings,
    init_visit_wf,
    visit_workflow_name,
)

TOP = "bids_msseg"
LOGGER = logging.getLogger("bids_msseg")


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
    stop_on_first_crash, resource_monitor, clean : bool
        ``clean`` removes a visit's folder when it has finished well.
    """

    work_dir: Path
    out_dir: Path
    plugin: str = "Linear"
    plugin_args: Mapping[str, Any] | None = None
    chunk: int = 1
    stop_on_first_crash: bool = False
    resource_monitor: bool = False
    clean: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a visit's workflow ended.

    Attributes
    ----------
    delivery : Delivery
    ok : bool
    seconds : float
        Wall time.
    step, message, cure : str
        Where and why it failed.
    code : int
        Exit code that the failure asks for.
    crash_files : tuple of path
    """

    delivery: Delivery
    ok: bool
    seconds: float
    step: str = ""
    message: str = ""
    cure: str = ""
    code: int = 0
    crash_files: tuple[Path, ...] = ()


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
        watch = _Watch(group, on_step)
        _run_group(group, settings, execution, watch)
        stop = False
        for delivery in group:
            outcome = _outcome(delivery, execution, watch)
            stop = stop or not outcome.ok
            yield outcome
        if stop and execution.stop_on_first_crash:
            return


class _Watch:
    """Listens to nipype's status callback."""

    def __init__(self, group: Sequence[Delivery], on_step: StepSeen | None) -> None:
        self._keys = {visit_workflow_name(d.visit): d.visit.key for d in group}
        self._on_step = on_step
        self._begun: dict[str, float] = {}
        self._ended: dict[str, float] = {}
        self.finished: set[str] = set()

    def __call__(self, node: Any, status: str) -> None:
        """Note what a node does."""
        name = str(node.fullname).split(".")
        visit = next((part for part in name if part in self._keys), None)
        if visit is None:
            return
        now = time.monotonic()
        self._begun.setdefault(visit, now)
        self._ended[visit] = now
        step = name[-1]
        if status == "end" and step == "publish":
            self.finished.add(visit)
        words = STEP_LABELS.get(step) or STEP_LABELS.get(step.partition("_")[0])
        if status == "start" and words and self._on_step:
            self._on_step(self._keys[visit], words)

    def seconds(self, visit: str) -> float:
        """Wall time between a visit's first and last event."""
        return self._ended.get(visit, 0.0) - self._begun.get(visit, 0.0)


def _run_group(
    group: Sequence[Delivery], settings: Settings, execution: Execution, watch: _Watch
) -> None:
    top = Workflow(TOP, base_dir=str(execution.work_dir))
    crash_dir = logs_dir(execution.out_dir)
    crash_dir.mkdir(parents=True, exist_ok=True)
    top.config["execution"] = {
        "crashdump_dir": str(crash_dir),
        "crashfile_format": "txt",
        "hash_method": "content",
        "stop_on_first_crash": str(execution.stop_on_first_crash).lower(),
        "remove_unnecessary_outputs": "false",
        "check_version": "false",
        "poll_sleep_duration": "0.2",
    }
    top.config["monitoring"] = {"enabled": str(execution.resource_monitor).lower()}
    for delivery in group:
        (_visit_folder(execution, delivery) / FAILURE_FILE).unlink(missing_ok=True)
        top.add_nodes([init_visit_wf(delivery=delivery, settings=settings)])
    arguments = {**(execution.plugin_args or {}), "status_callback": watch}
    try:
        top.run(plugin=execution.plugin, plugin_args=arguments)
    except Exception as error:
        # nipype raises once all other branches are done; each visit's own end is looked up below
        LOGGER.debug("a workflow ended with %s", error, exc_info=True)


def _visit_folder(execution: Execution, delivery: Delivery) -> Path:
    return execution.work_dir / TOP / visit_workflow_name(delivery.visit)


def _outcome(delivery: Delivery, execution: Execution, watch: _Watch) -> Outcome:
    name = visit_workflow_name(delivery.visit)
    folder = _visit_folder(execution, delivery)
    failure = folder / FAILURE_FILE
    if name in watch.finished and not failure.exists():
        if execution.clean:
            shutil.rmtree(folder, ignore_errors=True)
        return Outcome(delivery, True, watch.seconds(name))
    told = _told(failure)
    return Outcome(
        delivery,
        False,
        watch.seconds(name),
        step=str(told.get("step", "")),
        message=str(told.get("message", "a step ended without saying why")),
        cure=str(told.get("cure", "look into the crash file; the process may lack memory")),
        code=int(told.get("code", 1)),
        crash_files=_crash_files(execution, name),
    )


def _told(failure: Path) -> dict[str, Any]:
    try:
        content = json.loads(failure.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _crash_files(execution: Execution, visit: str) -> tuple[Path, ...]:
    """Find the crash files that name a node of this visit."""
    mark = f"Node: {TOP}.{visit}."
    found = []
    for path in sorted(logs_dir(execution.out_dir).glob("crash-*.txt")):
        if mark in path.read_text(encoding="utf-8", errors="replace")[:2000]:
            found.append(path)
    return tuple(found)
