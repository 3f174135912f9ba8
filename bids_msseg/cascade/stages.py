"""The stages of training a cascade; each is finished, resumable, or waits for another.

A stage reads visits and writes below one folder, so several processes can work on stages whose
needs are met.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from bids_msseg.cascade.augment import Augmentation, AugmentPlan
from bids_msseg.cascade.folds import FoldSet, Split
from bids_msseg.cascade.generation import MadeSampler, MakePlan, MixedSampler
from bids_msseg.cascade.heads import Head, load_head, may_see
from bids_msseg.cascade.inference import candidate_probability, find_candidates
from bids_msseg.cascade.judge_patches import JudgePlan
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.sampling import (
    Candidates,
    CandidateSampler,
    RefinementSampler,
    judge_candidates,
)
from bids_msseg.cascade.team import find_team
from bids_msseg.cascade.training import FitPlan, Report, choose_gate, fit, is_finished
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.io.atomic import open_alone
from bids_msseg.models.engine import Engine
from bids_msseg.models.weights import OperatingPoint

Log = Callable[[str, Report], None]
Unseen = tuple[LabelledVisit, NDArray[np.float32]]
"""A visit, and CNN-1's probability by nets that had not met it."""
SECOND, JUDGE, VERDICT = 0.1, 0.4, 0.1
"""Weights in the pool of opinions: CNN-2's voxels beside CNN-1, the judge, the whole candidate.
CNN-2 is trusted less than without a pool: with a site left out, its probabilities fell there, so
that no threshold served both, while those of CNN-1 and of the judge stayed."""


@dataclass(frozen=True, slots=True)
class Mix:
    """What CNN-1's sub-images are cut from, in shares of any unit.

    Attributes
    ----------
    real : float
        Labelled visits.
    anatomy : float
        Images made of heads without lesions, into which lesions are painted.
    patients : float
        Images made of patients' tissue and lesion maps.
    hard : float
        Share of the real sub-images, not of all, that are centred on what an earlier net of fewer
        folds wrongly called lesion in a patient that it had not seen; renewed with every stage.
    paste : float
        Share of the real sub-images into which lesions of the same net's patients are pasted.
    """

    real: float = 0.6
    anatomy: float = 0.25
    patients: float = 0.15
    hard: float = 0.0
    paste: float = 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is trained.

    Attributes
    ----------
    keep_made : bool
        The net of made images stands beside each other CNN-1 when patients are segmented.
    look_with_all : bool
        Candidates that CNN-2 learns from, and hard negatives, are found by all nets that segment
        patients; else by that of the folds alone.
    trust : float
        How far a visit's own intensities correct CNN-1; see
        :func:`bids_msseg.cascade.adaptation.adapt`.
    widths, refinement_widths : tuple of int
        Shapes of the two nets.
    refinement_norm : {"instance", "batch"}
        What CNN-2's features are normalised over.
    candidate, continued, refinement : FitPlan
        For CNN-1 on the smallest sets of folds, for CNN-1 going on from one of those, for CNN-2.
    made : FitPlan, optional
        For CNN-1 on images made of heads without lesions; every other CNN-1 goes on from it.
    everyone : FitPlan, optional
        For a CNN-1 on all folds, which ships beside those of the outer folds.
    inner : FitPlan, optional
        For the refinement nets with which thresholds are chosen on inner folds; thresholds are
        one half where there is none.
    judge : JudgePlan, optional
        For the judge of voxels beside CNN-2; none where there is no plan.
    augment : AugmentPlan or Program
    refinement_augment : AugmentPlan or Program, optional
        For CNN-2, where it differs: a net that sees intensities as they are can learn where the
        raters of its sites draw the line, and CNN-1 answers for other scanners.
    make : MakePlan
        How widely made images vary.
    mix : Mix
    """

    candidate: FitPlan
    continued: FitPlan
    refinement: FitPlan
    made: FitPlan | None = None
    everyone: FitPlan | None = None
    inner: FitPlan | None = None
    judge: JudgePlan | None = None
    keep_made: bool = False
    look_with_all: bool = False
    trust: float = 0.0
    widths: tuple[int, ...] = (16, 32, 64, 128)
    refinement_widths: tuple[int, ...] = (16, 32, 64)
    refinement_norm: str = "instance"
    augment: Augmentation = field(default_factory=AugmentPlan)
    refinement_augment: Augmentation | None = None
    make: MakePlan = field(default_factory=MakePlan)
    mix: Mix = field(default_factory=Mix)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a training happens.

    Attributes
    ----------
    folder : path
        ``cohort/`` holds the visits, ``heads/`` what images are made of (or nothing),
        ``checkpoints/`` the nets, ``oof/`` the candidates.
    split : Split
    recipe : Recipe
    engine : Engine
    seed : int
    """

    folder: Path
    split: Split
    recipe: Recipe
    engine: Engine
    seed: int

    def visit(self, name: str) -> LabelledVisit:
        """Read one prepared visit."""
        return load_visit(self.folder / "cohort" / f"{name}.npz")

    def visits(self, folds: FoldSet) -> tuple[LabelledVisit, ...]:
        """Read all visits of these folds."""
        return tuple(self.visit(name) for name in self.split.members(folds))

    def heads(self, folds: FoldSet) -> tuple[Head, ...]:
        """Read the heads that hold nothing of a patient outside these folds."""
        unseen = self.split.members(self.split.without(*folds))
        paths = sorted((self.folder / "heads").glob("*.npz"))
        return may_see([load_head(path) for path in paths], unseen)

    def checkpoint(self, stage: str) -> Path:
        """Name the checkpoint of a stage."""
        return self.folder / "checkpoints" / f"{stage}.pt"


