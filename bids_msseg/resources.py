"""What this process may use: CPUs and memory, from affinity and control groups.

``os.cpu_count`` and the machine's RAM say what the computer has, not what a scheduler or container
engine grants; a job that believes them is slowed down or killed. Both control-group versions are
read, and every ancestor of the process's own group, because a limit set on any of them binds.

Public names: :class:`Resources`, :func:`available_cpus`, :func:`available_memory_gb`,
:func:`resolve_resources`.
"""

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
ALWAYS_GRANTED = 64
"""CPUs that are granted without a look at how many there are."""


@dataclass(frozen=True, slots=True)
class Resources:
    """The budget of one run.

    Parameters
    ----------
    nprocs : int
        CPUs that all nodes together may keep busy.
    omp_nthreads : int
        Threads that one node may use.
    mem_gb : float
        Memory of all nodes together, GiB.
    notes : tuple of str
        What was asked for and is not granted as it was, or cannot be meant.
    """

    nprocs: int
    omp_nthreads: int
    mem_gb: float
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)


def resolve_resources(
    *,
    nprocs: int | None = None,
    omp_nthreads: int | None = None,
    mem_gb: float | None = None,
    root: Path = Path("/"),
) -> Resources:
    """Fill in what the user did not ask for from what the process may use.

    Parameters
    ----------
    nprocs, omp_nthreads : int, optional
        As asked for; by default all CPUs, and at most eight threads a node, where registration
        and convolution stop gaining. A node never gets more threads than the run has CPUs. As
        each CPU of a run is a process, more than 64 are granted only up to four times those
        that there are.
    mem_gb : float, optional
        As asked for, GiB, unless that is more than the limit; else nine tenths of the limit, the
        rest being left to the interpreter itself and the page cache.
    root : Path, optional
        Root of the file system that holds ``proc`` and ``sys``.

    Returns
    -------
    Resources

    Examples
    --------
    >>> found = resolve_resources(nprocs=2, omp_nthreads=4, mem_gb=1)
    >>> found, found.notes
    (Resources(nprocs=2, omp_nthreads=2, mem_gb=1),
     ('--omp-nthreads 4 is more than the CPUs of the run: 2 are used',))
    """
    there = available_cpus(root=root)
    cpus = there if nprocs is None else min(nprocs, max(ALWAYS_GRANTED, 4 * there))
    threads = MAX_THREADS_PER_NODE if omp_nthreads is None else omp_nthreads
    limit = available_memory_gb(root=root)
    memory = round(MEMORY_SHARE * limit, 1) if mem_gb is None or mem_gb > limit else mem_gb
    notes = []
    if nprocs is not None and nprocs > cpus:
        notes.append(f"--nprocs {nprocs} is more than is useful here: {cpus} are used")
    if omp_nthreads is not None and omp_nthreads > cpus:
        notes.append(
            f"--omp-nthreads {omp_nthreads} is more than the CPUs of the run: {cpus} are used"
        )
    notes += _memory_notes(mem_gb, memory, limit)
    return Resources(cpus, min(threads, cpus), memory, tuple(notes))


def _memory_notes(asked: float | None, granted: float, limit: float) -> list[str]:
    if asked is None:
        return []
    if asked > limit:
        there = f"more than the {limit:.1f} GB that there are"
        return [f"{asked:g} GB of memory are {there}: {granted:g} GB are used"]
    if asked < MIN_MEMORY_GB:
        return [f"{asked:g} GB of memory are less than one step needs: is that meant?"]
    return []


def available_cpus(*, root: Path = Path("/")) -> int:
    """Count the CPUs that this process may keep busy.

    Parameters
    ----------
    root : Path, optional
        Root of the file system that holds ``proc`` and ``sys``.

    Returns
    -------
    int
        The smaller of the affinity mask and the control groups' CPU quota rounded down, at
        least 1.

    Examples
    --------
    >>> available_cpus() >= 1
    True
    """
    affinity = _affinity()
    quotas = [int(quota) for quota in _cpu_quotas(root)]
    return max(1, min([affinity, *quotas]))


def available_memory_gb(*, root: Path = Path("/")) -> float:
    """Tell how much memory this process may hold.

    Parameters
    ----------
    root : Path, optional
        Root of the file system that holds ``proc`` and ``sys``.

    Returns
    -------
    float
        The smaller of the machine's RAM and the control groups' limits, GiB. It is a limit, not
        what happens to be free, so it is the same in every run on a machine.

    Examples
    --------
    >>> available_memory_gb() > 0
    True
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_memory_limits(root)]) / GIB


def _affinity() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield every quota that binds, in CPUs."""
    for folder in _group_folders(root, controller="cpu"):
        version1 = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        for words in (_words(folder / "cpu.max"), version1):
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                yield int(words[0]) / int(words[1])


def _memory_limits(root: Path) -> Iterator[int]:
    """Yield every limit that binds, in bytes; "max" (version 2) is none."""
    for folder in _group_folders(root, controller="memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            for word in _words(folder / name):
                if word.isdecimal():
                    yield int(word)


def _group_folders(root: Path, *, controller: str) -> Iterator[Path]:
    """Yield the folders of the process's control group and of all its ancestors.

    Inside a container the path in ``/proc/self/cgroup`` may be the host's; its folder is then not
    there, and the mount point, which is the last ancestor, is the container's own group.
    """
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
        own = Path(group.strip().lstrip("/"))
        for top in tops:
            for part in (own, *own.parents):
                yield top / part


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    """Read a file of the kernel; one that is missing or forbidden sets no limit."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
