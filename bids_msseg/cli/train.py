"""``msseg-train``: train the cascade on the labelled patients of a site, and evaluate it.

Every score is of a patient that the networks behind it have not seen. The same command resumes a
stopped training.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.bids.files import is_newer
from bids_msseg.cli.parser import Parser
from bids_msseg.commands.cohort_cache import prepare_cohort
from bids_msseg.commands.folding import deal_nested_folds, keep_plan, read_split
from bids_msseg.commands.recipes import lesion_is_white, make_recipe, read_recipe, read_yaml
from bids_msseg.errors import ExitCode, MssegError, NoInputError, UsageError
from bids_msseg.evaluation.labels import LabelledFiles, find_labelled
from bids_msseg.evaluation.mask_values import add_option, read_option
from bids_msseg.process import refuse, supervise

if TYPE_CHECKING:
    from bids_msseg.cascade.folds import Split
    from bids_msseg.cascade.schedule import Goal
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.cascade.team import Member
    from bids_msseg.evaluation.scoring import Score

LOGGER = logging.getLogger("bids_msseg")
PRESETS = ("valverde2017",)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = Parser(
        prog="msseg-train",
        description="Train the cascade on labelled patients; "
        "the same command resumes a stopped run.",
    )
    parser.add_argument("bids_dir", type=Path, help="BIDS dataset, raw or preprocessed")
    parser.add_argument("output_dir", type=Path, help="weights, model card, logs, predictions")
    parser.add_argument(
        "--labels",
        type=Path,
        help="derivative dataset with *_space-FLAIR_label-L_mask, or "
        "*_label-L_desc-rater<label>_mask of several raters; *_desc-brain_mask where there is one "
        "(default: BIDS_DIR/derivatives/manual)",
    )
    parser.add_argument(
        "--init",
        metavar="NAME|PATH",
        help="go on from these weights, with one labelled patient or more, and compare before "
        "and after on held-out patients",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="train the cascade of Valverde et al. 2017 instead"
    )
    parser.add_argument("--recipe", type=Path, help="YAML: steps, batch, widths, seed, folds")
    parser.add_argument(
        "--label-maps",
        type=Path,
        help="folder with anatomy/*_dseg and tissue-lesion/*_dseg, to synthesise images from",
    )
    parser.add_argument(
        "--lesion-bank",
        type=Path,
        help="lesions.npz of the MS-MIST bank, to be painted into images",
    )
    parser.add_argument(
        "--split",
        type=Path,
        help="TSV with columns visit and fold, in place of folds dealt by site and load",
    )
    add_option(parser)
    _add_run(parser)
    parser.add_common_options()
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    """Describe how much is trained, under what name and by what."""
    parser.add_argument(
        "--outer",
        type=_fold,
        nargs="+",
        default=[],
        metavar="FOLD",
        help="test on these folds only; the weights have not seen them and are not for release",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the training in OUTPUT_DIR, and refuse to begin one "
        "(without this option, an existing training is resumed too)",
    )
    parser.add_argument(
        "--name", type=_name, default="site", help="name of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--site-column", default="site", help="column of participants.tsv (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=_count, default=2, help="training processes at once (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=_count, default=1, help="threads of each process (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda[:N]")


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"not a number from 1 upwards: {text!r}")
    return number


def _fold(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not the number of a fold: {text!r}")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(f"not letters, digits, '.', '_' and '-': {text!r}")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        options = build_parser().parse_args(argv)
        options.mask_values = read_option(options.mask_values)
    except MssegError as error:
        return int(refuse(error, program="msseg-train"))
    return int(supervise(lambda: _train(options), verbose=options.verbose + 1))


def _train(options: argparse.Namespace) -> ExitCode:
    """Do what was asked for: a preset, a fine-tuning, or a training from nothing.

    Started by ``torchrun``, several processes train each net together.
    """
    refuse_odd_options(options)
    from bids_msseg.cascade.log_watch import show_progress
    from bids_msseg.cascade.team import join

    with join(options.device) as member:
        if member.size > 1:
            _enter_team(options, member)
        if options.preset:
            return _train_preset(options)
        with show_progress(options.output_dir / "logs", enabled=member.rank == 0):
            if options.init is None:
                return _train_cascade(options)
            start = starting_weights(options.init)
            return _tune(options) if start is None else _train_from(options, start)


def _enter_team(options: argparse.Namespace, member: Member) -> None:
    """Take this process's device and threads; only the first one tells what goes well."""
    import torch

    if options.preset:
        raise UsageError("--preset is trained by one process", hint="start it without torchrun")
    options.device = member.device
    torch.set_num_threads(options.threads)
    if member.rank:
        LOGGER.setLevel(logging.WARNING)


