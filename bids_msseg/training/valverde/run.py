"""Preset ``valverde2017`` of ``msseg-train``: training and evaluation of that cascade.

Folds are nested: neither the nets nor the hard negatives of CNN-2 come from a test patient.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg import __version__
from bids_msseg.bids.files import plain, write_atomic, write_json, write_tsv
from bids_msseg.errors import UsageError
from bids_msseg.evaluation.scoring import COLUMNS, Score, keep_prediction, score
from bids_msseg.imaging.normalise import working_grid
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.training.data.cohort_cache import prepare_cohort
from bids_msseg.training.data.folds import Split, deal_nested_folds
from bids_msseg.training.model_card import score_table

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.models.engine import Engine
    from bids_msseg.trainer.plan import Report
    from bids_msseg.training.valverde.stages import PatchRecipe, PatchTraining

LOGGER = logging.getLogger("bids_msseg")
INTEGER_KEYS = ("seed", "folds", "epochs", "patches", "batch")
VALVERDE_RECIPE: Mapping[str, Any] = {
    "seed": 7,
    "folds": 3,
    "padding": "valid",
    "candidate_z": 0.5,
    "candidate_threshold": 0.5,
    "mining": "out-of-fold",
    "epochs": 4,
    "patches": 100_000,
    "batch": 128,
    "optimiser": "adam",
    "learning_rate": 1e-3,
    "dropout": 0.5,
    "points": (
        {"threshold": 0.5, "min_volume_mm3": 3},
        {"threshold": 0.8, "min_volume_mm3": 20},
    ),
}
"""``points`` are operating points: ours, and the paper's 0.8 and 20 voxels (here of 1 mm³)."""


@dataclass(frozen=True, slots=True)
class Point:
    """Operating point: probability threshold (inclusive) and smallest component in mm³."""

    threshold: float
    min_volume_mm3: float

    def __str__(self) -> str:
        return f"{self.threshold:g} / {self.min_volume_mm3:g} mm³"


def run_valverde(
    files: Sequence[LabelledFiles],
    out: Path,
    *,
    name: str,
    engine: Engine,
    threads: int = 1,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    split: Split | None = None,
) -> list[Score]:
    """Train both nets in nested folds, segment every visit as held-out, and score it.

    Raises UsageError for an invalid recipe, too few participants or another training in ``out``.
    """
    import torch

    merged = {**VALVERDE_RECIPE, **(settings or {})}
    if seed is not None:
        merged["seed"] = seed
    recipe, points = read_settings(merged)
    torch.set_num_threads(threads)
    loads = prepare_cohort(out, files, threads)
    split = split or deal_nested_folds(files, loads, int(merged["folds"]))
    training = _open_training(out, split, recipe, engine, merged)
    scores = _score_all(training, files, points)
    _write_weights(training, name, scores, merged)
    return scores


def read_settings(settings: Mapping[str, Any]) -> tuple[PatchRecipe, tuple[Point, ...]]:
    """Return recipe and operating points of a recipe file; UsageError if it is invalid."""
    from bids_msseg.training.valverde.nets import PADDINGS
    from bids_msseg.training.valverde.stages import MINING_MODES, PatchRecipe
    from bids_msseg.training.valverde.train import OPTIMISERS, PatchPlan

    hint = f"use some of: {', '.join(VALVERDE_RECIPE)}; see training/valverde2017.yaml"
    unknown = sorted(set(settings) - set(VALVERDE_RECIPE))
    if unknown:
        raise UsageError(f"the recipe has unknown keys: {', '.join(unknown)}", hint=hint)
    values = {**VALVERDE_RECIPE, **settings}
    for key, allowed in (
        ("padding", PADDINGS),
        ("mining", MINING_MODES),
        ("optimiser", OPTIMISERS),
    ):
        if values[key] not in allowed:
            raise UsageError(
                f"{key} {values[key]!r} is not one of {', '.join(allowed)}", hint=hint
            )
    try:
        integers = {key: _integer(key, values[key]) for key in INTEGER_KEYS}
        plan = PatchPlan(
            epochs=integers["epochs"],
            patches=integers["patches"],
            batch=integers["batch"],
            optimiser=values["optimiser"],
            learning_rate=float(values["learning_rate"]),
            dropout=_fraction("dropout", values["dropout"]),
        )
        points = tuple(
            Point(_fraction("threshold", entry["threshold"]), float(entry["min_volume_mm3"]))
            for entry in values["points"]
        )
        if not points:
            raise ValueError("it has no operating point")
        threshold = _fraction("candidate_threshold", values["candidate_threshold"])
        candidate_z = float(values["candidate_z"])
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"invalid recipe: {error}", hint=hint) from error
    return PatchRecipe(values["padding"], candidate_z, threshold, values["mining"], plan), points


def _integer(key: str, value: Any) -> int:
    """Read a whole number; YAML reads ``1e5`` as text."""
    number = float(value)
    if number % 1 or number < (0 if key == "seed" else 1):
        raise ValueError(f"{key} is not a whole number of at least 1: {value}")
    return int(number)


