"""Disturb a small run: kills, signals, lack of memory or disk, a second run, the clock.

usage: python benchmarks/faults.py [--moments 50] [--chain 1] [--seed 0] [--bids DIR] [--fast]
[--contrasts FLAIR] [--small-heads] [--small-net] [--only kill signals memory disk crowd clock]

Works on the coarse demo of one participant with two visits, or on ``--bids``; ``--small-heads``
halves the edges of its voxels, which takes a fraction of the time. A run that is not disturbed
comes first; every disturbed run has to end with the same bytes once it is resumed (except wall
times in records and pages, and crash files of failures). The moments of the kills are drawn evenly
over the CPU time of the undisturbed run, so that they do not depend on the load of the machine.
``--chain K`` kills a run K times before it may finish, each time within its approximate remaining
time. Exit code 1 if anything differs, hangs or is reported wrongly.
"""

from __future__ import annotations

import argparse
import ctypes
import gzip
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess as Process
from pathlib import Path

import nibabel as nib
import numpy as np
from small_net import write_small_net

from bids_msseg.cli.run import main as main_of_the_app
from bids_msseg.nodes.intermediate import MANIFEST

HANG_S = 3600
FORK = multiprocessing.get_context("fork")
PRELOADED = ("app", "bids.query", "workflow.run", "reports.participant", "nodes.preprocess")
TICKS = os.sysconf("SC_CLK_TCK")
DISK_MB = 3
WALL_TIMES = re.compile(
    rb'<tr><th scope="row">[^<]*</th><td[^>]*>[^<]*</td><td><span class="time".*'
    rb"|<summary>Processing time <small>[^<]*</small>"
)
"""Where a page says how long steps took."""
SHORTEST = 0.2
"""Least share of a run's time over which a moment is drawn."""


@dataclass
class Bench:
    """The dataset, the options of its runs, and the outputs of an undisturbed run."""

    bids: Path
    scratch: Path
    options: list[str]
    chain: int
    expected: dict[str, bytes] = field(default_factory=dict)
    cpu: float = 0.0
    failures: int = 0
    logs: dict[int, Path] = field(default_factory=dict)

    def start(self, out: Path, *more: str) -> Process:
        """Start a run in its own process group, with all modules already imported."""
        arguments = [str(self.bids), str(out), "participant", *self.options, *more]
        process = FORK.Process(target=_behave, args=(arguments, self._log(out, len(self.logs))))
        process.start()
        self.logs[process.pid] = self._log(out, len(self.logs))
        return process

    def _log(self, out: Path, number: int) -> Path:
        return self.scratch / f"{out.name}-{number}.log"

    def finish(self, process: Process) -> tuple[int, str]:
        """Wait for a run; return its exit code (-1 if it hangs) and its log."""
        process.join(HANG_S)
        if process.exitcode is None:
            os.killpg(process.pid, signal.SIGKILL)
            return -1, "hung"
        return process.exitcode, self.logs[process.pid].read_text(encoding="utf-8")

    def run(self, out: Path, *more: str) -> tuple[int, str]:
        """Start a run and wait for it."""
        return self.finish(self.start(out, *more))

    def report(self, fault: str, text: str, *, good: bool) -> None:
        """Print a row of the table."""
        self.failures += not good
        print(f"| {fault} | {text} | {'yes' if good else '**no**'} |", flush=True)

    def same(self, out: Path) -> tuple[bool, str]:
        """Compare with the undisturbed run."""
        files = comparable(out)
        names = files.keys() | self.expected.keys()
        differing = sorted(name for name in names if files.get(name) != self.expected.get(name))
        return (
            not differing,
            "same bytes" if not differing else f"differs: {', '.join(differing[:4])}",
        )


def _behave(arguments: list[str], log: Path) -> None:
    """Run the app as a separate process would, in its own session, with a log file."""
    os.setsid()
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 2)
    raise SystemExit(main_of_the_app(arguments))


def comparable(out: Path) -> dict[str, bytes]:
    """Read all files of OUT except the work folder and crash files, without wall times."""
    files = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_file() and not name.startswith((".work/", "logs/crash-")):
            files[name] = _timeless(path)
    return files


def _timeless(path: Path) -> bytes:
    if path.suffix == ".html":
        return WALL_TIMES.sub(b"", path.read_bytes())
    if path.suffix == ".zip":
        return _timeless_archive(path)
    if path.parent.name != "visits":
        return path.read_bytes()
    record = json.loads(path.read_text(encoding="utf-8"))
    record.pop("timings_s", None)
    return json.dumps(record, sort_keys=True).encode()


