from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bids_msseg.cascade import points
from bids_msseg.cascade.points import Opinion, choose_point, choose_points, predict_unseen
from bids_msseg.cascade.stages import candidate_stage, operating_point, refinement_stage
from bids_msseg.models.weights import OperatingPoint

LESION, ALARM = 0.7, 0.6


@pytest.fixture
def asked(make_workshop, monkeypatch: pytest.MonkeyPatch):
    """A workshop whose nets answer from the truth, and what was asked of them.

    Lesions get 0.7; a cube of false alarm gets 0.6.
    """
    workshop = make_workshop()
    log: list[tuple[str, object]] = []

    def opinion(_workshop, name, seen):
        log.append(("opinion", (name, seen)))
        truth = workshop.visit(name).truth
        found = np.where(truth >= 0.5, LESION, 0).astype(np.float32)
        found[2:6, 2:6, 2:6] = ALARM
        return found

    def net(_workshop, test, inner=None):
        log.append(("net", (test, inner)))
        return torch.nn.Identity()

    def gate(_workshop, test, inner=None):
        log.append(("gate", (test, inner)))
        return 0.15

    def refine(nets, images, present, probability, gate, engine):
        assert [type(net) for net in nets] == [torch.nn.Identity]
        assert images.dtype == np.float32
        assert len(present) == 3
        assert gate == 0.15
        assert engine is workshop.engine
        return probability, (probability > 0).astype(np.float32)

    for name, fake in (
        ("out_of_fold", opinion), ("refinement_net", net), ("gate_of", gate), ("refine", refine),
    ):  # fmt: skip
        monkeypatch.setattr(points, name, fake)
    return workshop, log


def test_each_fold_is_segmented_by_nets_that_know_neither_it_nor_the_test_fold(asked) -> None:
    workshop, log = asked
    opinions = predict_unseen(workshop, 0)
    assert [value for kind, value in log if kind == "net"] == [(0, 1), (0, 2)]
    assert [value for kind, value in log if kind == "gate"] == [(0, 1), (0, 2)]
    assert [value for kind, value in log if kind == "opinion"] == [
        ("sub-01", (2,)), ("sub-02", (1,)),
    ]  # fmt: skip
    for name, opinion in zip(("sub-01", "sub-02"), opinions, strict=True):
        truth = opinion.truth
        assert truth.dtype == np.bool_
        np.testing.assert_array_equal(truth, workshop.visit(name).truth >= 0.5)
        assert (opinion.probability(OperatingPoint())[truth] >= ALARM - 1e-3).all()


def test_what_ships_is_judged_by_the_nets_of_the_outer_folds(asked) -> None:
    workshop, log = asked
    predict_unseen(workshop, None)
    assert [value for kind, value in log if kind == "net"] == [(0, None), (1, None), (2, None)]
    assert [value for kind, value in log if kind == "opinion"] == [
        ("sub-00", (1, 2)), ("sub-01", (0, 2)), ("sub-02", (0, 1)),
    ]  # fmt: skip


def test_thresholds_part_lesions_from_false_alarms_and_are_kept(asked) -> None:
    workshop, _ = asked
    choose_points(workshop, (None, 0, 2))
    chosen = json.loads((workshop.folder / "points.json").read_text())
    assert set(chosen) == {"ship", "0", "2"}
    for point in chosen.values():
        assert set(point) == {"keep", "second", "judge", "verdict", "balanced", "precise"}
        assert (point["judge"], point["verdict"]) == (0, 0)
        assert ALARM < point["balanced"] <= LESION
        assert ALARM < point["precise"] <= LESION
    assert not list(workshop.folder.glob("*.part"))


def _opinion(candidate: list[float], voxels: list[float], truth: list[int]) -> Opinion:
    half = [np.array([[row]], np.float16) for row in (candidate, voxels, [1.0] * len(truth))]
    return Opinion(*half, np.array([[truth]], bool))


def test_the_second_net_gets_more_weight_where_the_first_is_sure_of_too_much() -> None:
    rows = ([0.8, 0.8, 0.6, 0.7], [0.3, 0.2, 0.6, 0.5], [0, 0, 1, 1])
    assert choose_point([_opinion(*rows)])["second"] == 0.5
    first, second, truth = rows
    assert choose_point([_opinion(second, first, truth)])["second"] == 0.25


def test_a_judge_gets_the_weight_that_serves_best() -> None:
    unsure, verdict = [0.6, 0.6, 0.6, 0.6], [0.5] * 4
    half = [np.array([[row]], np.float16) for row in (unsure, unsure, verdict)]
    truth = np.array([[[0, 0, 1, 1]]], bool)
    judged = np.array([[[0.1, 0.2, 0.8, 0.9]]], np.float16)
    chosen = choose_point([Opinion(*half, truth, judged=judged)])
    assert chosen["judge"] in points.JUDGES
    assert (chosen["second"], chosen["verdict"]) == (0.1, 0.1)
    point = OperatingPoint(
        second=chosen["second"], judge=chosen["judge"], verdict=chosen["verdict"]
    )
    opinion = Opinion(*half, truth, judged=judged)
    np.testing.assert_array_equal(opinion.probability(point) >= chosen["balanced"], truth)


def _judged(verdicts: list[float]) -> Opinion:
    """One lesion of eight voxels a verdict; a verdict of 0 is a lesion without candidate."""
    truth, lesion = np.zeros((3 * len(verdicts), 2, 2), bool), np.zeros((3 * len(verdicts), 2, 2))
    for number, verdict in enumerate(verdicts):
        truth[3 * number : 3 * number + 2] = True
        lesion[3 * number] = verdict
    half = lesion.astype(np.float16)
    return Opinion(half, half, half, truth)


def test_candidates_are_kept_from_where_few_lesions_are_lost() -> None:
    sure, doubted, missed = [0.9] * 18, [0.42], [0.0]
    assert points.choose_keep([_judged(sure + doubted + missed)]) == 0.5
    assert points.choose_keep([_judged(sure + doubted * 2)]) == 0.4
    assert points.choose_keep([_judged([0.9] * 10 + [0.1] * 10)]) == 0.25
    assert points.choose_keep([_judged(missed)]) == 0.5
    # each visit counts the same
    many = _judged([0.9] * 100)
    assert points.choose_keep([many, _judged([0.42])]) == 0.4


def test_a_faint_verdict_still_marks_its_candidate() -> None:
    one = np.full((1, 1, 1), 0.9, np.float32)
    kept = points._keep(one, one, one * 1e-30, one > 0)
    assert kept.lesion.item() > 0


def test_the_threshold_that_was_chosen_is_used(make_workshop) -> None:
    workshop = make_workshop()
    for test in (None, 0, 1):
        path = workshop.checkpoint(refinement_stage(test)).with_suffix(".json")
        path.write_text(json.dumps({"gate": 0.25}))
    assert operating_point(workshop, 0).threshold == 0.5
    assert operating_point(workshop, 0).second == 0.5
    chosen = {"ship": {"balanced": 0.3}, "0": {"balanced": 0.65, "second": 0.75, "keep": 0.35}}
    (workshop.folder / "points.json").write_text(json.dumps(chosen))
    assert operating_point(workshop, 0).threshold == 0.65
    assert operating_point(workshop, 0).second == 0.75
    assert operating_point(workshop, 0).keep == 0.35
    assert operating_point(workshop, 1).keep == 0.5
    assert operating_point(workshop, None).threshold == 0.3
    assert operating_point(workshop, 1).threshold == 0.5
    assert operating_point(replace(workshop, seed=9), 0).gate == 0.25
    assert candidate_stage((1, 2)) == "candidate-12"
