from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.cascade.inference import candidate_probability
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.sampling import CandidateSampler, RefinementSampler, judge_candidates
from bids_msseg.cascade.training import (
    FitPlan,
    Report,
    candidate_loss,
    choose_gate,
    fit,
    refinement_loss,
    soft_dice,
)
from bids_msseg.errors import TemporaryError, UsageError
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.metrics import voxel_agreement
from bids_msseg.models.engine import Engine

SURE = 30.0


def _truth() -> Tensor:
    truth = torch.zeros(2, 1, 4, 4, 4)
    truth[0, 0, 1:3, 1:3, 1:3] = 1
    return truth


def _logits(truth: Tensor) -> Tensor:
    return SURE * (2 * truth - 1)


def test_candidate_loss_of_a_perfect_answer_is_nothing() -> None:
    truth = _truth()
    assert float(candidate_loss(_logits(truth), (truth,))) == pytest.approx(0, abs=1e-5)


def test_candidate_loss_of_no_opinion() -> None:
    truth = _truth()
    # both = 4, false = 60, missed = 4 of 8 and 120 voxels
    tversky = (4 + 1) / (4 + 0.4 * 60 + 0.6 * 4 + 1)
    expected = 2 * math.log(2) + 1 - tversky
    loss = candidate_loss(torch.zeros_like(truth), (truth,))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_candidate_loss_dislikes_a_miss_more_than_a_false_alarm() -> None:
    truth = _truth()
    missed, alarmed = truth.clone(), truth.clone()
    missed[0, 0, 1, 1, 1:3] = 0
    alarmed[0, 0, 3, 3, 2:4] = 1
    losses = [float(candidate_loss(_logits(seen), (truth,))) for seen in (missed, alarmed)]
    assert losses[0] > losses[1] > 0


def test_candidate_loss_without_lesions_is_finite_and_moves() -> None:
    truth = torch.zeros(1, 1, 4, 4, 4)
    logits = torch.zeros_like(truth, requires_grad=True)
    candidate_loss(logits, (truth,)).backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def _refinement_targets() -> tuple[Tensor, Tensor, Tensor]:
    member = torch.zeros(2, 1, 4, 4, 4)
    member[:, :, 1:3] = 1
    truth = torch.zeros_like(member)
    truth[0, :, 1:3, :, :2] = 1
    return truth, torch.tensor([1.0, 0.0]), member


def test_refinement_loss_of_a_perfect_answer_is_nothing() -> None:
    truth, real, member = _refinement_targets()
    outputs = (_logits(truth), torch.tensor([SURE, -SURE]))
    assert float(refinement_loss(outputs, (truth, real, member))) == pytest.approx(0, abs=1e-5)


def test_refinement_loss_does_not_look_outside_the_candidate() -> None:
    truth, real, member = _refinement_targets()
    inside = _logits(truth)
    other = torch.where(member > 0, inside, -inside)
    verdict = torch.tensor([0.3, -0.2])
    losses = [
        refinement_loss((voxels, verdict), (truth, real, member)) for voxels in (inside, other)
    ]
    assert losses[0] == losses[1]


def test_refinement_loss_of_no_opinion_on_the_lesion() -> None:
    truth, real, member = _refinement_targets()
    loss = refinement_loss((_logits(truth), torch.zeros(2)), (truth, real, member))
    assert float(loss) == pytest.approx(4 * 0.25 * math.log(2), rel=1e-4)


def test_refinement_loss_of_an_empty_crop_is_finite() -> None:
    empty = torch.zeros(1, 1, 4, 4, 4)
    loss = refinement_loss((empty, torch.zeros(1)), (empty, torch.zeros(1), empty))
    assert torch.isfinite(loss)


def _peaks(*heights: float) -> tuple[np.ndarray, np.ndarray]:
    """One lesion of three voxels a height, of which one voxel reaches it."""
    probability, truth = np.zeros((4 * len(heights), 1, 1)), np.zeros((4 * len(heights), 1, 1))
    for number, height in enumerate(heights):
        truth[4 * number : 4 * number + 3] = 1
        probability[4 * number + 1] = height
    return probability.astype(np.float32), truth > 0


@pytest.mark.parametrize(
    ("heights", "recall", "gate"),
    [
        ((0.9, 0.9, 0.9), 1.0, 0.5),
        ((0.9, 0.9, 0.22), 1.0, 0.2),
        ((0.9, 0.9, 0.22), 0.6, 0.5),
        ((0.9, 0.9, 0.22, 0.01), 1.0, 0.2),  # one that is never reached does not count
        ((0.06, 0.06), 1.0, 0.05),
        ((0.25, 0.25), 1.0, 0.25),
    ],
)
def test_gate_is_the_highest_that_keeps_the_lesions(
    heights: tuple[float, ...], recall: float, gate: float
) -> None:
    probability, truth = _peaks(*heights)
    assert choose_gate([probability], [truth], recall=recall) == gate


