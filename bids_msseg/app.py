"""What one call of the BIDS App does: ``run(config)`` in, exit code out."""

from __future__ import annotations

import getpass
import importlib.metadata
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.config import DEFAULT_SPACES, OutputSpace, RunConfig
from bids_msseg.errors import CannotCreateError, ExitCode, NoInputError, NothingSelectedError
from bids_msseg.progress import FLAGGED, OK, Progress, VisitOutcome
from bids_msseg.resources import Resources, resolve_resources
from bids_msseg.template_home import FOLDER, prepare_template_home

if TYPE_CHECKING:
    from bids_msseg.bids.order import VisitOrder
    from bids_msseg.bids.record import VisitRecord
    from bids_msseg.bids.visit import Selection, Skipped, Visit
    from bids_msseg.models.weights import ModelHeader
    from bids_msseg.nodes.outputs import Delivery
    from bids_msseg.workflow.claims import Claims
    from bids_msseg.workflow.participant import Settings
    from bids_msseg.workflow.run import Execution, Outcome

LOGGER = logging.getLogger("bids_msseg")
STEPS_PER_VISIT = 20
VISITS_OF_A_PLUGIN = 10_000
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
    for note in config.notes:
        LOGGER.info("%s", note)
    code = ExitCode.SUCCESS
    if "participant" in config.levels:
        code = _participant(config)
    if "group" in config.levels and not config.execution.dry_run:
        code = _group(config) or code
    return code


def _group(config: RunConfig) -> ExitCode:
    """Gather what the participant level left into one table."""
    from bids_msseg.bids.paths import logs_dir
    from bids_msseg.bids.record import read_records
    from bids_msseg.reports.group import write_group
    from bids_msseg.workflow.claims import Claims, note_running

    if "participant" not in config.levels or config.execution.reports_only:
        _check_group(config)
    out, qc = config.output_dir, config.execution.qc
    with Claims([logs_dir(out)]) as claims:
        records = note_running(out, read_records(out), claims)
    files = write_group(out, bids_dir=config.bids_dir, qc_dir=qc, records=records)
    for note in files.notes:
        LOGGER.warning(note)
    LOGGER.info("group table: %s", files.tsv)
    return ExitCode.SUCCESS


def _check_group(config: RunConfig) -> None:
    """Look where the participant level would have looked; it did not run."""
    from bids_msseg.bids.dataset import check_directories

    for warning in check_directories(
        config.bids_dir, config.output_dir, config.work_dir, create=False
    ):
        LOGGER.warning(warning)
    query = config.query
    if query.participant_label or query.session_label or query.exclude_participant_label:
        LOGGER.warning(
            "the group level covers every visit in %s; labels of participants and sessions "
            "choose nothing there",
            config.output_dir,
        )


def _participant(config: RunConfig) -> ExitCode:
    """Process visits, or say what would be done."""
    from bids_msseg.bids.dataset import check_directories

    execution = config.execution
    if execution.reports_only:
        return _reports_only(config)
    # what comes next imports much: on a busy machine that is a while without a word
    LOGGER.info("bids_msseg %s: looking for visits in %s", __version__, config.bids_dir)
    for warning in check_directories(
        config.bids_dir, config.output_dir, config.work_dir, create=not execution.dry_run
    ):
        LOGGER.warning(warning)
    for note in _resources(config).notes:
        LOGGER.warning("%s", note)
    with _own_surroundings(config.work_dir, dry=execution.dry_run):
        header = _model_header(config)
        if execution.boilerplate_only:
            return _boilerplate_only(config, header)
        _check_device(config.performance.device)
        plugin = _plugin(config)
        selection = _select(config)
        if execution.dry_run:
            return _dry_run(config, selection, header)
        return _process(config, selection, header, plugin)