def save_visit(visit: LabelledVisit, path: Path) -> None:
    """Write a prepared visit; no pickle."""
    with open_alone(path) as stream:
        np.savez_compressed(
            stream,
            name=np.array(visit.name),
            site=np.array(visit.site),
            images=visit.images,
            present=np.array(visit.present),
            brain=visit.brain,
            truth=visit.truth,
            thick=np.array(visit.thick),
        )


def load_visit(path: Path) -> LabelledVisit:
    """Read what :func:`save_visit` wrote."""
    with np.load(path, allow_pickle=False) as file:
        flair, t1w, t2w = (bool(flag) for flag in file["present"])
        return LabelledVisit(
            str(file["name"]),
            str(file["site"]),
            file["images"],
            (flair, t1w, t2w),
            file["brain"],
            file["truth"],
            bool(file["thick"]),
        )


MADE_STAGE = "made"


def candidate_stage(folds: FoldSet) -> str:
    """Name the stage of the candidate net that sees these folds."""
    return "candidate-" + "".join(str(fold) for fold in folds)


def refinement_stage(test: int | None, inner: int | None = None) -> str:
    """Name the stage of a refinement net.

    Parameters
    ----------
    test : int or None
        The outer fold that it has not seen; None for the one that ships.
    inner : int, optional
        A second fold that it has not seen, on which thresholds are chosen.
    """
    if inner is not None:
        return f"inner-{test}-{inner}"
    return "refinement-ship" if test is None else f"refinement-{test}"


def held_out_number(test: int | None, inner: int | None = None) -> int:
    """Give a number to what an outer and an inner fold are kept from, to be added to a seed.

    Examples
    --------
    >>> held_out_number(None), held_out_number(0), held_out_number(2, 1)
    (0, 1, 23)
    """
    return (0 if test is None else 1 + test) + (0 if inner is None else 10 * (1 + inner))


def train_made(workshop: Workshop, *, log: Log) -> None:
    """Train CNN-1 on images made of heads without lesions; no patient is in it.

    Raises
    ------
    NoInputError
        If there is no such head.
    """
    plan = workshop.recipe.made
    if plan is None or is_finished(workshop.checkpoint(MADE_STAGE), plan):
        return
    heads = [head for head in workshop.heads(()) if not head.patient]
    if not heads:
        raise NoInputError(
            "the recipe trains on made images, and there is no head to make them of",
            hint="give --label-maps, or leave `made` out of the recipe",
        )
    torch.manual_seed(workshop.seed)
    source = MadeSampler(
        heads, workshop.seed, plan=workshop.recipe.make, augment_plan=workshop.recipe.augment
    )
    fit(
        CandidateNet(workshop.recipe.widths),
        source,
        replace(plan, seed=workshop.seed),
        workshop.engine,
        workshop.checkpoint(MADE_STAGE),
        report=lambda line: log(MADE_STAGE, line),
    )


