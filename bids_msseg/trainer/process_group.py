"""Several processes that train one network together, started by ``torchrun``.

They share the batches of a step and average the gradients in one message. For networks of a few
megabytes, DistributedDataParallel saves no time, and its wrapper renames the weights.
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
LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WORK_TIMEOUT = timedelta(days=1)
"""How long the others wait while rank zero works alone, as on a cohort of many visits."""


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a group: rank from 0, group size, and device (``cpu`` or ``cuda:N``)."""

    rank: int
    size: int
    device: str


@contextmanager
def join(device: str = "cpu", *, timeout_s: float = 1800.0) -> Iterator[Member]:
    """Join the process group that ``torchrun`` started, if any, and leave it at the end.

    Raises UsageError if a process has no GPU, TemporaryError if the other processes do not join.
    """
    if not _is_launched():
        yield Member(0, 1, device)
        return
    local_device = _local_device(device)
    try:
        distributed.init_process_group(
            "nccl" if local_device.startswith("cuda") else "gloo",
            timeout=timedelta(seconds=timeout_s),
        )
    except (RuntimeError, ValueError) as error:
        raise _lost_process_error(error) from error
    try:
        yield Member(distributed.get_rank(), distributed.get_world_size(), local_device)
    finally:
        distributed.destroy_process_group()


def _is_launched() -> bool:
    """Return whether ``torchrun`` has started more than one process."""
    return (
        all(os.environ.get(name) for name in LAUNCH_VARIABLES)
        and int(os.environ["WORLD_SIZE"]) > 1
    )


def _local_device(device: str) -> str:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device != "cuda":
        raise UsageError(
            f"several processes cannot share --device {device}",
            hint="use cuda: every process then takes the GPU of its local rank",
        )
    local_rank, gpu_count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpu_count:
        raise UsageError(
            f"no GPU for process {local_rank} on this computer, which has {gpu_count} GPUs",
            hint="start one process per GPU of each computer (--nproc-per-node), or use cpu",
        )
    torch.cuda.set_device(local_rank)
    return f"cuda:{local_rank}"


def _lost_process_error(error: Exception) -> TemporaryError:
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return TemporaryError(
        f"another process of the group has stopped or does not respond: {reason[0]}",
        hint="check the logs of the other processes, and run the same command again to resume",
    )


def rank_and_size() -> tuple[int, int]:
    """Return (rank, size) of this process in its training group; (0, 1) when alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def rank_zero_first(job: Callable[[], T]) -> T:
    """Run a job on rank zero; the others get its pickled result, or TemporaryError if it fails."""
    rank, size = rank_and_size()
    if size == 1:
        return job()
    with _report_lost_process():
        # a group of its own, because the timeout of the usual one is short
        group = distributed.new_group(backend="gloo", timeout=WORK_TIMEOUT)
    try:
        return _run_and_send(job, group) if rank == 0 else _receive(group)
    finally:
        distributed.destroy_process_group(group)


def _run_and_send(job: Callable[[], T], group: Any) -> T:
    message: list[Any] = [False, None]
    try:
        result = job()
        message = [True, result]
    finally:
        with _report_lost_process():
            distributed.broadcast_object_list(message, src=0, group=group)
    return result


def _receive(group: Any) -> Any:
    message: list[Any] = [False, None]
    with _report_lost_process():
        distributed.broadcast_object_list(message, src=0, group=group)
    if not message[0]:
        raise _lost_process_error(RuntimeError("rank zero failed"))
    return message[1]


def average_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace tensors, of the same shapes on every process, by their mean over the processes."""
    size = rank_and_size()[1]
    if size == 1:
        return
    message = torch.cat([tensor.reshape(-1) for tensor in tensors])
    with _report_lost_process():
        distributed.all_reduce(message)
    message /= size
    pieces = message.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


@contextmanager
def _report_lost_process() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _lost_process_error(error) from error
