"""Speed of a training step and of the loader: ``python benchmarks/training_speed.py LABEL_MAPS``.

Times forward, backward and AdamW on one sub-image of 96³ for the candidate net of cascade-4
and for ``LesionAnatomyNet``, interleaved in one run, and one synthetic sub-image of each loader on
one core. LABEL_MAPS is a folder of prepared label maps (``*.npz``) of the new training; the old
loader reads the same tissues without those outside the brain. Rates are in sub-images of 64³ a
second (a sub-image of 96³ counts 3.375).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from bids_msseg.cascade.generation import MadeSampler
from bids_msseg.cascade.heads import Tissue
from bids_msseg.cascade.networks import CandidateNet
from bids_msseg.cascade.training import candidate_loss
from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet
from bids_msseg.training.label_maps import FIRST_EXTRA, read_label_maps
from bids_msseg.training.losses import lesion_anatomy_step
from bids_msseg.training.synthesis import SyntheticDataset

SIZE = 96
UNITS = (SIZE / 64) ** 3
Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


def step(net: nn.Module, optimiser: torch.optim.Optimizer, batch: object, loss: Loss) -> float:
    begun = time.perf_counter()
    loss(net, batch).backward()  # type: ignore[arg-type]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("label_maps", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    engine = choose_engine("cpu")

    def old_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        with engine.autocast():
            logits = net(batch[0].contiguous(memory_format=torch.channels_last_3d)).float()
        return candidate_loss(logits, (batch[1],))

    def new_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return lesion_anatomy_step(net, batch, engine)[0]  # type: ignore[arg-type]

    shares = torch.rand(1, CLASSES, *(SIZE // 2,) * 3)
    truth = (torch.rand(1, 1, SIZE, SIZE, SIZE) > 0.99).float()
    batch = (torch.randn(1, 6, SIZE, SIZE, SIZE), truth, shares / shares.sum(1, keepdim=True))
    nets = {
        "candidate net of cascade-4": (CandidateNet((16, 32, 64, 128, 128)), old_loss),
        "LesionAnatomyNet": (LesionAnatomyNet(), new_loss),
    }
    times: dict[str, list[float]] = {name: [] for name in nets}
    optimisers = {}
    for name, (net, _) in nets.items():
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        optimisers[name] = torch.optim.AdamW(net.parameters(), 1e-4)
    for number in range(options.rounds + 1):
        for name, (net, loss) in nets.items():
            seconds = step(net, optimisers[name], batch, loss)
            if number:
                times[name].append(seconds)
    print(f"bfloat16: {engine.bfloat16}, threads: {options.threads}")
    print("net\tparameters\ts a step of 96³\t64³ a second")
    rates = []
    for name, (net, _) in nets.items():
        middle = statistics.median(times[name])
        rates.append(UNITS / middle)
        count = sum(weight.numel() for weight in net.parameters())
        print(f"{name}\t{count / 1e6:.2f} M\t{middle:.2f}\t{rates[-1]:.2f}")
    print(f"ratio\t\t\t{rates[1] / rates[0]:.2f}")
    _loaders(options.label_maps, options.rounds)


def _loaders(folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    heads = read_label_maps(folder)[:2]
    plain = [
        replace(
            head,
            tissue=np.where(head.tissue >= FIRST_EXTRA, np.uint8(Tissue.OUTSIDE), head.tissue),
        )
        for head in heads
    ]
    loaders = {
        "loader of cascade-4": MadeSampler(plain, 1, size=SIZE),
        "SyntheticDataset": SyntheticDataset(heads, 1, size=SIZE),
    }
    print("loader\tCPU s a sub-image of 96³\t64³ a core-second")
    for name, loader in loaders.items():
        loader[0]
        begun = time.process_time()
        for index in range(1, 2 * rounds + 1):
            loader[index]
        each = (time.process_time() - begun) / (2 * rounds)
        print(f"{name}\t{each:.3f}\t{UNITS / each:.1f}")


if __name__ == "__main__":
    main()
