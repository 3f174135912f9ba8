"""Base class of all nodes: timed runs, notes for the reader and readable failures."""

from __future__ import annotations

import json
import resource
import time
from abc import abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterface,
    BaseInterfaceInputSpec,
    Bunch,
    File,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_msseg import __version__
from bids_msseg.bids.files import plain
from bids_msseg.errors import MssegError, TemporaryError, space_error
from bids_msseg.nodes.intermediate import stored_outputs

FAILURE_FILE = "failure.json"
OUTPUTS_FILE = "outputs.json"


class StepInputs(BaseInterfaceInputSpec):  # type: ignore[misc]
    """Inputs of every node."""

    threads = traits.Int(1, usedefault=True, nohash=True, desc="threads the step may use")
    measure = traits.Bool(False, usedefault=True, nohash=True, desc="measure memory and CPU time")
    version = traits.Str(__version__, usedefault=True, desc="a new version runs the step again")
    stored = File(desc="archive of an earlier run: the outputs are read from it, not computed")


class StepOutputs(TraitedSpec):  # type: ignore[misc]
    """Outputs of every node."""

    notes = traits.List(traits.Str, desc="what a reader should know")
    seconds = traits.Float(desc="wall time in s")
    cpu_seconds = traits.Float(desc="CPU time of all threads in s, where measured")
    memory_gb = traits.Float(desc="peak resident memory of the process in GiB, where measured")
    outputs_file = File(desc="JSON of all outputs, where they were computed")


class Step(BaseInterface):  # type: ignore[misc]
    """A node that calls one function, :meth:`work`, and writes why it failed beside the nodes."""

    def __init__(self, **inputs: Any) -> None:
        super().__init__(**inputs)
        self._results: dict[str, Any] = {}
        self.interruption: BaseException | None = None

    @abstractmethod
    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Run the step in ``folder`` and return its outputs."""

    def _check_mandatory_inputs(self) -> None:
        """Require no inputs if the outputs are read from an archive."""
        if not isdefined(self.inputs.stored):
            super()._check_mandatory_inputs()

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder = Path(runtime.cwd)
        try:
            self._results = self._compute_or_read(folder)
        except Exception as error:
            write_failure(folder, as_msseg_error(error))
            raise
        except BaseException as error:
            # nipype would treat it as a failure of this node and continue with the next one
            self.interruption = error
            raise
        return runtime

    def _compute_or_read(self, folder: Path) -> dict[str, Any]:
        """Run and measure the step, or read the results of an earlier run."""
        if isdefined(self.inputs.stored):
            return stored_outputs(Path(self.inputs.stored), folder.name, folder)
        values = {name: value for name, value in self.inputs.get().items() if isdefined(value)}
        start, cpu_start = time.monotonic(), time.process_time()
        if self.inputs.measure:
            # resets the kernel's count of this process's peak memory; see proc(5), clear_refs
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        results: dict[str, Any] = {"notes": [], **self.work(folder, **values)}
        results["seconds"] = round(time.monotonic() - start, 3)
        if self.inputs.measure:
            results["cpu_seconds"] = round(time.process_time() - cpu_start, 3)
            # Linux counts in KiB
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            results["memory_gb"] = round(peak / 2**20, 3)
        return {**results, "outputs_file": save_json(folder / OUTPUTS_FILE, plain(results))}

    def _list_outputs(self) -> dict[str, Any]:
        return dict(self._results)


def save_json(target: Path, content: object) -> str:
    """Write an output of a step as JSON and return its path."""
    target.write_text(json.dumps(content), encoding="utf-8")
    return str(target)


def as_msseg_error(error: Exception) -> MssegError:
    """Convert the exception of a step to an MssegError; return an MssegError unchanged."""
    if isinstance(error, MssegError):
        return error
    if full := space_error(error, name_file=False):
        return full
    # torch has its own classes and texts for both of its allocators
    if isinstance(error, MemoryError) or any(
        text in str(error) for text in ("out of memory", "can't allocate memory")
    ):
        return TemporaryError(
            "not enough memory", hint="give the job more memory, or lower --nprocs"
        )
    first = (str(error).splitlines() or [""])[0]
    return MssegError(
        f"unexpected {type(error).__name__}: {first}",
        hint="report it with the crash file, which contains the full traceback",
    )


def write_failure(folder: Path, error: MssegError) -> None:
    """Record in the parent of a node's folder why it failed, unless there is a record."""
    content = {
        "step": folder.name,
        "message": error.message,
        "hint": error.hint,
        "code": int(error.code),
    }
    # on a full disk this fails, and only a crash file may exist
    with suppress(OSError), (folder.parent / FAILURE_FILE).open("x", encoding="utf-8") as stream:
        json.dump(content, stream)