def test_gate_counts_lesions_of_all_visits_and_not_the_smallest() -> None:
    one, other = _peaks(0.9), _peaks(0.12)
    speck = np.zeros((4, 1, 1), bool)
    speck[:2] = True
    low = np.full((4, 1, 1), 0.06, np.float32)
    visits = [one, other, (low, speck)]
    assert choose_gate([p for p, _ in visits], [t for _, t in visits], recall=1.0) == 0.1


def test_gate_without_any_lesion_reached_is_the_lowest() -> None:
    probability, truth = _peaks(0.01, 0.02)
    assert choose_gate([probability], [truth]) == 0.05
    assert choose_gate([], []) == 0.05


class _StopsAt(Dataset[tuple[Tensor, ...]]):
    """A source whose machine goes down at one item."""

    def __init__(self, source: Dataset[tuple[Tensor, ...]], last: int) -> None:
        self.source, self.last = source, last

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= self.last:
            raise KeyboardInterrupt
        return self.source[index]


def _refinement_source(make_visit) -> RefinementSampler:
    visit = make_visit(seed=3)
    labels = label_lesions(visit.truth >= 0.5, voxel_volume=1.0)
    labels[6:8, 15:17, 15:17] = labels.max() + 1
    found = judge_candidates(visit, np.where(labels > 0, 0.7, 0.0), labels)
    return RefinementSampler([found], 4, size=8)


