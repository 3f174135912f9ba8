"""Who has a part in what: each stage is run, and whose data it reads is noted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.cascade import judging, points, stages
from bids_msseg.cascade.folds import Split
from bids_msseg.cascade.generation import MadeSampler, MixedSampler
from bids_msseg.cascade.heads import Head, LesionDraw, Tissue, save_head
from bids_msseg.cascade.judge_patches import JudgePlan
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.sampling import CandidateSampler
from bids_msseg.cascade.schedule import Goal, plan_stages, run_stage
from bids_msseg.cascade.stages import Mix, Recipe, candidate_stage, save_visit
from bids_msseg.cascade.training import FitPlan
from bids_msseg.models.engine import Engine


def _person(visit: str) -> str:
    return visit.partition("_")[0]


class Ledger:
    """Notes for each stage the people behind whatever it reads, and behind that, and so on."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.people: dict[str, set[str]] = {}
        self.kinds: dict[str, set[str]] = defaultdict(set)
        self.cut: dict[str, set[str]] = defaultdict(set)
        self.stage = ""
        self.now: set[str] = set()

    def begin(self, stage: str) -> None:
        self.stage, self.now = stage, set()

    def read(self, kind: str, people: set[str]) -> None:
        self.kinds[self.stage].add(kind)
        if kind == "cut":
            self.cut[self.stage] |= people
        self.now |= people

    def end(self) -> None:
        self.people[self.stage] = self.now

    def fold_of(self, visit: str) -> int:
        return next(n for n, names in enumerate(self.split.folds) if visit in names)

    def of_fold(self, fold: int) -> set[str]:
        return set(map(_person, self.split.folds[fold]))

    def behind_opinion(self, visit: str, seen: tuple[int, ...]) -> set[str]:
        return self.people[f"oof-{candidate_stage(seen)}-on-{self.fold_of(visit)}"]


def _head(name: str, patient: str) -> Head:
    tissue = np.full((20, 20, 20), Tissue.WHITE, np.uint8)
    nothing = np.zeros_like(tissue)
    at = np.arange(3000, 3005, dtype=np.int32)
    draw = LesionDraw(at, np.full(5, 255, np.uint8), np.ones(5, np.int16), np.zeros(0, np.int32))
    return Head(name, patient, tissue, nothing, nothing + 255, (draw,))


def _note_sources(ledger: Ledger, source: object) -> None:
    """Note whose data a stream of sub-images is cut from."""
    if isinstance(source, MixedSampler):
        for one in source.sources:
            _note_sources(ledger, one)
    elif isinstance(source, MadeSampler):
        for head in source.heads:
            ledger.read("head" if head.patient else "anatomy", {head.patient} - {""})
    elif isinstance(source, CandidateSampler):
        ledger.read("cut", {_person(visit.name) for visit in source.visits})
        ledger.read("bank", {_person(lesion.visit) for lesion in source.bank.lesions})
    else:
        ledger.read("cut", {_person(found.visit.name) for found in source.candidates})


def _watch(ledger: Ledger, patch: pytest.MonkeyPatch) -> None:
    """Replace what computes by what notes; what decides who is read stays."""
    load_visit, out_of_fold = stages.load_visit, stages.out_of_fold
    gate_of = stages.gate_of

    def visit(path: Path):
        ledger.read("visit", {_person(path.stem)})
        return load_visit(path)

    def opinion(workshop, name, seen):
        ledger.read("opinion", ledger.behind_opinion(name, seen))
        return out_of_fold(workshop, name, seen)

    def average(checkpoint: Path):
        ledger.read("net", ledger.people[checkpoint.stem])
        kind = RefinementNet if checkpoint.stem.startswith(("ref", "inner")) else CandidateNet
        return kind((4, 8)).state_dict()

    def fit(_net, source, _plan, _engine, _checkpoint, **_):
        _note_sources(ledger, source)

    def gate(workshop, test, inner=None):
        ledger.read("gate", ledger.people[stages.refinement_stage(test, inner)])
        return gate_of(workshop, test, inner)

    def probability(_nets, images, *_, **__):
        return np.where(images[0] > 1.5, 0.7, 0.02).astype(np.float32)

    patch.setattr(stages, "load_visit", visit)
    patch.setattr(stages, "load_average", average)
    patch.setattr(stages, "fit", fit)
    patch.setattr(stages, "candidate_probability", probability)
    for module in (stages, points):
        patch.setattr(module, "out_of_fold", opinion)
        patch.setattr(module, "gate_of", gate)
    patch.setattr(points, "refine", lambda *given: (given[3], given[3]))

    def fit_judge(_net, _source, _plan, _engine, checkpoint, **_):
        checkpoint.touch()

    def judges(_workshop, test, inner=None):
        ledger.read("judge", ledger.people[judging.judge_stage(test, inner)])
        return ()

    patch.setattr(judging, "load_finished", lambda *_: None)
    patch.setattr(judging, "fit", fit_judge)
    patch.setattr(points, "judges_of", judges)


