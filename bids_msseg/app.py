"""What one call of the BIDS App does: ``run(config)`` in, exit code out."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode, UsageError
from bids_msseg.progress import Progress, VisitOutcome
from bids_msseg.resources import Resources, resolve_resources

if TYPE_CHECKING:
    from bids_msseg.bids.visit import Selection, Visit
    from bids_msseg.cascade.weights import ModelHeader
    from bids_msseg.nodes.outputs import Delivery
    from bids_msseg.workflow.run import Execution, Outcome

LOGGER = logging.getLogger("bids_msseg")
STEPS_PER_VISIT = 20
NAMED_PACKAGES = ("bids_msseg", "nipype", "torch", "SimpleITK", "deepbet")


def run(config: RunConfig) -> ExitCode:
    """Do what a configuration asks for.

    Parameters
    ----------
    config : RunConfig

    Returns
    -------
    ExitCode
        ``SUCCESS`` when every visit is done or already was; else the code that all failed visits
        share, or ``FAILURE``.

    Raises
    ------
    MssegError
        If nothing can be done at all: wrong folders, no dataset, nothing selected, no model.
    """
    code = ExitCode.SUCCESS
    if "participant" in config.levels:
        code = _participant(config)
    if "group" in config.levels and not config.execution.dry_run:
        code = _group(config) or code
    return code


def _group(config: RunConfig) -> ExitCode:
    """Gather what the participant level left into one table."""
    from bids_msseg.reports.group import write_group

    files = write_group(config.output_dir)
    LOGGER.info("group table: %s", files.tsv)
    return ExitCode.SUCCESS


def _participant(config: RunConfig) -> ExitCode:
    """Process visits, or say what would be done."""
    from bids_msseg.bids.dataset import check_directories

    execution = config.execution
    if execution.reports_only:
        return _reports_only(config)
    for warning in check_directories(
        config.bids_dir, config.output_dir, config.work_dir, create=not execution.dry_run
    ):
        LOGGER.warning(warning)
    _settle_in(config.work_dir, dry=execution.dry_run)
    header = _model_header(config)
    if execution.boilerplate_only:
        return _boilerplate_only(config, header)
    selection = _select(config)
    if execution.dry_run:
        return _dry_run(config, selection, header)
    return _process(config, selection, header)


def _settle_in(work_dir: Path, *, dry: bool) -> None:
    """Keep libraries from writing to a home that may not be there, or calling their makers."""
    os.environ.setdefault("NO_ET", "1")
    os.environ.setdefault("TEMPLATEFLOW_AUTOUPDATE", "0")
    if dry:
        return
    scratch = work_dir / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    for name in ("NIPYPE_CONFIG_DIR", "MPLCONFIGDIR"):
        os.environ.setdefault(name, str(work_dir / name.lower()))
    os.environ["TMPDIR"] = str(scratch)
    tempfile.tempdir = str(scratch)


def _model_header(config: RunConfig) -> ModelHeader:
    from bids_msseg.cascade.weights import find_model, read_header

    return read_header(find_model(config.processing.model))


def _select(config: RunConfig) -> Selection:
    """Index the dataset."""
    from bids_msseg.bids.query import find_visits

    query = config.query
    selection = find_visits(
        config.bids_dir,
        participants=query.participant_label,
        sessions=query.session_label,
        filters=query.bids_filters,
        database_dir=query.bids_database_dir,
        derivatives=query.derivatives,
        skip_validation=query.skip_bids_validation,
    )
    for note in selection.notes:
        LOGGER.warning(note)
    for visit in selection.visits:
        for note in visit.notes:
            LOGGER.info("%s: %s", visit.key, note)
    for skipped in selection.skipped:
        LOGGER.warning("%s skipped: %s", skipped.key, skipped.reason)
    return selection


def _spaces(config: RunConfig) -> tuple[tuple[str, int | None], ...]:
    return tuple((space.name, space.resolution) for space in config.processing.output_spaces)


def _delivery(config: RunConfig, visit: Visit, header: ModelHeader) -> Delivery:
    """Collect what the last node of a visit has to know."""
    from bids_msseg.bids.record import ModelUse
    from bids_msseg.nodes.outputs import Delivery
    from bids_msseg.reports.methods import methods_paragraph
    from bids_msseg.workflow.resume import fingerprint

    chosen = config.processing
    threshold = header.point.threshold if chosen.threshold is None else chosen.threshold
    options = {**config.analysis_fingerprint_options(), "model": header.name}
    versions = _versions()
    return Delivery(
        visit=visit,
        out_dir=config.output_dir,
        bids_dir=config.bids_dir,
        derivatives=config.query.derivatives,
        model=ModelUse(header.name, header.version, header.sha256),
        gate=header.point.gate,
        threshold=threshold,
        min_lesion_volume=chosen.min_lesion_volume,
        options={key: _scalar(value) for key, value in options.items()},
        fingerprint=fingerprint(visit, options, header.sha256, __version__),
        versions=versions,
        methods=methods_paragraph(
            list(visit.contrasts),
            model=header.name,
            sha256=header.sha256,
            threshold=threshold,
            min_lesion_volume=chosen.min_lesion_volume,
            versions=versions,
        ),
    )


def _scalar(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in NAMED_PACKAGES[1:]}
    return {NAMED_PACKAGES[0]: __version__, **found, "Python": platform.python_version()}


def _dry_run(config: RunConfig, selection: Selection, header: ModelHeader) -> ExitCode:
    """Print per visit what would be used, what would be skipped, and why."""
    from bids_msseg.workflow.resume import is_finished

    lines = [f"model {header.name} {header.version}, sha256 {header.sha256[:12]}"]
    for visit in selection.visits:
        delivery = _delivery(config, visit, header)
        done = is_finished(config.output_dir, visit, delivery.fingerprint, spaces=_spaces(config))
        lines.append(f"{visit.key}: {'finished already' if done else 'would be processed'}")
        for contrast in ("FLAIR", "T1w", "T2w"):
            path = visit.contrasts.get(contrast)
            where = "none" if path is None else str(path.relative_to(config.bids_dir))
            lines.append(f"  {contrast}: {where}")
        lines += [f"  note: {note}" for note in visit.notes]
    lines += [f"{one.key}: would be skipped: {one.reason}" for one in selection.skipped]
    print("\n".join(lines))
    return ExitCode.SUCCESS


def _boilerplate_only(config: RunConfig, header: ModelHeader) -> ExitCode:
    """Write the methods text and its references to ``OUT/logs/CITATION.md``."""
    from bids_msseg.bids.dataset import write_dataset_files

    write_dataset_files(config.output_dir, config.bids_dir, derivatives=config.query.derivatives)
    print(_write_citation(config, header).read_text(encoding="utf-8"))
    return ExitCode.SUCCESS


def _write_citation(config: RunConfig, header: ModelHeader) -> Path:
    from bids_msseg.bids.files import write_atomic
    from bids_msseg.bids.paths import logs_dir
    from bids_msseg.reports.methods import REFERENCES, methods_paragraph

    threshold = config.processing.threshold or header.point.threshold
    text = methods_paragraph(
        ["FLAIR", "T1w", "T2w"],
        model=header.name,
        sha256=header.sha256,
        threshold=threshold,
        min_lesion_volume=config.processing.min_lesion_volume,
        versions=_versions(),
    )
    target = logs_dir(config.output_dir) / "CITATION.md"
    listed = "\n".join(f"- {reference}" for reference in REFERENCES)
    write_atomic(target, f"# Methods\n\n{text}\n\n# References\n\n{listed}\n")
    return target


def _reports_only(config: RunConfig) -> ExitCode:
    """Write all pages again from what lies in OUT."""
    from bids_msseg.bids.record import read_records

    asked = set(config.query.participant_label)
    records = read_records(config.output_dir)
    people = {record.participant for record in records}
    _write_pages(config.output_dir, sorted(people & asked if asked else people))
    if not people:
        raise UsageError(
            f"{config.output_dir} holds no processed visits",
            cure="run the participant level without --reports-only first",
        )
    return ExitCode.SUCCESS


def _write_pages(out_dir: Path, participants: Sequence[str]) -> None:
    from bids_msseg.reports.participant import write_participant_page

    for participant in participants:
        page = write_participant_page(out_dir, participant)
        LOGGER.info("report: %s", page)


def _process(config: RunConfig, selection: Selection, header: ModelHeader) -> ExitCode:
    """Run every visit that is not finished, report on all."""
    from bids_msseg.bids.dataset import write_dataset_files
    from bids_msseg.workflow.resume import is_finished

    write_dataset_files(
        config.output_dir,
        config.bids_dir,
        options=config.analysis_fingerprint_options(),
        derivatives=config.query.derivatives,
    )
    _write_citation(config, header)
    _note_skipped(config.output_dir, selection)
    if config.execution.clean_workdir:
        shutil.rmtree(config.work_dir / "bids_msseg", ignore_errors=True)
    deliveries = [_delivery(config, visit, header) for visit in selection.visits]
    spaces = _spaces(config)
    finished = [
        d
        for d in deliveries
        if is_finished(config.output_dir, d.visit, d.fingerprint, spaces=spaces)
    ]
    todo = [d for d in deliveries if d not in finished]
    if finished:
        LOGGER.info("%d of %d visits are finished already", len(finished), len(deliveries))
    outcomes, rows = _run_all(config, todo, header)
    rows = [_row(d, "ok (before)", None) for d in finished] + rows
    people = sorted(
        {d.visit.participant for d in deliveries} | {one.participant for one in selection.skipped}
    )
    _write_pages(config.output_dir, people)
    Progress(len(rows)).close(rows)
    return _verdict(outcomes)


def _note_skipped(out_dir: Path, selection: Selection) -> None:
    """Leave a record of every visit that cannot be processed, so that the group table has it."""
    from bids_msseg.bids.record import VisitRecord, write_record

    for one in selection.skipped:
        write_record(
            out_dir,
            VisitRecord(
                one.participant, one.session, "", "skipped", reason=one.reason, cure=one.cure
            ),
        )


def _run_all(
    config: RunConfig, todo: Sequence[Delivery], header: ModelHeader
) -> tuple[list[Outcome], list[VisitOutcome]]:
    """Run the visits with a progress bar."""
    from bids_msseg.cascade.weights import find_model
    from bids_msseg.workflow.participant import Settings
    from bids_msseg.workflow.run import run_visits

    resources = _resources(config)
    settings = Settings(
        model_file=find_model(config.processing.model),
        skull_stripped=config.processing.skull_stripped,
        fast=config.processing.fast,
        seed=config.processing.random_seed,
        device=config.performance.device,
        threads=resources.omp_nthreads,
        spaces=_spaces(config),
    )
    outcomes: list[Outcome] = []
    rows: list[VisitOutcome] = []
    if not todo:
        return outcomes, rows
    LOGGER.info("processing %d visits with model %s", len(todo), header.name)
    with Progress(len(todo), steps_per_visit=STEPS_PER_VISIT) as progress:
        for outcome in run_visits(
            todo, settings, _execution(config, resources), on_step=progress.step
        ):
            outcomes.append(outcome)
            rows.append(_finish(config, outcome))
            progress.finish(outcome.delivery.visit.key, rows[-1].status, outcome.seconds)
    return outcomes, rows


def _resources(config: RunConfig) -> Resources:
    asked = config.performance
    return resolve_resources(
        nprocs=asked.nprocs, omp_nthreads=asked.omp_nthreads, mem_gb=asked.mem_gb
    )


def _execution(config: RunConfig, resources: Resources) -> Execution:
    """Choose nipype's plugin: one asked for, else as many processes as threads leave room for."""
    from bids_msseg.workflow.run import Execution

    base = Execution(
        work_dir=config.work_dir,
        out_dir=config.output_dir,
        stop_on_first_crash=config.execution.stop_on_first_crash,
        resource_monitor=config.execution.resource_monitor,
        clean=config.execution.clean_workdir,
    )
    if config.performance.use_plugin is not None:
        name, arguments = _read_plugin(config.performance.use_plugin)
        return replace(base, plugin=name, plugin_args=arguments, chunk=10_000)
    if resources.nprocs // resources.omp_nthreads < 2:
        return base
    arguments = {
        "n_procs": resources.nprocs,
        "memory_gb": resources.mem_gb,
        "raise_insufficient": False,
        "maxtasksperchild": 20,
    }
    return replace(base, plugin="MultiProc", plugin_args=arguments, chunk=8 * resources.nprocs)