@pytest.mark.parametrize("kind", ["candidate", "refinement"])
def test_a_killed_run_goes_on_bit_for_bit(kind: str, make_visit, tmp_path: Path) -> None:
    if kind == "candidate":
        source, net = CandidateSampler([make_visit()], 4, size=8), CandidateNet
    else:
        source, net = _refinement_source(make_visit), RefinementNet
    plan = FitPlan(steps=8, batch=2, workers=0, checkpoint_s=0.0)

    def run(data: Dataset[tuple[Tensor, ...]], name: str, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return fit(net((4, 8)), data, plan, Engine(), tmp_path / name).state_dict()

    whole = run(source, "whole.pt", 0)
    with pytest.raises(KeyboardInterrupt):
        run(_StopsAt(source, 9), "killed.pt", 0)
    assert torch.load(tmp_path / "killed.pt", weights_only=True)["step"] == 4
    # the new process starts from other random weights: all that counts is on disk
    resumed = run(source, "killed.pt", 99)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    kept = [torch.load(tmp_path / n, weights_only=True) for n in ("whole.pt", "killed.pt")]
    assert all(torch.equal(kept[0]["net"][key], kept[1]["net"][key]) for key in whole)
    assert not list(tmp_path.glob("*.part"))


def test_a_finished_run_is_loaded_and_nothing_trained(make_visit, tmp_path: Path) -> None:
    plan = FitPlan(steps=2, batch=1, workers=0)
    source = CandidateSampler([make_visit()], 4, size=8)
    done = fit(CandidateNet((4, 8)), source, plan, Engine(), tmp_path / "net.pt")
    again = fit(CandidateNet((4, 8)), _StopsAt(source, 0), plan, Engine(), tmp_path / "net.pt")
    assert not again.training
    pairs = zip(done.state_dict().values(), again.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_half_a_checkpoint_is_not_read(make_visit, tmp_path: Path) -> None:
    (tmp_path / "net.pt.part").write_bytes(b"half")
    source = CandidateSampler([make_visit()], 4, size=8)
    plan = FitPlan(steps=1, batch=1, workers=0)
    fit(CandidateNet((4, 8)), source, plan, Engine(), tmp_path / "net.pt")
    assert torch.load(tmp_path / "net.pt", weights_only=True)["step"] == 1


class _Noise(Dataset[tuple[Tensor, ...]]):
    """Noise whose bright voxels are to be found; every item alike where it is constant."""

    def __init__(self, *, constant: bool = False) -> None:
        self.constant = constant

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        seed = 0 if self.constant else index
        images = torch.randn((6, 4, 4, 4), generator=torch.Generator().manual_seed(seed))
        return images, (images[:1] > 1).float()


def _train(
    path: Path, plan: FitPlan, *, constant: bool = False, report=None, seed: int = 0
) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    source = _Noise(constant=constant)
    return fit(CandidateNet((2, 4)), source, plan, Engine(), path, report=report).state_dict()


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


PLAN = FitPlan(steps=30, batch=2, workers=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, Tensor]:
    return _train(tmp_path_factory.mktemp("undisturbed") / "net.pt", PLAN)


def test_the_seed_decides(undisturbed, tmp_path: Path) -> None:
    assert _equal(_train(tmp_path / "same.pt", PLAN), undisturbed)
    assert not _equal(_train(tmp_path / "other.pt", PLAN, seed=1), undisturbed)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loaders_does_not_matter(undisturbed, workers: int, tmp_path: Path) -> None:
    plan = replace(PLAN, workers=workers)
    assert _equal(_train(tmp_path / "net.pt", plan), undisturbed)


def test_an_error_costs_no_step(undisturbed, tmp_path: Path) -> None:
    def fail(_line: Report) -> None:
        raise RuntimeError("the log's disk is full")

    path = tmp_path / "net.pt"
    with pytest.raises(RuntimeError, match="the log's disk is full"):
        _train(path, PLAN, report=fail)
    assert torch.load(path, weights_only=True)["step"] == 25
    assert _equal(_train(path, PLAN, seed=9), undisturbed)


class _Told(Exception):  # noqa: N818 not an error
    pass


@pytest.mark.parametrize("accumulate", [1, 2])
def test_sigterm_saves_and_then_does_what_it_does(accumulate: int, tmp_path: Path) -> None:
    plan = replace(PLAN, accumulate=accumulate)

    def told(_number, _frame) -> None:
        raise _Told

    def stop(_line: Report) -> None:
        signal.raise_signal(signal.SIGTERM)

    path = tmp_path / "net.pt"
    before = signal.signal(signal.SIGTERM, told)
    try:
        with pytest.raises(_Told):
            _train(path, plan, report=stop)
        assert signal.getsignal(signal.SIGTERM) is told
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
                PLAN,
                report=lambda _line: signal.raise_signal(signal.SIGTERM),
            )
    finally:
        signal.signal(signal.SIGTERM, before)


STOP_EVERYBODY = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import team_job
team_job.PLAN = replace(team_job.PLAN, workers=2)
class Stop(list):
    def append(self, line):
        os.killpg(0, signal.SIGTERM)
team_job.train(Path(sys.argv[1]), Stop(), team_job.Noise())
"""


@pytest.mark.slow
def test_a_cluster_that_stops_all_processes_costs_no_step(tmp_path: Path) -> None:
    """As at the end of a job's time: the loaders get the signal, too."""
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", STOP_EVERYBODY, tmp_path / "net.pt"],
        env={**os.environ, "PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}"},
        start_new_session=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == -signal.SIGTERM
    assert torch.load(tmp_path / "net.pt", weights_only=True)["step"] == 25


def test_gradients_of_a_steps_batches_are_averaged(tmp_path: Path) -> None:
    plan = FitPlan(steps=3, batch=1, workers=0)
    once = _train(tmp_path / "once.pt", plan, constant=True)
    four = _train(tmp_path / "four.pt", replace(plan, accumulate=4), constant=True)
    assert _equal(once, four)


def test_a_step_takes_its_batches_in_order(tmp_path: Path) -> None:
    seen: list[int] = []

    class Watched(_Noise):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            seen.append(index)
            return super().__getitem__(index)

    plan = FitPlan(steps=2, batch=2, accumulate=3, workers=0)
    fit(CandidateNet((2, 4)), Watched(), plan, Engine(), tmp_path / "net.pt")
    assert seen == list(range(12))


def test_batches_that_a_team_cannot_share_are_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("bids_msseg.cascade.training.find_team", lambda: (0, 3))
    with pytest.raises(UsageError, match="3 processes cannot share 4 batches"):
        _train(tmp_path / "net.pt", replace(PLAN, accumulate=4))
    assert list(tmp_path.iterdir()) == []


def test_a_report_says_loss_and_dice_of_its_steps(tmp_path: Path) -> None:
    lines: list[Report] = []
    plan = FitPlan(steps=1, batch=2, workers=0)
    _train(tmp_path / "net.pt", plan, report=lines.append)
    torch.manual_seed(0)
    net = CandidateNet((2, 4))
    images, truth = (torch.stack(pair) for pair in zip(_Noise()[0], _Noise()[1], strict=True))
    with torch.no_grad():
        logits = net(images)
    assert (lines[0].step, lines[0].steps) == (1, 1)
    assert lines[0].loss == pytest.approx(float(candidate_loss(logits, (truth,))), rel=1e-5)
    assert lines[0].dice == pytest.approx(float(soft_dice(logits.sigmoid(), truth)), rel=1e-5)


def test_dice_of_a_refinement_net_is_that_inside_its_candidates(
    make_visit, tmp_path: Path
) -> None:
    lines: list[Report] = []
    source, plan = _refinement_source(make_visit), FitPlan(steps=1, batch=2, workers=0)
    torch.manual_seed(0)
    net = RefinementNet((4, 8))
    items = [torch.stack(part) for part in zip(source[0], source[1], strict=True)]
    member = items[0][:, -1:]
    with torch.no_grad():
        seen = net(items[0])[0].sigmoid() * member
    fit(net, source, plan, Engine(), tmp_path / "net.pt", report=lines.append)
    expected = float(soft_dice(seen, items[1] * member))
    assert lines[0].dice == pytest.approx(expected, rel=1e-5)


def test_a_small_net_learns_a_small_phantom(learned, make_visit) -> None:
    net, lines = learned
    assert [line.step for line in lines] == [25, 50, 75, 100, 110]
    assert lines[-1].loss < 0.7 * lines[0].loss
    assert 0 < lines[0].dice < lines[-1].dice < 1
    unseen = make_visit("sub-9", seed=9)
    probability = candidate_probability(
        [net], unseen.images.astype(np.float32), unseen.present, unseen.brain, Engine()
    )
    agreement = voxel_agreement(probability >= 0.5, unseen.truth >= 0.5, voxel_volume=1.0)
    assert agreement.dice > 0.3