def _timeless_archive(path: Path) -> bytes:
    """Return the content of an archive of intermediate results without the times of the steps."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in sorted(archive.namelist())}
    manifest = json.loads(members[MANIFEST])
    for outputs in manifest["steps"].values():
        outputs.pop("seconds", None)
    members[MANIFEST] = json.dumps(manifest, sort_keys=True).encode()
    return b"".join(name.encode() + data for name, data in members.items())


def incomplete_files(out: Path) -> list[str]:
    """List incomplete files that have a final name."""
    names = (path for path in out.rglob("*") if path.is_file())
    outputs = (path for path in names if ".work" not in path.relative_to(out).parts)
    return [
        path.name for path in outputs if not path.name.startswith(".") and not _is_complete(path)
    ]


def _is_complete(path: Path) -> bool:
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            gzip.decompress(content)
        elif path.suffix == ".json":
            json.loads(content)
    except (OSError, EOFError, ValueError):
        return False
    ends = {".png": b"IEND\xaeB`\x82", ".tsv": b"\n", ".html": b"</html>", ".md": b"\n"}
    return bool(content) and content.endswith(ends.get(path.suffix, b""))


# Processes


def descendants(process: int) -> list[int]:
    """List the descendants of a process, parents first."""
    pids = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(word) for word in path.read_text().split()]
        except OSError:
            continue
        for child in children:
            pids += [child, *descendants(child)]
    return pids


def cpu_seconds(process: int) -> float:
    """Add up the CPU time of a process, its ended children and its descendants."""
    total = 0
    for pid in (process, *descendants(process)):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(value) for value in fields[11:15])
    return total / TICKS


def wait_for(process: Process, condition: Callable[[], bool]) -> bool:
    """Wait for a condition; return whether it was met before the process ended."""
    end = time.monotonic() + HANG_S
    while process.exitcode is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def orphans(children: list[int]) -> list[int]:
    """List workers that are still there 10 s after their parent was killed."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        children = [pid for pid in children if _lives(pid)]
        if not children:
            break
        time.sleep(0.1)
    return children


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# Faults


def undisturbed(bench: Bench) -> None:
    out = bench.scratch / "undisturbed"
    process = bench.start(out)
    peak_cpu = [0.0]

    def measure() -> bool:
        peak_cpu[0] = max(peak_cpu[0], cpu_seconds(process.pid))
        return False

    wait_for(process, measure)
    code, log = bench.finish(process)
    if code:
        raise SystemExit(f"the undisturbed run ended with {code}:\n{log}")
    bench.expected, bench.cpu = comparable(out), peak_cpu[0]
    bench.report("none", f"{len(bench.expected)} files, {bench.cpu:.0f} s of CPU", good=True)


def kill(bench: Bench, moments: int, seed: int) -> None:
    """Kill the main process, at random."""
    draw = random.Random(seed)  # noqa: S311 no secret
    for first in range(0, moments, bench.chain):
        out = bench.scratch / f"killed{first}"
        outcomes, good, remaining_cpu = [], True, bench.cpu
        for _ in range(min(bench.chain, moments - first)):
            moment = draw.uniform(0.0, remaining_cpu)
            remaining_cpu = max(remaining_cpu - moment, SHORTEST * bench.cpu)
            outcome, clean = _kill_once(bench, out, moment)
            outcomes.append(outcome)
            good &= clean
        code, log = bench.run(out)
        same, comparison = bench.same(out)
        if code:
            comparison = f"{comparison}; {log[-300:]}"
        fault = f"kill -9 ({len(outcomes)} of {moments})"
        bench.report(
            fault,
            f"{'; '.join(outcomes)}; then code {code}, {comparison}",
            good=good and not code and same,
        )
        if same:
            shutil.rmtree(out)


def _kill_once(bench: Bench, out: Path, moment: float) -> tuple[str, bool]:
    process = bench.start(out)
    reached = wait_for(process, lambda: cpu_seconds(process.pid) >= moment)
    children = descendants(process.pid)
    process.kill()
    process.join()
    survivors = orphans(children)
    incomplete = incomplete_files(out)
    moment_text = f"at {moment:.1f} s" if reached else "after its end"
    faults = [f"{len(survivors)} workers live on"] if survivors else []
    faults += [f"half: {' '.join(incomplete)}"] if incomplete else []
    return " ".join([moment_text, *faults]), not faults


