"""Which stage waits for which, and running them in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import torch

from bids_msseg.cascade.folds import FoldSet, Split
from bids_msseg.cascade.stages import (
    Workshop,
    candidate_stage,
    find_out_of_fold,
    refinement_stage,
    train_candidate,
    train_refinement,
)
from bids_msseg.cascade.training import Report


@dataclass(frozen=True, slots=True)
class Stage:
    """One piece of work.

    Attributes
    ----------
    name : str
    kind : {"candidate", "oof", "refinement"}
    folds : tuple of int
        Folds that the candidate net sees.
    fold : int or None
        Fold to look for candidates in, or the outer test fold of a refinement net.
    start : tuple of int or None
        Folds of the candidate net to go on from.
    needs : tuple of str
        Stages that have to be finished first.
    """

    name: str
    kind: str
    folds: FoldSet = ()
    fold: int | None = None
    start: FoldSet | None = None
    needs: tuple[str, ...] = ()


def plan_stages(split: Split) -> tuple[Stage, ...]:
    """List all stages of a nested training, in an order that may be worked through.

    Parameters
    ----------
    split : Split
        At least three folds.

    Returns
    -------
    tuple of Stage

    Examples
    --------
    >>> [stage.name for stage in plan_stages(Split((("a",), ("b",), ("c",))))][:4]
    ['candidate-0', 'candidate-1', 'candidate-2', 'candidate-01']
    """
    everything = split.everything
    inner = [split.without(*pair) for pair in reversed(list(combinations(everything, 2)))]
    stages = [Stage(candidate_stage(folds), "candidate", folds) for folds in inner]
    for test in reversed(everything):
        # every inner net is gone on with once
        folds, start = split.without(test), split.without(test, (test - 1) % len(everything))
        name, before = candidate_stage(folds), candidate_stage(start)
        stages.append(Stage(name, "candidate", folds, start=start, needs=(before,)))
    return (*stages, *_refinement_stages(split))


def _refinement_stages(split: Split) -> list[Stage]:
    """List the nets that ship or are tested, each after the candidates it learns from."""
    stages: list[Stage] = []
    for held in (None, *split.everything):
        pairs = split.sources(held)
        for fold, seen in pairs:
            name = f"oof-{candidate_stage(seen)}-on-{fold}"
            stages.append(Stage(name, "oof", seen, fold, needs=(candidate_stage(seen),)))
        needs = tuple(f"oof-{candidate_stage(seen)}-on-{fold}" for fold, seen in pairs)
        stages.append(Stage(refinement_stage(held), "refinement", fold=held, needs=needs))
    return stages


def run_stage(workshop: Workshop, stage: Stage) -> str:
    """Do one stage; a finished one returns at once."""
    log = _csv_log(workshop)
    if stage.kind == "candidate":
        train_candidate(workshop, stage.folds, start=stage.start, log=log)
    elif stage.kind == "oof" and stage.fold is not None:
        find_out_of_fold(workshop, stage.fold, stage.folds)
    else:
        train_refinement(workshop, stage.fold, log=log)
    return stage.name


def _csv_log(workshop: Workshop) -> Callable[[str, Report], None]:
    """Append one line a report to ``logs/<stage>.csv``."""
    folder = workshop.folder / "logs"
    folder.mkdir(parents=True, exist_ok=True)

    def log(stage: str, line: Report) -> None:
        path = folder / f"{stage}.csv"
        new = not path.exists()
        with path.open("a", encoding="utf-8") as stream:
            if new:
                stream.write("step,steps,loss,seconds_per_step\n")
            stream.write(f"{line.step},{line.steps},{line.loss:.5f},{line.seconds:.3f}\n")

    return log


def run_all(
    workshop: Workshop, *, jobs: int, threads: int, on_done: Callable[[str], None] | None = None
) -> None:
    """Run every stage, several at a time.

    Parameters
    ----------
    workshop : Workshop
    jobs : int
        Processes. On a CPU several single-threaded ones do more than one with several threads.
    threads : int
        Threads of each.
    on_done : callable, optional
        Called with the name of each finished stage.
    """
    stages = {stage.name: stage for stage in plan_stages(workshop.split)}
    done: set[str] = set()
    running: dict[Future[str], str] = {}
    context = multiprocessing.get_context("spawn")
    with (
        _quiet_allocator(),
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool,
    ):
        while len(done) < len(stages):
            for name in _ready(stages, done, set(running.values())):
                if len(running) < jobs:
                    running[pool.submit(run_stage, workshop, stages[name])] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                future.result()
                done.add(name)
                if on_done:
                    on_done(name)


def _ready(stages: Mapping[str, Stage], done: set[str], running: set[str]) -> list[str]:
    return [
        name
        for name, stage in stages.items()
        if name not in done and name not in running and set(stage.needs) <= done
    ]


@contextmanager
def _quiet_allocator() -> Iterator[None]:
    """Let worker processes keep freed memory: giving it back costs a sixth of a training step."""
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "99999999999"}
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
