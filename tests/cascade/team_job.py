"""One process of a team that trains a tiny net; ``test_team.py`` starts it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.cascade.networks import CandidateNet
from bids_msseg.cascade.team import find_team, join, run_first
from bids_msseg.cascade.training import FitPlan, Report, fit
from bids_msseg.errors import MssegError, TemporaryError
from bids_msseg.models.engine import Engine

PLAN = FitPlan(steps=30, batch=1, accumulate=2, workers=0, checkpoint_s=1e9)
SEED = 5
LATE = 40
"""An item of the second process, in the 21st step."""


class Noise(Dataset[tuple[Tensor, Tensor]]):
    """Noise whose bright voxels are to be found; one item may send this process a signal."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.number is not None and index == LATE + 1:
            os.kill(os.getpid(), self.number)
        images = torch.randn((6, 8, 8, 8), generator=torch.Generator().manual_seed(index))
        return images, (images[:1] > 1).float()


def train(checkpoint: Path, lines: list[Report], source: Noise) -> CandidateNet:
    """Train; the first process's seed counts."""
    torch.manual_seed(SEED + find_team()[0])
    return fit(CandidateNet((2, 4)), source, PLAN, Engine(), checkpoint, report=lines.append)


def main(out: Path, number: int | None) -> int:
    """Train in a team and write what came out, by rank."""
    torch.set_num_threads(1)
    lines: list[Report] = []
    with join("cpu", timeout_s=300) as member:
        work = out / f"work{member.rank}"
        work.mkdir()
        try:
            net = train(work / "net.pt", lines, Noise(number if member.rank else None))
            told = run_first(lambda: member.rank + 7)
            try:
                run_first(lambda: 1 / 0)
            except (ZeroDivisionError, TemporaryError) as error:
                failed = type(error).__name__
        except MssegError as error:
            (out / f"error{member.rank}.txt").write_text(str(error))
            return int(error.code)
    torch.save(net.state_dict(), out / f"weights{member.rank}.pt")
    found = {"lines": [(line.step, line.loss, line.dice) for line in lines], "told": told}
    (out / f"found{member.rank}.json").write_text(json.dumps(found | {"failed": failed}))
    return 0


if __name__ == "__main__":
    asked = sys.argv[2] if len(sys.argv) > 2 else ""
    raise SystemExit(main(Path(sys.argv[1]), signal.Signals[asked].value if asked else None))
