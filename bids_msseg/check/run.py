"""Run of a whole check: selection and check of visits, expected time, tables and page."""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Final

from bids_msseg import __version__
from bids_msseg.app.environment import find_resources, run_environment
from bids_msseg.app.outcome import public_text
from bids_msseg.app.selection import read_model_header, select_visits
from bids_msseg.bids.dataset import check_directories, write_dataset_files, write_ignore
from bids_msseg.bids.paths import logs_dir
from bids_msseg.bids.record import VisitRecord, read_records
from bids_msseg.bids.visit import Visit
from bids_msseg.check.files import PROGRAM, read_all, read_reference, write_results
from bids_msseg.check.jobs import Job, Plan, do_visit, is_finished
from bids_msseg.check.page import write_page
from bids_msseg.check.visit import Cut
from bids_msseg.config import RunConfig
from bids_msseg.errors import ExitCode, MssegError, TemporaryError, convert_os_error
from bids_msseg.models.weights import ModelHeader, find_model
from bids_msseg.reports.text import counted, duration
from bids_msseg.resources import Resources
from bids_msseg.trainer.schedule import terminate_workers_on_error
from bids_msseg.workflow.locks import VisitLocks
from bids_msseg.workflow.resume import fingerprint

LOGGER = logging.getLogger("bids_msseg")
MEMORY_GB: Final = 4.0
"""Memory that one visit may need."""
PREPARING: Final = (
    "conform", "brain", "coregister", "bias", "template", "check_brain", "anatomy", "stack",
    "quality",
)  # fmt: skip
"""Starts of the names of the app's steps that a check does, too."""


def check_dataset(config: RunConfig, plan: Plan) -> ExitCode:
    """Measure how reliable lesion masks are on the visits of a dataset; return the exit code."""
    on_cpu = _check_needs(config)
    resources = find_resources(config)
    for note in resources.notes:
        LOGGER.warning("%s", note)
    with run_environment(config.work_dir, dry=False):
        visits = select_visits(config).visits
        chosen = choose_visits(visits, plan.max_visits)
        if len(chosen) < len(visits):
            LOGGER.info("%d of %d visits are checked: see --max-visits", len(chosen), len(visits))
        _prepare_out(config)
        header = read_model_header(config)
        workers, threads = _divide_cpus(resources, on_cpu=on_cpu)
        jobs = [_job(config, plan, header, visit, threads) for visit in chosen]
        todo = [job for job in jobs if not is_finished(job)]
        if len(todo) < len(jobs):
            LOGGER.info("%d of %d visits are already checked", len(jobs) - len(todo), len(jobs))
        with VisitLocks([logs_dir(config.output_dir)]) as locks:
            locked = [job for job in todo if locks.acquire(f"check of {job.visit.key}")]
            errors = _run_all(locked, plan, max(1, min(workers, len(locked))))
    _write(config, jobs, errors)
    codes = {error.code for error in errors.values()}
    if codes:
        return codes.pop() if len(codes) == 1 else ExitCode.FAILURE
    return ExitCode.TEMPORARY if len(locked) < len(todo) else ExitCode.SUCCESS


def _check_needs(config: RunConfig) -> bool:
    """Check model, device and folders first; return whether networks run on the CPU."""
    from bids_msseg.models.checkpoint import check_cascade
    from bids_msseg.models.engine import choose_engine

    engine = choose_engine(config.performance.device)
    check_cascade(find_model(config.processing.model))
    for warning in check_directories(config.bids_dir, config.output_dir, config.work_dir):
        LOGGER.warning(warning)
    return engine.device == "cpu"


def choose_visits(visits: Sequence[Visit], max_visits: int) -> tuple[Visit, ...]:
    """Choose at most ``max_visits`` visits of as many participants as possible, in their order."""
    first: dict[str, int] = {}
    for place, visit in enumerate(visits):
        first.setdefault(visit.participant, place)
    places = list(first.values())
    repeats = sorted(set(range(len(visits))) - set(places))
    chosen = _spread(places, max_visits)
    chosen += _spread(repeats, max_visits - len(chosen))
    return tuple(visits[place] for place in sorted(chosen))


def _spread(places: Sequence[int], count: int) -> list[int]:
    if len(places) <= count:
        return list(places)
    step = (len(places) - 1) / max(count - 1, 1)
    return [places[round(step * number)] for number in range(count)]


def _prepare_out(config: RunConfig) -> None:
    """Create a derivative dataset in OUT, or update ``.bidsignore`` of an existing one."""
    out = config.output_dir
    with _writing(out):
        logs_dir(out).mkdir(parents=True, exist_ok=True)
        if (out / "dataset_description.json").is_file():
            write_ignore(out / ".bidsignore")
        else:
            write_dataset_files(out, config.bids_dir, derivatives=config.query.derivatives)


