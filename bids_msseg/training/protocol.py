"""Training of a cascade on labelled patients, from networks that have not seen them.

CNN-2 is trained on candidates of the starting CNN-1, which has seen none of the visits, so that no
inner folds are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from bids_msseg.errors import DataError
from bids_msseg.io.atomic import open_alone
from bids_msseg.models.cascade import NetworkOutput, run_networks
from bids_msseg.models.inference import Array, Prediction, predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet, read_network_weights
from bids_msseg.models.lesion_refinement import LesionRefinementNet
from bids_msseg.trainer.fit import fit, is_finished
from bids_msseg.trainer.log_watch import log_line
from bids_msseg.training.context import TrainingContext
from bids_msseg.training.data.candidates import CandidateCrops, label_candidates
from bids_msseg.training.data.folds import MIN_FOLDS, FoldSet, Split
from bids_msseg.training.data.labelled import LabelledDataset, with_thick_slices
from bids_msseg.training.data.mixed import MixedDataset
from bids_msseg.training.data.painting import (
    Painting,
    load_painting,
    prepare_painting,
    save_painting,
)
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.losses import lesion_anatomy_step, refinement_step
from bids_msseg.training.synthesis.dataset import SyntheticDataset
from bids_msseg.training.synthesis.label_maps import read_label_maps, read_lesion_bank

RELEASE = "release"
"""Name of the networks that are trained on every visit."""
HELD_OUT, THICKENED = "held-out", "held-out-thick"
"""Folders of the output for visits as acquired, and with thin slices averaged to thick ones."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a training and the names of the stages that it needs."""

    name: str
    kind: str  # unseen, candidate, refinement, held-out or held-out-thick
    fold: int | None = None  # test fold that stays unseen, None for the release
    visit: str = ""  # of the kinds that do not train
    needs: tuple[str, ...] = ()

    @property
    def trains(self) -> bool:
        """Whether the stage trains a network."""
        return self.kind in ("candidate", "refinement")


def network_name(kind: str, test: int | None) -> str:
    """Name the checkpoint of a network by the test fold that it has not seen (None: release)."""
    return f"{kind}-{RELEASE}" if test is None else f"{kind}-without-{test}"


def plan_stages(
    split: Split, tests: Sequence[int] | None = None, *, release: bool = True
) -> tuple[Stage, ...]:
    """List the stages of a training, each after those that it needs; all folds are test folds.

    CNN-1, whose training is longest, comes before CNN-2, so that parallel jobs end together.
    """
    members = split.members(split.everything)
    stages = [Stage(f"unseen-{name}", "unseen", visit=name) for name in members]
    held = held_out_folds(split) if tests is None else tuple(tests)
    for test in (*held, *((None,) if release else ())):
        folds = split.everything if test is None else split.without(test)
        needs = tuple(f"unseen-{name}" for name in split.members(folds))
        nets = tuple(network_name(kind, test) for kind in ("candidate", "refinement"))
        stages += [Stage(name, name.partition("-")[0], test, needs=needs) for name in nets]
        tested = () if test is None else split.folds[test]
        for kind in (HELD_OUT, THICKENED) if len(held) >= MIN_FOLDS else (HELD_OUT,):
            stages += [Stage(f"{kind}-{name}", kind, test, name, nets) for name in tested]
    order = ("unseen", "candidate", "refinement", HELD_OUT, THICKENED)
    return tuple(sorted(stages, key=lambda stage: order.index(stage.kind)))


def held_out_folds(split: Split) -> FoldSet:
    """Return the folds that can be held out: none if there is only one."""
    return split.everything if len(split.folds) > 1 else ()


def run_stage(context: TrainingContext, stage: Stage) -> str:
    """Run one stage and return its name; a finished one returns at once."""
    if stage.kind == "unseen":
        predict_unseen(context, stage.visit)
        place_lesions(context, stage.visit)
    elif stage.kind == "candidate":
        train_candidate(context, stage.fold)
    elif stage.kind == "refinement":
        train_refinement(context, stage.fold)
    else:
        run_held_out(context, stage.visit, stage.fold, stage.kind)
    return stage.name


def predict_unseen(context: TrainingContext, name: str) -> None:
    """Predict a visit with the starting CNN-1, and with its CNN-2 if there is one."""
    path = context.folder / "unseen" / f"{name}.npz"
    if path.is_file():
        return
    start, visit = context.networks(), context.visit(name)
    images = visit.images.astype(np.float32)
    if start.refinement is not None:
        output = run_networks(
            [start.unseen],
            start.refinement,
            start.point.candidate_threshold,
            images,
            visit.present,
            visit.brain,
            context.engine,
        )
        write_output(path, output.prediction, output.refined)
        return
    net = start.unseen.to(context.engine.device)
    seen = predict([net], images, visit.present, visit.brain, context.engine)
    write_output(path, seen, None)


