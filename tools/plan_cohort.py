"""Estimate the resources for a cohort from an output folder of a few of its visits.

CPU time and memory come from ``logs/resources.tsv`` (run with --resource-monitor); without it, the
wall time of the steps is used as the time of one CPU. Disk space and files are counted.

usage: python tools/plan_cohort.py OUT [--work DIR] [--visits 1000] [--at-once 50]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

STARTING_S = 6.6
"""Start-up, index and page of a visit (docs/validation/reliability.md), s; no step times them."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What finished visits took.

    Attributes
    ----------
    visits, participants : int
    cpu_s : tuple of float
        Of each visit, s.
    monitored : bool
        Whether ``cpu_s`` is time of CPUs and not of the clock.
    memory_gb : float or None
        Peak of a step's process, GiB.
    bytes_, files : int
        Below ``sub-*``, their pages and records, all together.
    work_bytes : int or None
        Of the work folder.
    """

    visits: int
    participants: int
    cpu_s: tuple[float, ...]
    monitored: bool
    memory_gb: float | None
    bytes_: int
    files: int
    work_bytes: int | None


def measure(out: Path, work: Path | None = None) -> Measured:
    """Read times, memory and sizes from an output folder.

    Parameters
    ----------
    out : Path
        Outputs with at least one finished visit.
    work : Path, optional
        The work folder of the same visits.

    Raises
    ------
    ValueError
        If no visit is finished.
    """
    records = [json.loads(p.read_text()) for p in sorted((out / "logs/visits").glob("*.json"))]
    done = [record for record in records if record["status"] == "ok"]
    if not done:
        raise ValueError(f"no visit is finished in {out}")
    cpu, memory = _monitored(out / "logs/resources.tsv")
    people = {f"sub-{record['participant']}" for record in done}
    sizes = list(_sizes(path for name in people for path in (out / name, out / f"{name}.html")))
    sizes += _sizes([out / "logs/visits"])
    return Measured(
        visits=len(done),
        participants=len(people),
        cpu_s=tuple(cpu or (sum(record["timings_s"].values()) for record in done)),
        monitored=bool(cpu),
        memory_gb=memory,
        bytes_=sum(sizes),
        files=len(sizes),
        work_bytes=None if work is None else sum(_sizes([work])),
    )


def _monitored(path: Path) -> tuple[list[float], float | None]:
    """Return the CPU time of each visit, and the peak of memory."""
    if not path.is_file():
        return [], None
    seconds: dict[str, float] = defaultdict(float)
    peak = 0.0
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream, delimiter="\t"):
            seconds[row["visit"]] += float(row["cpu_seconds"])
            peak = max(peak, float(row["memory_gb"]))
    return list(seconds.values()), peak


def _sizes(paths: Iterable[Path]) -> Iterable[int]:
    for path in paths:
        if path.is_file():
            yield path.stat().st_size
        for folder, _, names in os.walk(path):
            yield from (os.lstat(Path(folder, name)).st_size for name in names)


def report(measured: Measured, *, visits: int, at_once: int) -> str:
    """Write what was measured and what follows for a cohort.

    Parameters
    ----------
    measured : Measured
    visits : int
        Of the cohort.
    at_once : int
        Jobs that run at the same time, one CPU and one visit each.
    """
    each = statistics.mean(measured.cpu_s) + STARTING_S
    size, files = measured.bytes_ / measured.visits, measured.files / measured.visits
    kind = "CPU time" if measured.monitored else "wall time of steps"
    memory = "not measured" if measured.memory_gb is None else f"{measured.memory_gb:.2f} GiB"
    times = f"{min(measured.cpu_s):.0f}-{max(measured.cpu_s):.0f} s"
    lines = [
        f"measured: {measured.visits} visits of {measured.participants} participants",
        f"  {kind}: {times}, with start-up {each:.0f} s",
        f"  peak memory of a step: {memory}",
        f"  outputs: {size / 1e6:.1f} MB and {files:.0f} files a visit",
    ]
    scratch = None if measured.work_bytes is None else measured.work_bytes / measured.visits
    if scratch is not None:
        lines.append(f"  work folder: {scratch / 1e6:.0f} MB a visit")
    hours = visits * each / 3600
    lines += [
        f"for {visits} visits, {at_once} at once:",
        f"  {hours:.1f} core-hours, {hours / at_once:.2f} h by the clock",
        f"  outputs: {visits * size / 1e9:.1f} GB and {visits * files:.0f} files",
    ]
    if scratch is not None:
        lines.append(
            f"  work folders: {at_once * scratch / 1e9:.1f} GB at a time where every job removes "
            f"its own, {visits * scratch / 1e9:.0f} GB where all are kept"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and print the plan."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="outputs of a few visits")
    parser.add_argument("--work", type=Path, help="their work folder")
    parser.add_argument("--visits", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=50)
    options = parser.parse_args(argv)
    print(
        report(measure(options.out, options.work), visits=options.visits, at_once=options.at_once)
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
