"""Outcomes of visits: records, rows of the final table, exit code."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.app.selection import is_visit_finished
from bids_msseg.bids.paths import logs_dir, record_path
from bids_msseg.bids.record import VisitRecord, read_record, write_record
from bids_msseg.config import RunConfig
from bids_msseg.errors import CannotCreateError, ExitCode
from bids_msseg.progress import FLAGGED, OK, Progress, VisitOutcome
from bids_msseg.reports.text import without_folders
from bids_msseg.workflow.locks import VisitLocks

if TYPE_CHECKING:
    from bids_msseg.bids.visit import Selection, Skipped
    from bids_msseg.nodes.context import DerivativesContext
    from bids_msseg.workflow.outcome import Outcome

LOGGER = logging.getLogger("bids_msseg")


def check_record_places(config: RunConfig, selection: Selection) -> None:
    """Raise CannotCreateError if the path of a visit's record is a folder."""
    for visit in selection.visits:
        path = record_path(config.output_dir, visit.participant, visit.session)
        if path.is_dir() and not path.is_symlink():
            raise _cannot_write(path, "it is a folder")


def record_skipped(config: RunConfig, selection: Selection) -> None:
    """Write a record, unless there are results, of every visit that cannot be processed."""
    for skipped in selection.skipped:
        folder = config.bids_dir / f"sub-{skipped.participant}"
        if not (folder / f"ses-{skipped.session}" if skipped.session else folder).is_dir():
            continue
        reason, hint = public_text(skipped.reason, config), public_text(skipped.hint, config)
        record = VisitRecord(
            skipped.participant, skipped.session, "", "skipped", reason=reason, hint=hint
        )
        existing = read_record(config.output_dir, skipped.participant, skipped.session)
        if existing is None or (existing.status != "ok" and existing != record):
            _write(config, record)


def record_failure(config: RunConfig, outcome: Outcome) -> None:
    """Log a failed visit and write its record; workflows record finished visits."""
    context, visit = outcome.context, outcome.context.visit
    if outcome.ok or outcome.stopped:
        return
    LOGGER.error("%s failed: %s\n  hint: %s", visit.key, outcome.message, outcome.hint)
    _write(
        config,
        VisitRecord(
            visit.participant,
            visit.session,
            visit.prefix,
            "failed",
            reason=public_text(outcome.message, config),
            hint=public_text(outcome.hint, config),
            crash_files=_crashes(config, outcome),
            model=context.model,
            options=context.options,
            notes=visit.notes,
            versions=context.versions,
        ),
    )


def _crashes(config: RunConfig, outcome: Outcome) -> tuple[str, ...]:
    """Return the paths of crash files relative to OUT."""
    paths = (path.relative_to(config.output_dir) for path in outcome.crash_files)
    return tuple(path.as_posix() for path in paths)


def _write(config: RunConfig, record: VisitRecord) -> None:
    """Write a record, or raise an error that names the occupied path."""
    try:
        write_record(config.output_dir, record)
    except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
        path = record_path(config.output_dir, record.participant, record.session)
        raise _cannot_write(path, f"{error.strerror}") from error


def _cannot_write(path: Path, reason: str) -> CannotCreateError:
    return CannotCreateError(
        f"the record {path} cannot be written: {reason}",
        hint="move what is at that path, or give this user write permission, and rerun",
    )


def public_text(text: str, config: RunConfig) -> str:
    """Remove the local paths of datasets from a text, because OUT may be shared."""
    roots = (config.bids_dir, config.output_dir, *config.query.datasets.values())
    for root in sorted({str(root.absolute()) for root in roots}, key=len, reverse=True):
        text = text.replace(f"{root}/", "")
    return without_folders(text)


def report_visits(
    config: RunConfig,
    contexts: Sequence[DerivativesContext],
    outcomes: Sequence[Outcome],
    skipped: Sequence[Skipped],
) -> None:
    """Print the final table of all visits, and log the crash files of failed ones."""
    by_visit = {outcome.context.visit.key: outcome for outcome in outcomes}
    stopped = config.execution.stop_on_first_crash and exit_code_of(outcomes) != ExitCode.SUCCESS
    rows = [
        _row(config, context, by_visit.get(context.visit.key), stopped=stopped)
        for context in contexts
    ]
    rows += [VisitOutcome(visit.key, "skipped") for visit in skipped]
    Progress(len(rows)).close(rows)
    for key, outcome in by_visit.items():
        if not outcome.ok and not outcome.stopped:
            files = ", ".join(str(path) for path in outcome.crash_files) or "none"
            LOGGER.error("%s failed, crash file: %s", key, files)


def _row(
    config: RunConfig, context: DerivativesContext, outcome: Outcome | None, *, stopped: bool
) -> VisitOutcome:
    """Return a row of the table; without outcome, a visit was finished before or not reached."""
    visit = context.visit
    if outcome is None and stopped and not is_visit_finished(config, context):
        return VisitOutcome(visit.key, "not run")
    if outcome is not None and not outcome.ok:
        return VisitOutcome(visit.key, status_of(config, outcome), seconds=outcome.seconds)
    record = read_record(config.output_dir, visit.participant, visit.session)
    seconds = None if outcome is None else outcome.seconds
    status = _finished_status(record)
    if record is None:
        return VisitOutcome(visit.key, status, seconds=seconds)
    return VisitOutcome(visit.key, status, record.lesion_count, record.lesion_load_ml, seconds)


def status_of(config: RunConfig, outcome: Outcome) -> str:
    """Return the status of a visit that this run has processed."""
    if not outcome.ok:
        return "not run" if outcome.stopped else "failed"
    visit = outcome.context.visit
    return _finished_status(read_record(config.output_dir, visit.participant, visit.session))


def _finished_status(record: VisitRecord | None) -> str:
    """Return the status of a finished visit: flagged if a person should check it first."""
    if record is None:
        return OK
    flagged = record.flags or record.quality == "flagged" or record.changes.get("failed")
    return FLAGGED if flagged else OK


def exit_code_of(outcomes: Sequence[Outcome]) -> ExitCode:
    """Return the exit code that all failures share, or the general one if they differ."""
    codes = {outcome.code for outcome in outcomes if not (outcome.ok or outcome.stopped)}
    if not codes:
        return ExitCode.SUCCESS
    return ExitCode(codes.pop()) if len(codes) == 1 else ExitCode.FAILURE


def write_usage(out_dir: Path, outcomes: Sequence[Outcome], locks: VisitLocks) -> None:
    """Add the resource usage of steps to ``OUT/logs/resources.tsv``, and log the peak."""
    from bids_msseg.workflow.execution import add_usage

    usage = [step_usage for outcome in outcomes for step_usage in outcome.usage]
    if not usage:
        LOGGER.warning("the resource monitor has no data: this nipype plugin reports none")
        return
    target = logs_dir(out_dir) / "resources.tsv"
    add_usage(target, usage, locks)
    peak = max(usage, key=lambda step_usage: step_usage.memory_gb)
    LOGGER.info(
        "peak memory %.2f GB in %s of %s; all steps: %s",
        *(peak.memory_gb, peak.step, peak.visit),
        target,
    )
