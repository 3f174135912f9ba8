"""CPU time of the patch net of the preset valverde2017, patch by patch and by tiles.

usage: python benchmarks/valverde_dense.py [--visit COHORT/sub-NN.npz] [--sample N]

Weights are random, with running means as after a training. The volume is a prepared visit, or
random numbers in a ball. All FLAIR candidates are evaluated by tiles, and a random sample of them
patch by patch; the difference is over that sample. Times are CPU seconds of one thread, in
float32, and in bfloat16 if the processor supports it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bids_msseg.models.engine import Engine, choose_engine
from bids_msseg.training.data.visits import LabelledVisit, load_visit
from bids_msseg.training.valverde.inference import dense_probability, patch_probability
from bids_msseg.training.valverde.nets import PADDINGS, PatchNet
from bids_msseg.training.valverde.sampling import fill_missing, find_candidates

EDGE = 96


def main() -> int:
    """Measure both ways and print a table."""
    parser = argparse.ArgumentParser(description="Time patchwise and dense evaluation.")
    parser.add_argument("--visit", type=Path)
    parser.add_argument("--sample", type=int, default=4096)
    options = parser.parse_args()
    torch.set_num_threads(1)
    visit = fill_missing(load_visit(options.visit)) if options.visit else _random_visit()
    candidates = find_candidates(visit, 0.5)
    sampled = _sample(candidates, options.sample)
    print(
        f"{visit.name}: {int(candidates.sum())} candidates, "
        f"{int(sampled.sum())} of them patch by patch"
    )
    print("\n| layout | numbers | way | CPU s | us a candidate | greatest difference |")
    print("|---|---|---|---|---|---|")
    kinds = [Engine()] + ([choose_engine("cpu")] if choose_engine("cpu").bfloat16 else [])
    for engine in kinds:
        kind = "bfloat16" if engine.bfloat16 else "float32"
        for padding in PADDINGS:
            net = random_net(padding)
            patch, seconds = _timed(lambda: patch_probability(net, visit.images, sampled, engine))  # noqa: B023
            _row(padding, kind, "patch by patch", seconds, sampled, None)
            if padding == "valid":
                dense, seconds = _timed(
                    lambda: dense_probability(net, visit.images, candidates, engine)  # noqa: B023
                )
                _row(
                    padding, kind, "by tiles", seconds, candidates, np.abs(patch - dense)[sampled]
                )
    return 0


def random_net(padding: str) -> PatchNet:
    """Create a network with random weights and running statistics."""
    torch.manual_seed(0)
    net = PatchNet(padding)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm3d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return net.eval()


def _random_visit() -> LabelledVisit:
    shape = (EDGE, EDGE, EDGE)
    images = np.random.default_rng(0).normal(0, 1, (3, *shape)).astype(np.float16)
    distance = np.linalg.norm(np.indices(shape) - EDGE / 2, axis=0)
    brain = distance < 0.45 * EDGE
    truth = np.zeros(shape, np.float16)
    return LabelledVisit("random numbers", "", images, (True, True, True), brain, truth, 1.0)


def _sample(candidates: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    voxels = np.flatnonzero(candidates)
    chosen = np.random.default_rng(1).choice(voxels, min(count, voxels.size), replace=False)
    sampled = np.zeros(candidates.size, bool)
    sampled[chosen] = True
    return sampled.reshape(candidates.shape)


def _timed(work: Callable[[], NDArray[np.float32]]) -> tuple[NDArray[np.float32], float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def _row(
    padding: str,
    kind: str,
    way: str,
    seconds: float,
    classified: NDArray[np.bool_],
    difference: NDArray[np.float32] | None,
) -> None:
    each = 1e6 * seconds / max(1, int(classified.sum()))
    far = "" if difference is None else f"{float(difference.max()):.1e}"
    print(f"| {padding} | {kind} | {way} | {seconds:.1f} | {each:.1f} | {far} |", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
