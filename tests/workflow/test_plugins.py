"""Nipype plugins: nodes in worker processes, killed workers and plugin files."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import traits
from nipype.pipeline.engine import Node, Workflow

from bids_msseg.errors import UsageError
from bids_msseg.nodes.base import Step, StepInputs, StepOutputs
from bids_msseg.resources import resolve_resources
from bids_msseg.workflow.plugins import (
    PROGRAMS,
    SteadyMultiProcPlugin,
    known_plugins,
    read_plugin,
)


class _Inputs(StepInputs):  # type: ignore[misc]
    does = traits.Enum("work", "die", "raise", usedefault=True)
    after = traits.List(traits.Float, desc="makes a node wait for another one")


class Act(Step):
    """Node that works, raises an error or is killed."""

    input_spec = _Inputs
    output_spec = StepOutputs

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:  # noqa: ARG002
        if inputs["does"] == "die":
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGKILL)
        if inputs["does"] == "raise":
            raise ValueError("as requested")
        return {"notes": ["done"]}


@pytest.fixture
def workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workflow:
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    made = Workflow("top", base_dir=str(tmp_path))
    made.config["execution"] = {
        "crashdump_dir": str(tmp_path / "crashes"),
        "crashfile_format": "txt",
        "poll_sleep_duration": "0.05",
        "remove_unnecessary_outputs": "false",
    }
    return made


def run(workflow: Workflow, processes: int = 1) -> SteadyMultiProcPlugin:
    plugin = SteadyMultiProcPlugin({"n_procs": processes, "memory_gb": 4})
    try:
        workflow.run(plugin=plugin)
    finally:
        plugin.close(wait=True)
    return plugin


def finished(tmp_path: Path) -> set[str]:
    return {path.parent.name for path in (tmp_path / "top").glob("*/result_*.pklz")}


def test_plugin_runs_all_nodes_without_killed_worker(workflow: Workflow, tmp_path: Path) -> None:
    first, second = Node(Act(), name="first"), Node(Act(), name="second")
    workflow.connect(first, ("seconds", list_of), second, "after")
    assert run(workflow, processes=2).killed == set()
    assert finished(tmp_path) == {"first", "second"}


def list_of(seconds: float) -> list[float]:
    return [seconds]


def test_every_end_of_a_node_wakes_the_plugin(
    workflow: Workflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [Node(Act(), name=f"node{number}") for number in range(3)]
    for before, after in itertools.pairwise(nodes):
        workflow.connect(before, ("seconds", list_of), after, "after")
    woken: list[bool] = []
    wait = threading.Event.wait

    def noted_wait(event: threading.Event, timeout: float | None = None) -> bool:
        woken.append(wait(event, timeout))
        return woken[-1]

    monkeypatch.setattr("bids_msseg.workflow.plugins.MAX_WAIT_S", 30)
    plugin = SteadyMultiProcPlugin({"n_procs": 1, "memory_gb": 4})
    plugin._changed.wait = partial(noted_wait, plugin._changed)  # type: ignore[method-assign]
    workflow.run(plugin=plugin)
    plugin.close(wait=True)
    assert len(woken) >= len(nodes)
    assert all(woken)


def test_workers_ignore_sigint() -> None:
    plugin = SteadyMultiProcPlugin({"n_procs": 1, "memory_gb": 4})
    try:
        assert plugin.pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
    finally:
        plugin.close(wait=True)


def test_workers_use_default_sigterm_handler() -> None:
    """A Python handler would run only after a library call returns."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    plugin = SteadyMultiProcPlugin({"n_procs": 1, "memory_gb": 4, "mp_context": "fork"})
    try:
        assert plugin.pool.submit(signal.getsignal, signal.SIGTERM).result() == signal.SIG_DFL
    finally:
        plugin.close(wait=True)
        signal.signal(signal.SIGTERM, before)


def test_killed_worker_does_not_hang_or_stop_other_nodes(
    workflow: Workflow, tmp_path: Path
) -> None:
    """Regression test: nipype waited forever; now queued nodes run in a new worker."""
    big, after_big = Node(Act(does="die"), name="big"), Node(Act(), name="after_big")
    workflow.connect(big, ("seconds", list_of), after_big, "after")
    workflow.add_nodes([Node(Act(), name=f"small{number}") for number in range(3)])
    plugin = SteadyMultiProcPlugin({"n_procs": 1, "memory_gb": 4})
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match="a worker process was killed"):
        workflow.run(plugin=plugin)
    plugin.close(wait=True)
    assert time.monotonic() - begun < 60
    assert plugin.killed == {"top.big"}
    assert finished(tmp_path) == {"small0", "small1", "small2"}
    crashes = [path.read_text() for path in (tmp_path / "crashes").iterdir()]
    assert len(crashes) == 1
    assert "Node: top.big" in crashes[0]


