"""Plugins of nipype, and a variant of MultiProc that does not hang if a worker is killed."""

from __future__ import annotations

import ctypes
import gc
import logging
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from nipype.pipeline import plugins
from nipype.pipeline.plugins.multiproc import MultiProcPlugin, run_node

from bids_msseg.errors import UsageError
from bids_msseg.resources import resolve_resources
from bids_msseg.streams import tolerant_stream

KILLED = "a worker process was killed"
MAX_WAIT_S = 0.5
"""Longest wait for the end of a node between two looks at the state of all."""
LOGGER = logging.getLogger("bids_msseg")
PR_SET_PDEATHSIG = 1  # prctl(2)
PROGRAMS = {
    "Condor": "condor_qsub",
    "CondorDAGMan": "condor_submit_dag",
    "LSF": "bsub",
    "OAR": "oarsub",
    "PBS": "qsub",
    "PBSGraph": "qsub",
    "SGE": "qsub",
    "SGEGraph": "qsub",
    "SLURM": "sbatch",
    "SLURMGraph": "sbatch",
}
"""Programs to which the plugins of clusters submit their jobs."""


class SteadyMultiProcPlugin(MultiProcPlugin):  # type: ignore[misc]
    """Variant of nipype's MultiProc that does not wait for killed workers (nipype issue 2548)."""

    def __init__(self, plugin_args: Mapping[str, Any] | None = None) -> None:
        super().__init__(plugin_args=dict(plugin_args or {}))
        self.killed: set[str] = set()  # full names of nodes that ended with their worker
        self.folder = str(Path.cwd())
        self.submitted = 0
        self.results: dict[int, dict[str, Any]] = {}
        self._changed = threading.Event()  # a node ended
        # nipype collects garbage at every poll, which is slow if it searches the imported modules
        gc.freeze()
        self.pool: ProcessPoolExecutor = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context(self.plugin_args.get("mp_context"))
        # a fork server is the parent of its workers itself
        parent = None if context.get_start_method() == "forkserver" else os.getpid()
        return ProcessPoolExecutor(
            max_workers=self.processors,
            initializer=_begin_worker,
            initargs=(self.folder, parent),
            mp_context=context,
        )

    def _submit_job(self, node: Any, updatehash: bool = False) -> int:
        self.submitted += 1
        taskid = self.submitted
        try:
            future = self.pool.submit(run_node, node, updatehash, taskid)
        except BrokenProcessPool:
            self.pool.shutdown()
            self.pool = self._new_pool()
            future = self.pool.submit(run_node, node, updatehash, taskid)
        future.add_done_callback(partial(self._store_result, taskid, node.fullname))
        return taskid

    def _get_result(self, taskid: int) -> dict[str, Any] | None:
        return self.results.get(taskid)

    def _clear_task(self, taskid: int) -> None:
        del self.results[taskid]

    def _send_procs_to_workers(self, updatehash: bool = False, graph: Any = None) -> None:
        super()._send_procs_to_workers(updatehash, graph)
        # nipype only polls: waiting for an event starts the next node without the delay of a poll
        self._changed.wait(MAX_WAIT_S)
        self._changed.clear()

    def _task_finished_cb(self, jobid: int, cached: bool = False) -> None:
        super()._task_finished_cb(jobid, cached)
        self._changed.set()

    def _store_result(self, taskid: int, name: str, future: Future[Any]) -> None:
        """Store the result of a node, or an error message if there is none."""
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            self.results[taskid] = future.result()
        else:
            if isinstance(error, BrokenProcessPool):
                self.killed.add(name)
            message = f"{KILLED}: {error}\n"
            self.results[taskid] = {"result": None, "traceback": [message], "taskid": taskid}
        self._changed.set()

    def close(self, *, wait: bool) -> None:
        """End the workers; without ``wait``, running nodes continue until the caller ends them."""
        self.pool.shutdown(wait=wait, cancel_futures=True)
        gc.unfreeze()


def _begin_worker(cwd: str, parent: int | None) -> None:
    """Set up a worker process: signals, working folder and output streams."""
    _end_with(parent)
    # a terminal sends Ctrl-C to all processes; the parent reports it once, and ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # an inherited handler would wait until a long call of a library returns
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(cwd)
    # the inherited progress bar may hold a lock; output to a closed stream must not fail a step
    sys.stdout = tolerant_stream(sys.__stdout__, is_log=True)
    sys.stderr = tolerant_stream(sys.__stderr__, is_log=True)


def _end_with(parent: int | None) -> None:
    """End this process when its parent is killed, if the system supports it (Linux)."""
    # otherwise a worker could wait forever, or write to folders that the next run uses
    if parent is None:
        threading.Thread(target=_end_after_parent, daemon=True).start()
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # the parent ended before the call
            os.kill(os.getpid(), signal.SIGKILL)


def _end_after_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def known_plugins() -> list[str]:
    """List the names of the nipype plugins."""
    names = (name.removesuffix("Plugin") for name in vars(plugins) if name.endswith("Plugin"))
    return sorted(name for name in names if name)


def read_plugin(path: Path) -> tuple[str, dict[str, Any]]:
    """Read name and arguments of a nipype plugin file in YAML; UsageError if it is unusable."""
    content = _read_yaml(path)
    name, arguments = content.get("plugin"), content.get("plugin_args") or {}
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise UsageError(
            f"{path} does not describe a nipype plugin",
            hint="write YAML such as: 'plugin: SLURM' and 'plugin_args: {sbatch_args: --mem=8G}'",
        )
    if name not in known_plugins():
        raise UsageError(
            f"unknown nipype plugin {name} in {path}",
            hint=f"use one of: {', '.join(known_plugins())}",
        )
    program = PROGRAMS.get(name)
    if program is not None and shutil.which(program) is None:
        raise UsageError(
            f"{path} selects the plugin {name}, but its program {program} was not found",
            hint=f"run msseg where {program} is installed, or without --use-plugin",
        )
    return name, _check_arguments(arguments, path) if name in MULTIPROC else arguments


def _check_arguments(arguments: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Reject invalid arguments of MultiProc; limit the processes to a useful number."""
    for name, (is_good, expected) in MULTIPROC_ARGUMENTS.items():
        value = arguments.get(name)
        if name in arguments and not is_good(value):
            raise UsageError(
                f"invalid {name} in {path}: {value}", hint=f"use {expected}, or remove {name}"
            )
    if "n_procs" not in arguments:
        return dict(arguments)
    requested = arguments["n_procs"]
    granted = resolve_resources(nprocs=requested, mem_gb=1).nprocs
    if granted < requested:
        LOGGER.warning("n_procs reduced from %d to the useful maximum of %d", requested, granted)
    return {**arguments, "n_procs": granted}


def _is_count(value: Any, *, least: int) -> bool:
    return type(value) is int and value >= least


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


MULTIPROC = ("MultiProc", "LegacyMultiProc")
MULTIPROC_ARGUMENTS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "n_procs": (partial(_is_count, least=1), "a whole number from 1"),
    "n_gpu_procs": (partial(_is_count, least=0), "a whole number from 0"),
    "memory_gb": (_is_size, "a number of GB above 0"),
    "mp_context": (
        lambda value: value in (None, *multiprocessing.get_all_start_methods()),
        " or ".join(multiprocessing.get_all_start_methods()),
    ),
}


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that should hold a mapping; return {} for other content."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="correct --use-plugin"
        ) from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
