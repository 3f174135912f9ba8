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

from bids_msseg.bids.paths import intermediate_path
from bids_msseg.errors import DataError, ExitCode
from bids_msseg.nodes.base import FAILURE_FILE, Step, StepInputs, StepOutputs
from bids_msseg.nodes.intermediate import write_archive
from bids_msseg.nodes.segment import Segment


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


def test_what_an_archive_holds_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are inputs needed for it."""
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


def test_outputs_are_written_down(node: Node) -> None:
    node.config = {"execution": {"remove_unnecessary_outputs": "false"}}
    outputs = node.run().outputs
    written = json.loads(Path(outputs.outputs_file).read_text())
    assert written == {"notes": ["a note"], "seconds": outputs.seconds}
