"""Training loop of a network; interruptions and loader processes do not change the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from bids_msseg.errors import TemporaryError, UsageError
from bids_msseg.models.engine import Engine
from bids_msseg.trainer.batches import batches
from bids_msseg.trainer.fit_state import FitState, read_checkpoint
from bids_msseg.trainer.plan import FitPlan, Report
from bids_msseg.trainer.process_group import rank_and_size, rank_zero_first
from bids_msseg.trainer.stopping import StopRequest, stopping

Net = TypeVar("Net", bound=nn.Module)
StepLoss = Callable[[Any, tuple[Tensor, ...], Engine], tuple[Tensor, Tensor]]
"""Takes a network, a batch and an engine; returns the loss and a Dice coefficient for the log."""
REPORT_STEPS = 25


def fit(
    net: Net,
    source: Dataset[Any],
    plan: FitPlan,
    engine: Engine,
    checkpoint: Path,
    *,
    step_loss: StepLoss,
    report: Callable[[Report], None] | None = None,
) -> Net:
    """Train a network or resume it; return it with the running mean of its weights.

    Raises TemporaryError if a process stopped, DataError if the checkpoint is unusable.
    """
    net = net.to(engine.device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    rank, size = rank_and_size()
    if plan.accumulate % size:
        raise UsageError(
            f"{size} processes cannot share {plan.accumulate} batches per step equally",
            hint="set accumulate in the recipe to a multiple of the number of processes",
        )
    state = FitState(net, plan)
    with stopping() as stop:
        state.restore(checkpoint)
        net.train()
        try:
            for line in _steps(state, net, source, engine, checkpoint, stop, step_loss):
                if report and rank == 0:
                    report(line)
            # the other processes must not look for the file before it exists
            rank_zero_first(lambda: state.save(checkpoint))
        except BaseException:
            # also where the last save was disturbed: a loader that dies raises an error anywhere
            state.rescue(checkpoint)
            raise
    if state.step < plan.steps:
        raise TemporaryError(
            f"the training was stopped at step {state.step} of {plan.steps}",
            hint="run the same command again to resume",
        )
    net.load_state_dict(state.average)
    return net.to("cpu").eval()


def _steps(
    state: FitState,
    net: nn.Module,
    source: Dataset[Any],
    engine: Engine,
    checkpoint: Path,
    stop: StopRequest,
    step_loss: StepLoss,
) -> Iterator[Report]:
    """Take the remaining steps, save regularly, and yield the lines of the log."""
    plan, (rank, size) = state.plan, rank_and_size()
    parts = plan.accumulate // size
    stream = batches(
        source,
        first=state.step,
        last=plan.steps,
        batch=plan.batch,
        workers=plan.workers,
        accumulate=plan.accumulate,
        group=(rank, size),
    )
    last_save = last_report = time.monotonic()
    for number, items in enumerate(stream, start=1):
        loss, dice = step_loss(net, tuple(items), engine)
        state.add(loss, dice, parts)
        if number % parts and not stop.requested:
            continue
        if not state.advance(stop=stop.requested):
            return
        if state.step % REPORT_STEPS == 0 or state.step == plan.steps:
            mean_loss, mean_dice, count = state.take_means()
            now = time.monotonic()
            yield Report(state.step, plan.steps, mean_loss, (now - last_report) / count, mean_dice)
            last_report = now
        if time.monotonic() - last_save > plan.checkpoint_s:
            state.save(checkpoint)
            last_save = time.monotonic()


def is_finished(checkpoint: Path, plan: FitPlan) -> bool:
    """Return whether a checkpoint holds all steps of a plan; DataError if it is damaged."""
    return checkpoint.is_file() and finished_steps(checkpoint) >= plan.steps


def finished_steps(checkpoint: Path) -> int:
    """Return the number of steps in a checkpoint, 0 without one; DataError if it is damaged."""
    if not checkpoint.is_file():
        return 0
    return int(read_checkpoint(checkpoint, mmap=True)["step"])