def test_exception_is_not_counted_as_killed_worker(workflow: Workflow, tmp_path: Path) -> None:
    workflow.add_nodes([Node(Act(does="raise"), name="bad"), Node(Act(), name="good")])
    plugin = SteadyMultiProcPlugin({"n_procs": 1, "memory_gb": 4})
    with pytest.raises(RuntimeError, match="as requested"):
        workflow.run(plugin=plugin)
    plugin.close(wait=True)
    assert plugin.killed == set()
    assert finished(tmp_path) >= {"good"}


def test_known_plugins_include_those_of_nipype() -> None:
    assert {"Linear", "MultiProc", "SLURM", "SGE", "PBS", "Condor"} <= set(known_plugins())
    assert "" not in known_plugins()


PARENT = """
import os, sys, time
from bids_msseg.workflow.plugins import SteadyMultiProcPlugin
plugin = SteadyMultiProcPlugin({"n_procs": 1, "memory_gb": 1, "mp_context": sys.argv[1]})
print(plugin.pool.submit(os.getpid).result(), flush=True)
plugin.pool.submit(time.sleep, 600)
time.sleep(600)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_end_when_parent_is_killed(method: str) -> None:
    """Otherwise they wait forever or write to the folders of the next run."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, method],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    # the worker has the pipe open, too
    assert parent.stdout.read() == ""
    parent.wait()
    end = time.monotonic() + 60
    while is_alive(worker):
        assert time.monotonic() < end, "it lives on"
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


GOOD = {
    "plugin: Linear": ("Linear", {}),
    "plugin: MultiProc": ("MultiProc", {}),
    "plugin: MultiProc\nplugin_args: {n_procs: 2, memory_gb: 4.5, mp_context: spawn}": (
        "MultiProc",
        {"n_procs": 2, "memory_gb": 4.5, "mp_context": "spawn"},
    ),
    "plugin: SLURM\nplugin_args: {sbatch_args: --mem=8G}": ("SLURM", {"sbatch_args": "--mem=8G"}),
}


@pytest.mark.parametrize(("text", "expected"), GOOD.items())
def test_read_plugin_accepts_valid_files(
    text: str, expected: tuple[str, dict[str, Any]], tmp_path: Path, sbatch: Path
) -> None:
    assert sbatch.exists()
    assert read_plugin(write_plugin_file(tmp_path, text)) == expected


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create the program of a scheduler, the only one in PATH."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return program


def write_plugin_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plugin.yml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("n_procs: 0", "a whole number from 1"),
        ("n_procs: -3", "a whole number from 1"),
        ("n_procs: 2.5", "a whole number from 1"),
        ("n_procs: many", "a whole number from 1"),
        ("n_procs: yes", "a whole number from 1"),
        ("n_procs:", "a whole number from 1"),
        ("n_gpu_procs: -1", "a whole number from 0"),
        ("memory_gb: 0", "a number of GB above 0"),
        ("memory_gb: .nan", "a number of GB above 0"),
        ("memory_gb: 4G", "a number of GB above 0"),
        ("mp_context: thread", "fork or spawn or forkserver"),
    ],
)
@pytest.mark.parametrize("name", ["MultiProc", "LegacyMultiProc"])
def test_invalid_multiproc_arguments_are_refused(
    name: str, argument: str, hint: str, tmp_path: Path
) -> None:
    path = write_plugin_file(tmp_path, f"plugin: {name}\nplugin_args: {{{argument}}}")
    with pytest.raises(UsageError, match=f"invalid {argument.partition(':')[0]} in") as error:
        read_plugin(path)
    assert hint in error.value.hint


def test_n_procs_is_limited_to_useful_maximum(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_plugin_file(tmp_path, "plugin: MultiProc\nplugin_args: {n_procs: 100000000}")
    granted = read_plugin(path)[1]["n_procs"]
    assert granted == resolve_resources(nprocs=10**8).nprocs < 10**8
    assert f"n_procs reduced from 100000000 to the useful maximum of {granted}" in caplog.text


def test_plugin_of_missing_scheduler_is_refused(tmp_path: Path, sbatch: Path) -> None:
    path = write_plugin_file(tmp_path, "plugin: SLURM")
    assert read_plugin(path) == ("SLURM", {})
    sbatch.unlink()
    with pytest.raises(UsageError, match="program sbatch was not found") as error:
        read_plugin(path)
    assert "where sbatch is installed" in error.value.hint


def test_all_scheduler_plugins_have_a_known_program() -> None:
    """The other plugins need no program, or only a Python library."""
    others = {"Debug", "IPython", "LegacyMultiProc", "Linear", "MultiProc", "SomaFlow"}
    assert set(known_plugins()) - set(PROGRAMS) == others
