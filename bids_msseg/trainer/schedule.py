"""Scheduling of interdependent pieces of work over several processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch

from bids_msseg.trainer.process_group import rank_and_size, rank_zero_first


class Needing(Protocol):
    """A named piece of work that depends on other pieces."""

    @property
    def name(self) -> str:
        """Unique name of the piece."""

    @property
    def trains(self) -> bool:
        """Whether the piece trains a network, which the processes of a group do together."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the pieces that must be finished first."""


Piece = TypeVar("Piece", bound=Needing)


def run_in_order(
    planned: Sequence[Piece],
    work: Callable[[Piece], str],
    *,
    jobs: int,
    threads: int,
    on_done: Callable[[str], None] | None = None,
) -> None:
    """Run pieces of work in several processes, each after the pieces that it needs.

    ``planned`` has unique names and includes all pieces that are needed. ``work`` is pickled and
    returns the name of its piece. ``threads`` is per process. The processes of a group
    (:mod:`bids_msseg.trainer.process_group`) instead do the pieces together, one by one.
    """
    if rank_and_size()[1] > 1:
        _run_together(planned, work, on_done)
        return
    pieces = {piece.name: piece for piece in planned}
    done: set[str] = set()
    running: dict[Future[str], str] = {}
    context = multiprocessing.get_context("spawn")
    with (
        _quiet_allocator(),
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool,
        workers_end_with(pool),
    ):
        while len(done) < len(pieces):
            for name in _ready(pieces, done, set(running.values())):
                if len(running) < jobs:
                    running[pool.submit(work, pieces[name])] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                future.result()
                done.add(name)
                if on_done:
                    on_done(name)


@contextmanager
def workers_end_with(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Terminate the workers of a pool if the context ends with an error.

    Otherwise the pool would wait for all submitted work. Its processes must be started within the
    context.
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
    """Train with all processes of a group; run pieces without training on rank zero only."""
    for piece in planned:
        if piece.trains:
            work(piece)
        else:
            rank_zero_first(partial(work, piece))
        if on_done:
            on_done(piece.name)


def _ready(pieces: Mapping[str, Needing], done: set[str], running: set[str]) -> list[str]:
    return [
        name
        for name, piece in pieces.items()
        if name not in done and name not in running and set(piece.needs) <= done
    ]


@contextmanager
def _quiet_allocator() -> Iterator[None]:
    """Let worker processes keep freed memory, because returning it slows training.

    Returning it to the system would cost a sixth of a training step.
    """
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "99999999999"}
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
