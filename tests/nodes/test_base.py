"""Outputs of successful nodes and failure files of failed nodes."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from nipype.interfaces.base import isdefined
from nipype.pipeline.engine import Node
from nipype.pipeline.engine.nodes import NodeExecutionError

from bids_msseg.bids.paths import intermediate_path
from bids_msseg.errors import DataError, ExitCode
from bids_msseg.nodes.base import FAILURE_FILE, Step, StepInputs, StepOutputs
from bids_msseg.nodes.intermediate import write_archive
from bids_msseg.nodes.segment import Segment


class Try(Step):
    """Raises a given exception."""

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
    failure: dict[str, Any] = json.loads((Path(node.base_dir) / FAILURE_FILE).read_text())
    return failure


def test_node_writes_to_own_folder_and_reports_duration(node: Node, tmp_path: Path) -> None:
    node.config = {"execution": {"remove_unnecessary_outputs": "false"}}
    outputs = node.run().outputs
    assert (tmp_path / "visit" / "a_step" / "made").stat().st_size == 3
    assert outputs.notes == ["a note"]
    assert 0 <= outputs.seconds < 5
    assert not isdefined(outputs.memory_gb)
    assert not (tmp_path / "visit" / FAILURE_FILE).exists()


def test_node_measures_memory_and_cpu_time_on_request(node: Node) -> None:
    node.inputs.measure = True
    outputs = node.run().outputs
    assert 0.01 < outputs.memory_gb < 64
    assert 0 <= outputs.cpu_seconds < 5


def test_failure_file_keeps_message_of_known_error(node: Node) -> None:
    failure = fail(node, DataError("it is cut off", hint="fetch it again"))
    assert failure == {
        "step": "a_step",
        "message": "it is cut off",
        "hint": "fetch it again",
        "code": ExitCode.DATA_ERROR,
    }


def test_failure_file_names_unexpected_error(node: Node) -> None:
    failure = fail(node, KeyError("x"))
    assert failure["message"] == "unexpected KeyError: 'x'"
    assert "crash file" in failure["hint"]
    assert failure["code"] == ExitCode.FAILURE


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
def test_lack_of_disk_or_memory_has_own_exit_code(
    node: Node, error: Exception, code: ExitCode
) -> None:
    failure = fail(node, error)
    assert failure["code"] == code
    assert failure["message"]
    assert failure["hint"]


def test_first_failure_of_visit_is_kept(node: Node, tmp_path: Path) -> None:
    fail(node, DataError("first", hint="c"))
    second = Node(Try(), name="another", base_dir=str(tmp_path / "visit"))
    assert fail(second, DataError("second", hint="c"))["message"] == "first"


def test_node_hash_ignores_threads_and_measuring(node: Node) -> None:
    """The version changes the hash, because another version may give other results."""
    before = node.inputs.get_hashval()[1]
    node.inputs.threads, node.inputs.measure = 7, True
    assert node.inputs.get_hashval()[1] == before
    node.inputs.version = "another"
    assert node.inputs.get_hashval()[1] != before


def test_outputs_in_archive_are_not_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node then needs no other inputs."""
    monkeypatch.setenv("NIPYPE_NO_ET", "1")
    archive = intermediate_path(tmp_path / "out", "01", None)
    archive.parent.mkdir(parents=True)
    names = ("probability", "candidate", "lesion", "candidates")
    maps = {name: tmp_path / f"{name}.nii.gz" for name in names}
    for path in maps.values():
        path.write_bytes(path.name.encode())
    outputs = {f"{name}_file": str(path) for name, path in maps.items()}
    steps = {"segment": {**outputs, "notes": ["a note"], "seconds": 7.5}}
    write_archive(archive, steps, published={}, fingerprint="f", versions={})
    node = Node(Segment(stored=str(archive)), name="segment", base_dir=str(tmp_path / "visit"))
    node.config = {"execution": {"remove_unnecessary_outputs": "false"}}
    found = node.run().outputs
    assert (found.notes, found.seconds) == (["a note"], 7.5)
    for name in names:
        path = Path(getattr(found, f"{name}_file"))
        assert path.is_relative_to(tmp_path / "visit")
        assert path.read_bytes() == f"{name}.nii.gz".encode()
    assert not isdefined(found.outputs_file)


def test_outputs_are_written_to_json_file(node: Node) -> None:
    node.config = {"execution": {"remove_unnecessary_outputs": "false"}}
    outputs = node.run().outputs
    written = json.loads(Path(outputs.outputs_file).read_text())
    assert written == {"notes": ["a note"], "seconds": outputs.seconds}
