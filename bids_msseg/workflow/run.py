"""Runs of visit workflows with nipype; a failed visit does not affect the others."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nipype.pipeline.engine import Workflow

from bids_msseg.bids.paths import logs_dir
from bids_msseg.bids.record import UNFINISHED_REASON, VisitRecord, write_record
from bids_msseg.errors import ExitCode
from bids_msseg.nodes.base import FAILURE_FILE
from bids_msseg.nodes.context import DerivativesContext
from bids_msseg.workflow.execution import (
    TOP,
    Execution,
    RunState,
    StepCallback,
    Watch,
    nipype_settings,
    run_nipype,
    visit_folder,
)
from bids_msseg.workflow.outcome import (
    Failure,
    Outcome,
    find_failure,
    find_outcome,
    new_crash_files,
    remove_crash_files,
)
from bids_msseg.workflow.participant import init_visit_wf
from bids_msseg.workflow.plan import Settings
from bids_msseg.workflow.plugins import KILLED

LOGGER = logging.getLogger("bids_msseg")


def run_visits(
    contexts: Sequence[DerivativesContext],
    settings: Settings,
    execution: Execution,
    *,
    on_step: StepCallback | None = None,
) -> Iterator[Outcome]:
    """Run visits in groups and yield their outcomes in order; retry killed visits alone."""
    for start in range(0, len(contexts), execution.chunk):
        group = contexts[start : start + execution.chunk]
        outcomes = _run_group(group, settings, execution, on_step)
        for outcome in outcomes:
            alone = outcome.code == ExitCode.TEMPORARY and len(group) > 1
            if alone and KILLED in outcome.message and not execution.stop_on_first_crash:
                # another visit of the group may have used too much memory
                _log_retry(outcome)
                yield from _run_group([outcome.context], settings, execution, on_step)
            else:
                yield outcome
        if execution.stop_on_first_crash and not all(outcome.ok for outcome in outcomes):
            return


def _log_retry(outcome: Outcome) -> None:
    """Log that a visit is tried again, and remove its crash files."""
    key = outcome.context.visit.key
    LOGGER.warning("%s: %s; retrying it alone", key, outcome.message)
    for path in outcome.crash_files:
        path.unlink(missing_ok=True)


def run_workflows(workflows: Mapping[str, Workflow], execution: Execution) -> dict[str, Failure]:
    """Run workflows without a visit; return a Failure for each, to use if results are missing."""
    folder = execution.work_dir / TOP
    for workflow in workflows.values():
        (folder / workflow.name / FAILURE_FILE).unlink(missing_ok=True)
    state = RunState(Watch([], None, measure=False))
    crashes = _run_together(list(workflows.values()), execution, state)
    failures = {}
    for key, workflow in workflows.items():
        failures[key] = find_failure(workflow.name, key, execution, state, crashes)
        if execution.clean:
            shutil.rmtree(folder / workflow.name, ignore_errors=True)
    return failures


def _run_group(
    group: Sequence[DerivativesContext],
    settings: Settings,
    execution: Execution,
    on_step: StepCallback | None,
) -> list[Outcome]:
    """Run the workflows of a group of visits as one."""
    workflows = []
    for context in group:
        _mark_unfinished(context, execution)
        workflows.append(init_visit_wf(context=context, settings=settings))
    state = RunState(Watch(group, on_step, measure=settings.measure))
    crashes = _run_together(workflows, execution, state, group)
    outcomes = [find_outcome(context, execution, state, crashes) for context in group]
    if execution.stop_on_first_crash and any(outcome.step for outcome in outcomes):
        # no failure is recorded for those that another one's crash has stopped
        return [replace(outcome, stopped=not (outcome.ok or outcome.step)) for outcome in outcomes]
    return outcomes


def _run_together(
    workflows: Sequence[Workflow],
    execution: Execution,
    state: RunState,
    group: Sequence[DerivativesContext] = (),
) -> set[Path]:
    """Run workflows as one; return their crash files, or remove those of ``group`` on a signal."""
    top = Workflow(TOP, base_dir=str(execution.work_dir))
    crash_dir = logs_dir(execution.out_dir)
    crash_dir.mkdir(parents=True, exist_ok=True)
    top.config["execution"] = nipype_settings(execution, crash_dir)
    top.add_nodes(list(workflows))
    before = set(crash_dir.glob("crash-*.txt"))
    working_dir = Path.cwd()
    try:
        run_nipype(top, execution, state)
    except BaseException:
        # a signal is no crash
        remove_crash_files(new_crash_files(crash_dir, before), group)
        raise
    finally:
        os.chdir(working_dir)
    return new_crash_files(crash_dir, before)


def _mark_unfinished(context: DerivativesContext, execution: Execution) -> None:
    """Record a visit as not completed, because its earlier results are outdated."""
    (visit_folder(execution, context) / FAILURE_FILE).unlink(missing_ok=True)
    visit = context.visit
    write_record(
        execution.out_dir,
        VisitRecord(
            visit.participant,
            visit.session,
            visit.prefix,
            "failed",
            reason=UNFINISHED_REASON,
            hint="run the same command again: steps that were finished are not repeated",
            versions=context.versions,
        ),
    )
