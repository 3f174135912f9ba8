"""The stages of training a cascade; each is finished, resumable, or waits for another.

A stage reads visits and writes below one folder, so several processes can work on stages whose
needs are met.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.cascade.augment import AugmentPlan
from bids_msseg.cascade.folds import FoldSet, Split
from bids_msseg.cascade.inference import (
    Engine,
    candidate_probability,
    find_candidates,
)
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.sampling import (
    Candidates,
    CandidateSampler,
    RefinementSampler,
    judge_candidates,
)
from bids_msseg.cascade.training import FitPlan, Report, choose_gate, fit, is_finished
from bids_msseg.cascade.weights import OperatingPoint
from bids_msseg.errors import DataError

Log = Callable[[str, Report], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is trained.

    Attributes
    ----------
    widths, refinement_widths : tuple of int
        Shapes of the two nets.
    candidate, continued, refinement : FitPlan
        For CNN-1 on the smallest sets of folds, for CNN-1 going on from one of those, for CNN-2.
    augment : AugmentPlan
    """

    candidate: FitPlan
    continued: FitPlan
    refinement: FitPlan
    widths: tuple[int, ...] = (16, 32, 64, 128)
    refinement_widths: tuple[int, ...] = (16, 32, 64)
    augment: AugmentPlan = field(default_factory=AugmentPlan)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a training happens.

    Attributes
    ----------
    folder : path
        ``cohort/`` holds the visits, ``checkpoints/`` the nets, ``oof/`` the candidates.
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

    def checkpoint(self, stage: str) -> Path:
        """Name the checkpoint of a stage."""
        return self.folder / "checkpoints" / f"{stage}.pt"


def save_visit(visit: LabelledVisit, path: Path) -> None:
    """Write a prepared visit; no pickle."""
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as stream:
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
    partial.replace(path)


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


def candidate_stage(folds: FoldSet) -> str:
    """Name the stage of the candidate net that sees these folds."""
    return "candidate-" + "".join(str(fold) for fold in folds)


def refinement_stage(test: int | None) -> str:
    """Name the stage of the refinement net of an outer fold, or of the one that ships."""
    return "refinement-ship" if test is None else f"refinement-{test}"


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
        Go on from the net of these folds, which must be among ``folds``.
    log : callable
    """
    if start is not None and not set(start) <= set(folds):
        raise ValueError(f"a net of folds {start} has seen patients outside {folds}")
    stage = candidate_stage(folds)
    plan = workshop.recipe.candidate if start is None else workshop.recipe.continued
    if is_finished(workshop.checkpoint(stage), plan):
        return
    seed = workshop.seed + 1000 * sum(2**fold for fold in folds)
    torch.manual_seed(seed)
    net = CandidateNet(workshop.recipe.widths)
    if start is not None:
        net.load_state_dict(load_average(workshop.checkpoint(candidate_stage(start))))
    source = CandidateSampler(workshop.visits(folds), seed, plan=workshop.recipe.augment)
    fit(
        net,
        source,
        replace(plan, seed=seed),
        workshop.engine,
        workshop.checkpoint(stage),
        report=lambda line: log(stage, line),
    )


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


def refinement_net(workshop: Workshop, test: int | None) -> RefinementNet:
    """Load the trained CNN-2 of an outer fold, or the one that ships."""
    net = RefinementNet(workshop.recipe.refinement_widths)
    net.load_state_dict(load_average(workshop.checkpoint(refinement_stage(test))))
    return net.eval()


def find_out_of_fold(workshop: Workshop, fold: int, seen: FoldSet) -> None:
    """Run the candidate net of ``seen`` over the visits of a fold that it has not seen."""
    if fold in seen:
        raise ValueError(f"the net of folds {seen} has seen fold {fold}")
    folder = workshop.folder / "oof" / candidate_stage(seen)
    folder.mkdir(parents=True, exist_ok=True)
    net = candidate_net(workshop, seen)
    for name in workshop.split.folds[fold]:
        target = folder / f"{name}.npy"
        if target.is_file():
            continue
        visit = workshop.visit(name)
        probability = candidate_probability(
            [net], visit.images.astype(np.float32), visit.present, visit.brain, workshop.engine
        )
        partial = target.with_suffix(".part")
        with partial.open("wb") as stream:
            np.save(stream, probability.astype(np.float16))
        partial.replace(target)


def out_of_fold(workshop: Workshop, name: str, seen: FoldSet) -> NDArray[np.float32]:
    """Read CNN-1's probability of a visit by the net of ``seen``."""
    path = workshop.folder / "oof" / candidate_stage(seen) / f"{name}.npy"
    probability: NDArray[np.float16] = np.load(path, allow_pickle=False)
    return probability.astype(np.float32)


def train_refinement(workshop: Workshop, test: int | None, *, log: Log) -> None:
    """Train CNN-2 on candidates that CNN-1 found in patients it had not seen.

    The gate is chosen on the same out-of-fold probabilities and written beside the checkpoint.

    Raises
    ------
    DataError
        If CNN-1 found no candidate in anybody.
    """
    stage = refinement_stage(test)
    checkpoint = workshop.checkpoint(stage)
    plan = workshop.recipe.refinement
    if checkpoint.with_suffix(".json").is_file() and is_finished(checkpoint, plan):
        return
    visits: list[LabelledVisit] = []
    probabilities: list[NDArray[np.float32]] = []
    for fold, seen in workshop.split.sources(test):
        for name in workshop.split.folds[fold]:
            visits.append(workshop.visit(name))
            probabilities.append(out_of_fold(workshop, name, seen))
    gate = choose_gate(probabilities, [visit.truth >= 0.5 for visit in visits])
    found = [
        judge_candidates(visit, probability, find_candidates(probability, gate))
        for visit, probability in zip(visits, probabilities, strict=True)
    ]
    if not any(item.boxes for item in found):
        raise DataError(
            "the candidate nets found no candidate in patients that they had not seen",
            cure="train them for more steps, and check that images and masks lie on each other",
        )
    _write_point(workshop, test, OperatingPoint(gate=gate), found)
    seed = workshop.seed + 500 + (0 if test is None else 1 + test)
    torch.manual_seed(seed)
    fit(
        RefinementNet(workshop.recipe.refinement_widths),
        RefinementSampler(found, seed, plan=workshop.recipe.augment),
        replace(plan, seed=seed),
        workshop.engine,
        checkpoint,
        report=lambda line: log(stage, line),
    )


def _write_point(
    workshop: Workshop, test: int | None, point: OperatingPoint, found: Sequence[Candidates]
) -> None:
    summary = {
        "gate": point.gate,
        "candidates": {
            item.visit.name: {"lesions": int(item.real.sum()), "false": int((~item.real).sum())}
            for item in found
        },
    }
    path = workshop.checkpoint(refinement_stage(test)).with_suffix(".json")
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def operating_point(workshop: Workshop, test: int | None) -> OperatingPoint:
    """Read the gate of an outer fold; the other two thresholds are one half by definition.

    One half is what the losses aim at, so nothing is tuned on anybody.
    """
    path = workshop.checkpoint(refinement_stage(test)).with_suffix(".json")
    return OperatingPoint(gate=float(json.loads(path.read_text(encoding="utf-8"))["gate"]))
