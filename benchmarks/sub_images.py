"""How fast augmented sub-images are cut, and in how much memory: nothing is materialised.

Streams balanced patches of 11³ voxels x 3 contrasts, as many as the source text cut to files
(1,734,960), and then crops of the sizes that the cascade trains on. Prints for each the samples a
second, the peak of the memory of all its processes, and the time of a whole epoch. Run it as::

    python benchmarks/sub_images.py COHORT [--count 1734960] [--workers 1] [--crops 64]

COHORT is the folder of prepared visits (``cohort/*.npz``) that ``msseg-train`` writes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from patch_stream import PatchPlan, PatchSource, patch_batches

from bids_msseg.cascade.augment import Augmentation, AugmentPlan
from bids_msseg.cascade.augmentation.catalogue import read_program
from bids_msseg.cascade.sampling import CandidateSampler, batches
from bids_msseg.cascade.stages import load_visit

EPOCH = 1_734_960
PATCH, BATCH = 11, 512
CROPS = (48, 64, 96)
SEED = 0


@dataclass(slots=True)
class Result:
    """What one stream took."""

    samples: int = 0
    positive: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    memory: int = 0
    shared: int = 0


def memory(process: int, kind: str) -> int:
    """Memory of a process in bytes: ``Rss``, or ``Pss``, where a shared page counts in parts."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{kind}:"))


def processor_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    return sum(os.times()[:4])


def measure(stream: Iterator[tuple[int, float]], *, every: int) -> Result:
    """Run a stream of (samples, of which lesion) to its end."""
    result = Result()
    cpu, wall = processor_seconds(), time.perf_counter()
    for number, (samples, positive) in enumerate(stream):
        result.samples += samples
        result.positive += positive
        if number % every == 0:
            ours = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
            result.memory = max(result.memory, sum(memory(one, "Rss") for one in ours))
            result.shared = max(result.shared, sum(memory(one, "Pss") for one in ours))
    result.wall = time.perf_counter() - wall
    result.cpu = processor_seconds() - cpu
    return result


def patches(paths: list[Path], count: int, workers: int) -> Iterator[tuple[int, float]]:
    plan = PatchPlan(symmetries="all")
    source = PatchSource(map(load_visit, paths), SEED, edge=PATCH, batch=BATCH, plan=plan)
    stream = patch_batches(source, first=0, last=-(-count // BATCH), workers=workers)
    kept = (min(BATCH, count - first) for first in range(0, count, BATCH))
    return (
        (left, float(lesion[:left].sum())) for left, (_, lesion) in zip(kept, stream, strict=True)
    )


def crops(
    paths: list[Path], size: int, count: int, workers: int, plan: Augmentation
) -> Iterator[tuple[int, float]]:
    visits = [load_visit(path) for path in paths]
    source = CandidateSampler(visits, SEED, size=size, plan=plan)
    stream = batches(source, first=0, last=count, batch=1, workers=workers)
    return ((1, float(truth.max() >= 0.5)) for _, truth in stream)


def show(name: str, result: Result, epoch: int) -> None:
    rate, load = result.samples / result.wall, os.getloadavg()[0]
    print(
        f"{name:<28}{result.samples:>9}{result.positive / result.samples:>8.2f}"
        f"{rate:>11.1f}{result.samples / max(result.cpu, 1e-9):>13.1f}"
        f"{result.shared / 2**20:>9.0f}{result.memory / 2**20:>9.0f}{epoch / rate / 60:>10.1f}"
        f"{load:>7.1f}",
        flush=True,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cohort", type=Path, help="folder of prepared visits (npz)")
    parser.add_argument("--count", type=int, default=EPOCH, help="patches to stream")
    parser.add_argument("--crops", type=int, default=64, help="crops of each size, 0 for none")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--recipe", type=Path, help="recipe whose augmentation the crops get")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    paths = sorted(options.cohort.glob("*.npz"))
    plan: Augmentation = AugmentPlan()
    if options.recipe:
        plan = read_program(yaml.safe_load(options.recipe.read_text())["augmentation"])
    print(f"{len(paths)} visits, {options.workers} workers; peak memory of all processes:")
    print("MB with shared pages counted once, RSS MB with them counted in each process;")
    print("epoch: 1,734,960 patches, or 1,000 crops, at the rate measured")
    print(
        f"{'stream':<28}{'samples':>9}{'lesion':>8}{'samples/s':>11}{'/CPU second':>13}"
        f"{'peak MB':>9}{'RSS MB':>9}{'epoch min':>10}{'load':>7}"
    )
    stream = patches(paths, options.count, options.workers)
    show(f"{PATCH}³ patches", measure(stream, every=50), EPOCH)
    for size in CROPS if options.crops else ():
        stream = crops(paths, size, options.crops, options.workers, plan)
        show(f"{size}³ crops", measure(stream, every=4), 1000)


if __name__ == "__main__":
    main()
