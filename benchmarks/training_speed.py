"""Speed of a training step and of the loader: ``python benchmarks/training_speed.py LABEL_MAPS``.

Times forward, backward and AdamW on one sub-image of 96³ for the candidate net of cascade-4 (its
definition is kept below) and for ``LesionAnatomyNet``, interleaved in one run, and one synthetic
sub-image on one core. LABEL_MAPS is a folder of prepared label maps (``*.npz``). Rates are in
sub-images of 64³ a second (a sub-image of 96³ counts 3.375).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet
from bids_msseg.training.losses import lesion_anatomy_step
from bids_msseg.training.synthesis.dataset import SyntheticDataset
from bids_msseg.training.synthesis.label_maps import read_label_maps

SIZE = 96
UNITS = (SIZE / 64) ** 3
Loss = Callable[[nn.Module, tuple[Tensor, ...]], Tensor]


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for incoming in (before, after):
        layers += [
            nn.Conv3d(incoming, after, 3, padding=1, bias=False),
            nn.InstanceNorm3d(after, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        ]
    return nn.Sequential(*layers)


class Cascade4CandidateNet(nn.Module):
    """U-Net of cascade-4: full resolution in its first level, concatenated skip connections."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 128)) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([_block(a, b) for a, b in pairwise((6, *widths))])
        self.decoder = nn.ModuleList([_block(b + a, a) for a, b in pairwise(widths)])
        self.head = nn.Conv3d(widths[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images and presence maps (N, 6, X, Y, Z) to logits (N, 1, X, Y, Z)."""
        skips: list[Tensor] = []
        features = images
        for level, block in enumerate(self.encoder):
            features = block(F.max_pool3d(features, 2) if level else features)
            skips.append(features)
        for level in reversed(range(len(self.decoder))):
            grown = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = self.decoder[level](torch.cat([grown, skips[level]], 1))
        logits: Tensor = self.head(features)
        return logits


def cascade4_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy plus a Tversky loss of .4 for false and .6 for missed voxels."""
    probability = torch.sigmoid(logits)
    both = (probability * truth).sum()
    false, missed = (probability * (1 - truth)).sum(), ((1 - probability) * truth).sum()
    tversky = (both + 1.0) / (both + 0.4 * false + 0.6 * missed + 1.0)
    return 2.0 * F.binary_cross_entropy_with_logits(logits, truth) + 1.0 - tversky


def step(net: nn.Module, optimiser: torch.optim.Optimizer, batch: object, loss: Loss) -> float:
    start = time.perf_counter()
    loss(net, batch).backward()  # type: ignore[arg-type]
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return time.perf_counter() - start


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
        return cascade4_loss(logits, batch[1])

    def new_loss(net: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return lesion_anatomy_step(net, batch, engine)[0]  # type: ignore[arg-type]

    shares = torch.rand(1, CLASSES, *(SIZE // 2,) * 3)
    truth = (torch.rand(1, 1, SIZE, SIZE, SIZE) > 0.99).float()
    batch = (torch.randn(1, 6, SIZE, SIZE, SIZE), truth, shares / shares.sum(1, keepdim=True))
    nets = {
        "candidate net of cascade-4": (Cascade4CandidateNet(), old_loss),
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
    print("network\tparameters\ts per step of 96³\t64³ per second")
    rates = []
    for name, (net, _) in nets.items():
        middle = statistics.median(times[name])
        rates.append(UNITS / middle)
        count = sum(weight.numel() for weight in net.parameters())
        print(f"{name}\t{count / 1e6:.2f} M\t{middle:.2f}\t{rates[-1]:.2f}")
    print(f"ratio\t\t\t{rates[1] / rates[0]:.2f}")
    _loader(options.label_maps, options.rounds)


def _loader(folder: Path, rounds: int) -> None:
    torch.set_num_threads(1)
    data = SyntheticDataset(read_label_maps(folder)[:2], 1, size=SIZE)
    data[0]
    start = time.process_time()
    for index in range(1, 2 * rounds + 1):
        data[index]
    each = (time.process_time() - start) / (2 * rounds)
    print("loader\tCPU s a sub-image of 96³\t64³ a core-second")
    print(f"SyntheticDataset\t{each:.3f}\t{UNITS / each:.1f}")


if __name__ == "__main__":
    main()