def train_candidate(
    workshop: Workshop, folds: FoldSet, *, start: FoldSet | None, log: Log
) -> None:
    """Train CNN-1 on some folds.

    Parameters
    ----------
    workshop : Workshop
    folds : tuple of int
        Folds whose patients it may see.
    start : tuple of int, optional
        Go on from the net of these folds, which must be among ``folds``; else from the net of
        made images where there is one.
    log : callable
    """
    if start is not None and not set(start) <= set(folds):
        raise ValueError(f"a net of folds {start} has seen patients outside {folds}")
    stage, plan = candidate_stage(folds), candidate_plan(workshop, folds, start)
    if is_finished(workshop.checkpoint(stage), plan):
        return
    seed = workshop.seed + 1000 * sum(2**fold for fold in folds)
    torch.manual_seed(seed)
    net = CandidateNet(workshop.recipe.widths)
    before = candidate_stage(start) if start is not None else MADE_STAGE
    if start is not None or workshop.recipe.made is not None:
        net.load_state_dict(load_average(workshop.checkpoint(before)))
    fit(
        net,
        sub_images(workshop, folds, seed),
        replace(plan, seed=seed),
        workshop.engine,
        workshop.checkpoint(stage),
        report=lambda line: log(stage, line),
    )


def candidate_plan(workshop: Workshop, folds: FoldSet, start: FoldSet | None) -> FitPlan:
    """Say how long the candidate net of these folds is trained."""
    recipe = workshop.recipe
    if folds == workshop.split.everything and recipe.everyone is not None:
        return recipe.everyone
    return recipe.candidate if start is None else recipe.continued


def sub_images(workshop: Workshop, folds: FoldSet, seed: int) -> Dataset[Any]:
    """Mix real sub-images with made ones, of nobody outside these folds.

    Parameters
    ----------
    workshop : Workshop
    folds : tuple of int
        Folds whose patients may be seen.
    seed : int

    Returns
    -------
    Dataset
        Item ``i`` is the ``i``-th sub-image with its truth; it depends on the seed and ``i``.
    """
    recipe = workshop.recipe
    real = CandidateSampler(
        workshop.visits(folds),
        seed,
        plan=recipe.augment,
        hard=find_hard(workshop, folds) if recipe.mix.hard else None,
        hard_share=recipe.mix.hard,
        paste=recipe.mix.paste,
    )
    heads = workshop.heads(folds)
    groups = (
        (recipe.mix.anatomy, [head for head in heads if not head.patient]),
        (recipe.mix.patients, [head for head in heads if head.patient]),
    )
    made = [(share, group) for share, group in groups if group and share > 0]
    if not made:
        return real
    samplers = [
        MadeSampler(group, seed + 100 + number, plan=recipe.make, augment_plan=recipe.augment)
        for number, (_, group) in enumerate(made)
    ]
    shares = [recipe.mix.real, *(share for share, _ in made)]
    return MixedSampler([real, *samplers], shares, seed)


def find_hard(workshop: Workshop, folds: FoldSet) -> list[NDArray[np.bool_]]:
    """Mark what nets of fewer of these folds wrongly called lesion in the visits of the others.

    Parameters
    ----------
    workshop : Workshop
    folds : tuple of int

    Returns
    -------
    list of ndarray of bool, shape (X, Y, Z)
        One a visit, in the order of the split; all False where no such net has looked yet.
    """
    marked: list[NDArray[np.bool_]] = []
    for fold in folds:
        seen = tuple(other for other in folds if other != fold)
        for name in workshop.split.folds[fold]:
            truth = workshop.visit(name).truth
            hard = np.zeros(truth.shape, np.bool_)
            if seen and out_of_fold_path(workshop, name, seen).is_file():
                hard = (out_of_fold(workshop, name, seen) >= 0.5) & (truth < 0.1)
            marked.append(hard)
    return marked


