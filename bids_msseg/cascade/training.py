"""Training of either net: one loop that survives being stopped at any moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.cascade.inference import Engine
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.sampling import batches
from bids_msseg.errors import UsageError
from bids_msseg.lesions.instances import label_lesions

Net = TypeVar("Net", CandidateNet, RefinementNet)
Loss = Callable[[Any, tuple[Tensor, ...]], Tensor]


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
    ema: float = 0.99
    seed: int = 0
    workers: int = 1
    checkpoint_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Report:
    """One line of a training log: step, steps, mean loss since the last line, seconds a step."""

    step: int
    steps: int
    loss: float
    seconds: float


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
    seen = torch.sigmoid(voxel_logits) * member
    inside = truth * member
    dice = (2 * (seen * inside).sum() + 1) / (seen.sum() + inside.sum() + 1)
    plain = F.binary_cross_entropy_with_logits(lesion_logits, real, reduction="none")
    focal = ((1 - torch.exp(-plain)) ** 2 * plain).mean()
    return (entropy * weight).sum() + 1.0 - dice + 4.0 * focal


def _candidate_step(net: CandidateNet, items: tuple[Tensor, ...], engine: Engine) -> Tensor:
    images, truth = (item.to(engine.device) for item in items)
    with engine.autocast():
        logits = net(images.contiguous(memory_format=torch.channels_last_3d))
    return candidate_loss(logits.float(), (truth,))


def _refinement_step(net: RefinementNet, items: tuple[Tensor, ...], engine: Engine) -> Tensor:
    images, truth, real = (item.to(engine.device) for item in items)
    with engine.autocast():
        voxels, lesion = net(images.contiguous(memory_format=torch.channels_last_3d))
    return refinement_loss((voxels.float(), lesion.float()), (truth, real, images[:, -1:]))


def fit(
    net: Net,
    source: Dataset[Any],
    plan: FitPlan,
    engine: Engine,
    checkpoint: Path,
    *,
    report: Callable[[Report], None] | None = None,
) -> Net:
    """Train a net, or go on from its checkpoint; return the running mean of its weights.

    Parameters
    ----------
    net : CandidateNet or RefinementNet
        With the weights to start from.
    source : Dataset
        Item ``i`` is the ``i``-th sub-image; see :mod:`bids_msseg.cascade.sampling`.
    plan : FitPlan
    engine : Engine
    checkpoint : path
        Written every few minutes and at the end; a finished one is loaded and nothing trained.
    report : callable, optional
        Called every 25 steps.

    Returns
    -------
    CandidateNet or RefinementNet
        In evaluation mode, on the CPU.
    """
    net = net.to(engine.device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
    )
    state = _State(net, optimiser, plan)
    state.restore(checkpoint, engine.device)
    step_loss = _candidate_step if isinstance(net, CandidateNet) else _refinement_step
    net.train()
    team = find_team()
    if plan.accumulate % team[1]:
        raise UsageError(
            f"{team[1]} processes cannot share {plan.accumulate} batches a step",
            cure="set accumulate in the recipe to a multiple of the number of processes",
        )
    stream = batches(
        source,
        first=state.step,
        last=plan.steps,
        batch=plan.batch,
        workers=plan.workers,
        accumulate=plan.accumulate,
        team=team,
    )
    parts = plan.accumulate // team[1]
    saved = begun = time.monotonic()
    losses: list[float] = []
    for number, items in enumerate(stream, start=1):
        state.add(step_loss(net, tuple(items), engine), parts)
        if number % parts:
            continue
        losses.append(state.advance())
        if report and (state.step % 25 == 0 or state.step == plan.steps):
            now = time.monotonic()
            report(
                Report(state.step, plan.steps, float(np.mean(losses)), (now - begun) / len(losses))
            )
            losses, begun = [], now
        if time.monotonic() - saved > plan.checkpoint_s:
            state.save(checkpoint)
            saved = time.monotonic()
    state.save(checkpoint)
    net.load_state_dict(state.average)
    return net.to("cpu").eval()


class _State:
    """Net, optimiser and running mean, moved on one step at a time."""

    def __init__(self, net: nn.Module, optimiser: torch.optim.Optimizer, plan: FitPlan) -> None:
        self.net, self.optimiser, self.plan = net, optimiser, plan
        self.step = 0
        self.loss = torch.zeros((), device=next(net.parameters()).device)
        self.average = {key: value.detach().clone() for key, value in net.state_dict().items()}

    def add(self, loss: Tensor, parts: int) -> None:
        """Add the gradient of one of a step's batches."""
        (loss / parts).backward()
        self.loss += loss.detach() / parts

    def advance(self) -> float:
        """Take one optimiser step and return its mean loss."""
        warm_up = min(1.0, (self.step + 1) / 50)
        fall = (1 - self.step / self.plan.steps) ** 0.9
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * warm_up * fall
        loss = _average_over_team(self.net, self.loss)
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.loss = torch.zeros_like(self.loss)
        self.step += 1
        decay = min(self.plan.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for key, value in self.net.state_dict().items():
                self.average[key].lerp_(value.detach(), 1 - decay)
        return float(loss)

    def save(self, path: Path) -> None:
        """Write everything that a later run needs; never a half file under the final name.

        All processes of a team hold the same weights; the first writes them.
        """
        if find_team()[0] != 0:
            return
        partial = path.with_name(path.name + ".part")
        torch.save(
            {
                "step": self.step,
                "net": self.net.state_dict(),
                "average": self.average,
                "optimiser": self.optimiser.state_dict(),
            },
            partial,
        )
        partial.replace(path)

    def restore(self, path: Path, device: str) -> None:
        """Go on from a checkpoint where there is one."""
        if not path.is_file():
            return
        kept = torch.load(path, map_location=device, weights_only=True)
        self.net.load_state_dict(kept["net"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.average = kept["average"]
        self.step = int(kept["step"])


def find_team() -> tuple[int, int]:
    """Return (rank, size) of the processes that train one net together; (0, 1) when alone."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _average_over_team(net: nn.Module, loss: Tensor) -> Tensor:
    """Average gradients and loss over the team in one message; return the mean loss."""
    size = find_team()[1]
    if size == 1:
        return loss
    gradients = [weight.grad for weight in net.parameters() if weight.grad is not None]
    message = torch.cat([*(gradient.reshape(-1) for gradient in gradients), loss.reshape(1)])
    distributed.all_reduce(message)
    message /= size
    at = 0
    for gradient in gradients:
        gradient.copy_(message[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return message[-1]


def is_finished(checkpoint: Path, plan: FitPlan) -> bool:
    """Say whether a checkpoint holds all steps of a plan."""
    if not checkpoint.is_file():
        return False
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(kept["step"]) >= plan.steps


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