def write_output(path: Path, prediction: Prediction, refined: Array | None) -> None:
    """Write the output of the networks for a visit; half precision, 1 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"lesion": prediction.lesion.astype(np.float16), "anatomy": prediction.anatomy}
    if refined is not None:
        arrays["refined_lesion"] = refined.astype(np.float16)
    with open_alone(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_output(path: Path) -> tuple[Prediction, Array | None]:
    """Read what :func:`write_output` wrote."""
    with np.load(path, allow_pickle=False) as file:
        prediction = Prediction(file["lesion"].astype(np.float32), file["anatomy"])
        if "refined_lesion" not in file:
            return prediction, None
        return prediction, file["refined_lesion"].astype(np.float32)


def read_unseen(context: TrainingContext, name: str) -> Prediction:
    """Read the prediction of a visit by the starting CNN-1."""
    return read_output(context.folder / "unseen" / f"{name}.npz")[0]


def read_refined(folder: Path, name: str) -> tuple[Array, Array]:
    """Read CNN-1's probability and CNN-2's output; raises DataError without the latter."""
    prediction, refined = read_output(folder / f"{name}.npz")
    if refined is None:
        raise DataError(
            f"{folder / name}.npz holds no output of CNN-2", hint="delete it, and run again"
        )
    return prediction.lesion, refined


def train_candidate(context: TrainingContext, test: int | None) -> None:
    """Fine-tune CNN-1 on all visits outside a test fold, or resume it."""
    stage, recipe = network_name("candidate", test), context.recipe
    if is_finished(context.checkpoint(stage), recipe.candidate):
        return
    seed = _seed(context, test)
    torch.manual_seed(seed)
    fit(
        context.networks().candidate,
        _sub_images(context, test, seed),
        replace(recipe.candidate, seed=seed),
        context.engine,
        context.checkpoint(stage),
        report=partial(log_line, context.folder / "logs", stage),
        step_loss=lesion_anatomy_step,
    )


def _seed(context: TrainingContext, test: int | None) -> int:
    return context.recipe.seed + 1000 * (0 if test is None else 1 + test)


def _sub_images(context: TrainingContext, test: int | None, seed: int) -> Dataset[object]:
    """Mix sub-images of labelled visits (with painted lesions) and synthetic ones."""
    recipe, visits = context.recipe, context.training_visits(test)
    labelled = LabelledDataset(
        visits,
        seed,
        size=recipe.size,
        paintings=_paintings(context, visits),
        paint_chance=recipe.paint_chance,
    )
    maps = () if context.label_maps is None else read_label_maps(context.label_maps)
    if not maps or recipe.real_share == 1:
        return labelled
    synthetic = SyntheticDataset(maps, seed + 1, size=recipe.size)
    return MixedDataset(
        (labelled, synthetic), (recipe.real_share, 1 - recipe.real_share), seed + 2
    )


def _paintings(context: TrainingContext, visits: Sequence[LabelledVisit]) -> list[Painting]:
    """Read the lesions to paint into each visit; none without a lesion bank."""
    if context.lesion_bank is None or context.recipe.paint_chance == 0:
        return []
    return [load_painting(context.folder / "paintings" / f"{visit.name}.npz") for visit in visits]


def place_lesions(context: TrainingContext, name: str) -> None:
    """Place sets of bank lesions in the white matter that the starting CNN-1 predicts."""
    path = context.folder / "paintings" / f"{name}.npz"
    if context.lesion_bank is None or context.recipe.paint_chance == 0 or path.is_file():
        return
    path.parent.mkdir(exist_ok=True)
    painting = prepare_painting(
        context.visit(name),
        read_unseen(context, name),
        read_lesion_bank(context.lesion_bank),
        np.random.default_rng((context.recipe.seed, *name.encode())),
        context.recipe.painted_sets,
    )
    save_painting(painting, path)


def train_refinement(context: TrainingContext, test: int | None) -> None:
    """Train CNN-2 on the starting CNN-1's candidates, if any, outside a test fold, or resume."""
    stage, recipe = network_name("refinement", test), context.recipe
    if is_finished(context.checkpoint(stage), recipe.refinement):
        return
    found = [
        label_candidates(visit, read_unseen(context, visit.name), recipe.candidate_threshold)
        for visit in context.training_visits(test)
    ]
    if not any(one.source.boxes for one in found):
        return
    seed = 500 + _seed(context, test)
    torch.manual_seed(seed)
    fit(
        context.networks().refinement or LesionRefinementNet(recipe.refinement_net),
        CandidateCrops(found, seed),
        replace(recipe.refinement, seed=seed),
        context.engine,
        context.checkpoint(stage),
        report=partial(log_line, context.folder / "logs", stage),
        step_loss=refinement_step,
    )


def candidate_net(context: TrainingContext, test: int | None) -> LesionAnatomyNet:
    """Load the fine-tuned CNN-1."""
    net = context.networks().candidate
    net.load_state_dict(read_network_weights(context.checkpoint(network_name("candidate", test))))
    return net.eval()


def refinement_net(context: TrainingContext, test: int | None) -> LesionRefinementNet:
    """Load the trained CNN-2, or the starting one if there were no candidates to train on."""
    given = context.networks().refinement
    net = given or LesionRefinementNet(context.recipe.refinement_net)
    checkpoint = context.checkpoint(network_name("refinement", test))
    if checkpoint.is_file():
        net.load_state_dict(read_network_weights(checkpoint))
    return net.eval()


def run_held_out(
    context: TrainingContext, name: str, test: int | None, folder: str = HELD_OUT
) -> None:
    """Run networks on a visit that they have not seen; store the output in ``folder``.

    In :data:`THICKENED`, thin slices are averaged; there is no output of a visit with thick ones.
    """
    path = context.folder / folder / f"{name}.npz"
    nets = [context.checkpoint(network_name(k, test)) for k in ("candidate", "refinement")]
    if path.is_file() and all(
        not net.is_file() or net.stat().st_mtime_ns <= path.stat().st_mtime_ns for net in nets
    ):
        return
    visit = context.visit(name)
    if folder == THICKENED:
        if visit.thick:
            return
        visit = with_thick_slices(visit)
    output = run_on_visit(context, visit, test)
    write_output(path, output.prediction, output.refined)


def run_on_visit(
    context: TrainingContext, visit: LabelledVisit, test: int | None
) -> NetworkOutput:
    """Run both trained networks over a visit."""
    images: Array = visit.images.astype(np.float32)
    return run_networks(
        [candidate_net(context, test)],
        refinement_net(context, test),
        context.recipe.candidate_threshold,
        images,
        visit.present,
        visit.brain,
        context.engine,
    )
