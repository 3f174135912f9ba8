"""The participant and the group level, from a configuration to an exit code."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.app.absent import (
    find_absent_visits,
    handle_absent,
    is_removable,
    warn_of_absent,
)
from bids_msseg.app.environment import (
    check_device,
    check_needs,
    check_spaces_without_trace,
    choose_execution,
    find_resources,
    removing_new_empty_folders,
    requested_plugin,
    run_environment,
    visit_settings,
)
from bids_msseg.app.locks import (
    lock_all,
    locked_by_other_runs,
    open_locks,
    remove_partial_files,
    remove_work_folders,
)
from bids_msseg.app.outcome import (
    check_record_places,
    exit_code_of,
    public_text,
    record_failure,
    record_skipped,
    report_visits,
    status_of,
    write_usage,
)
from bids_msseg.app.pages import participants_with_new_page, write_citation, write_pages
from bids_msseg.app.selection import (
    analysis_options,
    collect_context,
    find_stale_outputs,
    handle_stale,
    is_visit_finished,
    needs_networks,
    other_segmenter,
    package_versions,
    read_model_header,
    select_visits,
    with_intermediate,
)
from bids_msseg.bids.dataset import check_directories, write_dataset_files
from bids_msseg.bids.order import VisitOrder, order_sessions
from bids_msseg.bids.paths import logs_dir
from bids_msseg.bids.record import read_records
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode, NoInputError, NothingSelectedError
from bids_msseg.models.weights import ModelHeader
from bids_msseg.progress import Progress
from bids_msseg.reports.text import counted, listed
from bids_msseg.workflow.locks import VisitLocks, note_running

if TYPE_CHECKING:
    from bids_msseg.bids.visit import Selection
    from bids_msseg.nodes.context import DerivativesContext
    from bids_msseg.workflow.outcome import Outcome

LOGGER = logging.getLogger("bids_msseg")
STEPS_PER_VISIT = 20


def run(config: RunConfig) -> ExitCode:
    """Run the analysis levels and return the exit code; MssegError if nothing can be done."""
    for note in config.notes:
        LOGGER.info("%s", note)
    code = ExitCode.SUCCESS
    if "participant" in config.levels:
        code = _participant(config)
    if "group" in config.levels and not config.execution.dry_run:
        code = _group(config) or code
    return code


def _group(config: RunConfig) -> ExitCode:
    """Write the group table from the results of the participant level."""
    from bids_msseg.reports.group.report import write_group
    from bids_msseg.reports.threshold_sweep import write_threshold_sweep

    if "participant" not in config.levels or config.execution.reports_only:
        _check_group(config)
    out, qc = config.output_dir, config.execution.qc
    with VisitLocks([logs_dir(out)]) as locks:
        records = note_running(out, read_records(out), locks)
    files = write_group(out, bids_dir=config.bids_dir, qc_dir=qc, records=records)
    for note in files.notes:
        LOGGER.warning(note)
    LOGGER.info("group table: %s", files.tsv)
    if config.execution.threshold_sweep:
        LOGGER.info("loads by threshold: %s", write_threshold_sweep(out, records))
    return ExitCode.SUCCESS


def _check_group(config: RunConfig) -> None:
    """Check the folders, which the participant level has not done; log warnings."""
    for warning in check_directories(
        config.bids_dir, config.output_dir, config.work_dir, create=False
    ):
        LOGGER.warning(warning)
    query = config.query
    if query.participant_label or query.session_label or query.exclude_participant_label:
        LOGGER.warning(
            "the group level covers every visit in %s; participant and session labels have no "
            "effect on it",
            config.output_dir,
        )
    warn_of_absent(find_absent_visits(config))


def _participant(config: RunConfig) -> ExitCode:
    """Process visits or, in a dry run, print what would be done."""
    execution = config.execution
    if execution.reports_only:
        return _reports_only(config)
    # the imports of the next steps can take long, so this is logged first
    LOGGER.info("bids_msseg %s: looking for visits in %s", __version__, config.bids_dir)
    with removing_new_empty_folders(config.work_dir, config.output_dir):
        return _select_and_process(config)


def _select_and_process(config: RunConfig) -> ExitCode:
    execution = config.execution
    for warning in check_directories(
        config.bids_dir, config.output_dir, config.work_dir, create=not execution.dry_run
    ):
        LOGGER.warning(warning)
    for note in find_resources(config).notes:
        LOGGER.warning("%s", note)
    with run_environment(config.work_dir, dry=execution.dry_run):
        header = read_model_header(config)
        if execution.boilerplate_only:
            return _boilerplate_only(config, header)
        check_device(config.performance.device)
        plugin = requested_plugin(config)
        selection = select_visits(config)
        if execution.dry_run:
            return _dry_run(config, selection, header)
        return _process(config, selection, header, plugin)


def _dry_run(config: RunConfig, selection: Selection, header: ModelHeader) -> ExitCode:
    """Print for each visit what would be used or skipped, and why."""
    check_spaces_without_trace(config)
    masks = ", ".join(config.query.lesion_masks)
    model = f"model {header.name} {header.version}, sha256 {header.sha256[:12]}"
    segmenter = model if config.with_networks else "no network"
    lines = [f"lesion masks {masks}, {segmenter}" if masks else segmenter]
    for visit in selection.visits:
        context = collect_context(config, visit, header)
        finished = is_visit_finished(config, context)
        failure = f", and would fail: {visit.problem}" if visit.problem and not finished else ""
        state = "already finished" if finished else "would be processed"
        lines.append(f"{visit.key}: {state}{failure}")
        for contrast in ("FLAIR", "T1w", "T2w"):
            path = visit.contrasts.get(contrast)
            location = "none" if path is None else public_text(str(path), config)
            lines.append(f"  {contrast}: {location}")
        lines += [f"  note: {note}" for note in context.visit.notes]
        stale = [path.name for path in find_stale_outputs(config, visit)]
        if stale:
            lines.append(f"  results of images that are no longer used: {listed(stale)}")
    for skipped in selection.skipped:
        hint = f" (hint: {skipped.hint})" if skipped.hint else ""
        lines.append(f"{skipped.key}: would be skipped: {skipped.reason}{hint}")
    for visit in find_absent_visits(config):
        fate = "removed" if is_removable(config, visit) else "kept"
        lines.append(f"{visit.key}: no longer in the dataset: its results would be {fate}")
    orders = _orders(config, selection).items()
    lines += [order.describe(participant) for participant, order in orders]
    print("\n".join(lines))
    return ExitCode.SUCCESS


def _orders(config: RunConfig, selection: Selection) -> dict[str, VisitOrder]:
    """Order the selected visits of each participant with more than one session."""
    flairs: dict[str, dict[str, str]] = {}
    for visit in selection.visits:
        if visit.session is not None:
            flairs.setdefault(visit.participant, {})[visit.session] = visit.flair.name
    session_order = config.query.session_order
    return {
        participant: order_sessions(
            config.bids_dir, participant, sessions, user_order=session_order
        )
        for participant, sessions in flairs.items()
        if len(sessions) > 1
    }


def _boilerplate_only(config: RunConfig, header: ModelHeader) -> ExitCode:
    """Write the methods text and its references to ``OUT/logs/CITATION.md``."""
    write_dataset_files(
        config.output_dir,
        config.bids_dir,
        derivatives=config.query.datasets,
        lesion_masks=tuple(config.query.lesion_masks),
        segmenter=other_segmenter(config, header),
    )
    print(write_citation(config, header).read_text(encoding="utf-8"))
    return ExitCode.SUCCESS


def _reports_only(config: RunConfig) -> ExitCode:
    """Write the pages again from the results in OUT."""
    available = {record.participant for record in read_records(config.output_dir)}
    requested = set(config.query.participant_label)
    excluded = set(config.query.exclude_participant_label)
    participants = sorted((available & requested if requested else available) - excluded)
    if not available:
        raise NoInputError(
            f"{config.output_dir} holds no processed visits",
            hint="run the participant level without --reports-only first",
        )
    if not participants:
        requested_text = " ".join(sorted(requested)) or "other participants"
        raise NothingSelectedError(
            f"{config.output_dir} holds no results of {requested_text}",
            hint=f"select participants with results: {' '.join(sorted(available)[:20])}",
        )
    write_pages(config.output_dir, participants)
    return ExitCode.SUCCESS


def _process(
    config: RunConfig,
    selection: Selection,
    header: ModelHeader,
    plugin: tuple[str, dict[str, Any]] | None,
) -> ExitCode:
    """Run all visits that are not finished, and report on all."""
    check_record_places(config, selection)
    # later, the description in OUT names this dataset
    absent = find_absent_visits(config)
    write_dataset_files(
        config.output_dir,
        config.bids_dir,
        options=analysis_options(config, header),
        derivatives=config.query.datasets,
        lesion_masks=tuple(config.query.lesion_masks),
        segmenter=other_segmenter(config, header),
    )
    write_citation(config, header)
    record_skipped(config, selection)
    contexts = [collect_context(config, visit, header) for visit in selection.visits]
    todo = [context for context in contexts if not is_visit_finished(config, context)]
    if len(todo) < len(contexts):
        finished = len(contexts) - len(todo)
        LOGGER.info("%d of %d visits are already finished", finished, len(contexts))
    with open_locks(config) as locks:
        locked = [context for context in todo if locks.acquire(context.visit.key)]
        remove_partial_files(config.output_dir, locked)
        outcomes = _run_all(config, locked, header, plugin)
        if config.execution.resource_monitor and outcomes:
            write_usage(config.output_dir, outcomes, locks)
        locked_keys = {context.visit.key for context in locked}
        outcomes += locked_by_other_runs(
            context for context in todo if context.visit.key not in locked_keys
        )
        handle_stale(config, contexts, locks)
        remaining = handle_absent(config, absent, locks)
    compared_code = _compare(config, selection, plugin, remaining)
    new_pages = participants_with_new_page(config.output_dir, selection, locked)
    write_pages(config.output_dir, list(dict.fromkeys([*new_pages, *remaining])))
    report_visits(config, contexts, outcomes, selection.skipped)
    busy_code = ExitCode.TEMPORARY if len(locked) < len(todo) else ExitCode.SUCCESS
    return exit_code_of(outcomes) or busy_code or compared_code


def _run_all(
    config: RunConfig,
    todo: Sequence[DerivativesContext],
    header: ModelHeader,
    plugin: tuple[str, dict[str, Any]] | None,
) -> list[Outcome]:
    """Run the visits with a progress bar."""
    from bids_msseg.workflow.run import run_visits

    if not todo:
        return []
    todo = [with_intermediate(context) for context in todo]
    check_needs(config, networks=any(needs_networks(context) for context in todo))
    resources = find_resources(config)
    settings = visit_settings(config, resources)
    execution = choose_execution(config, resources, plugin)
    if config.execution.clean_workdir:
        remove_work_folders(execution, todo)
    mask_names = ", ".join(config.query.lesion_masks)
    source = f"the lesion masks {mask_names}" if mask_names else f"model {header.name}"
    LOGGER.info("processing %s with %s", counted(len(todo), "visit"), source)
    outcomes: list[Outcome] = []
    with Progress(len(todo), steps_per_visit=STEPS_PER_VISIT) as progress:
        for outcome in run_visits(todo, settings, execution, on_step=progress.step):
            outcomes.append(outcome)
            record_failure(config, outcome)
            visit = outcome.context.visit
            progress.finish(visit.key, status_of(config, outcome), outcome.seconds)
    return outcomes


def _compare(
    config: RunConfig,
    selection: Selection,
    plugin: tuple[str, dict[str, Any]] | None,
    remaining: Mapping[str, Sequence[str]],
) -> ExitCode:
    """Compare the finished visits of participants that no other run is processing."""
    visits = {participant: list(keys) for participant, keys in remaining.items()}
    for visit in selection.visits:
        visits.setdefault(visit.participant, []).append(visit.key)
    with open_locks(config) as locks:
        locked = [name for name in sorted(visits) if lock_all(locks, name, visits[name])]
        return _compare_locked(config, locked, plugin)


def _compare_locked(
    config: RunConfig, participants: Sequence[str], plugin: tuple[str, dict[str, Any]] | None
) -> ExitCode:
    from bids_msseg.workflow.changes import compare_participants

    resources = find_resources(config)
    code = ExitCode.SUCCESS
    for outcome in compare_participants(
        participants,
        choose_execution(config, resources, plugin),
        seed=config.processing.random_seed,
        versions=package_versions(),
        bids_dir=config.bids_dir,
        session_order=config.query.session_order,
    ):
        label = f"sub-{outcome.participant}"
        if outcome.failure is None:
            LOGGER.info("%s: pairs of visits compared: %d", label, outcome.pairs)
            continue
        failure = outcome.failure
        LOGGER.error(
            "%s: the visits were not compared: %s\n  hint: %s",
            label,
            failure.message,
            failure.hint,
        )
        code = code or ExitCode(failure.code)
    return code
