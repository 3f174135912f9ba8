"""What a node leaves behind when it works and when it does not."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Node
from nipype.pipeline.engine.nodes import NodeExecutionError

from bids_msseg.errors import DataError, ExitCode
from bids_msseg.nodes.base import FAILURE_FILE, Step, StepInputs, StepOutputs


class Try(Step):
    """Raises what it is told to."""

    input_spec = StepInputs
    output_spec = StepOutputs
    raises: Exception | None = None

    def work(self, folder: Path, **inputs: Any) -> dict[str, Any]:
        if self.raises is not None:
            raise self.raises
        (folder / "made").write_bytes(bytes(inputs["threads"]))
        return {"notes": ["a note"]}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    return Node(Try(threads=3), name="a_step", base_dir=str(tmp_path / "visit"))


def fail(node: Node, error: Exception) -> dict[str, Any]:
    node.interface.raises = error
    with pytest.raises(NodeExecutionError, match=type(error).__name__):
        node.run()
    told: dict[str, Any] = json.loads((Path(node.base_dir) / FAILURE_FILE).read_text())
    return told


def test_it_works_in_its_own_folder_and_tells_how_long(node: Node, tmp_path: Path) -> None:
    node.config = {"execution": {"remove_unnecessary_outputs": "false"}}
    outputs = node.run().outputs
    assert (tmp_path / "visit" / "a_step" / "made").stat().st_size == 3
    assert outputs.notes == ["a note"]
    assert 0 <= outputs.seconds < 5
    assert not isdefined(outputs.memory_gb)
    assert not (tmp_path / "visit" / FAILURE_FILE).exists()


def test_it_measures_where_asked(node: Node) -> None:
    node.inputs.measure = True
    outputs = node.run().outputs
    assert 0.01 < outputs.memory_gb < 64
    assert 0 <= outputs.cpu_seconds < 5


def test_a_known_failure_keeps_its_words(node: Node) -> None:
    told = fail(node, DataError("it is cut off", hint="fetch it again"))
    assert told == {
        "step": "a_step",
        "message": "it is cut off",
        "hint": "fetch it again",
        "code": ExitCode.DATA_ERROR,
    }


def test_an_unexpected_failure_is_named(node: Node) -> None:
    told = fail(node, KeyError("x"))
    assert told["message"] == "unexpected KeyError: 'x'"
    assert "crash file" in told["hint"]
    assert told["code"] == ExitCode.FAILURE


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ExitCode.IO_ERROR),
        (OSError(errno.EDQUOT, "Quota exceeded"), ExitCode.IO_ERROR),
        (OSError(errno.EFBIG, "File too large"), ExitCode.IO_ERROR),
        (OSError(errno.EACCES, "Permission denied"), ExitCode.FAILURE),
        (MemoryError(), ExitCode.TEMPORARY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you"), ExitCode.TEMPORARY),
        (RuntimeError("CUDA out of memory. Tried to allocate"), ExitCode.TEMPORARY),
        (RuntimeError(""), ExitCode.FAILURE),
    ],
)
def test_what_the_machine_lacks_has_its_own_code(
    node: Node, error: Exception, code: ExitCode
) -> None:
    told = fail(node, error)
    assert told["code"] == code
    assert told["message"]
    assert told["hint"]


def test_the_first_failure_of_a_visit_stays(node: Node, tmp_path: Path) -> None:
    fail(node, DataError("first", hint="c"))
    second = Node(Try(), name="another", base_dir=str(tmp_path / "visit"))
    assert fail(second, DataError("second", hint="c"))["message"] == "first"


def test_threads_and_measuring_do_not_make_a_node_run_again(node: Node) -> None:
    """The version does: what another one computed may differ."""
    before = node.inputs.get_hashval()[1]
    node.inputs.threads, node.inputs.measure = 7, True
    assert node.inputs.get_hashval()[1] == before
    node.inputs.version = "another"
    assert node.inputs.get_hashval()[1] != before
