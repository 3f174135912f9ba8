"""Scheduling of interdependent tasks over several processes."""

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


class Task(Protocol):
    """A named piece of work that depends on other tasks."""

    @property
    def name(self) -> str:
        """Unique name of the task."""

    @property
    def trains(self) -> bool:
        """Whether the task trains a network, which the processes of a group do together."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the tasks that must be finished first."""


TaskT = TypeVar("TaskT", bound=Task)


def run_in_order(
    tasks: Sequence[TaskT],
    work: Callable[[TaskT], str],  # pickled; returns the name of its task
    *,
    jobs: int,
    threads: int,
    on_done: Callable[[str], None] | None = None,
) -> None:
    """Run tasks in ``jobs`` processes, each after those that it needs; a group runs one by one."""
    if rank_and_size()[1] > 1:
        _run_together(tasks, work, on_done)
        return
    by_name = {task.name: task for task in tasks}
    done: set[str] = set()
    running: dict[Future[str], str] = {}
    context = multiprocessing.get_context("spawn")
    with (
        _quiet_allocator(),
        ProcessPoolExecutor(
            jobs, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
        ) as pool,
        terminate_workers_on_error(pool),
    ):
        while len(done) < len(by_name):
            for name in _ready(by_name, done, set(running.values())):
                if len(running) < jobs:
                    running[pool.submit(work, by_name[name])] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                future.result()
                done.add(name)
                if on_done:
                    on_done(name)


@contextmanager
def terminate_workers_on_error(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Terminate, after an error, workers started in the context, instead of waiting for them."""
    existing = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            if child not in existing:
                child.terminate()
        raise


def _run_together(
    tasks: Sequence[TaskT], work: Callable[[TaskT], str], on_done: Callable[[str], None] | None
) -> None:
    """Train with all processes of a group; run tasks without training on rank zero only."""
    for task in tasks:
        if task.trains:
            work(task)
        else:
            rank_zero_first(partial(work, task))
        if on_done:
            on_done(task.name)


def _ready(tasks: Mapping[str, Task], done: set[str], running: set[str]) -> list[str]:
    return [
        name
        for name, task in tasks.items()
        if name not in done and name not in running and set(task.needs) <= done
    ]


@contextmanager
def _quiet_allocator() -> Iterator[None]:
    """Let worker processes keep freed memory: returning it costs a sixth of a training step."""
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "99999999999"}
    added = [name for name in settings if name not in os.environ]
    os.environ.update({name: settings[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
