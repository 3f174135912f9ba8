"""Which stage waits for which, and running them in several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Protocol, TypeVar

import torch

from bids_msseg.cascade.folds import FoldSet, Split
from bids_msseg.cascade.judging import judge_stage, train_judge
from bids_msseg.cascade.log_watch import log_line
from bids_msseg.cascade.stages import (
    MADE_STAGE,
    Recipe,
    Workshop,
    candidate_stage,
    find_out_of_fold,
    refinement_stage,
    train_candidate,
    train_made,
    train_refinement,
)
from bids_msseg.cascade.team import find_team, run_first

ALONE = ("look", "oof", "judge", "unseen", "held-out")
"""Kinds of work that a team leaves to its first process: no net is trained, or one in a minute."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a training is for.

    Attributes
    ----------
    outer : tuple of int
        Folds to test on; all where empty.
    ship : bool
        Train what ships, too.
    """

    outer: tuple[int, ...] = ()
    ship: bool = True

    def tests(self, split: Split) -> tuple[int, ...]:
        """Return the outer test folds of a split."""
        return self.outer or split.everything


@dataclass(frozen=True, slots=True)
class Stage:
    """One piece of work.

    Attributes
    ----------
    name : str
    kind : {"made", "candidate", "oof", "refinement", "judge"}
    folds : tuple of int
        Folds that the candidate net sees.
    fold : int or None
        Fold to look for candidates in, or the outer test fold of a refinement net or judge.
    inner : int or None
        The inner fold on which a refinement net serves to choose thresholds.
    start : tuple of int or None
        Folds of the candidate net to go on from.
    needs : tuple of str
        Stages that have to be finished first.
    """

    name: str
    kind: str
    folds: FoldSet = ()
    fold: int | None = None
    inner: int | None = None
    start: FoldSet | None = None
    needs: tuple[str, ...] = ()


class Needing(Protocol):
    """A piece of work with a name that waits for others."""

    @property
    def name(self) -> str:
        """Unique."""

    @property
    def kind(self) -> str:
        """What is to be done."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the pieces that have to be finished first."""


Piece = TypeVar("Piece", bound=Needing)


def plan_stages(
    split: Split, recipe: Recipe | None = None, goal: Goal | None = None
) -> tuple[Stage, ...]:
    """List all stages of a nested training, in an order that may be worked through.

    Parameters
    ----------
    split : Split
        At least three folds.
    recipe : Recipe, optional
        Says whether there is a net of made images, one of everybody, and inner nets.
    goal : Goal, optional
        Which outer folds to test on, and whether to ship; all, and yes, where not given.

    Returns
    -------
    tuple of Stage

    Examples
    --------
    >>> [stage.name for stage in plan_stages(Split((("a",), ("b",), ("c",))))][:4]
    ['candidate-0', 'candidate-1', 'candidate-2', 'candidate-01']
    """
    goal = goal or Goal()
    made = recipe is not None and recipe.made is not None
    everyone = recipe is not None and recipe.everyone is not None
    stages = [Stage(MADE_STAGE, "made")] if made else []
    known: set[FoldSet] = set()
    for folds, start in _candidate_nets(split, goal, everyone=everyone):
        if folds not in known:
            known.add(folds)
            before = (candidate_stage(start),) if start else (MADE_STAGE,) if made else ()
            if start is not None and recipe is not None and recipe.mix.hard:
                looks = _looks_within(folds)
                stages += [stage for stage in looks if stage not in stages]
                before = (*before, *(stage.name for stage in looks))
            name = candidate_stage(folds)
            stages.append(Stage(name, "candidate", folds, start=start, needs=before))
    inner = recipe is not None and recipe.inner is not None
    judged = recipe is not None and recipe.judge is not None
    whole = (*stages, *_refinement_stages(split, goal, inner=inner, judged=judged))
    return tuple({stage.name: stage for stage in whole}.values())


def _look(seen: FoldSet, fold: int) -> Stage:
    """Plan to run the net of some folds over another one."""
    name = f"oof-{candidate_stage(seen)}-on-{fold}"
    return Stage(name, "oof", seen, fold, needs=(candidate_stage(seen),))


def _looks_within(folds: FoldSet) -> list[Stage]:
    """Plan to look for hard negatives in each of some folds with the net of the others."""
    return [_look(tuple(f for f in folds if f != fold), fold) for fold in folds]


