"""Training of one patch net for a fixed number of epochs, seeded and resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bids_msseg.errors import DataError
from bids_msseg.io.atomic import replacing
from bids_msseg.models.engine import Engine
from bids_msseg.trainer.plan import Report
from bids_msseg.training.valverde.nets import PatchNet
from bids_msseg.training.valverde.sampling import PatchStream

OPTIMISERS: tuple[str, ...] = ("adam", "adadelta")
REPORT_EVERY = 100


@dataclass(frozen=True, slots=True)
class PatchPlan:
    """Training plan of one patch net."""

    epochs: int = 4
    patches: int = 100_000  # at most in an epoch, drawn anew for each
    batch: int = 128
    optimiser: str = "adam"  # one of OPTIMISERS
    learning_rate: float = 1e-3  # falls linearly to zero
    dropout: float = 0.5
    checkpoint_s: float = 60.0


def fit(
    net: PatchNet,
    source: PatchStream,
    plan: PatchPlan,
    engine: Engine,
    checkpoint: Path,
    *,
    seed: int,
    report: Callable[[Report], None] | None = None,
) -> PatchNet:
    """Train a network by cross-entropy, or resume from its checkpoint; return it on the CPU.

    Raises DataError for too few patches, or for the checkpoint of another plan.
    """
    steps = plan.epochs * source.steps
    if not steps:
        raise DataError(
            f"the training patients have too few lesion voxels for one batch of {plan.batch}",
            hint="add labelled patients, or use a smaller batch",
        )
    state = _State(net.to(engine.device), plan, steps)
    state.restore(checkpoint)
    last_save = last_report = time.monotonic()
    losses: list[float] = []
    while state.step < steps:
        losses.append(state.advance(source, engine, seed))
        now = time.monotonic()
        if report and (state.step % REPORT_EVERY == 0 or state.step == steps):
            pace = (now - last_report) / len(losses)
            report(Report(state.step, steps, float(np.mean(losses)), pace))
            losses, last_report = [], now
        if now - last_save > plan.checkpoint_s or state.step == steps:
            state.save(checkpoint)
            last_save = now
    return net.to("cpu").eval()


def load_finished(net: PatchNet, plan: PatchPlan, checkpoint: Path) -> PatchNet | None:
    """Load a finished network, or return None; DataError for a checkpoint of another plan."""
    if not checkpoint.is_file():
        return None
    stored = _read_checkpoint(checkpoint, "cpu")
    _check_plan(checkpoint, stored, plan, net)
    if stored["step"] < stored["steps"]:
        return None
    net.load_state_dict(stored["net"])
    return net.eval()


def _check_plan(
    path: Path, stored: Mapping[str, Any], plan: PatchPlan, net: PatchNet, steps: int | None = None
) -> None:
    """Raise DataError if a checkpoint belongs to another training."""
    same = stored["plan"] == asdict(plan) and stored["padding"] == net.padding
    if not same or steps not in (None, stored["steps"]):
        raise DataError(
            f"{path} was trained with another plan or on other patients",
            hint="use another output folder, or the same plan and patients as before",
        )


def _read_checkpoint(checkpoint: Path, device: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
    return content


class _State:
    """Net and optimiser of a training that advances step by step."""

    def __init__(self, net: PatchNet, plan: PatchPlan, steps: int) -> None:
        self.net, self.plan, self.steps, self.step = net, plan, steps, 0
        optimisers = {"adam": torch.optim.Adam, "adadelta": torch.optim.Adadelta}
        self.optimiser: torch.optim.Optimizer = optimisers[plan.optimiser](
            net.parameters(), lr=plan.learning_rate
        )

    def advance(self, source: PatchStream, engine: Engine, seed: int) -> float:
        """Take one step and return its loss; dropout depends only on seed and step."""
        patches, lesion = (item.to(engine.device) for item in source.at(self.step))
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.learning_rate * (1 - self.step / self.steps)
        self.net.train()
        with torch.random.fork_rng():
            torch.manual_seed(seed * 1_000_003 + self.step)
            with engine.autocast():
                logits = self.net(patches.contiguous(memory_format=torch.channels_last_3d))
        loss = F.cross_entropy(logits.float(), lesion)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write everything that a later run needs, atomically."""
        content = {
            "plan": asdict(self.plan),
            "steps": self.steps,
            "padding": self.net.padding,
            "step": self.step,
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        with replacing(path, single_writer=True) as temporary:
            torch.save(content, temporary)

    def restore(self, path: Path) -> None:
        """Resume from a checkpoint if there is one."""
        if not path.is_file():
            return
        stored = _read_checkpoint(path, str(next(self.net.parameters()).device))
        _check_plan(path, stored, self.plan, self.net, self.steps)
        self.net.load_state_dict(stored["net"])
        self.optimiser.load_state_dict(stored["optimiser"])
        self.step = int(stored["step"])
