"""What all nodes share: a timed run, notes for the reader, and failures that stay legible."""

from __future__ import annotations

import json
import time
from abc import abstractmethod
from pathlib import Path
from typing import Any

from nipype.interfaces.base import (
    BaseInterface,
    BaseInterfaceInputSpec,
    Bunch,
    TraitedSpec,
    isdefined,
    traits,
)

from bids_msseg.errors import MssegError

FAILURE_FILE = "failure.json"


class StepInputs(BaseInterfaceInputSpec):  # type: ignore[misc]
    """Inputs of every node."""

    threads = traits.Int(1, usedefault=True, nohash=True, desc="threads the step may use")


class StepOutputs(TraitedSpec):  # type: ignore[misc]
    """Outputs of every node."""

    notes = traits.List(traits.Str, desc="what a reader should know")
    seconds = traits.Float(desc="wall time in s")


class Step(BaseInterface):  # type: ignore[misc]
    """A node that calls one function.

    Subclasses implement :meth:`work`, which gets the defined inputs by name and the node's own
    folder, and returns the outputs by name.

    When the function raises, the reason and the cure are left beside the visit's nodes, because
    nipype hands on only a text.
    """

    def __init__(self, **inputs: Any) -> None:
        super().__init__(**inputs)
        self._results: dict[str, Any] = {}

    @abstractmethod
    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        """Do the step below ``folder`` and return its outputs."""

    def _run_interface(self, runtime: Bunch) -> Bunch:
        folder = Path(runtime.cwd)
        values = {name: value for name, value in self.inputs.get().items() if isdefined(value)}
        begun = time.monotonic()
        try:
            self._results = self.work(folder, **values)
        except MssegError as error:
            _leave_failure(folder, error.message, error.cure, int(error.code))
            raise
        except Exception as error:
            _leave_failure(
                folder,
                f"unexpected {type(error).__name__}: {error}",
                "report it with the crash file, which holds the whole trace",
                1,
            )
            raise
        self._results.setdefault("notes", [])
        self._results["seconds"] = round(time.monotonic() - begun, 3)
        return runtime

    def _list_outputs(self) -> dict[str, Any]:
        return dict(self._results)


def _leave_failure(folder: Path, message: str, cure: str, code: int) -> None:
    content = {"step": folder.name, "message": message, "cure": cure, "code": code}
    target = folder.parent / FAILURE_FILE
    if not target.exists():
        target.write_text(json.dumps(content), encoding="utf-8")