def starting_weights(init: str) -> Path | None:
    """Find weights whose CNN-1 has an anatomy head; None for those of an older format."""
    from bids_msseg.models.weights import ANATOMY_FORMAT, find_model, read_header

    if init.endswith(".pt"):
        if not Path(init).is_file():
            raise NoInputError(f"there is no file {init}", hint="correct --init")
        return Path(init)
    path = find_model(init)
    return path if read_header(path).format == ANATOMY_FORMAT else None


def _train_from(options: argparse.Namespace, start: Path) -> ExitCode:
    """Train from networks with an anatomy head."""
    from bids_msseg.cascade.team import run_first
    from bids_msseg.commands.train_cascade import read_cascade_recipe, train_cascade

    # a wrong recipe is reported before anything is prepared
    read_cascade_recipe(options.recipe)
    train_cascade(options, start, run_first(lambda: _labelled(options)))
    return ExitCode.SUCCESS


def refuse_odd_options(options: argparse.Namespace) -> None:
    """Refuse options that mean nothing together, and to go on with what has not begun.

    Raises
    ------
    UsageError
        If an option has no meaning beside ``--init`` or ``--preset``.
    NoInputError
        If ``--resume`` is given and there is nothing to go on with.
    """
    kind = "--preset" if options.preset else "--init"
    idle = {"--outer": options.outer, "--split": options.split if options.init else None}
    if not options.preset and options.init and starting_weights(options.init):
        idle = {}
    elif options.lesion_bank is not None:
        raise UsageError(
            "--lesion-bank needs --init with weights that have an anatomy head",
            hint="leave out --lesion-bank",
        )
    if options.preset:
        idle |= {"--init": options.init, "--label-maps": options.label_maps}
    odd = [name for name, value in idle.items() if value]
    if odd and (options.preset or options.init is not None):
        raise UsageError(f"{odd[0]} has no meaning with {kind}", hint=f"leave out {odd[0]}")
    begun = "valverde/training.json" if options.preset else "training.json"
    if options.resume and not (options.output_dir / begun).is_file():
        raise NoInputError(
            f"there is no training in {options.output_dir}", hint="leave --resume out to begin one"
        )


def _train_cascade(options: argparse.Namespace) -> ExitCode:
    """Prepare, train, score, ship."""
    from bids_msseg.cascade.schedule import Goal, run_all
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.cascade.team import run_first
    from bids_msseg.models.engine import choose_engine

    settings = read_recipe(options.recipe)
    # a wrong one is told before anything is prepared
    recipe, seed = make_recipe(settings), int(settings["seed"])
    engine = choose_engine(options.device)
    files = run_first(lambda: _labelled(options))
    split = run_first(lambda: _open_folder(options, settings, files))
    workshop = Workshop(options.output_dir, split, recipe, engine, seed)
    goal = Goal(_outer(options.outer, workshop.split), ship=not options.outer)
    LOGGER.info("training on %d visits in %d folds", len(files), len(workshop.split.folds))
    run_all(
        workshop,
        jobs=options.jobs,
        threads=options.threads,
        goal=goal,
        on_done=lambda name: LOGGER.info("finished %s", name),
    )
    run_first(lambda: _finish(options, workshop, files, goal, settings))
    return ExitCode.SUCCESS


def _finish(
    options: argparse.Namespace,
    workshop: Workshop,
    files: Sequence[LabelledFiles],
    goal: Goal,
    settings: Mapping[str, Any],
) -> None:
    """Score, tell, ship."""
    from bids_msseg.commands.shipping import describe_data, score_table, ship, ship_fold
    from bids_msseg.evaluation.calibration import calibrate, describe, learn

    scores = _find_scores(workshop, files, goal)
    print(score_table(scores))
    for fold in goal.outer:
        target = ship_fold(workshop, fold, name=options.name, recipe=settings)
        LOGGER.info("weights that have not seen fold %d: %s", fold, target)
    if goal.ship:
        known = describe(learn(workshop.folder, files).calibration())
        data = f"{known}\n{describe_data(options.bids_dir, files)}"
        target = ship(workshop, name=options.name, scores=scores, recipe=settings, data=data)
        calibrate(workshop.folder, files, target)
        LOGGER.info("weights: %s", target)


