"""CPUs and memory that this process may use, from affinity and control groups (v1 and v2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

GIB = 1024**3
MAX_THREADS_PER_NODE = 8
MEMORY_SHARE = 0.9
MIN_MEMORY_GB = 1.0
"""No visit can be processed with less."""
ALWAYS_GRANTED_CPUS = 64
"""CPUs that may be requested on any computer."""


@dataclass(frozen=True, slots=True)
class Resources:
    """CPU and memory budget of one run, with notes on requests that were reduced."""

    nprocs: int  # for all nodes together
    omp_nthreads: int  # for one node
    mem_gb: float  # GiB, for all nodes together
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)


def resolve_resources(
    *,
    nprocs: int | None = None,
    omp_nthreads: int | None = None,
    mem_gb: float | None = None,
    root: Path = Path("/"),
) -> Resources:
    """Set the CPU and memory (GiB) budget from the request and the limits below ``root``."""
    available = available_cpus(root=root)
    cpus = available if nprocs is None else min(nprocs, max(ALWAYS_GRANTED_CPUS, 4 * available))
    threads = MAX_THREADS_PER_NODE if omp_nthreads is None else omp_nthreads
    limit = available_memory_gb(root=root)
    memory = round(MEMORY_SHARE * limit, 1) if mem_gb is None or mem_gb > limit else mem_gb
    notes = []
    if nprocs is not None and nprocs > cpus:
        notes.append(f"--nprocs {nprocs} is more than is useful here: {cpus} are used")
    if omp_nthreads is not None and omp_nthreads > cpus:
        notes.append(f"--omp-nthreads {omp_nthreads} exceeds the CPUs of the run: {cpus} are used")
    notes += _memory_notes(mem_gb, memory, limit)
    return Resources(cpus, min(threads, cpus), memory, tuple(notes))


def _memory_notes(mem_gb: float | None, granted: float, limit: float) -> list[str]:
    if mem_gb is None:
        return []
    if mem_gb > limit:
        return [
            f"{mem_gb:g} GB of memory exceed the available {limit:.1f} GB: {granted:g} GB are used"
        ]
    if mem_gb < MIN_MEMORY_GB:
        return [f"{mem_gb:g} GB of memory are less than one step needs: check the value"]
    return []


def available_cpus(*, root: Path = Path("/")) -> int:
    """Count the CPUs of affinity mask or control groups' quota (rounded down), at least 1."""
    affinity = _affinity()
    quotas = [int(quota) for quota in _cpu_quotas(root)]
    return max(1, min([affinity, *quotas]))


def available_memory_gb(*, root: Path = Path("/")) -> float:
    """Return the memory limit in GiB: the smaller of RAM and the control groups' limits."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_memory_limits(root)]) / GIB


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield every quota that binds, in CPUs."""
    for folder in _group_folders(root, controller="cpu"):
        version1 = _tokens(folder / "cpu.cfs_quota_us") + _tokens(folder / "cpu.cfs_period_us")
        for tokens in (_tokens(folder / "cpu.max"), version1):
            if len(tokens) == 2 and all(token.isdecimal() for token in tokens) and int(tokens[1]):
                yield int(tokens[0]) / int(tokens[1])


def _memory_limits(root: Path) -> Iterator[int]:
    """Yield every limit that binds, in bytes; "max" (version 2) is none."""
    for folder in _group_folders(root, controller="memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for token in _tokens(folder / name):
                if token.isdecimal():
                    yield int(token)


def _group_folders(root: Path, *, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's control group and of all its ancestors."""
    # in a container, the path may be that of the host: only the mount point then exists
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            tops = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            tops = [mount / controllers, mount / controller]
        else:
            continue
        process_group = Path(group.strip().lstrip("/"))
        for top in tops:
            for part in (process_group, *process_group.parents):
                yield top / part


def _tokens(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    """Return the lines of a kernel file; empty if it is missing or forbidden."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