def signals(bench: Bench) -> None:
    """Send SIGTERM to the process, Ctrl-C to its group."""
    for name, number, expected_code in (
        ("SIGTERM", signal.SIGTERM, 143),
        ("Ctrl-C", signal.SIGINT, 130),
    ):
        out = bench.scratch / name
        process = bench.start(out)
        wait_for(process, lambda: cpu_seconds(process.pid) >= 0.6 * bench.cpu)  # noqa: B023
        children = descendants(process.pid)
        send = os.killpg if number == signal.SIGINT else os.kill
        send(process.pid, number)
        code, log = bench.finish(process)
        incomplete, survivors = incomplete_files(out), orphans(children)
        last = (log.strip().splitlines() or [""])[-1][10:]
        text = (
            f"code {code}, last line “{last}”, {len(incomplete)} half files, "
            f"{len(survivors)} workers left"
        )
        clean = (
            code == expected_code and not incomplete and not survivors and "Traceback" not in log
        )
        resumed_code, _ = bench.run(out)
        same, comparison = bench.same(out)
        bench.report(
            name,
            f"{text}; then code {resumed_code}, {comparison}",
            good=clean and same and not resumed_code,
        )


def memory(bench: Bench) -> None:
    """Kill workers, as the kernel does if memory runs out."""
    for which, expected_code in (("one worker", 0), ("every worker that comes", 75)):
        out = bench.scratch / which.replace(" ", "_")
        process = bench.start(out)
        killed = [0]

        def strike() -> bool:
            workers = descendants(process.pid)  # noqa: B023
            enough = cpu_seconds(process.pid) >= 0.4 * bench.cpu  # noqa: B023
            if workers and (enough or killed[0]):  # noqa: B023
                os.kill(workers[0], signal.SIGKILL)
                killed[0] += 1  # noqa: B023
            return bool(killed[0]) and expected_code == 0  # noqa: B023

        wait_for(process, strike)
        code, log = bench.finish(process)
        reported = "memory" in log
        text = f"{killed[0]} killed, code {code}, {'reported' if reported else 'not reported'}"
        good = code == expected_code and (reported or not expected_code)
        resumed_code, _ = bench.run(out)
        same, comparison = bench.same(out)
        fault = f"out of memory: {which}"
        bench.report(
            fault,
            f"{text}; then code {resumed_code}, {comparison}",
            good=good and same and not resumed_code,
        )


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[bool]:
    """Mount a tmpfs; yield False if mounting is not allowed."""
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    size = f"size={megabytes}m".encode()
    mounted = libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, size) == 0
    try:
        yield mounted
    finally:
        if mounted:
            libc.umount2(str(folder).encode(), 2)


def disk(bench: Bench) -> None:
    """Run with a full disk for the work folder, then for the results."""
    for target in ("work", "OUT"):
        with small_disk(
            bench.scratch / f"disk_{target}", DISK_MB if target == "work" else 1
        ) as mounted:
            if not mounted:
                bench.report(
                    f"{target} on a full disk", "not tried: mounting is not allowed", good=True
                )
                continue
            out, work = bench.scratch / f"full_{target}", bench.scratch / f"full_{target}_work"
            if target == "work":
                work = bench.scratch / "disk_work" / "work"
            else:
                out = bench.scratch / "disk_OUT" / "out"
            code, log = bench.run(out, "-w", str(work))
            incomplete, reported = incomplete_files(out), "no space left" in log.lower()
            if target == "work":
                resume_options = ["-w", str(bench.scratch / "roomy")]
            else:
                shutil.copytree(out, bench.scratch / "full_OUT")
                out, resume_options = bench.scratch / "full_OUT", ["-w", str(work)]
            resumed_code, _ = bench.run(out, *resume_options)
            same, comparison = bench.same(out)
            text = (
                f"code {code}, {len(incomplete)} half files, "
                f"{'reported' if reported else 'not reported'}"
            )
            good = code == 74 and reported and not incomplete and same and not resumed_code
            bench.report(
                f"{target} on a full disk",
                f"{text}; with space code {resumed_code}, {comparison}",
                good=good,
            )