def _writing(out: Path) -> AbstractContextManager[None]:
    hint = "make the folder writable, or free disk space"
    return convert_os_error(f"cannot write into {out}", hint=hint)


def _job(config: RunConfig, plan: Plan, header: ModelHeader, visit: Visit, threads: int) -> Job:
    options = config.processing
    threshold = header.point.threshold if options.threshold is None else options.threshold
    settings = {
        "draws": plan.draws,
        "seed": options.random_seed,
        "model": f"{header.name} {header.version}",
        "model_sha256": header.sha256,
        "threshold": threshold,
        "min_lesion_volume": options.min_lesion_volume,
        "version": __version__,
    }
    return Job(
        visit=visit,
        out_dir=config.output_dir,
        model=find_model(options.model),
        device=config.performance.device,
        threads=threads,
        cut=Cut(threshold, options.min_lesion_volume),
        draws=plan.draws,
        seed=options.random_seed,
        fingerprint=fingerprint(visit, settings, header.sha256, PROGRAM).results,
        settings=settings,
    )


def _divide_cpus(resources: Resources, *, on_cpu: bool) -> tuple[int, int]:
    """Return how many visits to check at a time, one on a GPU, and the threads of each.

    Threads add in an order of their own, which changes where lesions are painted. So their number
    does not depend on the visits that are left, and a resumed check has the same result.
    """
    by_memory = int(resources.mem_gb // MEMORY_GB)
    workers = max(1, min(by_memory, resources.nprocs)) if on_cpu else 1
    return workers, max(1, min(resources.omp_nthreads, resources.nprocs // workers))


def expected_seconds(records: Sequence[VisitRecord], runs: int) -> float | None:
    """Return the median seconds of finished visits for ``runs`` network runs; None if unknown."""
    estimates = [
        sum(value for step, value in times.items() if step.startswith(PREPARING))
        + runs * times["segment"]
        for times in (record.timings_s for record in records if record.status == "ok")
        if "segment" in times
    ]
    return float(median(estimates)) if estimates else None


def _announce(jobs: Sequence[Job], plan: Plan, workers: int) -> None:
    each = expected_seconds(read_records(jobs[0].out_dir), plan.runs)
    if each is None:
        about = "expected time not known before the first visit: OUTPUT_DIR has no visit of msseg"
    else:
        rounds = -(-len(jobs) // workers)
        about = f"expected time {duration(each * rounds)}, estimated from visits in OUTPUT_DIR"
    LOGGER.info(
        "checking %s, %d runs of the networks each, %d at a time: %s",
        *(counted(len(jobs), "visit"), plan.runs, workers, about),
    )


def _run_all(jobs: Sequence[Job], plan: Plan, workers: int) -> dict[str, MssegError]:
    """Check visits, and return the errors of those that failed, by key."""
    errors: dict[str, MssegError] = {}
    if not jobs:
        return errors
    _announce(jobs, plan, workers)
    start = time.monotonic()
    for number, (job, error) in enumerate(_each(jobs, workers), start=1):
        key = job.visit.key
        if error is not None:
            LOGGER.error("%s: %s", key, error)
            errors[key] = error
        left = (time.monotonic() - start) / number * (len(jobs) - number)
        word = "checked" if error is None else "failed"
        LOGGER.info("[%d/%d] %s %s, %s left", number, len(jobs), key, word, duration(left))
    return errors


def _each(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, MssegError | None]]:
    if workers == 1:
        for job in jobs:
            yield job, do_visit(job)
        return
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(workers, mp_context=context) as pool,
        terminate_workers_on_error(pool),
    ):
        waiting = {pool.submit(do_visit, job): job for job in jobs}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool as error:
            raise TemporaryError(
                "a worker was killed, most likely for lack of memory",
                hint="use a smaller --nprocs; results of checked visits are kept",
            ) from error


def _write(config: RunConfig, jobs: Sequence[Job], errors: Mapping[str, MssegError]) -> None:
    """Write tables and page of every visit that was checked with these settings."""
    settings, out = jobs[0].settings, config.output_dir
    # an earlier result of a visit that failed in this run is out of date
    stored_checks = [stored for stored in read_all(out) if stored.visit.key not in errors]
    visits = [stored.visit for stored in stored_checks if stored.settings == settings]
    n_excluded = len(stored_checks) - len(visits)
    if n_excluded:
        LOGGER.warning("left out: %s checked with other settings", counted(n_excluded, "visit"))
    if not visits:
        return
    failed = [job.visit for job in jobs if job.visit.key in errors]
    failures = [(visit, public_text(errors[visit.key].message, config)) for visit in failed]
    reference = read_reference()
    with _writing(out):
        content = write_results(out, visits, failures, settings, reference)
    LOGGER.info("wrote %s", write_page(out, content, visits, reference))