def _fraction(key: str, value: Any) -> float:
    number = float(value)
    if not 0 <= number < 1:
        raise ValueError(f"{key} is not at least 0 and below 1: {value}")
    return number


def _open_training(
    out: Path, split: Split, recipe: PatchRecipe, engine: Engine, settings: Mapping[str, Any]
) -> PatchTraining:
    """Store split and recipe (not points) for a later call; refuse those of another training."""
    from bids_msseg.training.valverde.stages import PatchTraining

    (out / "valverde").mkdir(parents=True, exist_ok=True)
    trained = {key: value for key, value in settings.items() if key != "points"}
    plan = plain({"recipe": trained, "split": split.folds})
    path = out / "valverde" / "training.json"
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != plan:
        raise UsageError(
            f"{path.parent} holds a training run with another recipe or other folds",
            hint="use another output_dir, or the same visits and recipe as before",
        )
    write_json(path, plan)
    rows = [
        {"visit": name, "fold": fold} for fold, names in enumerate(split.folds) for name in names
    ]
    write_tsv(out / "splits.tsv", ("visit", "fold"), rows)
    return PatchTraining(out, split, recipe, engine, int(settings["seed"]), _log)


def _log(stage: str, line: Report) -> None:
    LOGGER.info(
        "%s: step %d of %d, loss %.4f, %.0f ms a step",
        stage,
        line.step,
        line.steps,
        line.loss,
        1000 * line.seconds,
    )


def _score_all(
    training: PatchTraining, files: Sequence[LabelledFiles], points: Sequence[Point]
) -> list[Score]:
    """Segment every visit by nets that have not seen its patient; write ``scores.tsv``."""
    by_name = {item.visit.key: item for item in files}
    (training.folder / "predictions").mkdir(exist_ok=True)
    scores: list[Score] = []
    for fold, names in enumerate(training.split.folds):
        for name in names:
            scores += _score_visit(training, by_name[name], fold, points)
            LOGGER.info("scored %s", name)
    rows = [{column: getattr(record, column) for column in COLUMNS} for record in scores]
    write_tsv(training.folder / "scores.tsv", COLUMNS, rows)
    return scores


def _score_visit(
    training: PatchTraining, item: LabelledFiles, fold: int, points: Sequence[Point]
) -> list[Score]:
    from bids_msseg.training.valverde.stages import segment_unseen

    visit = item.visit.key
    probabilities = dict(
        zip(("CNN-1", "cascade"), segment_unseen(training, visit, fold), strict=True)
    )
    _, affine = working_grid(as_ras(load_volume(item.brain)))
    truth = load_volume(item.truth)
    scores: list[Score] = []
    for net, data in probabilities.items():
        native = resample(Volume(data, affine), truth.shape, truth.affine)
        masks = [_threshold_mask(native, point) for point in points]
        keep_prediction(training.folder / "predictions", visit, net, native, masks[0])
        scores += [
            score(mask, truth, visit=visit, site=item.site, method=f"{net}, {point}")
            for point, mask in zip(points, masks, strict=True)
        ]
    return scores


def _threshold_mask(probability: Volume, point: Point) -> NDArray[np.bool_]:
    above = probability.data >= point.threshold
    labels = label_lesions(
        above, voxel_volume=probability.voxel_volume, min_volume=point.min_volume_mm3
    )
    inside: NDArray[np.bool_] = labels > 0
    return inside


def _write_weights(
    training: PatchTraining, name: str, scores: Sequence[Score], settings: Mapping[str, Any]
) -> None:
    """Write the nets of all folds, and a model card with their scores."""
    from safetensors.torch import save

    from bids_msseg.training.valverde.stages import train_first, train_second

    split = training.split
    tensors = {}
    for fold in split.everything:
        nets = (train_first(training, split.without(fold)), train_second(training, fold))
        for kind, net in zip(("candidate", "refinement"), nets, strict=True):
            for key, value in net.state_dict().items():
                tensors[f"fold{fold}.{kind}.{key}"] = value.contiguous()
    header = {"preset": "valverde2017", "version": __version__, "recipe": plain(settings)}
    content = save(tensors, metadata={"valverde2017": json.dumps(header, sort_keys=True)})
    write_atomic(training.folder / f"{name}.safetensors", content)
    write_atomic(training.folder / f"{name}.md", _card(name, split, scores, settings))


def _card(name: str, split: Split, scores: Sequence[Score], settings: Mapping[str, Any]) -> str:
    folds = "\n".join(f"- fold {n}: {', '.join(names)}" for n, names in enumerate(split.folds))
    recipe = "; ".join(f"{key}: {value}" for key, value in plain(settings).items())
    return f"""# Preset valverde2017: {name}

- file: `{name}.safetensors`: the two patch nets of each fold; not for `msseg --model`
- trained by: `msseg-train --preset valverde2017`, bids_msseg {__version__}
- recipe: {recipe}
- for research use only; not for diagnostic use

{folds}

Each visit was segmented by the nets of its own fold, which had not seen its patient. Volume-wise,
on the grid of the FLAIR as acquired; lesion figures count 26-connected components of at least
3 mm³, by any overlap and by the rule of Anima with its code's defaults.

{score_table(scores)}
"""