def crowd(bench: Bench) -> None:
    """Start two runs at once, on one work folder and on two."""
    for setup in ("one work folder", "two work folders"):
        out = bench.scratch / setup.replace(" ", "_")
        works = [out / ".work", out / ".work"]
        if setup == "two work folders":
            works = [bench.scratch / "first", bench.scratch / "second"]
        runs = [bench.start(out, "-w", str(work)) for work in works]
        results = [bench.finish(run) for run in runs]
        codes = sorted(code for code, _ in results)
        deferred = sum(log.count("another run is processing") for _, log in results)
        incomplete = incomplete_files(out)
        resumed_code, _ = bench.run(out, "-w", str(works[0]))
        same, comparison = bench.same(out)
        text = (
            f"codes {codes}, visits left to the other run: {deferred}, "
            f"{len(incomplete)} half files"
        )
        good = (
            codes in ([0, 0], [0, 75], [75, 75]) and not incomplete and same and not resumed_code
        )
        bench.report(
            f"two runs at once, {setup}",
            f"{text}; then code {resumed_code}, {comparison}",
            good=good,
        )


def clock(bench: Bench) -> None:
    """Run again with file times in the future, then in the distant past."""
    out = bench.scratch / "clock"
    bench.run(out, "--min-lesion-volume", "30")
    for direction, moment in (("back by a year", time.time() + 3.2e7), ("ahead by 50 years", 1.0)):
        for path in [*out.rglob("*")]:
            os.utime(path, (moment, moment), follow_symlinks=False)
        code, _ = bench.run(out)
        same, comparison = bench.same(out)
        bench.report(
            f"clock {direction} between runs", f"code {code}, {comparison}", good=same and not code
        )


FAULTS: Mapping[str, Callable[[Bench], None]] = {
    "signals": signals,
    "memory": memory,
    "disk": disk,
    "crowd": crowd,
    "clock": clock,
}


def prepare(options: argparse.Namespace, scratch: Path) -> Path:
    """Copy the dataset, or write the demo if none is given; drop unrequested contrasts."""
    bids = scratch / "bids"
    if options.bids is None:
        command = ["--grid", "coarse", "--participants", "1", "--heads", "none"]
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "bids_msseg.cli.demo", str(bids), *command],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    else:
        shutil.copytree(options.bids, bids, ignore=shutil.ignore_patterns("derivatives"))
    for contrast in {"FLAIR", "T1w", "T2w"} - set(options.contrasts):
        for path in bids.rglob(f"*_{contrast}.*"):
            path.unlink()
    if options.small_heads:
        for path in bids.glob("sub-*/**/*.nii.gz"):
            halve(path)
    return bids


def halve(path: Path) -> None:
    """Halve the size of a head by halving the voxel size in its header."""
    image = nib.load(path)
    affine = image.affine @ np.diag([0.5, 0.5, 0.5, 1.0])
    half = nib.Nifti1Image(np.asanyarray(image.dataobj), affine)
    half.header.set_xyzt_units("mm", "sec")
    nib.save(half, path)


def main() -> int:
    """Try all faults and print the table."""
    options = _parse()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        run_options = [
            "--nprocs",
            "2",
            "--omp-nthreads",
            "1",
            *(["--fast"] if options.fast else []),
        ]
        if options.small_net:
            run_options += ["--model", str(write_small_net(scratch / "small.safetensors"))]
        for name in PRELOADED:
            importlib.import_module(f"bids_msseg.{name}")
        bench = Bench(prepare(options, scratch), scratch, run_options, options.chain)
        print("| fault | what was seen | as it should be |\n|---|---|---|", flush=True)
        undisturbed(bench)
        if "kill" in options.only:
            kill(bench, options.moments, options.seed)
        for name, fault in FAULTS.items():
            if name in options.only:
                fault(bench)
    return 1 if bench.failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Disturb a run and compare its results.")
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--chain", type=int, default=1, help="kills before a run may finish")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bids", type=Path, help="a dataset [the coarse demo]")
    parser.add_argument("--contrasts", nargs="+", default=["FLAIR", "T1w", "T2w"])
    parser.add_argument("--small-net", action="store_true", help="in place of the bundled model")
    parser.add_argument("--small-heads", action="store_true", help="halve the voxels' edges")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--scratch", type=Path, help="where to work [the system's folder]")
    parser.add_argument("--only", nargs="+", default=["kill", *FAULTS], choices=["kill", *FAULTS])
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
