"""``msseg-train --init``: go on from given weights on a site's own labelled patients.

Each patient is scored by the cascade as given and by one tuned without that patient; what is
written in the end is tuned on all of them. Its name says whether it may be used: where held-out
patients do not show it to be better, it is called ``<name>-not-better``.

Public names: :func:`finetune`, :func:`read_tuning`, :class:`Given`, :class:`Tuned`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_msseg import __version__
from bids_msseg.bids.files import is_newer, write_atomic, write_tsv
from bids_msseg.commands.cohort_cache import prepare_cohort, read_images
from bids_msseg.commands.folding import count_people, deal_folds, keep_plan
from bids_msseg.commands.recipes import make_recipe, read_recipe
from bids_msseg.commands.shipping import draw_losses
from bids_msseg.errors import UsageError
from bids_msseg.evaluation.calibration import calibrate
from bids_msseg.evaluation.comparison import (
    BETTER,
    NOT_BETTER,
    UNKNOWN,
    UNTOLD,
    Pair,
    Verdict,
    comparison_rows,
    comparison_table,
    counted,
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
    from bids_msseg.cascade.checkpoint import Cascade
    from bids_msseg.cascade.folds import Split
    from bids_msseg.cascade.inference import Segmentation
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.models.engine import Engine

LOGGER = logging.getLogger("bids_msseg")
KNOWN = (
    "seed",
    "folds",
    "members",
    "candidate",
    "refinement",
    "judge",
    "augment",
    "augmentation",
    "make",
    "mix",
)
BEFORE, AFTER = "before", "after"
SUFFIX = "-not-better"


@dataclass(frozen=True, slots=True)
class Given:
    """The weights to go on from.

    Attributes
    ----------
    path : path
    cascade : Cascade
    notes : mapping
        How they were trained.
    """

    path: Path
    cascade: Cascade
    notes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What a fine-tuning comes to.

    Attributes
    ----------
    path : path
        The weights.
    verdict : Verdict
    table : str
        Before and after, as Markdown.
    advice : str
        What to do with the weights, one sentence.
    """

    path: Path
    verdict: Verdict
    table: str
    advice: str


def read_given(path: Path) -> Given:
    """Read the weights to go on from.

    Raises
    ------
    DataError
        If they are not a usable cascade.
    """
    from bids_msseg.cascade.checkpoint import load_cascade
    from bids_msseg.models.weights import read_header

    return Given(path, load_cascade(path), read_header(path).notes)


def read_tuning(path: Path | None) -> dict[str, Any]:
    """Read the recipe of a fine-tuning; what it does not name is done as in ``finetune.yaml``.

    Raises
    ------
    UsageError
        If it cannot be read, has unknown keys (the shapes of the nets are those of the given
        weights) or an impossible value.
    """
    settings = read_recipe(path, usual="finetune", known=KNOWN)
    make_recipe(_as_recipe(settings))
    for key, least in (("folds", 2), ("members", 1)):
        value = settings[key]
        if not isinstance(value, int) or value < least:
            raise UsageError(
                f"the recipe is wrong: {key} is {value!r}",
                hint=f"give a whole number from {least} upwards",
            )
    return settings


def _as_recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "continued": settings["candidate"]}


