"""Several processes that train one network together, started by ``torchrun``.

Each process of a group (``torch.distributed``; gloo on CPUs, nccl on GPUs) takes its share of the
batches of a step, and gradients are averaged in one message. No DistributedDataParallel: with
networks of some megabytes there is nothing to hide behind the backward pass, and a network that is
not wrapped keeps the names of its weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from bids_msseg.errors import TemporaryError, UsageError

T = TypeVar("T")
LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WORK_TIMEOUT = timedelta(days=1)
"""How long the others wait while rank zero works alone, as on a cohort of many visits."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a group.

    Attributes
    ----------
    rank, size : int
        Its number from 0, and how many processes there are.
    device : str
        ``cpu``, or its own GPU, ``cuda:N``.
    """

    rank: int
    size: int
    device: str


@contextmanager
def join(device: str = "cpu", *, timeout_s: float = 1800.0) -> Iterator[Member]:
    """Join the process group that ``torchrun`` has started, and leave it at the end.

    Without ``torchrun`` the process is alone and nothing is joined.

    Parameters
    ----------
    device : str, default "cpu"
        ``cpu``, ``cuda``, ``auto`` or, alone only, ``cuda:N``. On GPUs every process takes the
        one of its local rank.
    timeout_s : float
        How long to wait for an answer of the others, s. A process that died is noticed at once;
        this is for one that hangs, or a machine that is gone.

    Yields
    ------
    Member

    Raises
    ------
    UsageError
        If there is no GPU for every process.
    TemporaryError
        If the others do not come.
    """
    if not _is_launched():
        yield Member(0, 1, device)
        return
    own = _own_device(device)
    try:
        distributed.init_process_group(
            "nccl" if own.startswith("cuda") else "gloo", timeout=timedelta(seconds=timeout_s)
        )
    except (RuntimeError, ValueError) as error:
        raise _others_gone(error) from error
    try:
        yield Member(distributed.get_rank(), distributed.get_world_size(), own)
    finally:
        distributed.destroy_process_group()


def _is_launched() -> bool:
    """Say whether ``torchrun`` has started more than one process."""
    return all(os.environ.get(name) for name in LAUNCHED) and int(os.environ["WORLD_SIZE"]) > 1


def _own_device(device: str) -> str:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device != "cuda":
        raise UsageError(
            f"several processes cannot share --device {device}",
            hint="give cuda: every process then takes the GPU of its local rank",
        )
    local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= there:
        raise UsageError(
            f"process {local} of this machine finds {there} GPUs",
            hint="start as many processes a machine as it has GPUs (--nproc-per-node), or use cpu",
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _others_gone(error: Exception) -> TemporaryError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return TemporaryError(
        f"another process of the group has stopped or does not answer: {reason[0]}",
        hint="see the logs of the other processes; the same command resumes from the checkpoint",
    )


def rank_and_size() -> tuple[int, int]:
    """Return (rank, size) of the processes that train one network together; (0, 1) when alone.

    Examples
    --------
    >>> rank_and_size()
    (0, 1)
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def rank_zero_first(job: Callable[[], T]) -> T:
    """Let rank zero do something while the others wait; all return what it returned.

    Parameters
    ----------
    job : callable
        What it returns is pickled.

    Returns
    -------
    object
        What ``job`` returned on rank zero.

    Raises
    ------
    TemporaryError
        On the others, if ``job`` failed; rank zero raises its own error.

    Examples
    --------
    >>> rank_zero_first(lambda: 7)
    7
    """
    rank, size = rank_and_size()
    if size == 1:
        return job()
    with _others_answer():
        # a group of its own, because the timeout of the usual one is short
        group = distributed.new_group(backend="gloo", timeout=WORK_TIMEOUT)
    try:
        return _lead(job, group) if rank == 0 else _follow(group)
    finally:
        distributed.destroy_process_group(group)


def _lead(job: Callable[[], T], group: Any) -> T:
    sent: list[Any] = [False, None]
    try:
        result = job()
        sent = [True, result]
    finally:
        with _others_answer():
            distributed.broadcast_object_list(sent, src=0, group=group)
    return result


def _follow(group: Any) -> Any:
    sent: list[Any] = [False, None]
    with _others_answer():
        distributed.broadcast_object_list(sent, src=0, group=group)
    if not sent[0]:
        raise _others_gone(RuntimeError("rank zero failed"))
    return sent[1]


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over the processes, in one message; alone, do nothing.

    Parameters
    ----------
    tensors : sequence of Tensor
        Same shapes, floating dtype and device on every process.

    Raises
    ------
    TemporaryError
        If another process has stopped; the tensors are then what they were.
    """
    size = rank_and_size()[1]
    if size == 1:
        return
    message = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _others_answer():
        distributed.all_reduce(message)
    message /= size
    pieces = message.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


@contextmanager
def _others_answer() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _others_gone(error) from error
