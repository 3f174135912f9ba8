from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.cascade.inference import Engine, candidate_probability
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.sampling import CandidateSampler, RefinementSampler, judge_candidates
from bids_msseg.cascade.training import (
    FitPlan,
    candidate_loss,
    choose_gate,
    fit,
    refinement_loss,
)
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.metrics import voxel_agreement

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


def test_a_small_net_learns_a_small_phantom(learned, make_visit) -> None:
    net, lines = learned
    assert [line.step for line in lines] == [25, 50, 75, 100, 110]
    assert lines[-1].loss < 0.7 * lines[0].loss
    unseen = make_visit("sub-9", seed=9)
    probability = candidate_probability(
        [net], unseen.images.astype(np.float32), unseen.present, unseen.brain, Engine()
    )
    agreement = voxel_agreement(probability >= 0.5, unseen.truth >= 0.5, voxel_volume=1.0)
    assert agreement.dice > 0.3
