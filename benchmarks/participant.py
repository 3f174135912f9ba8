"""Time one visit from start to report, step by step, with peak memory.

usage: python benchmarks/participant.py BIDS_DIR [--participant 12] [--session 1] [--fast]
[--nprocs 2] [--model NAME] [--keep OUT] [--start-up]

Runs ``msseg`` in a separate process on an empty output folder and prints a Markdown table.
``--start-up`` measures only the time to the first output of ``--help`` and to the first line of
the log. CPU time is printed beside the wall time, which is longer on a busy machine. ``--keep``
keeps the outputs, so that those of two versions can be compared.
"""

from __future__ import annotations

import argparse
import csv
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
    """Run the app once and print its time and memory."""
    options = _parse()
    if options.start_up:
        return start_up(options.bids_dir)
    with tempfile.TemporaryDirectory() as folder:
        out = (options.keep or Path(folder) / "out").resolve()
        command = [
            sys.executable, "-m", "bids_msseg", str(options.bids_dir), str(out), "participant",
            "--participant-label", options.participant, "--nprocs", str(options.nprocs),
            "--resource-monitor",
        ]  # fmt: skip
        command += ["--session-label", options.session] if options.session else []
        command += ["--fast"] if options.fast else []
        command += ["--model", options.model] if options.model else []
        start = time.monotonic()
        code = subprocess.run(command, check=False).returncode  # noqa: S603
        wall = time.monotonic() - start
        records = sorted((out / "logs" / "visits").glob("*.json"))
        if code or not records:
            return code or 1
        record = json.loads(records[0].read_text(encoding="utf-8"))
        _print(record, _read_usage(out / "logs" / "resources.tsv"), wall, options)
    return 0


def start_up(bids_dir: Path) -> int:
    """Print the time to the first output of ``--help`` and of a run."""
    print("| until | wall s | CPU s |\n|---|---|---|")
    for name, arguments in (
        ("--help", ["--help"]),
        ("first line of the log", [str(bids_dir), "-", "participant", "--dry-run"]),
    ):
        start = time.monotonic()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "bids_msseg", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        line = next(iter(process.stdout or ()), b"")
        wall = time.monotonic() - start
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
    parser.add_argument("--model", help="weights; by default the app's own default")
    parser.add_argument("--keep", type=Path, metavar="OUT", help="empty folder for the outputs")
    parser.add_argument("--start-up", action="store_true", help="only the first answers")
    return parser.parse_args()


def _read_usage(table: Path) -> dict[str, tuple[float, float]]:
    """Read the CPU seconds of each step, over all processors, and its peak memory in GiB."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t")
        return {row["step"]: (float(row["cpu_seconds"]), float(row["memory_gb"])) for row in rows}


def _print(
    record: dict[str, object],
    steps: dict[str, tuple[float, float]],
    wall: float,
    options: argparse.Namespace,
) -> None:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = {step: seconds for step, (seconds, _) in steps.items()}
    timings: dict[str, float] = record["timings_s"]  # type: ignore[assignment]
    model: dict[str, str] = record["model"]  # type: ignore[assignment]
    print(
        f"sub-{options.participant} ses-{options.session}, {model['name']}, {options.nprocs} "
        f"processors of {platform.processor() or platform.machine()}, load average "
        f"{os.getloadavg()[1]:.1f}\n"
    )
    print("| step | wall s | CPU s |\n|---|---|---|")
    for step, seconds in timings.items():
        print(f"| {step} | {seconds:.1f} | {cpu.get(step, float('nan')):.2f} |")
    total = usage.ru_utime + usage.ru_stime
    # steps that run at the same time take longer together than the visit
    other_seconds = max(0.0, wall - sum(timings.values()))
    print(f"| start-up, index, report | {other_seconds:.1f} | {total - sum(cpu.values()):.2f} |")
    print(f"| **whole visit** | **{wall:.1f}** | **{total:.1f}** |")
    # the resource monitor resets the kernel's count before each step
    peak = max(usage.ru_maxrss / 2**20, *(memory for _, memory in steps.values()))
    print(f"\npeak memory of a process {peak:.2f} GiB")


if __name__ == "__main__":
    raise SystemExit(main())
