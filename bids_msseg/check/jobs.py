"""Check of one visit as a job that can run in any process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bids_msseg.bids.given_masks import find_brain_mask
from bids_msseg.bids.paths import check_record_path
from bids_msseg.bids.visit import Visit
from bids_msseg.check.files import Stored, read_stored, write_stored
from bids_msseg.check.summary import VisitCheck
from bids_msseg.check.visit import (
    Cut,
    FirstScan,
    Prepared,
    Segmenter,
    first_scan,
    paint_and_find,
    prepare,
    scan_again,
)
from bids_msseg.errors import MssegError
from bids_msseg.pipeline.brain import brain_device


@dataclass(frozen=True, slots=True)
class Plan:
    """Options of a check beyond the run configuration."""

    draws: int  # sets of painted lesions, and pseudo-rescans, per visit
    max_visits: int

    @property
    def runs(self) -> int:
        """Number of network runs per visit."""
        return 1 + 2 * self.draws


@dataclass(frozen=True, slots=True)
class Job:
    """Input of the check of one visit, with a digest of everything that determines the result."""

    visit: Visit
    out_dir: Path
    model: Path
    device: str
    threads: int
    cut: Cut
    draws: int
    seed: int
    fingerprint: str
    settings: Mapping[str, Any]


def is_finished(job: Job) -> bool:
    """Return whether a result with the same fingerprint is stored."""
    visit = job.visit
    stored = read_stored(check_record_path(job.out_dir, visit.participant, visit.session))
    return stored is not None and stored.fingerprint == job.fingerprint


def do_visit(job: Job) -> MssegError | None:
    """Check one visit and store the result; return the error if it cannot be checked."""
    try:
        stored = Stored(_measure(job), job.fingerprint, job.settings)
    except MssegError as error:
        return error
    write_stored(job.out_dir, stored)
    return None


def measure_visit(
    visit: Visit, prepared: Prepared, run: Segmenter, cut: Cut, *, draws: int, seed: int
) -> tuple[VisitCheck, FirstScan]:
    """Segment a visit as it is, with painted lesions and in pseudo-rescans (may be DataError)."""
    start = time.monotonic()
    first = first_scan(prepared, run, cut)
    lesions, sets = paint_and_find(first, run, cut, draws=draws, seed=seed)
    rescans = scan_again(first, run, cut, rescans=draws, seed=seed)
    check = VisitCheck(
        visit.participant,
        visit.session,
        tuple(lesions),
        tuple(sets),
        tuple(rescans),
        first.load_ml,
        tuple(first.canvas.contrast.tolist()),
        prepared.noise,
        prepared.flags,
        time.monotonic() - start,
    )
    return check, first


def _measure(job: Job) -> VisitCheck:
    import torch

    from bids_msseg.pipeline.segment import segment_stack

    torch.set_num_threads(job.threads)
    start, visit = time.monotonic(), job.visit
    run = partial(segment_stack, model=job.model, device=job.device)
    prepared = prepare(
        visit.key,
        visit.contrasts,
        given_brain=visit.brain_mask or _written_mask(job),
        device=brain_device(job.device),
        threads=job.threads,
    )
    check, _ = measure_visit(visit, prepared, run, job.cut, draws=job.draws, seed=job.seed)
    return replace(check, seconds=round(time.monotonic() - start, 1))


def _written_mask(job: Job) -> Path | None:
    """Find the brain mask that msseg has written for the same FLAIR."""
    visit = job.visit
    derivatives = {"bids_msseg": job.out_dir}
    return find_brain_mask(visit.flair, visit.participant, visit.session, derivatives).mask