def _read_plugin(path: Path) -> tuple[str, dict[str, Any]]:
    """Read nipype's plugin file: ``plugin: NAME`` and ``plugin_args: {...}``."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        name, arguments = content["plugin"], content.get("plugin_args") or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        name, arguments = None, {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UsageError(
            f"{path} does not describe a nipype plugin",
            cure="write YAML such as: 'plugin: SLURM' and 'plugin_args: {sbatch_args: --mem=8G}'",
        )
    return name, arguments


def _finish(config: RunConfig, outcome: Outcome) -> VisitOutcome:
    """Leave a record of a failed visit; the workflow itself has left that of a finished one."""
    from bids_msseg.bids.record import VisitRecord, write_record

    delivery = outcome.delivery
    if outcome.ok:
        return _row(delivery, "ok", outcome.seconds)
    visit = delivery.visit
    crashes = tuple(path.relative_to(config.output_dir).as_posix() for path in outcome.crash_files)
    LOGGER.error("%s failed: %s\n  cure: %s", visit.key, outcome.message, outcome.cure)
    for crash in crashes:
        LOGGER.error("%s: crash file %s", visit.key, crash)
    write_record(
        config.output_dir,
        VisitRecord(
            visit.participant,
            visit.session,
            visit.prefix,
            "failed",
            reason=outcome.message,
            cure=outcome.cure,
            crash_files=crashes,
            model=delivery.model,
            options=delivery.options,
            notes=visit.notes,
            versions=delivery.versions,
        ),
    )
    return VisitOutcome(visit.key, "failed", seconds=outcome.seconds)


def _row(delivery: Delivery, status: str, seconds: float | None) -> VisitOutcome:
    from bids_msseg.bids.record import read_record

    visit = delivery.visit
    record = read_record(delivery.out_dir, visit.participant, visit.session)
    if record is None:
        return VisitOutcome(visit.key, status, seconds=seconds)
    return VisitOutcome(visit.key, status, record.lesion_count, record.lesion_load_ml, seconds)


def _verdict(outcomes: Sequence[Outcome]) -> ExitCode:
    """Turn failures into one code: theirs where they agree, the general one where they do not."""
    codes = {outcome.code for outcome in outcomes if not outcome.ok}
    if not codes:
        return ExitCode.SUCCESS
    return ExitCode(codes.pop()) if len(codes) == 1 else ExitCode.FAILURE
