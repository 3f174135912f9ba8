"""Training of either net: one loop that survives being stopped at any moment.

The result depends on the plan, the seed and the data, and neither on how often the training was
stopped, nor on the number of loader processes, nor (but for rounding) on the number of processes
that share the batches of a step; see :mod:`bids_msseg.cascade.team`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.cascade.fit_state import FitState, read_checkpoint
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.sampling import batches
from bids_msseg.cascade.stopping import StopRequest, stopping
from bids_msseg.cascade.team import find_team, run_first
from bids_msseg.errors import TemporaryError, UsageError
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.engine import Engine

Net = TypeVar("Net", bound=nn.Module)
StepLoss = Callable[[Any, tuple[Tensor, ...], Engine], tuple[Tensor, Tensor]]
"""Takes a net, a batch and an engine; returns the loss and a Dice coefficient for the log."""
REPORT_STEPS = 25


@dataclass(frozen=True, slots=True)
class FitPlan:
    """How long and how fast to train one net.

    Attributes
    ----------
    steps, batch : int
    accumulate : int
        Batches whose gradients are averaged in one step. Several processes that train one net
        share them out, so the result does not depend on how many there are.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls to zero as (1 - step / steps) ** 0.9 after a short warm-up.
    schedule : {"polynomial", "constant"}
        Whether the rate falls from the first step on, or is held until the last ``cooldown``
        steps, in which it falls to zero. A training at a constant rate may be prolonged.
    cooldown : int
        See ``schedule``.
    restart : int
        Step at which the rate, having fallen to zero, starts anew (a warm restart; Loshchilov and
        Hutter 2017, arXiv 1608.03983); 0 for never.
    ema : float
        Decay of the running mean of the weights that is kept.
    seed : int
    workers : int
        Processes that cut and augment sub-images.
    checkpoint_s : float
        Seconds between checkpoints.
    """

    steps: int
    batch: int = 2
    accumulate: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    schedule: str = "polynomial"
    cooldown: int = 0
    restart: int = 0
    ema: float = 0.99
    seed: int = 0
    workers: int = 1
    checkpoint_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Report:
    """One line of a training log.

    Attributes
    ----------
    step, steps : int
        Steps done, and to do in all.
    loss, dice : float
        Means since the last line; Dice is that of probabilities, see :func:`soft_dice`.
    seconds : float
        Wall time of a step, s.

    Examples
    --------
    >>> Report(step=25, steps=100, loss=0.9, seconds=2.0).seconds_left
    150.0
    """

    step: int
    steps: int
    loss: float
    seconds: float
    dice: float = math.nan

    @property
    def seconds_left(self) -> float:
        """Wall time that is left if the other steps take as long, s."""
        return (self.steps - self.step) * self.seconds


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Dice overlap of probabilities with a truth, over all voxels of a batch, smoothed by one.

    Examples
    --------
    >>> float(soft_dice(torch.tensor([1.0, 0.5, 0.5]), torch.tensor([1.0, 0.0, 0.0])))
    0.75
    """
    return (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)


def candidate_loss(logits: Tensor, targets: tuple[Tensor, ...]) -> Tensor:
    """Cross-entropy plus a Tversky loss that dislikes a miss more than a false alarm.

    Tversky (Salehi et al. 2017, arXiv 1706.05721) with 0.4 for false and 0.6 for missed voxels,
    taken over the whole batch, so that sub-images without lesion count too.
    """
    truth = targets[0]
    entropy = F.binary_cross_entropy_with_logits(logits, truth)
    seen = torch.sigmoid(logits)
    both = (seen * truth).sum()
    false, missed = (seen * (1 - truth)).sum(), ((1 - seen) * truth).sum()
    tversky = (both + 1.0) / (both + 0.4 * false + 0.6 * missed + 1.0)
    return 2.0 * entropy + 1.0 - tversky


def refinement_loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, ...]) -> Tensor:
    """Voxels inside the candidate, and the candidate as a whole.

    Cross-entropy and soft Dice over the candidate's own voxels, and a focal loss (Lin et al.
    2017, arXiv 1708.02002, gamma 2) on its being a lesion.
    """
    voxel_logits, lesion_logits = outputs
    truth, real, member = targets
    weight = member / member.sum().clamp_min(1.0)
    entropy = F.binary_cross_entropy_with_logits(voxel_logits, truth, reduction="none")
    dice = soft_dice(torch.sigmoid(voxel_logits) * member, truth * member)
    plain = F.binary_cross_entropy_with_logits(lesion_logits, real, reduction="none")
    focal = ((1 - torch.exp(-plain)) ** 2 * plain).mean()
    return (entropy * weight).sum() + 1.0 - dice + 4.0 * focal


def _candidate_step(
    net: CandidateNet, items: tuple[Tensor, ...], engine: Engine
) -> tuple[Tensor, Tensor]:
    images, truth = _bring(items, engine)
    with engine.autocast():
        logits = net(images.contiguous(memory_format=torch.channels_last_3d)).float()
    return candidate_loss(logits, (truth,)), soft_dice(torch.sigmoid(logits.detach()), truth)