@contextmanager
def _own_surroundings(work_dir: Path, *, dry: bool) -> Iterator[None]:
    """Keep libraries from writing to a home that may not be there, or calling their makers."""
    wanted = {"NO_ET": "1", "NIPYPE_NO_ET": "1", "TEMPLATEFLOW_AUTOUPDATE": "0"}
    # a look at the GPU must not keep forked workers from using it
    wanted["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    # what Apple's GPUs cannot do is left to the CPU
    wanted["PYTORCH_ENABLE_MPS_FALLBACK"] = "1"
    # nipype names a scheduler's jobs by it; cron and containers may not set it
    wanted["LOGNAME"] = _user()
    templates = None if dry else prepare_template_home(work_dir, os.environ)
    if templates is not None:
        wanted["TEMPLATEFLOW_HOME"] = str(templates)
    wanted = {name: value for name, value in wanted.items() if name not in os.environ}
    scratch = None if dry else _scratch(work_dir)
    if scratch is not None:
        wanted |= dict.fromkeys(("NIPYPE_CONFIG_DIR", "MPLCONFIGDIR", "TMPDIR"), scratch)
    before = {name: os.environ.get(name) for name in wanted}, tempfile.tempdir
    os.environ.update(wanted)
    tempfile.tempdir = scratch or before[1]
    try:
        yield
    finally:
        tempfile.tempdir = before[1]
        for name, value in before[0].items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def _user() -> str:
    """Name who runs this; a container may have a number for them and no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _scratch(work_dir: Path) -> str:
    """Make a folder for temporary files; those of runs that were killed go."""
    from bids_msseg.io.atomic import make_scratch, remove_leftovers

    remove_leftovers(work_dir)
    return str(make_scratch(work_dir))


def _check_device(device: str) -> None:
    """Refuse a GPU that is not there before anything is computed."""
    if device not in ("auto", "cpu"):
        from bids_msseg.models.engine import choose_engine

        choose_engine(device)


def _model_header(config: RunConfig) -> ModelHeader:
    from bids_msseg.models.weights import find_model, read_header

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
        ignore=query.ignore,
        skip_validation=query.skip_bids_validation,
    )
    selection = _without_excluded(selection, config)
    for note in selection.notes:
        LOGGER.warning(note)
    for visit in selection.visits:
        for note in visit.notes:
            LOGGER.info("%s: %s", visit.key, note)
    for skipped in selection.skipped:
        LOGGER.warning("%s skipped: %s", skipped.key, skipped.reason)
    return selection


def _orders(config: RunConfig, selection: Selection) -> dict[str, VisitOrder]:
    """Put the selected visits of each participant with several of them in order."""
    from bids_msseg.bids.order import order_sessions

    flairs: dict[str, dict[str, str]] = {}
    for visit in selection.visits:
        if visit.session is not None:
            flairs.setdefault(visit.participant, {})[visit.session] = visit.flair.name
    asked = config.query.session_order
    return {
        participant: order_sessions(config.bids_dir, participant, sessions, asked=asked)
        for participant, sessions in flairs.items()
        if len(sessions) > 1
    }


def _without_excluded(selection: Selection, config: RunConfig) -> Selection:
    """Leave out the participants that the user does not want."""
    from bids_msseg.bids.index import list_participants

    excluded = set(config.query.exclude_participant_label)
    if not excluded:
        return selection
    visits = [one for one in selection.visits if one.participant not in excluded]
    skipped = [one for one in selection.skipped if one.participant not in excluded]
    if not visits and selection.visits:
        raise NothingSelectedError(
            "--exclude-participant-label leaves no visit to be processed",
            hint="name fewer participants there",
        )
    # one that is there and was not selected is no mistake
    unknown = excluded - set(list_participants(config.bids_dir))
    notes = (
        f"--exclude-participant-label {label}: there is no such participant to leave out"
        for label in sorted(unknown)
    )
    return replace(
        selection,
        visits=tuple(visits),
        skipped=tuple(skipped),
        notes=(*selection.notes, *notes),
    )


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
    options = _options(config, header)
    versions = _versions()
    return Delivery(
        visit=visit,
        out_dir=config.output_dir,
        bids_dir=config.bids_dir,
        derivatives=config.query.derivatives,
        model=ModelUse(header.name, header.version, header.sha256),
        gate=header.point.candidate_threshold,
        threshold=threshold,
        min_lesion_volume=chosen.min_lesion_volume,
        options={key: _scalar(value) for key, value in options.items()},
        fingerprint=fingerprint(visit, options, _model_digest(config, header), __version__),
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


def _model_digest(config: RunConfig, header: ModelHeader) -> str:
    """Digest the weights, and what stands beside them where there is anything."""
    return header.sha256 + _calibration_digest(config, header.sha256)


def _calibration_digest(config: RunConfig, sha256: str) -> str:
    from bids_msseg.calibration import read_calibration
    from bids_msseg.models.weights import find_model

    return read_calibration(find_model(config.processing.model), sha256).digest


def _options(config: RunConfig, header: ModelHeader) -> dict[str, Any]:
    """Name what shapes results; the model by its name, as where it lies says something else."""
    return {**config.analysis_fingerprint_options(), "model": header.name}


def _scalar(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in NAMED_PACKAGES[1:]}
    return {NAMED_PACKAGES[0]: __version__, **found, "Python": platform.python_version()}


def _dry_run(config: RunConfig, selection: Selection, header: ModelHeader) -> ExitCode:
    """Print per visit what would be used, what would be skipped, and why."""
    from bids_msseg.reports.text import listed

    _check_spaces_without_trace(config)
    lines = [f"model {header.name} {header.version}, sha256 {header.sha256[:12]}"]
    for visit in selection.visits:
        done = _is_finished(config, _delivery(config, visit, header))
        fails = f", and would fail: {visit.problem}" if visit.problem and not done else ""
        lines.append(f"{visit.key}: {'finished already' if done else 'would be processed'}{fails}")
        for contrast in ("FLAIR", "T1w", "T2w"):
            path = visit.contrasts.get(contrast)
            where = "none" if path is None else _public(str(path), config)
            lines.append(f"  {contrast}: {where}")
        lines += [f"  note: {note}" for note in visit.notes]
        stale = [path.name for path in _stale_outputs(config, visit)]
        if stale:
            lines.append(f"  results of images that are no longer used: {listed(stale)}")
    for one in selection.skipped:
        hint = f" (hint: {one.hint})" if one.hint else ""
        lines.append(f"{one.key}: would be skipped: {one.reason}{hint}")
    orders = _orders(config, selection).items()
    lines += [order.describe(participant) for participant, order in orders]
    print("\n".join(lines))
    return ExitCode.SUCCESS


def _is_finished(config: RunConfig, delivery: Delivery) -> bool:
    from bids_msseg.workflow.resume import is_finished

    wanted = delivery.fingerprint
    return is_finished(config.output_dir, delivery.visit, wanted, spaces=_spaces(config))


def _boilerplate_only(config: RunConfig, header: ModelHeader) -> ExitCode:
    """Write the methods text and its references to ``OUT/logs/CITATION.md``."""
    from bids_msseg.bids.dataset import write_dataset_files

    write_dataset_files(config.output_dir, config.bids_dir, derivatives=config.query.derivatives)
    print(_write_citation(config, header).read_text(encoding="utf-8"))
    return ExitCode.SUCCESS


def _write_citation(config: RunConfig, header: ModelHeader) -> Path:
    from bids_msseg.bids.paths import logs_dir
    from bids_msseg.io.atomic import write_atomic
    from bids_msseg.reports.methods import REFERENCES, methods_paragraph

    asked = config.processing.threshold
    threshold = header.point.threshold if asked is None else asked
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
    content = f"# Methods\n\n{text}\n\n# References\n\n{listed}\n"
    if not target.is_file() or target.read_text(encoding="utf-8") != content:
        write_atomic(target, content)
    return target


def _reports_only(config: RunConfig) -> ExitCode:
    """Write all pages again from what lies in OUT."""
    from bids_msseg.bids.record import read_records

    there = {record.participant for record in read_records(config.output_dir)}
    asked = set(config.query.participant_label)
    excluded = set(config.query.exclude_participant_label)
    people = sorted((there & asked if asked else there) - excluded)
    if not there:
        raise NoInputError(
            f"{config.output_dir} holds no processed visits",
            hint="run the participant level without --reports-only first",
        )
    if not people:
        raise NothingSelectedError(
            f"{config.output_dir} holds nothing of {' '.join(sorted(asked)) or 'anybody else'}",
            hint=f"it holds {' '.join(sorted(there)[:20])}",
        )
    _write_pages(config.output_dir, people)
    return ExitCode.SUCCESS


def _write_pages(out_dir: Path, participants: Sequence[str]) -> None:
    """Write pages; of runs that share a participant, the one that comes last sees all visits."""
    from bids_msseg.bids.paths import logs_dir
    from bids_msseg.bids.record import read_records
    from bids_msseg.reports.participant import write_participant_page
    from bids_msseg.workflow.claims import Claims, note_running

    logs_dir(out_dir).mkdir(parents=True, exist_ok=True)
    with Claims([logs_dir(out_dir)]) as claims:
        for participant in participants:
            claims.take(f"page of {participant}", wait=True)
            records = note_running(out_dir, read_records(out_dir, participant), claims)
            page = write_participant_page(out_dir, participant, records=records)
            claims.drop(f"page of {participant}")
            LOGGER.info("report: %s", page)


def _process(
    config: RunConfig,
    selection: Selection,
    header: ModelHeader,
    plugin: tuple[str, dict[str, Any]] | None,
) -> ExitCode:
    """Run every visit that is not finished, report on all."""
    from bids_msseg.bids.dataset import write_dataset_files

    _check_record_places(config, selection)
    write_dataset_files(
        config.output_dir,
        config.bids_dir,
        options=_options(config, header),
        derivatives=config.query.derivatives,
    )
    _write_citation(config, header)
    _note_skipped(config, selection)
    deliveries = [_delivery(config, visit, header) for visit in selection.visits]
    todo = [one for one in deliveries if not _is_finished(config, one)]
    if len(todo) < len(deliveries):
        done = len(deliveries) - len(todo)
        LOGGER.info("%d of %d visits are finished already", done, len(deliveries))
    with _claims(config) as claims:
        mine = [one for one in todo if claims.take(one.visit.key)]
        _remove_leftovers(config.output_dir, mine)
        outcomes = _run_all(config, mine, header, plugin)
        if config.execution.resource_monitor and outcomes:
            _write_usage(config.output_dir, outcomes, claims)
        claimed = {one.visit.key for one in mine}
        outcomes += _left_to_others(one for one in todo if one.visit.key not in claimed)
        _handle_stale(config, deliveries, claims)
    compared = _compare(config, selection, plugin)
    _write_pages(config.output_dir, _with_new_page(config.output_dir, selection, mine))
    _close(config, deliveries, outcomes, selection.skipped)
    busy = ExitCode.TEMPORARY if len(mine) < len(todo) else ExitCode.SUCCESS
    return _verdict(outcomes) or busy or compared


def _check_record_places(config: RunConfig, selection: Selection) -> None:
    """Find a folder where a visit's record goes before the visit is computed."""
    from bids_msseg.bids.paths import record_path

    for visit in selection.visits:
        path = record_path(config.output_dir, visit.participant, visit.session)
        if path.is_dir() and not path.is_symlink():
            raise _no_place(path, "it is a folder")


def _store(config: RunConfig, record: VisitRecord) -> None:
    """Write a record, or say which place is taken; a full disk is told by whoever ends the run."""
    from bids_msseg.bids.paths import record_path
    from bids_msseg.bids.record import write_record

    try:
        write_record(config.output_dir, record)
    except (IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError) as error:
        path = record_path(config.output_dir, record.participant, record.session)
        raise _no_place(path, f"{error.strerror}") from error


def _no_place(path: Path, why: str) -> CannotCreateError:
    return CannotCreateError(
        f"the record {path} cannot be written: {why}",
        hint="move what is in its place, or let this user write there, and rerun",
    )


def _claims(config: RunConfig) -> Claims:
    """Meet other runs where results go, and where intermediate files are."""
    from bids_msseg.bids.paths import logs_dir
    from bids_msseg.workflow.claims import Claims

    folders = (logs_dir(config.output_dir), config.work_dir)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return Claims(folders)


def _left_to_others(deliveries: Iterable[Delivery]) -> Iterator[Outcome]:
    """Tell of visits that another run has begun and not ended."""
    from bids_msseg.workflow.run import Outcome

    for delivery in deliveries:
        LOGGER.warning(
            "%s is left alone: another run is at work on it\n"
            "  hint: wait for that one; the same command then has nothing left to do",
            delivery.visit.key,
        )
        yield Outcome(delivery, ok=False, seconds=0.0, stopped=True)


def _remove_leftovers(out_dir: Path, deliveries: Sequence[Delivery]) -> None:
    """Remove what killed runs were writing, where this one writes."""
    from bids_msseg.bids.paths import figure_path, logs_dir, output_path, records_dir
    from bids_msseg.io.atomic import remove_leftovers

    folders = [out_dir, logs_dir(out_dir), records_dir(out_dir)]
    for one in deliveries:
        image = output_path(out_dir, one.visit, desc="brain", suffix="mask", extension=".nii.gz")
        folders += [image.parent, figure_path(out_dir, one.visit, "x", extension=".png").parent]
    for folder in dict.fromkeys(folders):
        for name in remove_leftovers(folder):
            LOGGER.debug("removed %s, which a killed run has left", folder / name)


def _handle_stale(config: RunConfig, deliveries: Sequence[Delivery], claims: Claims) -> None:
    """Name results of images that a visit no longer uses; remove them where asked."""
    from bids_msseg.reports.text import listed

    for one in deliveries:
        stale, key = _stale_outputs(config, one.visit), one.visit.key
        if not stale:
            continue
        names = listed([path.name for path in stale])
        if not config.execution.clean_outputs:
            LOGGER.warning(
                "%s: results of images that it no longer uses lie beside its own: %s\n"
                "  hint: --clean-outputs removes them",
                key,
                names,
            )
        elif _has_result(config, one) and claims.take(key):
            _remove(stale)
            LOGGER.info("%s: removed results of images that it no longer uses: %s", key, names)
        else:
            LOGGER.warning("%s: not removed before the visit is finished: %s", key, names)


def _stale_outputs(config: RunConfig, visit: Visit) -> tuple[Path, ...]:
    """List what lies in OUT of images that a visit no longer uses."""
    from bids_msseg.bids.paths import stale_outputs
    from bids_msseg.bids.record import read_record
    from bids_msseg.workflow.resume import as_used

    record = read_record(config.output_dir, visit.participant, visit.session)
    used = visit if record is None else as_used(visit, record)
    return stale_outputs(config.output_dir, used)


def _has_result(config: RunConfig, delivery: Delivery) -> bool:
    """Whether a visit has the results that this run writes, by its present images and name."""
    from bids_msseg.bids.record import read_record

    visit = delivery.visit
    record = read_record(config.output_dir, visit.participant, visit.session)
    wanted = ("ok", visit.prefix, delivery.fingerprint)
    return record is not None and (record.status, record.prefix, record.fingerprint) == wanted


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotCreateError(
                f"{path} cannot be removed: {error.strerror}",
                hint="remove it yourself, or run without --clean-outputs",
            ) from error


def _compare(
    config: RunConfig, selection: Selection, plugin: tuple[str, dict[str, Any]] | None
) -> ExitCode:
    """Compare the finished visits of every participant of this run, also with earlier runs'.

    A participant of whom another run has a visit is left to that run.
    """
    visits: dict[str, list[str]] = {}
    for visit in selection.visits:
        visits.setdefault(visit.participant, []).append(visit.key)
    with _claims(config) as claims:
        mine = [name for name in sorted(visits) if _claim_all(claims, name, visits[name])]
        return _compare_claimed(config, mine, plugin)


def _claim_all(claims: Claims, participant: str, visits: Sequence[str]) -> bool:
    """Claim a participant's visits, one run after the other: the last one sees them all."""
    claims.take(f"changes of {participant}", wait=True)
    taken: list[str] = []
    for visit in visits:
        if not claims.take(visit):
            for one in (*taken, f"changes of {participant}"):
                claims.drop(one)
            return False
        taken.append(visit)
    return True


def _compare_claimed(
    config: RunConfig, participants: Sequence[str], plugin: tuple[str, dict[str, Any]] | None
) -> ExitCode:
    from bids_msseg.workflow.changes import compare_participants

    resources = _resources(config)
    code = ExitCode.SUCCESS
    for outcome in compare_participants(
        participants,
        _execution(config, resources, plugin),
        seed=config.processing.random_seed,
        threads=resources.omp_nthreads,
        versions=_versions(),
        bids_dir=config.bids_dir,
        session_order=config.query.session_order,
    ):
        who = f"sub-{outcome.participant}"
        if outcome.failure is None:
            LOGGER.info("%s: pairs of visits compared: %d", who, outcome.pairs)
            continue
        told = outcome.failure
        LOGGER.error(
            "%s: its visits were not compared: %s\n  hint: %s", who, told.message, told.hint
        )
        code = code or ExitCode(told.code)
    return code


def _note_skipped(config: RunConfig, selection: Selection) -> None:
    """Leave a record of every visit that cannot be processed, so that the group table has it.

    A result that is there already stays, and a label that is not in the dataset leaves nothing.
    """
    from bids_msseg.bids.record import VisitRecord, read_record

    for one in selection.skipped:
        folder = config.bids_dir / f"sub-{one.participant}"
        if not (folder / f"ses-{one.session}" if one.session else folder).is_dir():
            continue
        reason, hint = _public(one.reason, config), _public(one.hint, config)
        record = VisitRecord(one.participant, one.session, "", "skipped", reason=reason, hint=hint)
        before = read_record(config.output_dir, one.participant, one.session)
        if before is None or (before.status != "ok" and before != record):
            _store(config, record)


def _with_new_page(
    out_dir: Path, selection: Selection, processed: Sequence[Delivery]
) -> list[str]:
    """List the participants whose page is to be written: processed now, or page too old.

    A clock that was set back makes an old page look new, so times alone would not do.
    """
    from bids_msseg.bids.paths import record_path

    visits = (one.visit for one in processed)
    # a run that stops at the first crash has left no record of those it did not reach
    now = {
        visit.participant
        for visit in visits
        if record_path(out_dir, visit.participant, visit.session).is_file()
    }
    old = set(_with_old_page(out_dir, selection))
    everyone: list[Visit | Skipped] = [*selection.visits, *selection.skipped]
    return [
        name for name in dict.fromkeys(one.participant for one in everyone) if name in now | old
    ]


def _with_old_page(out_dir: Path, selection: Selection) -> list[str]:
    """List the participants of this run whose page is missing or older than a record."""
    from bids_msseg.bids.paths import record_path, report_path

    newest: dict[str, int] = {}
    everyone: list[Visit | Skipped] = [*selection.visits, *selection.skipped]
    for one in everyone:
        record = record_path(out_dir, one.participant, one.session)
        if record.is_file():
            changed = record.stat().st_mtime_ns
            newest[one.participant] = max(changed, newest.get(one.participant, 0))
    pages = {name: report_path(out_dir, name) for name in newest}
    return [
        name
        for name, page in pages.items()
        if not page.is_file() or page.stat().st_mtime_ns < newest[name]
    ]


def _run_all(
    config: RunConfig,
    todo: Sequence[Delivery],
    header: ModelHeader,
    plugin: tuple[str, dict[str, Any]] | None,
) -> list[Outcome]:
    """Run the visits with a progress bar."""
    from bids_msseg.reports.text import counted
    from bids_msseg.workflow.run import run_visits

    if not todo:
        return []
    _check_needs(config)
    resources = _resources(config)
    settings = _settings(config, resources)
    execution = _execution(config, resources, plugin)
    if config.execution.clean_workdir:
        _clean(execution, todo)
    LOGGER.info("processing %s with model %s", counted(len(todo), "visit"), header.name)
    outcomes: list[Outcome] = []
    with Progress(len(todo), steps_per_visit=STEPS_PER_VISIT) as progress:
        for outcome in run_visits(todo, settings, execution, on_step=progress.step):
            outcomes.append(outcome)
            _finish(config, outcome)
            visit = outcome.delivery.visit
            progress.finish(visit.key, _status(config, outcome), outcome.seconds)
    return outcomes


def _check_needs(config: RunConfig) -> None:
    """Find out before the first visit, and not at its end, that nets or templates are unusable."""
    from bids_msseg.cascade.checkpoint import check_cascade
    from bids_msseg.models.weights import find_model

    check_cascade(find_model(config.processing.model))
    _check_spaces(config)


def _check_spaces(
    config: RunConfig, *, home: Path | None = None, filled: Path | None = None
) -> None:
    """Load the templates of all output spaces, but not those that a filled folder has.

    They come from TemplateFlow's home where no other one is given.
    """
    from bids_msseg.imaging.template import load_template

    for space in config.processing.output_spaces:
        if not (space.is_native or (filled is not None and _is_in(filled, space))):
            load_template(space.name, resolution=space.resolution or 1, home=home)


def _check_spaces_without_trace(config: RunConfig) -> None:
    """Check them for a dry run: the work folder is only read, what is fetched is thrown away."""
    if set(config.processing.output_spaces) <= set(DEFAULT_SPACES):
        return
    with tempfile.TemporaryDirectory() as folder:
        home = prepare_template_home(Path(folder), os.environ)
        filled = None if home is None else config.work_dir / FOLDER
        _check_spaces(config, home=home, filled=filled)


def _is_in(folder: Path, space: OutputSpace) -> bool:
    """Whether a folder holds a template; TemplateFlow writes to it only if it is empty."""
    from bids_msseg.imaging.template import load_template

    if not folder.is_dir():
        return False
    try:
        load_template(space.name, resolution=space.resolution or 1, home=folder, online=False)
    except NoInputError:
        return False
    return True


def _settings(config: RunConfig, resources: Resources) -> Settings:
    from bids_msseg.models.weights import find_model
    from bids_msseg.workflow.participant import Settings

    return Settings(
        model_file=find_model(config.processing.model),
        skull_stripped=config.processing.skull_stripped,
        fast=config.processing.fast,
        seed=config.processing.random_seed,
        device=config.performance.device,
        threads=resources.omp_nthreads,
        spaces=_spaces(config),
        measure=config.execution.resource_monitor,
        calibration=_calibration_digest(config, _model_header(config).sha256),
    )


def _clean(execution: Execution, todo: Sequence[Delivery]) -> None:
    """Remove what earlier runs left of these visits; other jobs may be at work on others."""
    from bids_msseg.workflow.run import visit_folder

    for delivery in todo:
        shutil.rmtree(visit_folder(execution, delivery), ignore_errors=True)


def _write_usage(out_dir: Path, outcomes: Sequence[Outcome], claims: Claims) -> None:
    """Add what every step took to ``OUT/logs/resources.tsv``, and tell the peak."""
    from bids_msseg.bids.paths import logs_dir
    from bids_msseg.workflow.usage import add_usage

    usage = [used for outcome in outcomes for used in outcome.usage]
    if not usage:
        LOGGER.warning("the resource monitor saw nothing: this nipype plugin does not tell")
        return
    target = logs_dir(out_dir) / "resources.tsv"
    add_usage(target, usage, claims)
    peak = max(usage, key=lambda used: used.memory_gb)
    LOGGER.info(
        "peak memory %.2f GB in %s of %s; all steps: %s",
        *(peak.memory_gb, peak.step, peak.visit),
        target,
    )


def _resources(config: RunConfig) -> Resources:
    asked = config.performance
    return resolve_resources(
        nprocs=asked.nprocs, omp_nthreads=asked.omp_nthreads, mem_gb=asked.mem_gb
    )


def _execution(
    config: RunConfig, resources: Resources, plugin: tuple[str, dict[str, Any]] | None
) -> Execution:
    """Choose nipype's plugin: one asked for, else as many processes as threads leave room for."""
    from bids_msseg.workflow.run import Execution

    base = Execution(
        work_dir=config.work_dir,
        out_dir=config.output_dir,
        stop_on_first_crash=config.execution.stop_on_first_crash,
        clean=config.execution.clean_workdir,
    )
    if plugin is not None:
        name, arguments = plugin
        if name == "MultiProc":
            arguments = {"raise_insufficient": False, **arguments}
        return replace(base, plugin=name, plugin_args=arguments, chunk=VISITS_OF_A_PLUGIN)
    if resources.nprocs // resources.omp_nthreads < 2:
        return base
    arguments = {
        "n_procs": resources.nprocs,
        "memory_gb": resources.mem_gb,
        "raise_insufficient": False,
    }
    return replace(base, plugin="MultiProc", plugin_args=arguments, chunk=8 * resources.nprocs)


def _plugin(config: RunConfig) -> tuple[str, dict[str, Any]] | None:
    path = config.performance.use_plugin
    if path is None:
        return None
    from bids_msseg.workflow.plugins import read_plugin

    return read_plugin(path)


def _finish(config: RunConfig, outcome: Outcome) -> None:
    """Leave a record of a failed visit; the workflow itself has left that of a finished one."""
    from bids_msseg.bids.record import VisitRecord

    delivery, visit = outcome.delivery, outcome.delivery.visit
    if outcome.ok or outcome.stopped:
        return
    LOGGER.error("%s failed: %s\n  hint: %s", visit.key, outcome.message, outcome.hint)
    _store(
        config,
        VisitRecord(
            visit.participant,
            visit.session,
            visit.prefix,
            "failed",
            reason=_public(outcome.message, config),
            hint=_public(outcome.hint, config),
            crash_files=_crashes(config, outcome),
            model=delivery.model,
            options=delivery.options,
            notes=visit.notes,
            versions=delivery.versions,
        ),
    )


def _crashes(config: RunConfig, outcome: Outcome) -> tuple[str, ...]:
    """Name the crash files below OUT."""
    paths = (path.relative_to(config.output_dir) for path in outcome.crash_files)
    return tuple(path.as_posix() for path in paths)


def _public(text: str, config: RunConfig) -> str:
    """Leave out where on this machine datasets lie: what stands in OUT travels."""
    from bids_msseg.reports.text import without_folders

    roots = (config.bids_dir, config.output_dir, *config.query.derivatives.values())
    for root in sorted({str(root.absolute()) for root in roots}, key=len, reverse=True):
        text = text.replace(f"{root}/", "")
    return without_folders(text)


def _status(config: RunConfig, outcome: Outcome) -> str:
    from bids_msseg.bids.record import read_record

    if not outcome.ok:
        return "not run" if outcome.stopped else "failed"
    visit = outcome.delivery.visit
    return _finished_status(read_record(config.output_dir, visit.participant, visit.session))


def _finished_status(record: VisitRecord | None) -> str:
    """Say whether a finished visit is one that a person should look at first."""
    if record is None:
        return OK
    flagged = record.flags or record.quality == "flagged" or record.changes.get("failed")
    return FLAGGED if flagged else OK


def _close(
    config: RunConfig,
    deliveries: Sequence[Delivery],
    outcomes: Sequence[Outcome],
    skipped: Sequence[Skipped],
) -> None:
    """End with a table of all visits and, for those that failed, where to look."""
    seen = {outcome.delivery.visit.key: outcome for outcome in outcomes}
    stopped = config.execution.stop_on_first_crash and _verdict(outcomes) != ExitCode.SUCCESS
    rows = [_row(config, one, seen.get(one.visit.key), stopped=stopped) for one in deliveries]
    rows += [VisitOutcome(one.key, "skipped") for one in skipped]
    Progress(len(rows)).close(rows)
    for key, outcome in seen.items():
        if not outcome.ok and not outcome.stopped:
            files = ", ".join(str(path) for path in outcome.crash_files) or "none"
            LOGGER.error("%s failed, crash file: %s", key, files)


def _row(
    config: RunConfig, delivery: Delivery, outcome: Outcome | None, *, stopped: bool
) -> VisitOutcome:
    """Fill a row of the table; a visit without outcome was finished before or was not reached."""
    from bids_msseg.bids.record import read_record

    visit = delivery.visit
    if outcome is None and stopped and not _is_finished(config, delivery):
        return VisitOutcome(visit.key, "not run")
    if outcome is not None and not outcome.ok:
        return VisitOutcome(visit.key, _status(config, outcome), seconds=outcome.seconds)
    record = read_record(config.output_dir, visit.participant, visit.session)
    seconds = None if outcome is None else outcome.seconds
    status = _finished_status(record)
    if record is None:
        return VisitOutcome(visit.key, status, seconds=seconds)
    return VisitOutcome(visit.key, status, record.lesion_count, record.lesion_load_ml, seconds)


def _verdict(outcomes: Sequence[Outcome]) -> ExitCode:
    """Turn failures into one code: theirs where they agree, the general one where they do not."""
    codes = {outcome.code for outcome in outcomes if not (outcome.ok or outcome.stopped)}
    if not codes:
        return ExitCode.SUCCESS
    return ExitCode(codes.pop()) if len(codes) == 1 else ExitCode.FAILURE
