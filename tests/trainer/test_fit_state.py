from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bids_msseg.errors import DataError
from bids_msseg.trainer.fit import is_finished
from bids_msseg.trainer.fit_state import KEYS, FitState, read_checkpoint
from bids_msseg.trainer.plan import FitPlan

PLAN = FitPlan(steps=10)
ROOT = Path(__file__).parents[2]


def _net(layers: int = 1) -> nn.Module:
    inner = [nn.Conv3d(2, 2, 3, padding=1) for _ in range(layers)]
    return nn.Sequential(nn.Conv3d(1, 2, 1), *inner, nn.Conv3d(2, 1, 1))


def _state(layers: int = 1, *, steps: int = 0) -> FitState:
    torch.manual_seed(3)
    state = FitState(_net(layers), PLAN)
    for _ in range(steps):
        loss = state.net(torch.ones(1, 1, 8, 8, 8)).square().mean()
        state.add(loss, torch.tensor(0.5), 1)
        assert state.advance()
    return state


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "net.pt"
    _state(steps=2).save(path)
    return path


def _content(state: FitState) -> dict[str, Any]:
    kept = torch.load(io.BytesIO(state.pack()), weights_only=True)
    inner = kept["optimiser"]["state"]
    tensors = {f"{name}.{key}": v for name in ("net", "average") for key, v in kept[name].items()}
    tensors |= {f"{n}.{key}": value for n, one in inner.items() for key, value in one.items()}
    groups = kept["optimiser"]["param_groups"]
    return {"step": kept["step"], "groups": groups} | {k: v.tolist() for k, v in tensors.items()}


def _same(one: FitState, other: FitState) -> bool:
    return _content(one) == _content(other)


def test_restoring_gives_the_same_state(saved: Path) -> None:
    other = _state()
    assert not _same(other, _state(steps=2))
    other.restore(saved)
    assert _same(other, _state(steps=2))
    assert other.step == 2
    assert read_checkpoint(saved).keys() == KEYS


def test_checkpoint_layout_of_released_versions_is_restored(tmp_path: Path) -> None:
    """The layout of the checkpoints of released versions."""
    state = _state(steps=1)
    kept = {
        "step": 1,
        "net": state.net.state_dict(),
        "average": state.average,
        "optimiser": state.optimiser.state_dict(),
    }
    torch.save(kept, tmp_path / "old.pt")
    other = _state()
    other.restore(tmp_path / "old.pt")
    assert _same(other, state)


def test_restore_without_checkpoint_changes_nothing(tmp_path: Path) -> None:
    state = _state()
    state.restore(tmp_path / "none.pt")
    assert _same(state, _state())


def test_take_means_covers_steps_since_last_call() -> None:
    state = _state()
    for loss, dice in ((1.0, 0.25), (3.0, 0.75)):
        weight = next(iter(state.net.parameters()))
        state.add(0 * weight.sum() + loss, torch.tensor(dice), 1)
        state.advance()
    assert state.take_means() == (2.0, 0.5, 2)
    assert state.take_means()[2] == 0


def test_batch_norm_counters_are_not_averaged() -> None:
    state = FitState(nn.Sequential(nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2)), PLAN)
    for _ in range(3):
        loss = state.net(torch.ones(1, 1, 4, 4, 4)).square().mean()
        state.add(loss, torch.tensor(0.5), 1)
        assert state.advance()
    assert int(state.average["1.num_batches_tracked"]) == 3
    assert state.average["1.running_mean"].dtype == torch.float32


def test_step_is_discarded_on_stop_request() -> None:
    state = _state()
    state.add(state.net(torch.ones(1, 1, 8, 8, 8)).mean(), torch.tensor(0.0), 1)
    assert not state.advance(stop=True)
    assert _same(state, _state())


def test_rescue_does_not_save_unfinished_step(tmp_path: Path, monkeypatch) -> None:
    state = _state(steps=1)
    state.rescue(tmp_path / "whole.pt")
    assert read_checkpoint(tmp_path / "whole.pt")["step"] == 1

    def fail() -> None:
        raise MemoryError

    monkeypatch.setattr(state.optimiser, "step", fail)
    with pytest.raises(MemoryError):
        state.advance()
    state.rescue(tmp_path / "half.pt")
    assert not (tmp_path / "half.pt").exists()