def _refinement_step(
    net: RefinementNet, items: tuple[Tensor, ...], engine: Engine
) -> tuple[Tensor, Tensor]:
    images, truth, real = _bring(items, engine)
    member = images[:, -1:]
    with engine.autocast():
        voxels, lesion = net(images.contiguous(memory_format=torch.channels_last_3d))
    voxels = voxels.float()
    dice = soft_dice(torch.sigmoid(voxels.detach()) * member, truth * member)
    return refinement_loss((voxels, lesion.float()), (truth, real, member)), dice


def _bring(items: tuple[Tensor, ...], engine: Engine) -> tuple[Tensor, ...]:
    """Bring a batch to the device; to a GPU while it still computes."""
    if engine.device == "cpu":
        return items
    return tuple(item.pin_memory().to(engine.device, non_blocking=True) for item in items)


def fit(
    net: Net,
    source: Dataset[Any],
    plan: FitPlan,
    engine: Engine,
    checkpoint: Path,
    *,
    report: Callable[[Report], None] | None = None,
    step_loss: StepLoss | None = None,
) -> Net:
    """Train a net, or go on from its checkpoint; return the running mean of its weights.

    Parameters
    ----------
    net : Module
        With the weights to start from.
    source : Dataset
        Item ``i`` is the ``i``-th sub-image; see :mod:`bids_msseg.cascade.sampling`.
    plan : FitPlan
    engine : Engine
    checkpoint : path
        Written every few minutes, at the end, and when the training is stopped by SIGTERM,
        SIGINT or an error; a finished one is loaded and nothing trained.
    report : callable, optional
        Called every 25 steps; in a team by the first process only.
    step_loss : callable, optional
        Loss of a batch; that of the kind of net where not given.

    Returns
    -------
    Module
        In evaluation mode, on the CPU.

    Raises
    ------
    DataError
        If the checkpoint is damaged, or of another net.
    UsageError
        If the processes of a team cannot share the batches of a step.
    TemporaryError
        If another process of the team stopped.
    """
    net = net.to(engine.device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    rank, size = find_team()
    if plan.accumulate % size:
        raise UsageError(
            f"{size} processes cannot share {plan.accumulate} batches a step",
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
            # nobody may look for the file before it is there
            run_first(lambda: state.save(checkpoint))
        except BaseException:
            # also where the last save was disturbed: a loader that dies raises an error anywhere
            state.rescue(checkpoint)
            raise
    if state.step < plan.steps:
        raise TemporaryError(
            f"the training was stopped at step {state.step} of {plan.steps}",
            hint="the same command goes on from there",
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
    step_loss: StepLoss | None,
) -> Iterator[Report]:
    """Take the steps that are left, save now and then, and yield the lines of the log."""
    plan, (rank, size) = state.plan, find_team()
    parts = plan.accumulate // size
    if step_loss is None:
        step_loss = cast(
            StepLoss, _candidate_step if isinstance(net, CandidateNet) else _refinement_step
        )
    stream = batches(
        source,
        first=state.step,
        last=plan.steps,
        batch=plan.batch,
        workers=plan.workers,
        accumulate=plan.accumulate,
        team=(rank, size),
    )
    saved = begun = time.monotonic()
    for number, items in enumerate(stream, start=1):
        loss, dice = step_loss(net, tuple(items), engine)
        state.add(loss, dice, parts)
        if number % parts and not stop.asked:
            continue
        if not state.advance(stop=stop.asked):
            return
        if state.step % REPORT_STEPS == 0 or state.step == plan.steps:
            mean_loss, mean_dice, count = state.take_means()
            now = time.monotonic()
            yield Report(state.step, plan.steps, mean_loss, (now - begun) / count, mean_dice)
            begun = now
        if time.monotonic() - saved > plan.checkpoint_s:
            state.save(checkpoint)
            saved = time.monotonic()


def is_finished(checkpoint: Path, plan: FitPlan) -> bool:
    """Say whether a checkpoint holds all steps of a plan.

    Raises
    ------
    DataError
        If it is damaged.
    """
    if not checkpoint.is_file():
        return False
    return int(read_checkpoint(checkpoint, mmap=True)["step"]) >= plan.steps


def choose_gate(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[np.bool_]],
    *,
    recall: float = 0.97,
    grid: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
) -> float:
    """Choose the highest gate that still reaches nearly all lesions that CNN-1 reaches at all.

    Parameters
    ----------
    probabilities : sequence of ndarray, shape (X, Y, Z)
        CNN-1 on visits it had not seen.
    truths : sequence of ndarray of bool, shape (X, Y, Z)
        Lesions; those below 3 mm³ are left out.
    recall : float, default 0.97
        Share to keep of the lesions reached at the lowest gate.
    grid : sequence of float
        Gates to choose from, rising.

    Returns
    -------
    float
        The lowest gate where none reaches any lesion.
    """
    peaks: list[NDArray[np.float32]] = []
    for probability, truth in zip(probabilities, truths, strict=True):
        labels = label_lesions(truth, voxel_volume=1.0, min_volume=3.0)
        highest = np.zeros(int(labels.max()) + 1, np.float32)
        np.maximum.at(highest, labels.ravel(), probability.ravel().astype(np.float32))
        peaks.append(highest[1:])
    reached = np.concatenate(peaks) if peaks else np.zeros(0, np.float32)
    at_lowest = int((reached >= grid[0]).sum())
    if not at_lowest:
        return float(grid[0])
    good = [gate for gate in grid if (reached >= gate).sum() >= recall * at_lowest]
    return float(good[-1])