def finetune(
    files: Sequence[LabelledFiles],
    out: Path,
    *,
    given: Given,
    settings: Mapping[str, Any],
    name: str,
    engine: Engine,
    jobs: int = 1,
    threads: int = 1,
    label_maps: Path | None = None,
    data: str = "",
) -> Tuned:
    """Tune both nets with and without each patient, compare, and write what all patients gave.

    Parameters
    ----------
    files : sequence of LabelledFiles
        One patient or more.
    out : path
        Gets ``cohort/``, ``given/``, ``checkpoints/``, ``logs/``, ``predictions/``,
        ``scores.tsv``, ``before_after.tsv``, the weights and their model card.
    given : Given
    settings : mapping
        What :func:`read_tuning` returned.
    name : str
        Of the weights; ``-not-better`` is added where that is the verdict.
    engine : Engine
    jobs, threads : int
        Processes at once, and threads of each.
    label_maps : path, optional
        To mix in images made of them.
    data : str
        Markdown for the model card: what was trained on.

    Returns
    -------
    Tuned

    Raises
    ------
    UsageError
        If ``out`` holds another training.
    """
    from bids_msseg.cascade.log_watch import log_line
    from bids_msseg.cascade.schedule import run_in_order
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.cascade.team import run_first
    from bids_msseg.cascade.tuning import do_piece, plan_pieces

    split = run_first(lambda: _open(files, out, given, settings, threads, label_maps))
    recipe = make_recipe(_as_recipe(settings))
    workshop = Workshop(out, split, recipe, engine, int(settings["seed"]))
    counts = net_counts(given.cascade, settings)
    LOGGER.info("going on from %s on %d visits", given.cascade.name, len(files))
    run_in_order(
        plan_pieces(workshop.split, *counts),
        partial(do_piece, workshop, given.path, partial(log_line, out / "logs")),
        jobs=jobs,
        threads=threads,
        on_done=lambda piece: LOGGER.info("finished %s", piece),
    )
    return run_first(lambda: _finish(workshop, files, given, settings, name, data))


def _finish(
    workshop: Workshop,
    files: Sequence[LabelledFiles],
    given: Given,
    settings: Mapping[str, Any],
    name: str,
    data: str,
) -> Tuned:
    pairs = _compare(workshop, files, given, net_counts(given.cascade, settings))
    tuned = _hand_over(workshop, given, settings, name, pairs, data)
    fresh = {pair.before.visit for pair in counted(pairs)}
    calibrate(workshop.folder, files, tuned.path, given=given.path, unseen=fresh)
    return tuned


def net_counts(cascade: Cascade, settings: Mapping[str, Any]) -> tuple[int, int, int]:
    """Say how many nets of each ensemble go on: ``members``, but not more than there are."""
    members = int(settings["members"])
    first, second, judges = (
        min(members, len(nets)) for nets in (cascade.candidate, cascade.refinement, cascade.judges)
    )
    return first, second, judges


