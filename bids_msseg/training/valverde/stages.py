"""Training of the two nets in nested folds; finished nets are loaded from disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bids_msseg.io.atomic import open_alone
from bids_msseg.models.engine import Engine
from bids_msseg.trainer.plan import Report
from bids_msseg.training.data.folds import FoldSet, Split
from bids_msseg.training.data.visits import LabelledVisit, load_visit
from bids_msseg.training.valverde.inference import probability
from bids_msseg.training.valverde.nets import Padding, PatchNet
from bids_msseg.training.valverde.sampling import (
    PatchStream,
    Pool,
    fill_missing,
    find_candidates,
    hard_pool,
    random_pool,
)
from bids_msseg.training.valverde.train import PatchPlan, fit, load_finished

MINING_MODES: tuple[str, ...] = ("out-of-fold", "training")
Array = NDArray[np.float32]
Log = Callable[[str, Report], None]


@dataclass(frozen=True, slots=True)
class PatchRecipe:
    """Settings that determine the training of both nets."""

    padding: Padding = "valid"
    candidate_z: float = 0.5  # FLAIR z-score above which a voxel is a candidate
    candidate_threshold: float = 0.5  # of CNN-1, above which a candidate reaches CNN-2
    mining: str = "out-of-fold"  # hard negatives; "training", of CNN-1's patients, as in the paper
    plan: PatchPlan = field(default_factory=PatchPlan)


@dataclass(frozen=True, slots=True)
class PatchTraining:
    """Folder, split, recipe, engine and seed of a training with patch nets."""

    folder: Path
    split: Split
    recipe: PatchRecipe
    engine: Engine
    seed: int
    log: Log

    def visit(self, name: str) -> LabelledVisit:
        """Read one prepared visit; see :func:`fill_missing`."""
        return fill_missing(load_visit(self.folder / "cohort" / f"{name}.npz"))


def train_first(training: PatchTraining, folds: FoldSet) -> PatchNet:
    """Train CNN-1 on all lesion voxels of some folds and as many random candidates, or load it."""
    names = training.split.members(folds)
    min_z = training.recipe.candidate_z
    return _train(
        training,
        _first_stage(folds),
        lambda: [random_pool(training.visit(name), min_z) for name in names],
        training.seed + 1000 * sum(2**fold for fold in folds),
    )


def train_second(training: PatchTraining, test: int | None) -> PatchNet:
    """Train CNN-2 on all lesion voxels and as many hard negatives outside ``test``, or load it."""
    number = 0 if test is None else 1 + test
    stage = "cnn2-all" if test is None else f"cnn2-without-{test}"
    seed = training.seed + 500 + number
    return _train(training, stage, lambda: _hard_pools(training, test), seed)


def _hard_pools(training: PatchTraining, test: int | None) -> list[Pool]:
    recipe, split = training.recipe, training.split
    sources = split.sources(test)
    if recipe.mining == "training":
        training_folds = tuple(fold for fold, _ in sources)
        sources = tuple((fold, training_folds) for fold in training_folds)
    pools = []
    for fold, cnn1_folds in sources:
        for name in split.folds[fold]:
            prediction = first_prediction(training, name, cnn1_folds)
            pools.append(
                hard_pool(
                    training.visit(name),
                    recipe.candidate_z,
                    prediction,
                    recipe.candidate_threshold,
                )
            )
    return pools


def _first_stage(folds: FoldSet) -> str:
    return "cnn1-" + "".join(str(fold) for fold in folds)


def _train(
    training: PatchTraining, stage: str, pools: Callable[[], list[Pool]], seed: int
) -> PatchNet:
    """Load the net of a stage; if there is none, gather its pools and train it."""
    plan = training.recipe.plan
    checkpoint = training.folder / "valverde" / f"{stage}.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = PatchNet(training.recipe.padding, dropout=plan.dropout)
    finished = load_finished(net, plan, checkpoint)
    if finished is not None:
        return finished
    return fit(
        net,
        PatchStream(pools(), seed, batch=plan.batch, limit=plan.patches),
        plan,
        training.engine,
        checkpoint,
        seed=seed,
        report=lambda line: training.log(stage, line),
    )


def first_prediction(training: PatchTraining, name: str, folds: FoldSet) -> Array:
    """Return the stored probability (X, Y, Z) of CNN-1 of ``folds``, 0 outside candidates."""
    folder = training.folder / "valverde" / _first_stage(folds)
    target = folder / f"{name}.npy"
    if not target.is_file():
        net = train_first(training, folds)
        visit = training.visit(name)
        candidates = find_candidates(visit, training.recipe.candidate_z)
        prediction = probability(net, visit.images, candidates, training.engine)
        folder.mkdir(parents=True, exist_ok=True)
        with open_alone(target) as stream:
            np.save(stream, prediction.astype(np.float16))
    stored: NDArray[np.float16] = np.load(target, allow_pickle=False)
    return stored.astype(np.float32)


def segment_unseen(training: PatchTraining, name: str, test: int) -> tuple[Array, Array]:
    """Return probabilities (X, Y, Z) of CNN-1 and CNN-2 that have not seen the test fold."""
    if name not in training.split.folds[test]:
        raise ValueError(f"{name} is not in fold {test}: its nets have seen the patient")
    first = first_prediction(training, name, training.split.without(test))
    net = train_second(training, test)
    passed = first > training.recipe.candidate_threshold
    images = training.visit(name).images
    return first, probability(net, images, passed, training.engine)