def _split(count: int) -> Split:
    """Two people in the first fold, one of them seen twice."""
    folds = [[f"sub-{fold}"] for fold in range(count)]
    return Split((("sub-0_ses-1", "sub-0_ses-2", "sub-9"), *map(tuple, folds[1:])))


def _build(folder: Path, make_visit, count: int) -> stages.Workshop:
    """Small visits and heads, and a recipe with everything that can be switched on."""
    plan = FitPlan(steps=1, batch=1, workers=0)
    recipe = Recipe(
        plan, plan, plan, made=plan, everyone=plan, inner=plan, judge=JudgePlan(),
        widths=(4, 8), refinement_widths=(4, 8),
        mix=Mix(real=0.4, anatomy=0.2, patients=0.2, hard=0.25, paste=0.5),
    )  # fmt: skip
    split = _split(count)
    for name in ("cohort", "heads", "checkpoints"):
        (folder / name).mkdir()
    save_head(_head("head", ""), folder / "heads" / "head.npz")
    for number, name in enumerate(split.members(split.everything)):
        save_visit(make_visit(name, seed=number, edge=18), folder / "cohort" / f"{name}.npz")
        person = _person(name)
        save_head(_head(person, person), folder / "heads" / f"{person}.npz")
    return stages.Workshop(folder, split, recipe, Engine(), 3)


Run = Callable[..., tuple[Ledger, stages.Workshop]]


