"""``msseg-train``: train the cascade on a site's own labelled patients, and say how good it is.

Nested folds: every score is about a patient that no net, candidate or gate behind it has seen.
Stopped at any moment, the same call goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.bids.files import plain, write_json, write_tsv
from bids_msseg.bids.visit import Visit
from bids_msseg.commands.labels import find_truth, require_labels
from bids_msseg.commands.recipes import make_recipe, read_recipe
from bids_msseg.errors import ExitCode, MssegError, NoInputError, UsageError
from bids_msseg.process import refuse, supervise

if TYPE_CHECKING:
    from bids_msseg.cascade.folds import Split
    from bids_msseg.cascade.stages import Workshop

LOGGER = logging.getLogger("bids_msseg")


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """The files of one labelled visit.

    Attributes
    ----------
    visit : Visit
    brain, truth : path
        Masks on the FLAIR grid.
    site : str
    """

    visit: Visit
    brain: Path
    truth: Path
    site: str


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="msseg-train",
        description="Train the cascade on labelled patients; a stopped run is gone on with.",
    )
    parser.add_argument("bids_dir", type=Path, help="BIDS dataset, contrasts on the FLAIR's world")
    parser.add_argument("output_dir", type=Path, help="weights, model card, logs, predictions")
    parser.add_argument(
        "--labels",
        type=Path,
        help="derivative dataset with *_space-FLAIR_label-L_mask and *_desc-brain_mask "
        "(default: BIDS_DIR/derivatives/manual)",
    )
    parser.add_argument("--recipe", type=Path, help="YAML: steps, batch, widths, seed, folds")
    parser.add_argument(
        "--label-maps",
        type=Path,
        help="folder with anatomy/*_dseg and tissue-lesion/*_dseg, to make images of",
    )
    parser.add_argument(
        "--split",
        type=Path,
        help="TSV with columns visit and fold, in place of folds dealt by site and load",
    )
    parser.add_argument(
        "--outer",
        type=_fold,
        nargs="+",
        default=[],
        metavar="FOLD",
        help="test on these folds only, and make no weights to ship",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the training in OUTPUT_DIR, and refuse to begin one "
        "(a training that is there is gone on with in any case)",
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
    parser.add_argument("-v", "--verbose", action="count", default=0)
    parser.add_argument("--version", action="version", version=f"msseg-train {__version__}")
    return parser


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
        options = _parse(argv)
    except MssegError as error:
        return int(refuse(error, program="msseg-train"))
    return int(supervise(lambda: _train(options), verbose=options.verbose + 1))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()

    def fail(message: str) -> None:
        raise UsageError(message, cure="see msseg-train --help")

    parser.error = fail  # type: ignore[method-assign, assignment]
    return parser.parse_args(sys.argv[1:] if argv is None else argv)


def _train(options: argparse.Namespace) -> ExitCode:
    """Prepare, train, score, ship."""
    from bids_msseg.cascade.points import choose_points
    from bids_msseg.cascade.schedule import Goal, run_all
    from bids_msseg.commands.scoring import cross_validate
    from bids_msseg.commands.shipping import ship

    settings = read_recipe(options.recipe)
    recipe = make_recipe(settings)  # a wrong one is told before anything is prepared
    if options.resume and not (options.output_dir / "training.json").is_file():
        raise NoInputError(
            f"there is no training in {options.output_dir}", cure="leave --resume out to begin one"
        )
    files = _find_labelled(options)
    workshop = _open_workshop(options, settings, files)
    goal = Goal(_outer(options.outer, workshop.split), ship=not options.outer)
    LOGGER.info("training on %d visits in %d folds", len(files), len(workshop.split.folds))
    run_all(
        workshop,
        jobs=options.jobs,
        threads=options.threads,
        goal=goal,
        on_done=lambda name: LOGGER.info("finished %s", name),
    )
    if recipe.inner is not None:
        choose_points(workshop, (*((None,) if goal.ship else ()), *goal.tests(workshop.split)))
    scores = cross_validate(workshop, files, goal.tests(workshop.split))
    if goal.ship:
        target = ship(workshop, name=options.name, scores=scores, recipe=settings)
        LOGGER.info("weights: %s", target)
    return ExitCode.SUCCESS


def _outer(asked: Sequence[int], split: Split) -> tuple[int, ...]:
    unknown = [fold for fold in asked if fold not in split.everything]
    if unknown:
        raise UsageError(
            f"there is no fold {unknown[0]}", cure=f"there are {len(split.folds)}, from 0"
        )
    return tuple(sorted(set(asked)))


def _find_labelled(options: argparse.Namespace) -> list[LabelledFiles]:
    """Pair visits with their manual masks; visits without one are left out and named."""
    from bids_msseg.bids.query import find_visits

    labels = require_labels(options.labels or options.bids_dir / "derivatives" / "manual")
    selection = find_visits(options.bids_dir, derivatives={"labels": labels})
    sites = read_sites(options.bids_dir, options.site_column)
    files = []
    for visit in selection.visits:
        truth = find_truth(labels, visit)
        if truth is None or visit.brain_mask is None:
            LOGGER.warning("%s has no manual lesion or brain mask: left out", visit.key)
            continue
        site = sites.get(visit.participant, "one site")
        files.append(LabelledFiles(visit, visit.brain_mask, truth, site))
    if not files:
        raise NoInputError(
            f"no visit of {options.bids_dir} has a manual mask in {labels}",
            cure="name masks sub-<label>_space-FLAIR_label-L_mask.nii.gz, brain masks "
            "sub-<label>_space-FLAIR_desc-brain_mask.nii.gz",
        )
    return files


def read_sites(bids_dir: Path, column: str) -> dict[str, str]:
    """Read each participant's site."""
    table = bids_dir / "participants.tsv"
    if not table.is_file():
        return {}
    with table.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {
        row["participant_id"].removeprefix("sub-"): row[column]
        for row in rows
        if row.get(column) and row.get("participant_id")
    }


