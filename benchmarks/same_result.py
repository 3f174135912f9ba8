"""Reproducibility of results in different circumstances, and the effect of bfloat16.

usage: python benchmarks/same_result.py [--bids DIR] [--contrasts FLAIR] [--small-heads] [--fast]
[--small-net]

usage: python benchmarks/same_result.py --stack WORK/bids_msseg/<visit>/stack/stack.npz

The first form runs the coarse demo (two visits) repeatedly and compares the bytes of the outputs:
on one thread, on two, several nodes at a time, from another folder, with visits in another order,
after ``--clean-workdir``. The second form segments the stack that a run left in its work folder,
in float32 and in the native precision of the processor, and compares the masks. Exit code 1 if
anything differs.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path

import numpy as np
from faults import PRELOADED, Bench, comparable, prepare

ONE_THREAD = ("--nprocs", "1", "--omp-nthreads", "1")
WAYS: dict[str, list[tuple[str, ...]]] = {
    "again": [ONE_THREAD],
    "two threads per step": [("--nprocs", "2", "--omp-nthreads", "2")],
    "two steps at a time": [("--nprocs", "2", "--omp-nthreads", "1")],
    "the later visit first": [(*ONE_THREAD, "--session-label", "2"), ONE_THREAD],
    "--clean-workdir": [(*ONE_THREAD, "--clean-workdir")],
    "--mem-gb 2": [(*ONE_THREAD, "--mem-gb", "2")],
}


def circumstances(options: argparse.Namespace, scratch: Path) -> int:
    """Run in all circumstances, compare the outputs and return the exit code."""
    run_options = ["--fast"] if options.fast else []
    bids = prepare(options, scratch)
    if options.small_net:
        from small_net import write_small_net

        run_options += ["--model", str(write_small_net(scratch / "small.safetensors"))]
    for name in PRELOADED:
        importlib.import_module(f"bids_msseg.{name}")
    bench = Bench(bids, scratch, run_options, 1)
    print("| circumstance | result | as it should be |\n|---|---|---|", flush=True)
    code, log = bench.run(scratch / "first", *ONE_THREAD)
    if code:
        raise SystemExit(log)
    bench.expected = comparable(scratch / "first")
    elsewhere = scratch / "a folder" / "with a longer näme"
    elsewhere.mkdir(parents=True)
    for number, (name, runs) in enumerate(WAYS.items()):
        _try(bench, name, scratch / f"out{number}", runs)
    bids.rename(elsewhere / "bids")
    bench.bids = elsewhere / "bids"
    _try(bench, "another folder", elsewhere / "out", [ONE_THREAD])
    return 1 if bench.failures else 0


def _try(bench: Bench, name: str, out: Path, runs: list[tuple[str, ...]]) -> None:
    codes = [bench.run(out, *arguments)[0] for arguments in runs]
    same, comparison = bench.same(out)
    bench.report(name, f"codes {codes}, {len(bench.expected)} files: {comparison}", good=same)


def precision(stack_file: Path) -> int:
    """Compare masks in float32 and in bfloat16, if the processor supports it."""
    from bids_msseg.imaging.normalise import Stack
    from bids_msseg.models.cascade import segment
    from bids_msseg.models.checkpoint import load_cascade
    from bids_msseg.models.engine import Engine, choose_engine
    from bids_msseg.models.weights import find_model

    stack, cascade = Stack.load(stack_file), load_cascade(find_model(None))
    engines = {"float32": Engine(), "native": choose_engine("cpu")}
    if not engines["native"].bfloat16:
        print("this processor has no bfloat16")
        return 0
    masks = {}
    for name, engine in engines.items():
        inputs = stack.data, stack.present, stack.brain, engine
        output = segment(cascade, *inputs, slice_mm=stack.slice_mm)
        masks[name] = output.probability >= cascade.point.threshold
    float32, native = masks.values()
    dice = (
        2
        * np.count_nonzero(float32 & native)
        / max(np.count_nonzero(float32) + np.count_nonzero(native), 1)
    )
    print(f"bfloat16 against float32: Dice {dice:.4f}, {np.count_nonzero(float32)} mm³ in float32")
    return int(dice < 0.995)


def main() -> int:
    """Print a table, or a line on precision."""
    parser = argparse.ArgumentParser(description="Compare results of the same visits.")
    parser.add_argument("--bids", type=Path, help="a dataset [the coarse demo]")
    parser.add_argument("--contrasts", nargs="+", default=["FLAIR", "T1w", "T2w"])
    parser.add_argument("--small-heads", action="store_true", help="halve the voxels' edges")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--small-net", action="store_true", help="in place of the bundled model")
    parser.add_argument("--stack", type=Path, help="segment this, in two precisions")
    options = parser.parse_args()
    if options.stack is not None:
        return precision(options.stack)
    with tempfile.TemporaryDirectory() as folder:
        return circumstances(options, Path(folder))


if __name__ == "__main__":
    raise SystemExit(main())
