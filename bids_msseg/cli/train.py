"""``msseg-train``: train the cascade on patients of a site, and evaluate it on held-out ones."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.cli.parser import Parser
from bids_msseg.errors import ExitCode, MssegError, NoInputError, UsageError
from bids_msseg.evaluation.labels import LabelledFiles, find_labelled
from bids_msseg.evaluation.mask_values import add_option, read_option
from bids_msseg.process import refuse, supervise

if TYPE_CHECKING:
    from bids_msseg.trainer.process_group import Member

LOGGER = logging.getLogger("bids_msseg")
PRESETS = ("valverde2017",)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = Parser(
        prog="msseg-train",
        description="Train the cascade on labelled patients; "
        "the same command resumes a stopped run. The log states the expected time after the first "
        "25 steps of each kind of network (not with --preset).",
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
        help="weights to start from: the name of a bundled model, a .safetensors file, or a .pt "
        "file of a CNN-1 that was pretrained on synthetic images (default: the bundled model)",
    )
    parser.add_argument(
        "--preset", choices=PRESETS, help="train the cascade of Valverde et al. 2017 instead"
    )
    parser.add_argument(
        "--recipe",
        type=Path,
        help="YAML: seed, folds, steps and rates of both networks (default: the recipe of the "
        "bundled model, but 400 and 300 steps)",
    )
    parser.add_argument(
        "--label-maps",
        type=Path,
        help="folder with anatomy/*_dseg, to synthesise images from",
    )
    parser.add_argument(
        "--lesion-bank",
        type=Path,
        help="lesions.npz of the MS-MIST bank, to be painted into images",
    )
    parser.add_argument(
        "--split",
        type=Path,
        help="TSV with columns visit and fold, instead of folds balanced by site and load",
    )
    add_option(parser)
    _add_run_options(parser)
    parser.add_common_options()
    return parser


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for folds, name and resources of a training."""
    parser.add_argument(
        "--test-folds",
        type=_fold,
        nargs="+",
        default=[],
        metavar="FOLD",
        help="test on these folds only; the weights have not seen them and are not for release",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume the training in OUTPUT_DIR; fail if there is none "
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
        raise argparse.ArgumentTypeError(f"not a whole number of at least 1: {text!r}")
    return number


def _fold(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a fold number: {text!r}")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise argparse.ArgumentTypeError(f"not a name of letters, digits, ., _ and -: {text!r}")
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
    """Train the cascade or a preset; processes of ``torchrun`` train each network together."""
    check_option_conflicts(options)
    from bids_msseg.trainer.process_group import join

    with join(options.device) as member:
        if member.size > 1:
            _enter_group(options, member)
        if options.preset:
            return _train_preset(options)
        return _train_cascade(options)


def _enter_group(options: argparse.Namespace, member: Member) -> None:
    """Set device and threads of this process; ranks above zero log only warnings."""
    import torch

    if options.preset:
        raise UsageError("--preset needs a single process", hint="start it without torchrun")
    options.device = member.device
    torch.set_num_threads(options.threads)
    if member.rank:
        LOGGER.setLevel(logging.WARNING)


def starting_weights(init: str | None) -> Path:
    """Find usable weights by path or bundled name; a ``.pt`` file is checked for existence only.

    Raises NoInputError or UsageError if there are none, DataError if they do not fit.
    """
    from bids_msseg.models.weights import find_model, read_header

    if init is not None and init.endswith(".pt"):
        if not Path(init).is_file():
            raise NoInputError(f"no file found at {init}", hint="correct --init")
        return Path(init)
    path = find_model(init)
    read_header(path)
    return path


def check_option_conflicts(options: argparse.Namespace) -> None:
    """Refuse conflicting options (UsageError), and resuming no training (NoInputError)."""
    cascade_options = {
        "--init": options.init,
        "--label-maps": options.label_maps,
        "--lesion-bank": options.lesion_bank,
        "--test-folds": options.test_folds,
    }
    conflicting = [name for name, value in cascade_options.items() if value]
    if conflicting and options.preset:
        raise UsageError(
            f"{conflicting[0]} cannot be combined with --preset", hint=f"remove {conflicting[0]}"
        )
    plan_file = "valverde/training.json" if options.preset else "training.json"
    if options.resume and not (options.output_dir / plan_file).is_file():
        raise NoInputError(
            f"no training found in {options.output_dir}", hint="remove --resume to start one"
        )


def _train_cascade(options: argparse.Namespace) -> ExitCode:
    """Train both networks, after checking the recipe and the starting weights."""
    from bids_msseg.trainer.process_group import rank_zero_first
    from bids_msseg.training.recipe import read_recipe
    from bids_msseg.training.run import train_cascade

    start, recipe = starting_weights(options.init), read_recipe(options.recipe)
    train_cascade(options, start, recipe, rank_zero_first(lambda: _labelled(options)))
    return ExitCode.SUCCESS


def _train_preset(options: argparse.Namespace) -> ExitCode:
    """Train the cascade of the source method."""
    from bids_msseg.models.engine import choose_engine
    from bids_msseg.training.data.cohort_cache import prepare_cohort
    from bids_msseg.training.data.folds import read_split
    from bids_msseg.training.model_card import score_table
    from bids_msseg.training.recipe import read_yaml
    from bids_msseg.training.valverde.run import VALVERDE_RECIPE, read_settings, run_valverde

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


def _labelled(options: argparse.Namespace) -> list[LabelledFiles]:
    return find_labelled(
        options.bids_dir,
        options.labels or options.bids_dir / "derivatives" / "manual",
        options.output_dir / "consensus",
        site_column=options.site_column,
        mask_values=options.mask_values,
    )


if __name__ == "__main__":
    raise SystemExit(main())