def _open(
    files: Sequence[LabelledFiles],
    out: Path,
    given: Given,
    settings: Mapping[str, Any],
    threads: int,
    label_maps: Path | None,
) -> Split:
    """Prepare visits and heads, and say who is held out together."""
    from bids_msseg.cascade.folds import Split
    from bids_msseg.commands.made import prepare_heads

    for folder in ("checkpoints", "logs", "predictions"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    loads = prepare_cohort(out, files, threads)
    if label_maps is not None:
        prepare_heads(label_maps, out / "heads")
    people, most = count_people(files), int(settings["folds"])
    if people == 1:
        split = Split((tuple(item.visit.key for item in files),))
    else:
        split = deal_folds(files, loads, min(people, most))
    weights = {"name": given.cascade.name, "sha256": given.cascade.sha256}
    keep_plan(out, split, {"init": weights, "recipe": settings})
    return split


def _compare(
    workshop: Workshop, files: Sequence[LabelledFiles], given: Given, counts: tuple[int, int, int]
) -> list[Pair]:
    """Score every visit before and after; read what an earlier call has scored."""
    path = workshop.folder / "scores.tsv"
    sources = [*workshop.folder.glob("checkpoints/*.pt"), *workshop.folder.glob("given/*.npy")]
    scores: list[Score] = []
    if is_newer([path], [*sources, *(item.truth for item in files)]):
        scores = read_scores(path)
        LOGGER.info("scores are those of %s: nothing has changed since", path)
    if {one.visit for one in scores} != {item.visit.key for item in files}:
        scores = _score_all(workshop, files, given.cascade, counts)
        rows = [{name: getattr(one, name) for name in COLUMNS} for one in scores]
        write_tsv(path, COLUMNS, rows)
    by_key = {(one.visit, one.method): one for one in scores}
    images = read_images(workshop.folder / "cohort", [item.visit.key for item in files])
    pairs = []
    for item in sorted(files, key=lambda item: (item.site, item.visit.key)):
        visit = item.visit.key
        seen = seen_before(given.notes, visit, images.get(visit))
        pairs.append(Pair(by_key[visit, BEFORE], by_key.get((visit, AFTER)), seen))
    columns, table = comparison_rows(pairs)
    write_tsv(workshop.folder / "before_after.tsv", columns, table)
    return pairs


def _score_all(
    workshop: Workshop,
    files: Sequence[LabelledFiles],
    cascade: Cascade,
    counts: tuple[int, int, int],
) -> list[Score]:
    from bids_msseg.cascade.tuning import held_out, tuned_cascade

    by_name = {item.visit.key: item for item in files}
    held = held_out(workshop.split)
    scores: list[Score] = []
    for fold in workshop.split.everything:
        tuned = tuned_cascade(workshop, cascade, fold, *counts) if fold in held else None
        for name in workshop.split.folds[fold]:
            scores.append(_score_before(workshop, by_name[name], cascade))
            if tuned is not None:
                scores.append(_score_after(workshop, by_name[name], tuned))
            LOGGER.info("scored %s", name)
    return scores


def _score_before(workshop: Workshop, item: LabelledFiles, cascade: Cascade) -> Score:
    """Finish the segmentation by the given cascade, whose CNN-1 has looked already."""
    from bids_msseg.cascade.inference import decide
    from bids_msseg.cascade.tuning import given_probability

    for net in (*cascade.refinement, *cascade.judges):
        net.to(workshop.engine.device)
    visit = workshop.visit(item.visit.key)
    found = decide(
        cascade.refinement,
        visit.images.astype(np.float32),
        visit.present,
        given_probability(workshop, visit.name),
        cascade.point,
        workshop.engine,
        judges=cascade.judges,
    )
    return _score(workshop, item, found, cascade, BEFORE)


def _score_after(workshop: Workshop, item: LabelledFiles, cascade: Cascade) -> Score:
    from bids_msseg.cascade.inference import segment

    visit = workshop.visit(item.visit.key)
    images = visit.images.astype(np.float32)
    found = segment(cascade, images, visit.present, visit.brain, workshop.engine)
    return _score(workshop, item, found, cascade, AFTER)


def _score(
    workshop: Workshop, item: LabelledFiles, found: Segmentation, cascade: Cascade, method: str
) -> Score:
    truth = load_volume(item.truth)
    native = onto_flair(found.probability, item.brain, truth)
    mask = cut_mask(native, cascade.point.threshold)
    if method == AFTER:
        keep_prediction(workshop.folder / "predictions", item.visit.key, "cascade", native, mask)
    return score(mask, truth, visit=item.visit.key, site=item.site, method=method)


def _hand_over(
    workshop: Workshop,
    given: Given,
    settings: Mapping[str, Any],
    name: str,
    pairs: Sequence[Pair],
    data: str,
) -> Tuned:
    """Write the weights tuned on everybody, and a card, under a name that tells the verdict."""
    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.cascade.tuning import tuned_cascade

    verdict, table = judge(pairs), comparison_table(pairs)
    called, other = name, f"{name}{SUFFIX}"
    if verdict.word == NOT_BETTER:
        called, other = other, called
    everybody = tuned_cascade(workshop, given.cascade, None, *net_counts(given.cascade, settings))
    target = workshop.folder / f"{called}.safetensors"
    digest = save_cascade(
        target,
        everybody.candidate,
        everybody.refinement,
        judges=everybody.judges,
        name=called,
        version=__version__,
        point=given.cascade.point,
        notes=_notes(workshop, given, settings, verdict),
    )
    advice = advise(verdict, target.name, given.cascade.name)
    head = _card_head(called, digest, target.stat().st_size, given, settings)
    card = _card(head, workshop, pairs, verdict, advice, table, data)
    write_atomic(workshop.folder / f"{called}.md", card)
    # an earlier call that came to another verdict must not leave weights that contradict this one
    for ending in ("safetensors", "md", "calibration.json"):
        (workshop.folder / f"{other}.{ending}").unlink(missing_ok=True)
    draw_losses(workshop.folder / "logs", workshop.folder / "losses.png")
    return Tuned(target, verdict, table, advice)


def _notes(
    workshop: Workshop, given: Given, settings: Mapping[str, Any], verdict: Verdict
) -> dict[str, Any]:
    visits = list(workshop.split.members(workshop.split.everything))
    return {
        "recipe": dict(settings),
        "visits": visits,
        "images": read_images(workshop.folder / "cohort", visits),
        "tested": verdict.word != UNTOLD,
        "verdict": str(verdict),
        "init": {
            "name": given.cascade.name,
            "sha256": given.cascade.sha256,
            **{
                key: given.notes[key] for key in ("visits", "images", "init") if key in given.notes
            },
        },
    }


def advise(verdict: Verdict, file: str, given: str) -> str:
    """Say what to do with tuned weights, in one sentence.

    Examples
    --------
    >>> from bids_msseg.lesions.bootstrap import estimate_mean
    >>> advise(Verdict("cannot be told", "", estimate_mean([])), "a.safetensors", "cascade-1")
    'untested: keep using cascade-1 until a.safetensors is compared with it on another patient'
    """
    if verdict.word == BETTER:
        return f"use {file} on this site's other patients"
    if verdict.word == NOT_BETTER:
        return f"keep using {given}, not {file}"
    return f"untested: keep using {given} until {file} is compared with it on another patient"


def _card_head(
    called: str, digest: str, size: int, given: Given, settings: Mapping[str, Any]
) -> str:
    first, second, judges = net_counts(given.cascade, settings)
    left_out = len(given.cascade.candidate) - first + len(given.cascade.refinement) - second
    left_out += len(given.cascade.judges) - judges
    recipe = "; ".join(f"{key}: {value}" for key, value in settings.items())
    left = f"; {left_out} given nets are left out" if left_out else ""
    return f"""# Model card: {called}

- file: `{called}.safetensors`, {size / 1e6:.1f} MB, SHA-256 `{digest}`
- made by: `msseg-train --init`, bids_msseg {__version__}
- goes on from: {given.cascade.name}, SHA-256 `{given.cascade.sha256}`
- nets: {first} of {len(given.cascade.candidate)} candidate nets and {second} of
  {len(given.cascade.refinement)} refinement nets went on{left};
  gate and thresholds are those of the given weights
- recipe: {recipe}
- for: white-matter lesions of multiple sclerosis on FLAIR, with T1w and T2w where there are any;
  research use, no diagnosis
"""


def _card(
    head: str,
    workshop: Workshop,
    pairs: Sequence[Pair],
    verdict: Verdict,
    advice: str,
    table: str,
    data: str,
) -> str:
    folds = "\n".join(
        f"- fold {number}: {', '.join(names)}" for number, names in enumerate(workshop.split.folds)
    )
    return f"""{head}
## Verdict

**{verdict}**. {advice[0].upper()}{advice[1:]}.

## Before and after

Before: the cascade as given. After: tuned without any visit of the patient in question; the file
itself is tuned on all of them, so nothing below was measured on it. Volume-wise, on the grid of
the FLAIR as acquired; lesion F1 counts 26-connected components of at least 3 mm³, by any overlap.
{_say_seen(pairs)}

{table}

## Folds

{folds}

{data}"""


def _say_seen(pairs: Sequence[Pair]) -> str:
    fresh = counted(pairs)
    if len(fresh) < len(pairs):
        return (
            "Patients marked *yes* were used to train the given weights: *before* has seen them, "
            "and so has *after*.\nThey count neither in the mean nor in the verdict."
        )
    if any(pair.seen == UNKNOWN for pair in pairs):
        return (
            "The given weights do not name the patients that they were trained on: whether they "
            "have seen these is not known."
        )
    return "No patient below was used to train the given weights."
