"""``msseg-train``: train the cascade on labelled patients from given networks, and evaluate it.

Every visit of a test fold is segmented by networks that have not seen its patient. Its operating
point is chosen on the visits of the other test folds, each as segmented by networks that had not
seen that visit's patient, but had seen the patients of the test fold.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_msseg.bids.files import write_atomic, write_json, write_tsv
from bids_msseg.calibration import calibration_path
from bids_msseg.commands.cohort_cache import digest, prepare_cohort, read_images
from bids_msseg.commands.folding import count_people, deal_folds, keep_plan, read_split
from bids_msseg.commands.model_card import model_card
from bids_msseg.commands.recipes import read_yaml
from bids_msseg.commands.shipping import describe_data, draw_losses, score_table
from bids_msseg.errors import DataError, NoInputError, UsageError
from bids_msseg.evaluation.calibration import calibrate, describe
from bids_msseg.evaluation.comparison import (
    NO,
    NOT_BETTER,
    Pair,
    comparison_rows,
    comparison_table,
    judge,
    seen_before,
)
from bids_msseg.evaluation.scoring import (
    COLUMNS,
    Score,
    cut_mask,
    keep_prediction,
    onto_flair,
    read_scores,
    score,
)
from bids_msseg.imaging.volume import load_volume

if TYPE_CHECKING:
    from bids_msseg.cascade.folds import Split
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.models.weights import CascadePoint
    from bids_msseg.training.protocol import TrainingContext
    from bids_msseg.training.recipe import CascadeRecipe

LOGGER = logging.getLogger("bids_msseg")
CANDIDATE, CASCADE, BEFORE = "candidate net", "cascade", "before"
NOT_BETTER_SUFFIX = "-not-better"
START = "start"
WEIGHTS = (".safetensors", ".pt")
FEWEST_FOLDS = 3
"""With fewer test folds the operating point is not chosen anew."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a training on held-out patients.

    Attributes
    ----------
    scores : tuple of Score
        ``candidate net``, ``cascade`` and, where the training started from a whole cascade,
        ``before``.
    points : mapping of int or None to CascadePoint
        Operating point of each test fold; None for the release.
    """

    scores: tuple[Score, ...]
    points: Mapping[int | None, CascadePoint]

    def pairs(self, seen: Mapping[str, str]) -> list[Pair]:
        """Pair every visit before and after; empty where there is no before."""
        by_key = {(one.visit, one.method): one for one in self.scores}
        return [
            Pair(by_key[visit, BEFORE], by_key.get((visit, CASCADE)), seen[visit])
            for visit, method in by_key
            if method == BEFORE
        ]


def train_cascade(
    options: argparse.Namespace, start: Path, files: Sequence[LabelledFiles]
) -> Path | None:
    """Train, evaluate and write the weights.

    Parameters
    ----------
    options : Namespace
        Of ``msseg-train``.
    start : path
        Weights to start from.
    files : sequence of LabelledFiles

    Returns
    -------
    path or None
        The weights; None where only test folds were asked for.
    """
    from bids_msseg.cascade.schedule import run_in_order
    from bids_msseg.cascade.team import run_first
    from bids_msseg.models.engine import choose_engine
    from bids_msseg.training.protocol import held_out_folds, plan_stages, run_stage

    recipe = read_cascade_recipe(options.recipe)
    # every process of a team has a device of its own
    engine = choose_engine(options.device)
    context = replace(
        run_first(lambda: open_context(options, recipe, start, files)), engine=engine
    )
    tests = tuple(sorted(set(options.outer))) or held_out_folds(context.split)
    LOGGER.info("training on %d visits, %d test folds", len(files), len(tests))
    run_in_order(
        plan_stages(context.split, tests, release=not options.outer),
        partial(run_stage, context),
        jobs=options.jobs,
        threads=options.threads,
        on_done=lambda name: LOGGER.info("finished %s", name),
    )
    return run_first(lambda: _finish(options, context, files, tests))


def read_cascade_recipe(path: Path | None) -> CascadeRecipe:
    """Read a recipe; the default one where there is none."""
    from bids_msseg.training.recipe import SHAPES, CascadeRecipe, make_cascade_recipe

    if path is None:
        return CascadeRecipe()
    known = [name for name in asdict(CascadeRecipe()) if name not in SHAPES]
    return make_cascade_recipe(read_yaml(path, known))


def open_context(
    options: argparse.Namespace,
    recipe: CascadeRecipe,
    start: Path,
    files: Sequence[LabelledFiles],
) -> TrainingContext:
    """Prepare visits and label maps, deal the folds, and keep the plan for a later call.

    Raises
    ------
    UsageError
        If the folder holds another training, or a test fold does not exist.
    NoInputError
        If there are no label maps, or there is no lesion bank.
    DataError
        If the starting weights, the label maps or the lesion bank cannot be used.
    """
    from bids_msseg.models.engine import Engine
    from bids_msseg.training.label_maps import (
        find_label_maps,
        prepare_label_maps,
        read_lesion_bank,
    )
    from bids_msseg.training.protocol import TrainingContext
    from bids_msseg.training.start import read_start

    out: Path = options.output_dir
    begun = read_start(start, recipe.candidate_net)
    bank: Path | None = options.lesion_bank
    found = find_label_maps(options.label_maps / "anatomy") if options.label_maps else ()
    if bank is not None:
        read_lesion_bank(bank)
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    loads = prepare_cohort(out, files, options.threads)
    split = _split(options, recipe, files, loads)
    _check_folds(options.outer, split)
    # a later session of a patient that the weights have seen is not known to be unseen
    seen = set(seen_visits(out, files, begun.notes).values()) != {NO}
    if seen:
        LOGGER.warning(
            "the given weights may have seen some of these patients: "
            "the training starts from their pretrained CNN-1"
        )
        read_start(start, recipe.candidate_net, seen=True)
    plan = {"recipe": asdict(recipe), "start": begun.sha256, "seen": seen}
    inputs = {path.name: digest(path) for path in (*found, *((bank,) if bank else ()))}
    keep_plan(out, split, {**plan, "synthesis": inputs})
    maps = out / "label-maps" if found else None
    if maps is not None:
        prepare_label_maps(options.label_maps / "anatomy", bank, maps)
    start = keep_start(start, out)
    return TrainingContext(out, split, start, seen, maps, bank, Engine(), recipe)


def _check_folds(asked: Sequence[int], split: Split) -> None:
    """Refuse test folds that do not exist, or that leave nobody to learn from."""
    count = len(split.folds)
    unknown = [fold for fold in asked if fold >= count]
    if unknown:
        raise UsageError(f"there is no fold {unknown[0]}", hint=f"there are {count}, from 0")
    if asked and count == 1:
        raise UsageError("one participant cannot be held out", hint="leave --outer out")


def keep_start(start: Path, out: Path) -> Path:
    """Copy the weights that a training starts from, so that it can always be read."""
    folder = out / START
    folder.mkdir(exist_ok=True)
    for source in (start, calibration_path(start)):
        kept = folder / source.name
        if source.is_file() and not kept.is_file():
            write_atomic(kept, source.read_bytes())
    return folder / start.name


def open_training(folder: Path, *, device: str = "cpu") -> TrainingContext:
    """Open what ``msseg-train`` wrote, to read it.

    Raises
    ------
    NoInputError
        If there is no training.
    DataError
        If its plan cannot be read.
    """
    from bids_msseg.cascade.folds import Split
    from bids_msseg.models.engine import choose_engine
    from bids_msseg.training.protocol import TrainingContext
    from bids_msseg.training.recipe import SHAPES, make_cascade_recipe

    path = folder / "training.json"
    starts = [one for kind in WEIGHTS for one in sorted(folder.glob(f"{START}/*{kind}"))]
    if not path.is_file() or not starts:
        raise NoInputError(
            f"{folder} holds no training", hint="give the folder that msseg-train wrote"
        )
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        split = Split(tuple(tuple(map(str, names)) for names in plan["split"]))
        settings = {key: one for key, one in plan["recipe"].items() if key not in SHAPES}
        recipe, seen = make_cascade_recipe(settings), bool(plan["seen"])
        widths = [tuple(map(int, plan["recipe"][name]["widths"])) for name in SHAPES]
        recipe = replace(
            recipe,
            candidate_net=replace(recipe.candidate_net, widths=widths[0]),
            refinement_net=replace(recipe.refinement_net, widths=widths[1]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UsageError) as error:
        raise DataError(
            f"cannot read {path}: {error}", hint="run msseg-train again to write it anew"
        ) from error
    engine = choose_engine(device)
    return TrainingContext(folder, split, starts[0], seen, None, None, engine, recipe)


def _split(
    options: argparse.Namespace,
    recipe: CascadeRecipe,
    files: Sequence[LabelledFiles],
    loads: Mapping[str, float],
) -> Split:
    from bids_msseg.cascade.folds import Split

    visits = [item.visit.key for item in files]
    if options.split is not None:
        return read_split(options.split, visits)
    people = count_people(files)
    return (
        Split((tuple(visits),))
        if people == 1
        else deal_folds(files, loads, min(people, recipe.folds))
    )


def seen_visits(
    out: Path, files: Sequence[LabelledFiles], notes: Mapping[str, Any]
) -> dict[str, str]:
    """Say of every visit whether the starting cascade was trained on its patient."""
    visits = [item.visit.key for item in files]
    images = read_images(out / "cohort", visits)
    if not notes:
        # a CNN-1 that was trained on synthetic images only
        return dict.fromkeys(visits, NO)
    return {visit: seen_before(notes, visit, images.get(visit)) for visit in visits}


def evaluate(
    context: TrainingContext, files: Sequence[LabelledFiles], tests: Sequence[int]
) -> Evaluation:
    """Choose operating points and score every visit of the test folds on its own grid."""
    from bids_msseg.models.cascade import decide
    from bids_msseg.training.protocol import read_refined

    points = choose_points(context, tests)
    start = context.networks()
    by_name = {item.visit.key: item for item in files}
    (context.folder / "predictions").mkdir(exist_ok=True)
    scores: list[Score] = []
    for test in tests:
        for name in context.split.folds[test]:
            lesion, refinement = read_refined(context.folder / "held-out", name)
            item, point = by_name[name], points[test]
            probability = decide(lesion, refinement, point)
            scores.append(_score(context, item, CANDIDATE, lesion, 0.5))
            scores.append(_score(context, item, CASCADE, probability, point.threshold))
            LOGGER.info("scored %s", name)
    if start.refinement is not None:
        for item in files:
            lesion, refinement = read_refined(context.folder / "unseen", item.visit.key)
            probability = decide(lesion, refinement, start.point)
            scores.append(_score(context, item, BEFORE, probability, start.point.threshold))
    path = context.folder / "scores.tsv"
    new = {(one.visit, one.method) for one in scores}
    earlier = read_scores(path) if path.is_file() else []
    kept = [one for one in earlier if (one.visit, one.method) not in new]
    rows = [{name: getattr(one, name) for name in COLUMNS} for one in (*kept, *scores)]
    write_tsv(path, COLUMNS, rows)
    return Evaluation(tuple(scores), points)


def _score(
    context: TrainingContext,
    item: LabelledFiles,
    method: str,
    probability: np.ndarray[Any, Any],
    threshold: float,
) -> Score:
    truth, visit = load_volume(item.truth), item.visit.key
    native = onto_flair(probability, item.brain, truth)
    mask = cut_mask(native, threshold)
    if method != BEFORE:
        keep_prediction(context.folder / "predictions", visit, method, native, mask)
    return score(mask, truth, visit=visit, site=item.site, method=method)


def choose_points(
    context: TrainingContext, tests: Sequence[int]
) -> dict[int | None, CascadePoint]:
    """Choose the operating point of each test fold on the others, and of the release on all.

    With fewer than three test folds it stays that of the starting networks.
    """
    from bids_msseg.training.operating_point import HeldOutVisit, PointChooser
    from bids_msseg.training.protocol import read_refined

    threshold = context.recipe.candidate_threshold
    if len(tests) < FEWEST_FOLDS:
        usual = replace(context.networks().point, candidate_threshold=threshold)
        return _keep_points(context, {**dict.fromkeys(tests, usual), None: usual})
    held = []
    for name in context.split.members(tuple(tests)):
        visit = context.visit(name)
        lesion, refinement = read_refined(context.folder / "held-out", name)
        held.append(HeldOutVisit(name, visit.site, lesion, refinement, visit.truth >= 0.5))
    chooser = PointChooser(held, threshold)
    points: dict[int | None, CascadePoint] = {}
    for test in (None, *tests):
        others = tuple(fold for fold in tests if fold != test)
        points[test] = chooser.choose(context.split.members(others))
    return _keep_points(context, points)


def _keep_points(
    context: TrainingContext, points: dict[int | None, CascadePoint]
) -> dict[int | None, CascadePoint]:
    path = context.folder / "points.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    kept |= {"release" if t is None else str(t): asdict(point) for t, point in points.items()}
    write_json(path, kept)
    return points


def read_point(folder: Path, test: int) -> CascadePoint:
    """Read the operating point of a test fold.

    Raises
    ------
    DataError
        If the training has none.
    """
    from bids_msseg.models.weights import CascadePoint

    path = folder / "points.json"
    try:
        return CascadePoint(**json.loads(path.read_text(encoding="utf-8"))[str(test)])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"cannot read fold {test} in {path}: {error}",
            hint="run msseg-train again to write it anew",
        ) from error


def _finish(
    options: argparse.Namespace,
    context: TrainingContext,
    files: Sequence[LabelledFiles],
    tests: Sequence[int],
) -> Path | None:
    """Evaluate, write the weights with their model card, and say which weights to use."""
    from bids_msseg.training.release import write_cascade

    found = evaluate(context, files, tests)
    start = context.networks()
    pairs = found.pairs(seen_visits(context.folder, files, start.notes))
    print(score_table(found.scores))
    for fold in options.outer:
        target = context.folder / f"{options.name}-without-{fold}.safetensors"
        names = context.split.members(context.split.without(fold))
        write_cascade(context, fold, target, found.points[fold], _notes(context, names))
        LOGGER.info("weights that have not seen fold %d: %s", fold, target)
    if options.outer:
        return None
    verdict = judge(pairs) if pairs else None
    called = options.name
    if verdict is not None:
        columns, rows = comparison_rows(pairs)
        write_tsv(context.folder / "before_after.tsv", columns, rows)
        print(f"\n{comparison_table(pairs)}\n\n{verdict}")
        called += NOT_BETTER_SUFFIX * (verdict.word == NOT_BETTER)
    target = context.folder / f"{called}.safetensors"
    names = context.split.members(context.split.everything)
    sha256 = write_cascade(context, None, target, found.points[None], _notes(context, names))
    given = None if start.refinement is None else context.start
    known = calibrate(context.folder, files, target, given=given)
    card = model_card(context, target, sha256, found, pairs, chosen=len(tests) >= FEWEST_FOLDS)
    data = describe_data(options.bids_dir, files)
    card = f"{card}\n{describe(known)}\n{data}".rstrip() + "\n"
    write_atomic(target.with_suffix(".md"), card)
    draw_losses(context.folder / "logs", context.folder / "losses.png")
    _remove_other(context.folder, options.name, called)
    LOGGER.info("weights: %s", target)
    return target


def _remove_other(folder: Path, name: str, called: str) -> None:
    """Remove weights of an earlier call with another verdict: they contradict these."""
    for stem in {name, f"{name}{NOT_BETTER_SUFFIX}"} - {called}:
        for ending in ("safetensors", "md", "calibration.json"):
            (folder / f"{stem}.{ending}").unlink(missing_ok=True)


def _notes(context: TrainingContext, visits: Sequence[str]) -> dict[str, Any]:
    """Name whom the networks have seen, and how they were trained."""
    start = context.networks()
    kept = {key: start.notes[key] for key in ("visits", "images", "init") if key in start.notes}
    if context.seen or start.refinement is None:
        # the pretrained CNN-1 that was gone on from has seen no patient
        kept = {"visits": []}
    return {
        "recipe": asdict(context.recipe),
        "visits": list(visits),
        "images": read_images(context.folder / "cohort", visits),
        "init": {"name": start.name, "sha256": start.sha256, **kept},
    }