def _find_scores(workshop: Workshop, files: Sequence[LabelledFiles], goal: Goal) -> list[Score]:
    """Choose thresholds and score, unless both are newer than every net and mask."""
    from bids_msseg.cascade.points import choose_points
    from bids_msseg.evaluation.scoring import cross_validate, read_scores

    tests = goal.tests(workshop.split)
    points, path = workshop.folder / "points.json", workshop.folder / "scores.tsv"
    nets = [*workshop.folder.glob("checkpoints/*.pt"), *workshop.folder.glob("checkpoints/*.json")]
    sources = [*nets, *(item.truth for item in files)]
    if workshop.recipe.inner is not None:
        wanted: tuple[int | None, ...] = (*((None,) if goal.ship else ()), *tests)
        if not (is_newer([points], nets) and _covers(points, wanted)):
            choose_points(workshop, wanted)
        sources.append(points)
    if is_newer([path], sources):
        scores = read_scores(path)
        if {one.visit for one in scores} == set(workshop.split.members(tests)):
            LOGGER.info("scores are those of %s: nothing has changed since", path)
            return scores
    return cross_validate(workshop, files, tests)


def _covers(points: Path, wanted: Sequence[int | None]) -> bool:
    kept = json.loads(points.read_text(encoding="utf-8"))
    return {"ship" if test is None else str(test) for test in wanted} <= set(kept)


def _tune(options: argparse.Namespace) -> ExitCode:
    """Go on from given weights; what is wrong is told before anything is prepared."""
    from bids_msseg.cascade.team import run_first
    from bids_msseg.commands.finetune import finetune, read_given, read_tuning
    from bids_msseg.commands.shipping import describe_data
    from bids_msseg.models.engine import choose_engine
    from bids_msseg.models.weights import find_model

    settings = read_tuning(options.recipe)
    given = read_given(find_model(options.init))
    engine = choose_engine(options.device)
    files = run_first(lambda: _labelled(options))
    done = finetune(
        files,
        options.output_dir,
        given=given,
        settings=settings,
        name=options.name,
        engine=engine,
        jobs=options.jobs,
        threads=options.threads,
        label_maps=options.label_maps,
        data=describe_data(options.bids_dir, files),
    )
    run_first(lambda: print(f"{done.table}\n\n{done.verdict}\n{done.advice}"))
    LOGGER.info("weights: %s", done.path)
    return ExitCode.SUCCESS


def _train_preset(options: argparse.Namespace) -> ExitCode:
    """Train the source text's own cascade instead of ours."""
    from bids_msseg.commands.shipping import score_table
    from bids_msseg.commands.train_valverde import VALVERDE_RECIPE, read_settings, run_valverde
    from bids_msseg.models.engine import choose_engine

    settings = read_yaml(options.recipe, VALVERDE_RECIPE) if options.recipe else {}
    read_settings({**VALVERDE_RECIPE, **settings})
    engine = choose_engine(options.device)
    files = _labelled(options)
    prepare_cohort(options.output_dir, files, options.threads)
    visits = [item.visit.key for item in files]
    scores = run_valverde(
        files,
        options.output_dir,
        name=options.name,
        engine=engine,
        threads=options.threads,
        settings=settings,
        split=read_split(options.split, visits) if options.split else None,
    )
    print(score_table(scores))
    return ExitCode.SUCCESS


def _outer(asked: Sequence[int], split: Split) -> tuple[int, ...]:
    unknown = [fold for fold in asked if fold not in split.everything]
    if unknown:
        raise UsageError(
            f"there is no fold {unknown[0]}", hint=f"there are {len(split.folds)}, from 0"
        )
    return tuple(sorted(set(asked)))


def _labelled(options: argparse.Namespace) -> list[LabelledFiles]:
    return find_labelled(
        options.bids_dir,
        options.labels or options.bids_dir / "derivatives" / "manual",
        options.output_dir / "consensus",
        site_column=options.site_column,
        mask_values=options.mask_values,
    )


def _open_folder(
    options: argparse.Namespace, settings: Mapping[str, Any], files: Sequence[LabelledFiles]
) -> Split:
    """Prepare the cohort, deal the folds, and keep both for a later call."""
    from bids_msseg.commands.made import prepare_heads

    out: Path = options.output_dir
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    loads = prepare_cohort(out, files, options.threads)
    if options.label_maps is not None:
        white = lesion_is_white(settings)
        prepare_heads(options.label_maps, out / "heads", lesion_is_white=white)
    if options.split is not None:
        split = read_split(options.split, [item.visit.key for item in files])
    else:
        split = deal_nested_folds(files, loads, int(settings["folds"]))
    keep_plan(out, split, {"recipe": settings})
    return split


if __name__ == "__main__":
    raise SystemExit(main())
