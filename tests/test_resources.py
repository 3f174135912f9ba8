from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.resources import (
    Resources,
    available_cpus,
    available_memory_gb,
    resolve_resources,
)

GIB = 1024**3
UNLIMITED_V1 = "9223372036854771712"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a computer with 16 CPUs in the affinity mask and 64 GiB of memory."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    page = os.sysconf("SC_PAGE_SIZE")
    sizes = {"SC_PAGE_SIZE": page, "SC_PHYS_PAGES": 64 * GIB // page}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content + "\n", encoding="utf-8")
    return root


CPU_CASES = {
    "no control group": ({}, 16),
    "v2, no limit": ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "max 1000"}, 16),
    "v2, own limit": ({"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/cpu.max": "300 100"}, 3),
    "v2, limit of an ancestor": (
        {
            "proc/self/cgroup": "0::/slurm/job_7/step_0",
            "sys/fs/cgroup/slurm/job_7/step_0/cpu.max": "max 100",
            "sys/fs/cgroup/slurm/job_7/cpu.max": "400 100",
            "sys/fs/cgroup/slurm/cpu.max": "800 100",
        },
        4,
    ),
    "v2, in a container": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "200 100"}, 2),
    "v2, part of a CPU": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50 100"}, 1),
    "v2, one and a half": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150 100"}, 1),
    "v2, more than there are": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "6400 100"},
        16,
    ),
    "v1, own limit": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "500",
            "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100",
        },
        5,
    ),
    "v1, in a container, the host's path": (
        {
            "proc/self/cgroup": "1:cpu:/docker/abc",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100",
        },
        2,
    ),
    "v1, no limit": (
        {
            "proc/self/cgroup": "1:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100",
        },
        16,
    ),
    "v1, another controller's group": (
        {
            "proc/self/cgroup": "1:cpuset:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100",
        },
        16,
    ),
    "garbage": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "a b c"}, 16),
    "no period": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100 0"}, 16),
}

MEMORY_CASES = {
    "no control group": ({}, 64.0),
    "v2, no limit": ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, 64.0),
    "v2, own limit": (
        {"proc/self/cgroup": "0::/job", "sys/fs/cgroup/job/memory.max": str(8 * GIB)},
        8.0,
    ),
    "v2, limit of an ancestor": (
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/memory.max": str(8 * GIB),
            "sys/fs/cgroup/a/memory.max": str(6 * GIB),
        },
        6.0,
    ),
    "v1, own limit": (
        {
            "proc/self/cgroup": "2:memory:/job",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(4 * GIB),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
        },
        4.0,
    ),
    "v1, no limit": (
        {
            "proc/self/cgroup": "2:memory:/",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
        },
        64.0,
    ),
}


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("files", "cpus"), CPU_CASES.values(), ids=CPU_CASES)
def test_available_cpus(tmp_path: Path, files: dict[str, str], cpus: int) -> None:
    assert available_cpus(root=_write(tmp_path, files)) == cpus


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("files", "memory"), MEMORY_CASES.values(), ids=MEMORY_CASES)
def test_available_memory(tmp_path: Path, files: dict[str, str], memory: float) -> None:
    assert available_memory_gb(root=_write(tmp_path, files)) == memory


def test_affinity_mask_limits_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert available_cpus(root=tmp_path) == 2


def test_available_cpus_without_affinity_are_cpu_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    assert available_cpus(root=tmp_path) == 10


@pytest.mark.usefixtures("machine")
def test_unset_resources_get_defaults(tmp_path: Path) -> None:
    assert resolve_resources(root=tmp_path) == Resources(16, 8, 57.6)
    assert resolve_resources(nprocs=4, root=tmp_path) == Resources(4, 4, 57.6)
    assert resolve_resources(omp_nthreads=12, mem_gb=3, root=tmp_path) == Resources(16, 12, 3)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("there", "asked", "granted"), [(16, 64, 64), (16, 10**8, 64), (32, 100, 100), (32, 200, 128)]
)
def test_number_of_processes_and_threads_is_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: int, asked: int, granted: int
) -> None:
    monkeypatch.setattr("bids_msseg.resources.available_cpus", lambda **_: there)
    found = resolve_resources(nprocs=asked, omp_nthreads=10**9, root=tmp_path)
    assert (found.nprocs, found.omp_nthreads) == (granted, granted)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("asked", "granted", "noted"),
    [
        ({"mem_gb": 16}, (16, 8, 16), 0),
        ({"mem_gb": 64}, (16, 8, 64), 0),
        ({"mem_gb": 65}, (16, 8, 57.6), 1),
        ({"mem_gb": 16_000}, (16, 8, 57.6), 1),
        ({"mem_gb": 0.016}, (16, 8, 0.016), 1),
        ({"nprocs": 2, "omp_nthreads": 8}, (2, 2, 57.6), 1),
        ({"nprocs": 2, "omp_nthreads": 2}, (2, 2, 57.6), 0),
        ({"omp_nthreads": 17}, (16, 16, 57.6), 1),
        ({"nprocs": 100, "omp_nthreads": 100, "mem_gb": 100}, (64, 64, 57.6), 3),
    ],
)
def test_excessive_resource_requests_are_lowered_with_note(
    tmp_path: Path, asked: dict[str, Any], granted: tuple[int, int, float], noted: int
) -> None:
    found = resolve_resources(**asked, root=tmp_path)
    assert found == Resources(*granted)
    assert len(found.notes) == noted


@given(
    nprocs=st.none() | st.integers(1, 64),
    omp_nthreads=st.none() | st.integers(1, 64),
    mem_gb=st.none() | st.floats(0.1, 1000),
)
def test_resolved_resources_do_not_exceed_request(
    nprocs: int | None, omp_nthreads: int | None, mem_gb: float | None
) -> None:
    found = resolve_resources(nprocs=nprocs, omp_nthreads=omp_nthreads, mem_gb=mem_gb)
    assert 1 <= found.omp_nthreads <= found.nprocs
    assert found.mem_gb > 0
    assert nprocs in (None, found.nprocs)
    assert mem_gb is None or found.mem_gb <= mem_gb
