from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from bids_msseg.errors import ExitCode, UsageError
from bids_msseg.trainer import process_group
from bids_msseg.trainer.plan import Report

JOB = Path(__file__).with_name("group_job.py")
ENV = {**os.environ, "PYTHONPATH": str(JOB.parents[2]), "OMP_NUM_THREADS": "1"}
LAUNCH = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("group_job", JOB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory) -> tuple[dict[str, torch.Tensor], list[Report]]:
    """Weights and reports of one process with the same plan."""
    lines: list[Report] = []
    net = job.train(tmp_path_factory.mktemp("alone") / "net.pt", lines, job.Noise())
    return net.state_dict(), lines


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _two_processes(out: Path, signal_name: str) -> list[int]:
    """Start two processes as torchrun does, but do not stop one if the other fails."""
    env = {**ENV, **LAUNCH, "MASTER_PORT": _free_port(), "LOCAL_WORLD_SIZE": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, JOB, out, signal_name],
            env={**env, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    return [process.wait(timeout=600) for process in both]


def _assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_same_weights_as_one(alone, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port",
         _free_port(), JOB, tmp_path],
        env=ENV, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    weights = [torch.load(tmp_path / f"weights{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    _assert_close(weights[0], alone[0])
    found = [json.loads((tmp_path / f"found{rank}.json").read_text()) for rank in (0, 1)]
    # only rank zero logs and writes; all ranks use its seed and its results
    assert found[1]["lines"] == []
    assert list((tmp_path / "work1").iterdir()) == []
    assert [path.name for path in (tmp_path / "work0").iterdir()] == ["net.pt"]
    expected = [(line.step, line.loss, line.dice) for line in alone[1]]
    assert [step for step, _, _ in expected] == [25, 30]
    for line, other in zip(found[0]["lines"], expected, strict=True):
        assert line == pytest.approx(other, rel=1e-3)
    assert [one["shared"] for one in found] == [7, 7]
    assert [one["failed"] for one in found] == ["ZeroDivisionError", "TemporaryError"]


@pytest.mark.slow
def test_killed_process_stops_others_and_keeps_checkpoint(alone, job, tmp_path: Path) -> None:
    codes = _two_processes(tmp_path, "SIGKILL")
    assert codes == [ExitCode.TEMPORARY, -9]
    assert "another process of the group" in (tmp_path / "error0.txt").read_text()
    checkpoint = tmp_path / "work0" / "net.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 20
    # one process can resume a run of two processes
    _assert_close(job.train(checkpoint, [], job.Noise()).state_dict(), alone[0])


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_after_same_step(alone, job, tmp_path: Path) -> None:
    codes = _two_processes(tmp_path, "SIGTERM")
    assert codes == [ExitCode.TEMPORARY, -15]
    assert "stopped at step 20 of 30" in (tmp_path / "error0.txt").read_text()
    checkpoint = tmp_path / "work0" / "net.pt"
    assert torch.load(checkpoint, weights_only=True)["step"] == 20
    _assert_close(job.train(checkpoint, [], job.Noise()).state_dict(), alone[0])


def test_no_group_is_joined_without_launcher(monkeypatch) -> None:
    for name in LAUNCH:
        monkeypatch.delenv(name, raising=False)
    with process_group.join("cuda:3") as member:
        assert member == process_group.Member(0, 1, "cuda:3")
        assert process_group.rank_and_size() == (0, 1)
        assert process_group.rank_zero_first(lambda: 7) == 7


def test_world_size_of_one_joins_no_group(monkeypatch) -> None:
    for name, value in {**LAUNCH, "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    with process_group.join() as member:
        assert member == process_group.Member(0, 1, "cpu")


@pytest.mark.parametrize("device", ["cuda:0", "tpu"])
def test_processes_cannot_share_a_device(monkeypatch, device: str) -> None:
    for name, value in LAUNCH.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="cannot share"), process_group.join(device):
        pass


def test_process_without_gpu_is_refused(monkeypatch) -> None:
    for name, value in {**LAUNCH, "LOCAL_RANK": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="no GPU for process 2"):
        process_group.join("cuda").__enter__()


def test_average_over_one_process_is_identity() -> None:
    tensor = torch.tensor([1.0, 2.0])
    process_group.average_over_processes([tensor])
    assert tensor.tolist() == [1.0, 2.0]