def _candidate_nets(
    split: Split, goal: Goal, *, everyone: bool
) -> list[tuple[FoldSet, FoldSet | None]]:
    """List the folds of each candidate net with those of the net that it goes on from."""
    tests = goal.tests(split)
    nets: list[tuple[FoldSet, FoldSet | None]] = []
    for test in reversed(tests):
        others = split.without(test)
        nets += [(split.without(test, fold), None) for fold in reversed(others)]
    smallest = sorted(set(nets), key=lambda net: net[0])
    pairs: list[tuple[FoldSet, FoldSet | None]] = []
    for test in reversed(tests):
        # every inner net is gone on with once
        beside = (test - 1) % len(split.folds)
        pairs.append((split.without(test), split.without(test, beside)))
    whole = [(split.everything, split.without(tests[0]))] if everyone and goal.ship else []
    return [*smallest, *pairs, *whole]


def _refinement_stages(split: Split, goal: Goal, *, inner: bool, judged: bool) -> list[Stage]:
    """List the nets that ship or are tested, each after the candidates it learns from."""
    kinds = [("refinement", refinement_stage), *([("judge", judge_stage)] if judged else [])]
    stages: dict[str, Stage] = {}
    held: tuple[int | None, ...] = (*((None,) if goal.ship else ()), *goal.tests(split))
    for test in held:
        pairs = split.sources(test)
        looks = [_look(seen, fold) for fold, seen in pairs]
        stages.update({look.name: look for look in looks})
        needs = tuple(look.name for look in looks)
        folds = [None, *(fold for fold, _ in pairs)] if inner and test is not None else [None]
        for second, (kind, name_of) in product(folds, kinds):
            name = name_of(test, second)
            stages[name] = Stage(name, kind, fold=test, inner=second, needs=needs)
    return list(stages.values())


def run_stage(workshop: Workshop, stage: Stage) -> str:
    """Do one stage; a finished one returns at once."""
    log = partial(log_line, workshop.folder / "logs")
    if stage.kind == "made":
        train_made(workshop, log=log)
    elif stage.kind == "candidate":
        train_candidate(workshop, stage.folds, start=stage.start, log=log)
    elif stage.kind == "oof" and stage.fold is not None:
        find_out_of_fold(workshop, stage.fold, stage.folds)
    elif stage.kind == "judge":
        train_judge(workshop, stage.fold, inner=stage.inner, log=log)
    else:
        train_refinement(workshop, stage.fold, inner=stage.inner, log=log)
    return stage.name


def run_all(
    workshop: Workshop,
    *,
    jobs: int,
    threads: int,
    goal: Goal | None = None,
    on_done: Callable[[str], None] | None = None,
) -> None:
    """Run every stage of a nested training, several at a time.

    Parameters
    ----------
    workshop : Workshop
    jobs : int
        Processes. On a CPU several single-threaded ones do more than one with several threads.
    threads : int
        Threads of each.
    goal : Goal, optional
        Which outer folds to test on, and whether to ship.
    on_done : callable, optional
        Called with the name of each finished stage.
    """
    stages = plan_stages(workshop.split, workshop.recipe, goal)
    work = partial(run_stage, workshop)
    run_in_order(stages, work, jobs=jobs, threads=threads, on_done=on_done)


def run_in_order(
    planned: Sequence[Piece],
    work: Callable[[Piece], str],
    *,
    jobs: int,
    threads: int,
    on_done: Callable[[str], None] | None = None,
) -> None:
    """Do pieces of work in several processes, each after those that it needs.

    Parameters
    ----------
    planned : sequence of Piece
        With unique names; what is needed is among them.
    work : callable
        Does one piece and returns its name; it is pickled.
    jobs, threads, on_done
        See :func:`run_all`. Processes that were started as a team, see
        :mod:`bids_msseg.cascade.team`, do every piece together, one after the other.
    """
    if find_team()[1] > 1:
        _run_together(planned, work, on_done)
        return
    stages = {stage.name: stage for stage in planned}
    done: set[str] = set()
    running: dict[Future[str], str] = {}
    context = multiprocessing.get_context("spawn")
    with (
        _quiet_allocator(),
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool,
        _workers_end_with(pool),
    ):
        while len(done) < len(stages):
            for name in _ready(stages, done, set(running.values())):
                if len(running) < jobs:
                    running[pool.submit(work, stages[name])] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                future.result()
                done.add(name)
                if on_done:
                    on_done(name)


@contextmanager
def _workers_end_with(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Tell the workers to save and end where a piece failed, or this process was told to stop.

    A pool that is left to itself waits until every net that is being trained is finished.
    """
    others = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise


def _run_together(
    planned: Sequence[Piece], work: Callable[[Piece], str], on_done: Callable[[str], None] | None
) -> None:
    for piece in planned:
        if piece.kind in ALONE:
            run_first(partial(work, piece))
        else:
            work(piece)
        if on_done:
            on_done(piece.name)


def _ready(stages: Mapping[str, Needing], done: set[str], running: set[str]) -> list[str]:
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