def _open_workshop(
    options: argparse.Namespace, settings: Mapping[str, Any], files: Sequence[LabelledFiles]
) -> Workshop:
    """Prepare the cohort, deal the folds, and keep both for a later call."""
    from bids_msseg.cascade.inference import choose_engine
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.commands.made import prepare_heads

    out: Path = options.output_dir
    for folder in ("cohort", "checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    loads = _prepare(out / "cohort", files, options.threads)
    if options.label_maps is not None:
        prepare_heads(options.label_maps, out / "heads")
    if options.split is not None:
        split = read_split(options.split, [item.visit.key for item in files])
    else:
        split = _deal(files, loads, int(settings["folds"]))
    _refuse_another_plan(out / "training.json", {"recipe": settings, "split": split.folds})
    rows = [
        {"visit": name, "fold": fold} for fold, names in enumerate(split.folds) for name in names
    ]
    write_tsv(out / "splits.tsv", ("visit", "fold"), rows)
    engine = choose_engine(options.device)
    return Workshop(out, split, make_recipe(settings), engine, int(settings["seed"]))


def read_split(path: Path, visits: Sequence[str]) -> Split:
    """Read who is in which fold.

    Parameters
    ----------
    path : path
        TSV with the columns ``visit`` and ``fold``; folds are numbered from 0.
    visits : sequence of str
        All labelled visits.

    Raises
    ------
    UsageError
        If a visit is missing or unknown, a patient is in two folds, or there are fewer than
        three folds.
    """
    from bids_msseg.cascade.folds import Split

    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            fold_of = {
                row["visit"]: int(row["fold"]) for row in csv.DictReader(stream, delimiter="\t")
            }
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"cannot read the split {path}: {error}",
            cure="give a TSV with the columns visit and fold",
        ) from error
    people: dict[str, set[int]] = {}
    for visit, fold in fold_of.items():
        people.setdefault(visit.partition("_")[0], set()).add(fold)
    faults = [f"{name} is in two folds" for name, folds in people.items() if len(folds) > 1]
    faults += [f"{name} is in no fold" for name in visits if name not in fold_of]
    faults += [f"there is no labelled {name}" for name in fold_of if name not in visits]
    count = len(set(fold_of.values()))
    if sorted(set(fold_of.values())) != list(range(count)) or count < 3:
        faults.append("folds are not numbered 0, 1, 2 and on")
    if faults:
        raise UsageError(f"the split {path} is wrong: {faults[0]}", cure="mend the file")
    return Split(tuple(tuple(v for v in visits if fold_of[v] == fold) for fold in range(count)))


def _refuse_another_plan(path: Path, plan: Mapping[str, Any]) -> None:
    """Keep the plan of a training; nets of another split would have seen their test patients.

    Raises
    ------
    UsageError
        If the folder holds a training with other visits or another recipe.
    """
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key, value in plain(plan).items() if kept.get(key) != value]
        if changed:
            raise UsageError(
                f"{path.parent} holds a training with another {' and other '.join(changed)}",
                cure="give another output_dir, or the same visits and recipe as before",
            )
    write_json(path, plan)


def _prepare(folder: Path, files: Sequence[LabelledFiles], threads: int) -> dict[str, float]:
    """Bring every visit onto the working grid once; return its lesion load in mL."""
    from bids_msseg.cascade.stages import load_visit, save_visit
    from bids_msseg.commands.cohort import prepare_visit

    loads = {}
    for item in files:
        target = folder / f"{item.visit.key}.npz"
        if not target.is_file():
            done = prepare_visit(
                item.visit.key,
                item.site,
                item.visit.contrasts,
                item.brain,
                item.truth,
                threads=threads,
            )
            save_visit(done, target)
            LOGGER.info("prepared %s", item.visit.key)
        loads[item.visit.key] = float(load_visit(target).truth.astype(float).sum()) / 1000
    return loads


def _deal(files: Sequence[LabelledFiles], loads: Mapping[str, float], count: int) -> Split:
    from bids_msseg.cascade.folds import balanced_split

    people: dict[str, list[str]] = {}
    sites: dict[str, str] = {}
    heavy: dict[str, float] = {}
    for item in files:
        who = item.visit.participant
        people.setdefault(who, []).append(item.visit.key)
        sites[who] = item.site
        heavy[who] = heavy.get(who, 0.0) + loads[item.visit.key]
    if count < 3 or len(people) < count:
        raise UsageError(
            f"{len(people)} labelled participants cannot be dealt into {count} nested folds",
            cure="use at least three folds and as many participants",
        )
    return balanced_split(people, sites, heavy, count)


if __name__ == "__main__":
    raise SystemExit(main())