def test_rescue_ignores_write_errors(tmp_path: Path) -> None:
    _state(steps=1).rescue(tmp_path / "no such folder" / "net.pt")
    assert list(tmp_path.iterdir()) == []


def _refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        _state().restore(path)
    assert path.name in caught.value.message
    assert "delete it" in caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("kept", [0, 1, 100, 0.3, 0.7, -1])
def test_a_truncated_checkpoint_is_refused(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    saved.write_bytes(content[:length])
    _refused(saved)
    with pytest.raises(DataError):
        is_finished(saved, PLAN)


def test_a_flipped_bit_in_the_weights_is_refused(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    weight = read_checkpoint(saved)["net"]["1.weight"].numpy().tobytes()
    content[content.index(weight) + 6] ^= 8
    saved.write_bytes(content)
    _refused(saved)


class _Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path) -> None:
    torch.save({**dict.fromkeys(KEYS, 0), "net": _Trap(tmp_path / "mark")}, tmp_path / "trap.pt")
    _refused(tmp_path / "trap.pt")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [{"step": 3}, [1, 2]])
def test_file_without_checkpoint_keys_is_refused(tmp_path: Path, content) -> None:
    torch.save(content, tmp_path / "net.pt")
    assert "is not a training checkpoint" in _refused(tmp_path / "net.pt")


@pytest.mark.parametrize("key", ["net", "average", "optimiser"])
def test_a_checkpoint_of_another_net_is_refused(saved: Path, key: str) -> None:
    other = torch.load(saved, weights_only=True)
    larger = _state(2, steps=1)
    other[key] = torch.load(_write(larger, saved), weights_only=True)[key]
    torch.save(other, saved)
    assert "does not fit" in _refused(saved)


def _write(state: FitState, beside: Path) -> Path:
    path = beside.with_name("other.pt")
    state.save(path)
    return path


def test_is_finished_requires_all_steps(saved: Path, tmp_path: Path) -> None:
    assert is_finished(saved, FitPlan(steps=2))
    assert not is_finished(saved, FitPlan(steps=3))
    assert not is_finished(tmp_path / "none.pt", FitPlan(steps=0))


KILL_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from typing import Any
import torch
from bids_msseg.trainer.fit_state import FitState
from bids_msseg.trainer.plan import FitPlan
state = FitState(torch.nn.Conv3d(1, 2, 3), FitPlan(steps=10))
state.step = 7
def die(number):
    os.truncate(f"/proc/self/fd/{number}", 1000)
    os.kill(os.getpid(), signal.SIGKILL)
os.fsync = die
state.save(Path(sys.argv[1]))
"""


def test_process_killed_while_writing_keeps_last_checkpoint(saved: Path) -> None:
    before = saved.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", KILL_WHILE_WRITING, saved],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    partial = saved.with_name("net.pt.part")
    assert partial.stat().st_size == 1000
    assert saved.read_bytes() == before
    # the next save overwrites the partial file
    _state(steps=3).save(saved)
    assert read_checkpoint(saved)["step"] == 3
    assert not partial.exists()


def _rates(plan: FitPlan) -> list[float]:
    torch.manual_seed(3)
    state = FitState(_net(), plan)
    rates = []
    for _ in range(plan.steps):
        loss = state.net(torch.ones(1, 1, 8, 8, 8)).square().mean()
        state.add(loss, torch.tensor(0.5), 1)
        assert state.advance()
        rates.append(state.optimiser.param_groups[0]["lr"])
    return rates


def test_learning_rate_is_reset_at_restart() -> None:
    plan = FitPlan(steps=120, restart=60, learning_rate=1.0)
    first, second = _rates(plan)[:60], _rates(plan)[60:]
    assert first == _rates(FitPlan(steps=60, learning_rate=1.0))
    assert second[0] == 1.0
    assert second[-1] == pytest.approx((1 / 60) ** 0.9)
    assert all(a > b for a, b in pairwise(second))
