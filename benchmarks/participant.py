"""Time one visit from start to report, step by step, with peak memory.

usage: python benchmarks/participant.py BIDS_DIR [--participant 12] [--session 1] [--fast]
       [--nprocs 2] [--start-up]

Runs ``msseg`` in a process of its own on an empty output folder and prints a Markdown table.
``--start-up`` measures only how long it takes to answer: ``--help``, and the first line of the
log. CPU time stands beside the wall time, which a busy machine stretches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    """Run the app once and print what it took."""
    options = _parse()
    if options.start_up:
        return start_up(options.bids_dir)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [
            sys.executable, "-m", "bids_msseg", str(options.bids_dir), str(out), "participant",
            "--participant-label", options.participant, "--nprocs", str(options.nprocs),
        ]  # fmt: skip
        command += ["--session-label", options.session] if options.session else []
        command += ["--fast"] if options.fast else []
        begun = time.monotonic()
        code = subprocess.run(command, check=False).returncode  # noqa: S603
        wall = time.monotonic() - begun
        records = sorted((out / "logs" / "visits").glob("*.json"))
        if code or not records:
            return code or 1
        _print(json.loads(records[0].read_text(encoding="utf-8")), wall, options)
    return 0


def start_up(bids_dir: Path) -> int:
    """Print how long the first answers take."""
    print("| until | wall s | CPU s |\n|---|---|---|")
    for name, words in (
        ("--help", ["--help"]),
        ("first line of the log", [str(bids_dir), "-", "participant", "--dry-run"]),
    ):
        begun = time.monotonic()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "bids_msseg", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        line = next(iter(process.stdout or ()), b"")
        wall = time.monotonic() - begun
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        cpu = sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")
        process.kill()
        process.communicate()
        print(f"| {name} | {wall:.1f} | {cpu:.2f} |" if line else f"| {name} | nothing came | |")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time one visit.")
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--participant", default="12")
    parser.add_argument("--session", default="1")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--nprocs", type=int, default=2)
    parser.add_argument("--start-up", action="store_true", help="only the first answers")
    return parser.parse_args()


def _print(record: dict[str, object], wall: float, options: argparse.Namespace) -> None:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    timings: dict[str, float] = record["timings_s"]  # type: ignore[assignment]
    load = os.getloadavg()[1]
    print(
        f"sub-{options.participant} ses-{options.session}, {options.nprocs} processors of "
        f"{platform.processor() or platform.machine()}, load average {load:.1f}\n"
    )
    print("| step | s |\n|---|---|")
    for step, seconds in timings.items():
        print(f"| {step} | {seconds:.1f} |")
    rest = wall - sum(timings.values())
    print(f"| start-up, index, report | {rest:.1f} |")
    print(f"| **whole visit, wall** | **{wall:.1f}** |")
    print(f"| CPU | {usage.ru_utime + usage.ru_stime:.1f} |")
    print(f"\npeak memory {usage.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    raise SystemExit(main())
