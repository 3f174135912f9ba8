from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.errors import TemporaryError, UsageError
from bids_msseg.models.engine import Engine
from bids_msseg.trainer.fit import fit
from bids_msseg.trainer.plan import FitPlan, Report

PLAN = FitPlan(steps=30, batch=2, workers=0)


class _Noise(Dataset[tuple[Tensor, ...]]):
    """Noise images with bright voxels as targets; all items are equal if ``constant``."""

    def __init__(self, *, constant: bool = False) -> None:
        self.constant = constant

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        seed = 0 if self.constant else index
        images = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(seed))
        return images, (images > 1).float()


class _StopsAt(_Noise):
    """Noise that raises KeyboardInterrupt from the item ``last`` on."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= self.last:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv3d(4, 1, 1))


def _loss(net: nn.Module, items: tuple[Tensor, ...], engine: Engine) -> tuple[Tensor, Tensor]:
    images, truth = (item.to(engine.device) for item in items)
    logits = net(images)
    probability = torch.sigmoid(logits.detach())
    dice = (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
    return F.binary_cross_entropy_with_logits(logits, truth), dice


def _train(
    path: Path,
    plan: FitPlan = PLAN,
    *,
    source: _Noise | None = None,
    report=None,
    seed: int = 0,
) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    data = source or _Noise()
    net = fit(_net(), data, plan, Engine(), path, step_loss=_loss, report=report)
    assert not net.training
    return net.state_dict()


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Tensor]:
    return _train(tmp_path_factory.mktemp("undisturbed") / "net.pt")


def test_interrupted_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    plan = FitPlan(steps=8, batch=2, workers=0, checkpoint_s=0.0)
    whole = _train(tmp_path / "whole.pt", plan)
    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path / "killed.pt", plan, source=_StopsAt(9))
    assert torch.load(tmp_path / "killed.pt", weights_only=True)["step"] == 4
    # the resumed run has other initial weights: its state comes only from the checkpoint
    resumed = _train(tmp_path / "killed.pt", plan, seed=99)
    assert _equal(whole, resumed)
    kept = [torch.load(tmp_path / n, weights_only=True) for n in ("whole.pt", "killed.pt")]
    assert _equal(kept[0]["net"], kept[1]["net"])
    assert not list(tmp_path.glob("*.part"))


def test_finished_run_is_loaded_without_training(tmp_path: Path) -> None:
    plan = FitPlan(steps=2, batch=1, workers=0)
    done = _train(tmp_path / "net.pt", plan)
    assert _equal(_train(tmp_path / "net.pt", plan, source=_StopsAt(0)), done)


def test_partial_checkpoint_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "net.pt.part").write_bytes(b"half")
    _train(tmp_path / "net.pt", FitPlan(steps=1, batch=1, workers=0))
    assert torch.load(tmp_path / "net.pt", weights_only=True)["step"] == 1


def test_weights_depend_on_seed(undisturbed, tmp_path: Path) -> None:
    assert _equal(_train(tmp_path / "same.pt"), undisturbed)
    assert not _equal(_train(tmp_path / "other.pt", seed=1), undisturbed)


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_loaders_does_not_change_weights(
    undisturbed, workers: int, tmp_path: Path
) -> None:
    plan = replace(PLAN, workers=workers)
    assert _equal(_train(tmp_path / "net.pt", plan), undisturbed)


def test_error_keeps_finished_steps(undisturbed, tmp_path: Path) -> None:
    def fail(_line: Report) -> None:
        raise RuntimeError("the log's disk is full")

    path = tmp_path / "net.pt"
    with pytest.raises(RuntimeError, match="the log's disk is full"):
        _train(path, report=fail)
    assert torch.load(path, weights_only=True)["step"] == 25
    assert _equal(_train(path, seed=9), undisturbed)


class _SignalledError(Exception):
    pass


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sigterm_saves_checkpoint_and_calls_handler(accumulate: int, tmp_path: Path) -> None:
    plan = replace(PLAN, accumulate=accumulate)

    def handle(_number, _frame) -> None:
        raise _SignalledError

    def stop(_line: Report) -> None:
        signal.raise_signal(signal.SIGTERM)

    path = tmp_path / "net.pt"
    before = signal.signal(signal.SIGTERM, handle)
    try:
        with pytest.raises(_SignalledError):
            _train(path, plan, report=stop)
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)
    assert torch.load(path, weights_only=True)["step"] == 25
    whole = _train(tmp_path / "whole.pt", plan)
    assert _equal(_train(path, plan, seed=9), whole)


def test_an_ignored_signal_still_stops_the_training(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(TemporaryError, match="stopped at step 25 of 30"):
            _train(
                tmp_path / "net.pt",
                report=lambda _line: signal.raise_signal(signal.SIGTERM),
            )
    finally:
        signal.signal(signal.SIGTERM, before)


STOP_ALL = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import group_job
group_job.PLAN = replace(group_job.PLAN, workers=2)
class Stop(list):
    def append(self, line):
        os.killpg(0, signal.SIGTERM)
group_job.train(Path(sys.argv[1]), Stop(), group_job.Noise())
"""


@pytest.mark.slow
def test_sigterm_to_all_processes_keeps_finished_steps(tmp_path: Path) -> None:
    """The data loaders get the signal too, as at the time limit of a cluster job."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", STOP_ALL, tmp_path / "net.pt"],
        env={**os.environ, "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}"},
        start_new_session=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == -signal.SIGTERM
    assert torch.load(tmp_path / "net.pt", weights_only=True)["step"] == 25


def test_gradients_of_accumulated_batches_are_averaged(tmp_path: Path) -> None:
    plan = FitPlan(steps=3, batch=1, workers=0)
    once = _train(tmp_path / "once.pt", plan, source=_Noise(constant=True))
    four = _train(tmp_path / "four.pt", replace(plan, accumulate=4), source=_Noise(constant=True))
    assert _equal(once, four)


def test_a_step_takes_its_batches_in_order(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(_Noise):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            seen.append(index)
            return super().__getitem__(index)

    plan = FitPlan(steps=2, batch=2, accumulate=3, workers=0)
    _train(tmp_path / "net.pt", plan, source=Watched())
    assert seen == list(range(12))


def test_batches_not_divisible_by_group_size_are_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bids_msseg.trainer.fit.rank_and_size", lambda: (0, 3))
    with pytest.raises(UsageError, match="3 processes cannot share 4 batches"):
        _train(tmp_path / "net.pt", replace(PLAN, accumulate=4))
    assert list(tmp_path.iterdir()) == []


def test_report_contains_loss_and_dice_of_its_steps(tmp_path: Path) -> None:
    lines: list[Report] = []
    plan = FitPlan(steps=1, batch=2, workers=0)
    _train(tmp_path / "net.pt", plan, report=lines.append)
    torch.manual_seed(0)
    net = _net()
    items = tuple(torch.stack(pair) for pair in zip(_Noise()[0], _Noise()[1], strict=True))
    with torch.no_grad():
        loss, dice = _loss(net, items, Engine())
    assert (lines[0].step, lines[0].steps) == (1, 1)
    assert lines[0].loss == pytest.approx(float(loss), rel=1e-5)
    assert lines[0].dice == pytest.approx(float(dice), rel=1e-5)
