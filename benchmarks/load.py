"""Time, memory and disk for many visits, many participants and large group pages.

usage: python benchmarks/load.py [--visits 200] [--participants 10000] [--pages 1000 5000]
[--pybids] [--contrasts FLAIR T1w T2w] [--small-heads] [--fast] [--small-net]

The first table is of one process that runs both levels on ``--visits`` copies of the coarse demo
with ``--nprocs 2 --clean-workdir``; each line shows memory, descriptors, temporary files and disk
after a number of visits. The second table is of a skeleton of ``--participants`` (empty images
with sidecars, three contrasts each): finding its visits, with ``--pybids`` also by pybids with its
default settings, and the group level on simulated records. The third table is of the group page of
``--pages`` simulated visits: its size and, if chromium and playwright are installed, the time
until its table is readable (the shortest of three) and the number of elements on the page. Zero
disables a table.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from faults import cpu_seconds, descendants, halve
from indexing import WAYS, measure, write_skeleton

if TYPE_CHECKING:
    from bids_msseg.bids.record import VisitRecord

INTERVAL_S = 0.5
MB = 2**20
TIMES = 3


@dataclass(frozen=True)
class State:
    """Resources held by a run at one moment."""

    done: int
    wall: float
    cpu: float
    memory_mb: float
    largest_mb: float
    descriptors: int
    temporary: int
    work_mb: float


def measure_state(process: int, out: Path, work: Path, start: float) -> State:
    """Measure the resources of a process, its descendants and its folders."""
    processes = (process, *descendants(process))
    memory = [_memory_mb(pid) for pid in processes]
    return State(
        done=sum('"ok"' in _read(path) for path in (out / "logs/visits").glob("*.json")),
        wall=time.monotonic() - start,
        cpu=cpu_seconds(process),
        memory_mb=sum(memory),
        largest_mb=max(memory),
        descriptors=len(_entries(Path(f"/proc/{process}/fd"))),
        temporary=sum(len(_entries(folder)) for folder in work.glob("tmp-*")),
        work_mb=sum(_size(Path(top) / name) for top, _, names in os.walk(work) for name in names)
        / MB,
    )


def _memory_mb(process: int) -> float:
    """Return the proportional set size (PSS) of a process, in MB."""
    for line in _read(Path(f"/proc/{process}/smaps_rollup")).splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _entries(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def many_visits(options: argparse.Namespace, scratch: Path) -> int:
    """Run the app on copies of one visit, print its resources and return its exit code."""
    bids, out, work = write_visits(options, scratch), scratch / "out", scratch / "work"
    arguments = [
        str(bids),
        str(out),
        "participant",
        "group",
        "--nprocs",
        "2",
        "--omp-nthreads",
        "1",
    ]
    arguments += ["--clean-workdir", "-w", str(work), *(["--fast"] if options.fast else [])]
    if options.small_net:
        from small_net import write_small_net

        arguments += ["--model", str(write_small_net(scratch / "small.safetensors"))]
    start = time.monotonic()
    with (scratch / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "bids_msseg", *arguments], stderr=log)  # noqa: S603
        states: dict[int, State] = {}
        while process.poll() is None:
            state = measure_state(process.pid, out, work, start)
            states[state.done] = _worse(states.get(state.done), state)
            time.sleep(INTERVAL_S)
    print_states(options.visits, states)
    remaining = [path.name for path in work.rglob("*") if path.is_file()]
    print(f"\ncode {process.returncode}; {len(remaining)} files left in the work folder")
    return process.returncode


def _worse(before: State | None, now: State) -> State:
    """Combine two states: the latest times and the maximum of everything else."""
    if before is None:
        return now
    names = ("memory_mb", "largest_mb", "descriptors", "temporary", "work_mb")
    return State(
        done=now.done,
        wall=now.wall,
        cpu=now.cpu,
        **{name: max(getattr(before, name), getattr(now, name)) for name in names},
    )


def write_visits(options: argparse.Namespace, scratch: Path) -> Path:
    """Write one visit of the demo, and links to it under other names."""
    demo, bids = scratch / "demo", scratch / "bids"
    arguments = ["--grid", "coarse", "--participants", "1", "--heads", "none"]
    command = [sys.executable, "-m", "bids_msseg.cli.demo", str(demo), *arguments]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)  # noqa: S603
    for path in demo.glob("sub-01/ses-1/anat/*.nii.gz") if options.small_heads else ():
        halve(path)
    bids.mkdir()
    for path in demo.glob("*.json"):
        shutil.copy(path, bids)
    (bids / "participants.json").unlink(missing_ok=True)
    for number in range(1, options.visits + 1):
        anat = bids / f"sub-{number:04d}" / "anat"
        anat.mkdir(parents=True)
        for contrast in options.contrasts:
            for path in demo.glob(f"sub-01/ses-1/anat/*_{contrast}.*"):
                os.link(path, anat / path.name.replace("sub-01_ses-1", f"sub-{number:04d}"))
    return bids


def print_states(visits: int, states: dict[int, State]) -> None:
    """Print about ten lines, evenly over the visits."""
    print("| visits done | wall s | CPU s | memory MB | largest process MB | descriptors | "
          "temporary files | work folder MB |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    step = max(1, visits // 10)
    for done in sorted(states):
        if done % step and done != visits:
            continue
        state = states[done]
        print(
            f"| {state.done} | {state.wall:.0f} | {state.cpu:.1f} | {state.memory_mb:.0f} | "
            f"{state.largest_mb:.0f} | {state.descriptors} | {state.temporary} | "
            f"{state.work_mb:.1f} |"
        )


def many_participants(options: argparse.Namespace, scratch: Path) -> None:
    """Time the search for visits in a skeleton, and the group level on simulated records."""
    root, database, out = scratch / "skeleton", scratch / "database", scratch / "out"
    ways = dict(WAYS) if options.pybids else {k: v for k, v in WAYS.items() if "pybids" not in k}
    print("| what | visits | wall s | CPU s | MB |\n|---|---|---|---|---|")
    write_skeleton(root, options.participants, only_anat=True)
    for name, way in ways.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
            count, wall, cpu, memory = executor.submit(measure, way, root, database).result()
        print(
            f"| {name} | {count} | {wall / 1000:.1f} | {cpu / 1000:.1f} | {memory} |", flush=True
        )
    write_records(out, options.participants)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        count, wall, cpu, memory = executor.submit(measure, group, root, out).result()
    print(f"| group level | {count} | {wall / 1000:.1f} | {cpu / 1000:.1f} | {memory} |")


def write_records(out: Path, participants: int) -> None:
    """Write the records that the participant level would leave in ``logs/visits``."""
    from bids_msseg.bids.record import write_record

    os.fsync, before = (lambda _: None), os.fsync  # the disk is not what is measured
    try:
        for number in range(participants):
            write_record(out, simulated_record(number))
    finally:
        os.fsync = before


def simulated_record(number: int) -> VisitRecord:
    """Simulate the record of a finished visit; every fifth has a flag."""
    from bids_msseg.bids.record import VisitRecord
    from bids_msseg.lesions.regions import Region

    label = f"{number:05d}"
    load = (number * 37 % 400) / 10 + 0.1
    return VisitRecord(
        label,
        None,
        f"sub-{label}",
        "ok",
        brain_volume_ml=1200.0 + number % 300,
        lesion_load_ml=load,
        lesion_count=number % 60,
        candidate_count=number % 60 + 5,
        rejected_count=5,
        regions={region.label: (load * region / 10, number % 15) for region in Region},
        flags=(f"FLAIR: the slices are {number % 7}.5 mm thick",) if number % 5 == 0 else (),
    )


def pages(numbers: list[int], scratch: Path) -> None:
    """Write group pages of simulated visits, and open them if there is a browser."""
    from bids_msseg.reports.group.report import write_group

    print("\n| visits | written in s | page MB | bytes per visit | opened in s | elements |\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    for number in filter(None, numbers):
        out = scratch / f"page-{number}"
        out.mkdir()
        start = time.monotonic()
        page = write_group(out, records=[simulated_record(index) for index in range(number)]).html
        wall = time.monotonic() - start
        size = page.stat().st_size
        opened, elements = open_page(page)
        print(
            f"| {number} | {wall:.1f} | {size / MB:.2f} | {size / number:.0f} | {opened} | "
            f"{elements} |",
            flush=True,
        )


def open_page(page: Path) -> tuple[str, str]:
    """Return the time until the table of a page is readable, and its element count."""
    browsers = (shutil.which(name) for name in ("chromium", "chromium-browser", "chrome"))
    chromium = next(filter(None, browsers), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        return "no browser", "n/a"
    times = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(TIMES):
            window = browser.new_page(viewport={"width": 1360, "height": 1000})
            start = time.monotonic()
            window.goto(page.as_uri())
            window.locator("#tools").wait_for()  # the script shows it when it runs
            window.locator("tbody tr").last.wait_for()
            # two frames: what the script made is on the screen
            frames = "new Promise((on) => requestAnimationFrame(() => requestAnimationFrame(on)))"
            window.evaluate(frames)
            times.append(time.monotonic() - start)
            elements = window.evaluate("document.querySelectorAll('*').length")
            window.close()
        browser.close()
    return f"{min(times):.2f}", str(elements)


def group(root: Path, out: Path) -> int:
    """Run the group level; return the number of visits in its table."""
    from bids_msseg.cli.run import main

    if main([str(root), str(out), "group"]):
        return -1
    return len((out / "group_lesions.tsv").read_text(encoding="utf-8").splitlines()) - 1


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Load the app with visits and participants.")
    parser.add_argument("--visits", type=int, default=200)
    parser.add_argument("--participants", type=int, default=10_000)
    parser.add_argument("--pages", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--pybids", action="store_true", help="also pybids alone: minutes")
    parser.add_argument("--contrasts", nargs="+", default=["FLAIR", "T1w", "T2w"])
    parser.add_argument("--small-heads", action="store_true", help="halve the voxels' edges")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--small-net", action="store_true", help="in place of the bundled model")
    options = parser.parse_args()
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        if options.visits:
            code = many_visits(options, Path(folder))
        if options.participants:
            many_participants(options, Path(folder))
        if any(options.pages):
            pages(options.pages, Path(folder))
    return code


if __name__ == "__main__":
    raise SystemExit(main())
