"""Setting up the output folder of a training: inputs, folds, starting weights."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.bids.files import plain, write_atomic, write_json, write_tsv
from bids_msseg.calibration import calibration_path
from bids_msseg.errors import UsageError
from bids_msseg.evaluation.comparison import NO, in_initial_training_data
from bids_msseg.training.data.cohort_cache import digest, prepare_cohort, read_images
from bids_msseg.training.data.folds import Split, count_people, deal_folds, read_split

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.training.context import TrainingContext
    from bids_msseg.training.recipe import CascadeRecipe

LOGGER = logging.getLogger("bids_msseg")
START = "start"


def open_context(
    options: argparse.Namespace,
    recipe: CascadeRecipe,
    start: Path,
    files: Sequence[LabelledFiles],
) -> TrainingContext:
    """Prepare visits and label maps, assign the folds and store the plan of a training.

    Raises UsageError if the folder holds another training or a test fold does not exist.
    """
    from bids_msseg.models.engine import Engine
    from bids_msseg.training.context import TrainingContext
    from bids_msseg.training.start import read_start
    from bids_msseg.training.synthesis.label_maps import (
        find_label_maps,
        prepare_label_maps,
        read_lesion_bank,
    )
    from bids_msseg.training.synthesis.plan import SynthesisPlan

    out: Path = options.output_dir
    start_networks = read_start(start, recipe.candidate_net)
    bank: Path | None = options.lesion_bank
    label_maps = find_label_maps(options.label_maps / "anatomy") if options.label_maps else ()
    if bank is not None:
        read_lesion_bank(bank)
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    loads = prepare_cohort(out, files, options.threads)
    split = _make_split(options, recipe, files, loads)
    _check_folds(options.test_folds, split)
    # a later session of a patient that the weights have seen is not known to be unseen
    seen = set(seen_visits(out, files, start_networks.notes).values()) != {NO}
    if seen:
        LOGGER.warning(
            "the starting weights may have been trained on some of these patients: "
            "the training starts from their pretrained CNN-1"
        )
        read_start(start, recipe.candidate_net, seen=True)
    plan = {"recipe": asdict(recipe), "start": start_networks.sha256, "seen": seen}
    inputs = {path.name: digest(path) for path in (*label_maps, *((bank,) if bank else ()))}
    if label_maps:
        plan["synthesis_plan"] = asdict(SynthesisPlan())
    store_plan(out, split, {**plan, "synthesis": inputs})
    maps = out / "label-maps" if label_maps else None
    if maps is not None:
        prepare_label_maps(options.label_maps / "anatomy", bank, maps)
    start = copy_start_weights(start, out)
    return TrainingContext(out, split, start, seen, maps, bank, Engine(), recipe)


def _check_folds(test_folds: Sequence[int], split: Split) -> None:
    """Raise UsageError for test folds that do not exist or leave no training participant."""
    count = len(split.folds)
    unknown = [fold for fold in test_folds if fold >= count]
    if unknown:
        raise UsageError(
            f"fold {unknown[0]} does not exist", hint=f"use folds from 0 to {count - 1}"
        )
    if test_folds and count == 1:
        raise UsageError("cannot hold out the only participant", hint="remove --test-folds")


def copy_start_weights(start: Path, out: Path) -> Path:
    """Copy the starting weights into the output folder, so that they stay available."""
    folder = out / START
    folder.mkdir(exist_ok=True)
    for source in (start, calibration_path(start)):
        target = folder / source.name
        if source.is_file() and not target.is_file():
            write_atomic(target, source.read_bytes())
    return folder / start.name


def _make_split(
    options: argparse.Namespace,
    recipe: CascadeRecipe,
    files: Sequence[LabelledFiles],
    loads: Mapping[str, float],
) -> Split:
    visits = [item.visit.key for item in files]
    if options.split is not None:
        return read_split(options.split, visits)
    participants = count_people(files)
    return (
        Split((tuple(visits),))
        if participants == 1
        else deal_folds(files, loads, min(participants, recipe.folds))
    )


def seen_visits(
    out: Path, files: Sequence[LabelledFiles], notes: Mapping[str, Any]
) -> dict[str, str]:
    """Return for every visit whether the starting cascade was trained on its patient."""
    visits = [item.visit.key for item in files]
    images = read_images(out / "cohort", visits)
    if not notes:
        # a CNN-1 that was trained on synthetic images only
        return dict.fromkeys(visits, NO)
    return {visit: in_initial_training_data(notes, visit, images.get(visit)) for visit in visits}


def store_plan(out: Path, split: Split, plan: Mapping[str, Any]) -> None:
    """Write ``training.json`` and ``splits.tsv``; refuse to change an existing plan."""
    path = out / "training.json"
    current = plain({**plan, "split": split.folds})
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in {**current, **stored} if stored.get(key) != current.get(key)]
        if changed:
            # the networks of another plan may have seen test patients of this split
            raise UsageError(
                f"{path.parent} holds a training run with another {' and another '.join(changed)}",
                hint="use another output_dir, or the same visits and recipe as before",
            )
    write_json(path, current)
    rows = [
        {"visit": name, "fold": fold} for fold, names in enumerate(split.folds) for name in names
    ]
    write_tsv(out / "splits.tsv", ("visit", "fold"), rows)
