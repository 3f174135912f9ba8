"""One process of a group that trains a tiny net; ``test_process_group.py`` starts it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.errors import MssegError, TemporaryError
from bids_msseg.models.engine import Engine
from bids_msseg.trainer.fit import fit
from bids_msseg.trainer.plan import FitPlan, Report
from bids_msseg.trainer.process_group import join, rank_and_size, rank_zero_first

PLAN = FitPlan(steps=30, batch=1, accumulate=2, workers=0, checkpoint_s=1e9)
SEED = 5
LATE = 40
"""An item of the second process, in the 21st step."""


class Noise(Dataset[tuple[Tensor, Tensor]]):
    """Noise images with bright voxels as targets; one item may send this process a signal."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.number is not None and index == LATE + 1:
            os.kill(os.getpid(), self.number)
        images = torch.randn((1, 8, 8, 8), generator=torch.Generator().manual_seed(index))
        return images, (images > 1).float()


def step_loss(net: nn.Module, items: tuple[Tensor, ...], _engine: Engine) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy, and the share of correctly classified voxels for the log."""
    images, truth = items
    logits = net(images)
    found = ((logits.detach() > 0) == (truth > 0.5)).float().mean()
    return F.binary_cross_entropy_with_logits(logits, truth), found


def train(checkpoint: Path, lines: list[Report], source: Noise) -> nn.Module:
    """Train a net; all ranks must use the seed of rank zero."""
    torch.manual_seed(SEED + rank_and_size()[0])
    net = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 1, 1))
    return fit(net, source, PLAN, Engine(), checkpoint, step_loss=step_loss, report=lines.append)


def main(out: Path, number: int | None) -> int:
    """Train in a group, and write the weights and results of each rank."""
    torch.set_num_threads(1)
    lines: list[Report] = []
    with join("cpu", timeout_s=300) as member:
        work = out / f"work{member.rank}"
        work.mkdir()
        try:
            net = train(work / "net.pt", lines, Noise(number if member.rank else None))
            shared = rank_zero_first(lambda: member.rank + 7)
            try:
                rank_zero_first(lambda: 1 / 0)
            except (ZeroDivisionError, TemporaryError) as error:
                failed = type(error).__name__
        except MssegError as error:
            (out / f"error{member.rank}.txt").write_text(str(error))
            return int(error.code)
    torch.save(net.state_dict(), out / f"weights{member.rank}.pt")
    found = {"lines": [(line.step, line.loss, line.dice) for line in lines], "shared": shared}
    (out / f"found{member.rank}.json").write_text(json.dumps(found | {"failed": failed}))
    return 0


if __name__ == "__main__":
    asked = sys.argv[2] if len(sys.argv) > 2 else ""
    raise SystemExit(main(Path(sys.argv[1]), signal.Signals[asked].value if asked else None))
