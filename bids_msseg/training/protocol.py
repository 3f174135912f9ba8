"""Training of a cascade on labelled patients, from a CNN-1 that has seen none of them.

``python -m bids_msseg.training.protocol COHORT MAPS OUT --name N --init NET --hold-out sub-lj``
leaves out every visit whose name starts with ``sub-lj`` and trains both networks on the others:

1. NET, which has seen no patient, predicts every visit: candidates for CNN-2, and the white matter
   into which lesions of the bank are painted.
2. CNN-1 is fine-tuned from NET on labelled, painted and synthetic sub-images.
3. CNN-2 learns from NET's candidates.

NET serves every fold, so no inner folds are needed: whatever is held out is unseen by all that is
trained. Every step is resumable; the same command resumes.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bids_msseg.cascade.generation import MixedSampler
from bids_msseg.cascade.log_watch import log_line
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.stages import load_visit
from bids_msseg.cascade.training import FitPlan, fit
from bids_msseg.errors import NoInputError
from bids_msseg.models.engine import Engine, choose_engine
from bids_msseg.models.inference import Prediction, predict
from bids_msseg.models.lesion_anatomy import (
    LesionAnatomyConfig,
    LesionAnatomyNet,
    read_lesion_anatomy,
)
from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
from bids_msseg.training.candidates import CandidateCrops, label_candidates
from bids_msseg.training.label_maps import LesionBank, read_label_maps, read_lesion_bank
from bids_msseg.training.labelled import LabelledDataset
from bids_msseg.training.losses import lesion_anatomy_step, refinement_step
from bids_msseg.training.painting import Painting, prepare_painting
from bids_msseg.training.synthesis import SyntheticDataset

LOGGER = logging.getLogger("bids_msseg")


@dataclass(frozen=True, slots=True)
class CascadeRecipe:
    """What decides the result of a training, beside the data.

    Attributes
    ----------
    candidate, refinement : FitPlan
        Of CNN-1, fine-tuned from a network that has seen no patient, and of CNN-2.
    real_share : float
        Share of CNN-1's sub-images that show labelled visits; the others are synthetic.
    paint_chance : float
        Chance that lesions are painted into a sub-image of a labelled visit.
    painted_sets : int
        Sets of painted lesions of each visit.
    candidate_threshold : float
        A voxel is a candidate where CNN-1's probability reaches this.
    size : int
        Edge of CNN-1's sub-images, voxels of 1 mm.
    candidate_net, refinement_net : configurations of both networks
    """

    candidate: FitPlan = field(
        default_factory=lambda: FitPlan(steps=1000, learning_rate=1e-3, ema=0.995, seed=7)
    )
    refinement: FitPlan = field(
        default_factory=lambda: FitPlan(
            steps=600, batch=16, learning_rate=1.5e-3, ema=0.99, seed=9
        )
    )
    real_share: float = 0.6
    paint_chance: float = 0.4
    painted_sets: int = 12
    candidate_threshold: float = 0.1
    size: int = 96
    candidate_net: LesionAnatomyConfig = field(default_factory=LesionAnatomyConfig)
    refinement_net: LesionRefinementConfig = field(default_factory=LesionRefinementConfig)


@dataclass(frozen=True, slots=True)
class TrainingContext:
    """Where a training happens, and with what.

    Attributes
    ----------
    folder : path
        Gets ``unseen/``, ``checkpoints/`` and ``logs/``.
    visits : tuple of LabelledVisit
        Those that may be seen.
    label_maps : path
        Folder of prepared label maps.
    init : path
        Weights of the CNN-1 that has seen no patient.
    bank : LesionBank or None
        Lesions to paint; none are painted without it.
    engine : Engine
    recipe : CascadeRecipe
    """

    folder: Path
    visits: tuple[LabelledVisit, ...]
    label_maps: Path
    init: Path
    bank: LesionBank | None
    engine: Engine
    recipe: CascadeRecipe

    def checkpoint(self, stage: str) -> Path:
        """Name the checkpoint of a stage."""
        return self.folder / "checkpoints" / f"{stage}.pt"

    def initial_net(self) -> LesionAnatomyNet:
        """Load the CNN-1 that has seen no patient."""
        net = LesionAnatomyNet(self.recipe.candidate_net)
        net.load_state_dict(read_lesion_anatomy(self.init))
        return net.eval()


def predict_unseen(context: TrainingContext) -> list[Prediction]:
    """Predict every visit by the network that has seen none, once for each."""
    folder = context.folder / "unseen"
    folder.mkdir(parents=True, exist_ok=True)
    predictions = []
    for visit in context.visits:
        path = folder / f"{visit.name}.npz"
        if not path.is_file():
            images = visit.images.astype(np.float32)
            nets = [context.initial_net()]
            seen = predict(
                nets,
                images,
                visit.present,
                visit.brain,
                context.engine,
                tile=context.recipe.size,
                stride=2 * context.recipe.size // 3,
            )
            partial_path = path.with_name(path.name + ".part")
            with partial_path.open("wb") as stream:
                np.savez_compressed(
                    stream, lesion=seen.lesion.astype(np.float16), anatomy=seen.anatomy
                )
            partial_path.replace(path)
        with np.load(path, allow_pickle=False) as file:
            predictions.append(Prediction(file["lesion"].astype(np.float32), file["anatomy"]))
    return predictions


def prepare_paintings(
    context: TrainingContext, predictions: Sequence[Prediction]
) -> list[Painting]:
    """Place sets of bank lesions in every visit; none where there is no bank."""
    if context.bank is None:
        return []
    return [
        prepare_painting(
            visit,
            prediction,
            context.bank,
            np.random.default_rng((context.recipe.candidate.seed, number)),
            context.recipe.painted_sets,
        )
        for number, (visit, prediction) in enumerate(zip(context.visits, predictions, strict=True))
    ]


def train_candidate(
    context: TrainingContext, name: str, predictions: Sequence[Prediction]
) -> LesionAnatomyNet:
    """Train CNN-1, or resume its training, and return the running mean of its weights."""
    recipe, seed = context.recipe, context.recipe.candidate.seed
    torch.manual_seed(seed)
    sources = (
        LabelledDataset(
            context.visits,
            seed,
            size=recipe.size,
            paintings=prepare_paintings(context, predictions),
            paint_chance=recipe.paint_chance,
        ),
        SyntheticDataset(read_label_maps(context.label_maps), seed + 1, size=recipe.size),
    )
    return fit(
        context.initial_net(),
        MixedSampler(sources, (recipe.real_share, 1 - recipe.real_share), seed + 2),
        recipe.candidate,
        context.engine,
        context.checkpoint(f"candidate-{name}"),
        report=partial(log_line, context.folder / "logs", f"candidate-{name}"),
        step_loss=lesion_anatomy_step,
    )


def train_refinement(
    context: TrainingContext, name: str, predictions: Sequence[Prediction]
) -> LesionRefinementNet:
    """Train CNN-2 on candidates in patients that the CNN-1 behind them has not seen."""
    recipe = context.recipe
    found = [
        label_candidates(visit, prediction, recipe.candidate_threshold)
        for visit, prediction in zip(context.visits, predictions, strict=True)
    ]
    for visit, one in zip(context.visits, found, strict=True):
        LOGGER.info("%s: %d lesions, %d false", visit.name, one.real.sum(), (~one.real).sum())
    torch.manual_seed(recipe.refinement.seed)
    return fit(
        LesionRefinementNet(recipe.refinement_net),
        CandidateCrops(found, recipe.refinement.seed),
        recipe.refinement,
        context.engine,
        context.checkpoint(f"refinement-{name}"),
        report=partial(log_line, context.folder / "logs", f"refinement-{name}"),
        step_loss=refinement_step,
    )


def read_seen(cohort: Path, hold_out: Sequence[str]) -> tuple[LabelledVisit, ...]:
    """Read the prepared visits whose names start with no held-out prefix.

    Raises
    ------
    NoInputError
        If none is left.
    """
    paths = [
        path
        for path in sorted(cohort.glob("*.npz"))
        if not any(path.name.startswith(prefix) for prefix in hold_out)
    ]
    if not paths:
        raise NoInputError(f"no visit in {cohort} is left to train on", hint="hold out fewer")
    return tuple(load_visit(path) for path in paths)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="protocol", description=str(__doc__).partition("\n")[0])
    parser.add_argument("cohort", type=Path, help="folder of prepared visits (*.npz)")
    parser.add_argument("label_maps", type=Path, help="folder of prepared label maps (*.npz)")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--name", required=True, help="of the checkpoints and logs")
    parser.add_argument("--init", type=Path, required=True, help="CNN-1 that saw no patient")
    parser.add_argument("--lesion-bank", type=Path, help="lesions to paint (lesions.npz)")
    parser.add_argument(
        "--hold-out", nargs="*", default=[], metavar="PREFIX", help="visits that stay unseen"
    )
    parser.add_argument("--stages", nargs="+", default=["candidate", "refinement"])
    parser.add_argument("--steps", type=int, help="of CNN-1")
    parser.add_argument("--learning-rate", type=float, help="of CNN-1")
    parser.add_argument("--real-share", type=float)
    parser.add_argument("--paint-chance", type=float)
    parser.add_argument("--device", default="auto")
    return parser


def make_recipe(options: argparse.Namespace) -> CascadeRecipe:
    """Change the default recipe as asked for."""
    recipe = CascadeRecipe()
    plan = {
        key: value
        for key, value in (("steps", options.steps), ("learning_rate", options.learning_rate))
        if value is not None
    }
    shares = {
        key: value
        for key in ("real_share", "paint_chance")
        if (value := getattr(options, key)) is not None
    }
    return replace(recipe, candidate=replace(recipe.candidate, **plan), **shares)


def main() -> int:
    """Train both networks, and leave their checkpoints."""
    options = build_parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for folder in ("checkpoints", "logs"):
        (options.output_dir / folder).mkdir(parents=True, exist_ok=True)
    context = TrainingContext(
        options.output_dir,
        read_seen(options.cohort, options.hold_out),
        options.label_maps,
        options.init,
        read_lesion_bank(options.lesion_bank) if options.lesion_bank else None,
        choose_engine(options.device),
        make_recipe(options),
    )
    predictions = predict_unseen(context)
    if "candidate" in options.stages:
        train_candidate(context, options.name, predictions)
    if "refinement" in options.stages:
        train_refinement(context, options.name, predictions)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