def load_average(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Read the running mean of the weights from a checkpoint."""
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True)
    average: dict[str, torch.Tensor] = kept["average"]
    return average


def candidate_net(workshop: Workshop, folds: FoldSet) -> CandidateNet:
    """Load the trained CNN-1 of these folds."""
    net = CandidateNet(workshop.recipe.widths)
    net.load_state_dict(load_average(workshop.checkpoint(candidate_stage(folds))))
    return net.eval()


def candidate_nets(workshop: Workshop, folds: FoldSet) -> tuple[CandidateNet, ...]:
    """Load what segments patients: CNN-1 of these folds, and that of made images if it is kept."""
    first = candidate_net(workshop, folds)
    if workshop.recipe.made is None or not workshop.recipe.keep_made:
        return (first,)
    made = CandidateNet(workshop.recipe.widths)
    made.load_state_dict(load_average(workshop.checkpoint(MADE_STAGE)))
    return first, made.eval()


def refinement_net(
    workshop: Workshop, test: int | None, inner: int | None = None
) -> RefinementNet:
    """Load the trained CNN-2 of an outer fold, of an inner one, or the one that ships."""
    net = RefinementNet(workshop.recipe.refinement_widths, workshop.recipe.refinement_norm)
    net.load_state_dict(load_average(workshop.checkpoint(refinement_stage(test, inner))))
    return net.eval()


def find_out_of_fold(workshop: Workshop, fold: int, seen: FoldSet) -> None:
    """Run the candidate net of ``seen`` over the visits of a fold that it has not seen."""
    if fold in seen:
        raise ValueError(f"the net of folds {seen} has seen fold {fold}")
    folder = workshop.folder / "oof" / candidate_stage(seen)
    folder.mkdir(parents=True, exist_ok=True)
    every = workshop.recipe.look_with_all
    nets = candidate_nets(workshop, seen) if every else (candidate_net(workshop, seen),)
    for name in workshop.split.folds[fold]:
        target = folder / f"{name}.npy"
        if target.is_file():
            continue
        probability = look(workshop, nets, name)
        with open_alone(target) as stream:
            np.save(stream, probability.astype(np.float16))


def look(workshop: Workshop, nets: Sequence[CandidateNet], name: str) -> NDArray[np.float32]:
    """Run candidate nets over a visit as the recipe says."""
    visit = workshop.visit(name)
    return candidate_probability(
        nets,
        visit.images.astype(np.float32),
        visit.present,
        visit.brain,
        workshop.engine,
        trust=workshop.recipe.trust,
    )


def out_of_fold(workshop: Workshop, name: str, seen: FoldSet) -> NDArray[np.float32]:
    """Read CNN-1's probability of a visit by the net of ``seen``."""
    path = out_of_fold_path(workshop, name, seen)
    probability: NDArray[np.float16] = np.load(path, allow_pickle=False)
    return probability.astype(np.float32)


def out_of_fold_path(workshop: Workshop, name: str, seen: FoldSet) -> Path:
    """Say where CNN-1's probability of a visit by the net of ``seen`` is kept."""
    return workshop.folder / "oof" / candidate_stage(seen) / f"{name}.npy"


def train_refinement(
    workshop: Workshop, test: int | None, *, log: Log, inner: int | None = None
) -> None:
    """Train CNN-2 on candidates that CNN-1 found in patients it had not seen.

    The gate is chosen on the same out-of-fold probabilities and written beside the checkpoint.

    Parameters
    ----------
    workshop : Workshop
    test : int or None
        Outer fold that must stay unseen.
    log : callable
    inner : int, optional
        Another fold to learn nothing from, so that thresholds can be chosen on it.

    Raises
    ------
    DataError
        If CNN-1 found no candidate in anybody.
    """
    stage = refinement_stage(test, inner)
    checkpoint = workshop.checkpoint(stage)
    recipe = workshop.recipe
    plan = recipe.refinement if inner is None else recipe.inner
    if plan is None:
        return
    if checkpoint.with_suffix(".json").is_file() and is_finished(checkpoint, plan):
        return
    gate, found = _find_to_learn_from(workshop, test, inner)
    write_candidates(checkpoint, gate, found)
    seed = workshop.seed + 500 + held_out_number(test, inner)
    torch.manual_seed(seed)
    fit(
        RefinementNet(recipe.refinement_widths, recipe.refinement_norm),
        RefinementSampler(found, seed, plan=recipe.refinement_augment or recipe.augment),
        replace(plan, seed=seed),
        workshop.engine,
        checkpoint,
        report=lambda line: log(stage, line),
    )


def unseen(workshop: Workshop, test: int | None, inner: int | None = None) -> list[Unseen]:
    """Read the visits that CNN-2 learns from, with CNN-1's opinion by nets that had not met them.

    Parameters
    ----------
    workshop : Workshop
    test : int or None
        Outer fold that must stay unseen.
    inner : int, optional
        Another fold to leave out.
    """
    return [
        (workshop.visit(name), out_of_fold(workshop, name, seen))
        for fold, seen in workshop.split.sources(test)
        if fold != inner
        for name in workshop.split.folds[fold]
    ]


def choose_unseen_gate(found: Sequence[Unseen]) -> float:
    """Choose the gate on visits that CNN-1 had not seen."""
    opinions = [probability for _, probability in found]
    return choose_gate(opinions, [visit.truth >= 0.5 for visit, _ in found])


def _find_to_learn_from(
    workshop: Workshop, test: int | None, inner: int | None
) -> tuple[float, list[Candidates]]:
    """Choose the gate and list CNN-1's candidates in patients that it had not seen."""
    visits = unseen(workshop, test, inner)
    gate = choose_unseen_gate(visits)
    found = [
        judge_candidates(visit, probability, find_candidates(probability, gate))
        for visit, probability in visits
    ]
    if not any(item.boxes for item in found):
        raise DataError(
            "the candidate nets found no candidate in patients that they had not seen",
            hint="train them for more steps, and check that images and masks lie on each other",
        )
    return gate, found


def write_candidates(checkpoint: Path, gate: float, found: Sequence[Candidates]) -> None:
    """Write gate and counts of the candidates behind a refinement net beside its checkpoint.

    In a team the first process writes.
    """
    if find_team()[0]:
        return
    summary = {
        "gate": gate,
        "candidates": {
            item.visit.name: {"lesions": int(item.real.sum()), "false": int((~item.real).sum())}
            for item in found
        },
    }
    with open_alone(checkpoint.with_suffix(".json")) as stream:
        stream.write((json.dumps(summary, indent=1) + "\n").encode())


def gate_of(workshop: Workshop, test: int | None, inner: int | None = None) -> float:
    """Read the gate that was chosen for a refinement net."""
    path = workshop.checkpoint(refinement_stage(test, inner)).with_suffix(".json")
    return float(json.loads(path.read_text(encoding="utf-8"))["gate"])


def operating_point(workshop: Workshop, test: int | None) -> OperatingPoint:
    """Gate and thresholds of an outer fold, or of what ships.

    Threshold and CNN-2's weight are what :func:`bids_msseg.cascade.points.choose_points` found
    best on inner folds; one half both, at which the losses aim, where the recipe has no inner
    nets.
    """
    path = workshop.folder / "points.json"
    chosen = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    point = chosen.get("ship" if test is None else str(test), {})
    pools = workshop.recipe.judge is not None
    return OperatingPoint(
        gate=gate_of(workshop, test),
        keep=float(point.get("keep", 0.5)),
        threshold=float(point.get("balanced", 0.5)),
        second=float(point.get("second", SECOND if pools else 0.5)),
        trust=workshop.recipe.trust,
        judge=float(point.get("judge", JUDGE if pools else 0)),
        verdict=float(point.get("verdict", VERDICT if pools else 0)),
    )