@pytest.fixture(scope="module")
def run_watched(make_visit, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run all stages of a training; the same one only once."""
    known: dict[tuple[int, Goal], tuple[Ledger, stages.Workshop]] = {}

    def run(count: int, goal: Goal, *, again: bool = False) -> tuple[Ledger, stages.Workshop]:
        if again or (count, goal) not in known:
            workshop = _build(tmp_path_factory.mktemp("watched"), make_visit, count)
            ledger = Ledger(workshop.split)
            with pytest.MonkeyPatch.context() as patch:
                _watch(ledger, patch)
                for stage in plan_stages(workshop.split, workshop.recipe, goal):
                    ledger.begin(stage.name)
                    run_stage(workshop, stage)
                    ledger.end()
                for test in goal.tests(workshop.split):
                    ledger.begin(f"points-{test}")
                    points.predict_unseen(workshop, test)
                    ledger.end()
            if again:
                return ledger, workshop
            known[count, goal] = ledger, workshop
        return known[count, goal]

    return run


@pytest.mark.parametrize(
    ("count", "goal"), [(3, Goal()), (3, Goal(outer=(0,), ship=False)), (4, Goal())]
)
def test_nothing_that_is_scored_on_a_patient_comes_from_that_patient(
    run_watched, count: int, goal: Goal
) -> None:
    """No net, start, hard negative, pasted lesion, head, candidate, gate or threshold."""
    ledger, workshop = run_watched(count, goal)
    split = workshop.split
    for test in goal.tests(split):
        hidden = ledger.of_fold(test)
        others = split.without(test)
        scored = [candidate_stage(others), stages.refinement_stage(test)]
        scored.append(judging.judge_stage(test))
        for name in scored:
            assert not ledger.people[name] & hidden, name
        for inner in others:
            # neither net was cut from those on whom a threshold is chosen
            both = hidden | ledger.of_fold(inner)
            seen = candidate_stage(split.without(test, inner))
            assert not ledger.people[seen] & both, seen
            name = stages.refinement_stage(test, inner)
            assert not ledger.cut[name] & both, name
            # candidates of an inner net were found by nets that may know the inner fold: with
            # three folds there are no others. The test fold has no part even there
            assert not ledger.people[name] & hidden, name
            judge = judging.judge_stage(test, inner)
            assert {"visit", "opinion"} == ledger.kinds[judge]
            assert not ledger.people[judge] & hidden, judge
        assert {"visit", "opinion", "net", "gate", "judge"} <= ledger.kinds[f"points-{test}"]
        everybody_else = set.union(*(ledger.of_fold(fold) for fold in others))
        assert ledger.people[f"points-{test}"] == everybody_else
        assert not everybody_else & hidden


def test_every_candidate_net_knows_its_folds_and_nobody_else(run_watched) -> None:
    ledger, workshop = run_watched(4, Goal())
    split = workshop.split
    candidates = [
        stage for stage in plan_stages(split, workshop.recipe) if stage.kind == "candidate"
    ]
    for stage in candidates:
        allowed = set(map(_person, split.members(stage.folds)))
        assert ledger.people[stage.name] == allowed, stage.name
        assert {"visit", "cut", "bank", "head", "anatomy", "net"} <= ledger.kinds[stage.name]
    assert ledger.people["made"] == set()
    assert ledger.kinds["made"] == {"anatomy"}
    # hard negatives were asked for, and found for each net that goes on from another
    going_on = [stage for stage in candidates if stage.start is not None]
    assert len(going_on) == 5
    assert all("opinion" in ledger.kinds[stage.name] for stage in going_on)


def test_opinions_are_about_patients_that_their_net_has_never_met(run_watched) -> None:
    ledger, workshop = run_watched(4, Goal())
    looks = [
        stage for stage in plan_stages(workshop.split, workshop.recipe) if stage.kind == "oof"
    ]
    assert len(looks) > 4
    for stage in looks:
        assert stage.fold is not None
        net = candidate_stage(stage.folds)
        assert not ledger.people[net] & ledger.of_fold(stage.fold), stage.name
        assert ledger.people[stage.name] == ledger.people[net] | ledger.of_fold(stage.fold)


def test_hard_negatives_are_marked_by_nets_that_have_not_seen_the_patient(run_watched) -> None:
    _, workshop = run_watched(3, Goal(outer=(0,), ship=False), again=True)
    path = stages.out_of_fold_path(workshop, "sub-1", (2,))
    truth = workshop.visit("sub-1").truth
    wrong = np.zeros(truth.shape, np.float16)
    wrong[2:4, 2:4, 2:4] = 0.9
    wrong[truth >= 0.5] = 0.9
    np.save(path, wrong)
    marked = dict(
        zip(workshop.split.members((1, 2)), stages.find_hard(workshop, (1, 2)), strict=True)
    )
    assert marked["sub-1"].sum() == 8
    assert marked["sub-1"][2:4, 2:4, 2:4].all()
    # a net of one fold has nobody to look at its patient
    assert not any(hard.any() for hard in stages.find_hard(workshop, (1,)))
    path.unlink()
    assert not stages.find_hard(workshop, (1, 2))[0].any()


def test_a_leak_would_be_noticed(run_watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch itself: with all heads let in, people outside the folds show up."""
    monkeypatch.setattr(stages, "may_see", lambda heads, _unseen: tuple(heads))
    ledger, _ = run_watched(3, Goal(outer=(0,), ship=False), again=True)
    assert "sub-0" in ledger.people["candidate-12"]
    assert "sub-0" in ledger.people["refinement-0"]


def test_heads_of_both_kinds_are_used_though_their_shares_are_equal(run_watched) -> None:
    ledger, _ = run_watched(3, Goal(outer=(0,), ship=False))
    assert {"head", "anatomy"} <= ledger.kinds["candidate-1"]
