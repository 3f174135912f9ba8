"""``msseg-train``: train the cascade on labelled patients from given networks, and evaluate it."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.bids.files import write_atomic, write_tsv
from bids_msseg.evaluation.comparison import (
    NOT_BETTER,
    assess_improvement,
    comparison_rows,
    comparison_table,
)
from bids_msseg.training.calibration import calibrate, describe
from bids_msseg.training.data.cohort_cache import read_images
from bids_msseg.training.data.folds import MIN_FOLDS
from bids_msseg.training.loss_figure import draw_losses
from bids_msseg.training.model_card import describe_data, model_card, score_table
from bids_msseg.training.opening import open_context, seen_visits
from bids_msseg.training.validation import validate

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.trainer.log_watch import ExpectedTime
    from bids_msseg.training.context import TrainingContext
    from bids_msseg.training.protocol import Stage
    from bids_msseg.training.recipe import CascadeRecipe

LOGGER = logging.getLogger("bids_msseg")
NOT_BETTER_SUFFIX = "-not-better"


def train_cascade(
    options: argparse.Namespace,
    start: Path,
    recipe: CascadeRecipe,
    files: Sequence[LabelledFiles],
) -> Path | None:
    """Train and evaluate the cascade; return the path of its weights, None for test folds only."""
    from bids_msseg.models.engine import choose_engine
    from bids_msseg.trainer.log_watch import show_progress
    from bids_msseg.trainer.process_group import rank_and_size, rank_zero_first
    from bids_msseg.trainer.schedule import run_in_order
    from bids_msseg.training.protocol import held_out_folds, plan_stages, run_stage

    # every process of a group has a device of its own
    engine = choose_engine(options.device)
    context = replace(
        rank_zero_first(lambda: open_context(options, recipe, start, files)), engine=engine
    )
    tests = tuple(sorted(set(options.test_folds))) or held_out_folds(context.split)
    LOGGER.info("training on %d visits, %d test folds", len(files), len(tests))
    stages = plan_stages(context.split, tests, release=not options.test_folds)
    rank, size = rank_and_size()
    expected = _expected_time(context, stages, 1 if size > 1 else options.jobs)
    with show_progress(context.folder / "logs", enabled=rank == 0, expected=expected):
        run_in_order(
            stages,
            partial(run_stage, context),
            jobs=options.jobs,
            threads=options.threads,
            on_done=lambda name: LOGGER.info("finished %s", name),
        )
    return rank_zero_first(lambda: _finish(options, context, files, tests))


def _expected_time(context: TrainingContext, stages: Sequence[Stage], jobs: int) -> ExpectedTime:
    """Log the steps that the networks still need, and prepare an estimate of their time."""
    from bids_msseg.trainer.fit import REPORT_STEPS, finished_steps
    from bids_msseg.trainer.log_watch import ExpectedTime

    plans = {"candidate": context.recipe.candidate, "refinement": context.recipe.refinement}
    steps = {
        stage.name: plans[stage.kind].steps - finished_steps(context.checkpoint(stage.name))
        for stage in stages
        if stage.trains
    }
    if any(steps.values()):
        LOGGER.info(
            "%d networks need %d training steps; the expected time follows after the first %d "
            "steps of each kind of network",
            sum(map(bool, steps.values())),
            sum(steps.values()),
            2 * REPORT_STEPS,
        )
    return ExpectedTime(steps, jobs)


def _finish(
    options: argparse.Namespace,
    context: TrainingContext,
    files: Sequence[LabelledFiles],
    tests: Sequence[int],
) -> Path | None:
    """Evaluate, write the weights with their model card, and log which weights to use."""
    from bids_msseg.training.release import write_cascade

    validation = validate(context, files, tests)
    start = context.networks()
    pairs = validation.pairs(seen_visits(context.folder, files, start.notes))
    print(score_table(validation.scores))
    for fold in options.test_folds:
        target = context.folder / f"{options.name}-without-{fold}.safetensors"
        names = context.split.members(context.split.without(fold))
        write_cascade(context, fold, target, validation.points[fold], _notes(context, names))
        LOGGER.info("weights that have not seen fold %d: %s", fold, target)
    if options.test_folds:
        return None
    improvement = assess_improvement(pairs) if pairs else None
    weights_name = options.name
    if improvement is not None:
        columns, rows = comparison_rows(pairs)
        write_tsv(context.folder / "before_after.tsv", columns, rows)
        print(f"\n{comparison_table(pairs)}\n\n{improvement}")
        weights_name += NOT_BETTER_SUFFIX * (improvement.word == NOT_BETTER)
    target = context.folder / f"{weights_name}.safetensors"
    names = context.split.members(context.split.everything)
    sha256 = write_cascade(context, None, target, validation.points[None], _notes(context, names))
    start_weights = None if start.refinement is None else context.start
    calibration = calibrate(context.folder, files, target, start=start_weights)
    card = model_card(
        context, target, sha256, validation, pairs, points_chosen=len(tests) >= MIN_FOLDS
    )
    data = describe_data(options.bids_dir, files)
    card = f"{card}\n{describe(calibration)}\n{data}".rstrip() + "\n"
    write_atomic(target.with_suffix(".md"), card)
    draw_losses(context.folder / "logs", context.folder / "losses.png")
    _remove_contradicting(context.folder, options.name, weights_name)
    LOGGER.info("weights: %s", target)
    return target


def _remove_contradicting(folder: Path, name: str, weights_name: str) -> None:
    """Remove weights of an earlier call with another result, which contradict these."""
    for stem in {name, f"{name}{NOT_BETTER_SUFFIX}"} - {weights_name}:
        for ending in ("safetensors", "md", "calibration.json"):
            (folder / f"{stem}.{ending}").unlink(missing_ok=True)


def _notes(context: TrainingContext, visits: Sequence[str]) -> dict[str, Any]:
    """Return which visits the networks have seen, and how they were trained."""
    start = context.networks()
    start_notes = {
        key: start.notes[key] for key in ("visits", "images", "init") if key in start.notes
    }
    if context.seen or start.refinement is None:
        # the training started from the pretrained CNN-1, which has seen no patient
        start_notes = {"visits": []}
    return {
        "recipe": asdict(context.recipe),
        "visits": list(visits),
        "images": read_images(context.folder / "cohort", visits),
        "init": {"name": start.name, "sha256": start.sha256, **start_notes},
    }
