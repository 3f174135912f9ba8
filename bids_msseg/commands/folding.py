"""Who is held out together, and keeping that and the recipe for a later call.

Public names: :func:`deal_folds`, :func:`read_split`, :func:`count_people`, :func:`keep_plan`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg.bids.files import plain, write_json, write_tsv
from bids_msseg.errors import UsageError

if TYPE_CHECKING:
    from bids_msseg.cascade.folds import Split
    from bids_msseg.evaluation.labels import LabelledFiles


def count_people(files: Sequence[LabelledFiles]) -> int:
    """Count participants; each may have several visits."""
    return len({item.visit.participant for item in files})


def deal_folds(files: Sequence[LabelledFiles], loads: Mapping[str, float], count: int) -> Split:
    """Deal participants into folds by site and lesion load.

    Parameters
    ----------
    files : sequence of LabelledFiles
        At least ``count`` participants.
    loads : mapping of visit to float
        Lesion load, mL.
    count : int

    Returns
    -------
    Split
        All visits of a participant are in one fold.
    """
    from bids_msseg.cascade.folds import balanced_split

    people: dict[str, list[str]] = {}
    sites: dict[str, str] = {}
    heavy: dict[str, float] = {}
    for item in files:
        who = item.visit.participant
        people.setdefault(who, []).append(item.visit.key)
        sites[who] = item.site
        heavy[who] = heavy.get(who, 0.0) + loads[item.visit.key]
    return balanced_split(people, sites, heavy, count)


def deal_nested_folds(
    files: Sequence[LabelledFiles], loads: Mapping[str, float], count: int
) -> Split:
    """Deal participants into the folds of a nested training; see :func:`deal_folds`.

    Raises
    ------
    UsageError
        If there are fewer than three folds, or fewer participants than folds.
    """
    people = count_people(files)
    if count < 3 or people < count:
        raise UsageError(
            f"{people} labelled participants cannot be dealt into {count} nested folds",
            hint="use at least three folds and as many participants; --init goes on from "
            "trained weights with fewer",
        )
    return deal_folds(files, loads, count)


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
            hint="give a TSV with the columns visit and fold",
        ) from error
    faults = _find_faults(fold_of, visits)
    if faults:
        raise UsageError(f"the split {path} is wrong: {faults[0]}", hint="mend the file")
    count = len(set(fold_of.values()))
    return Split(tuple(tuple(v for v in visits if fold_of[v] == fold) for fold in range(count)))


def _find_faults(fold_of: Mapping[str, int], visits: Sequence[str]) -> list[str]:
    people: dict[str, set[int]] = {}
    for visit, fold in fold_of.items():
        people.setdefault(visit.partition("_")[0], set()).add(fold)
    faults = [f"{name} is in two folds" for name, folds in people.items() if len(folds) > 1]
    faults += [f"{name} is in no fold" for name in visits if name not in fold_of]
    faults += [f"there is no labelled {name}" for name in fold_of if name not in visits]
    count = len(set(fold_of.values()))
    if sorted(set(fold_of.values())) != list(range(count)) or count < 3:
        faults.append("folds are not numbered 0, 1, 2 and on")
    return faults


def keep_plan(out: Path, split: Split, plan: Mapping[str, Any]) -> None:
    """Keep the plan of a training; nets of another split would have seen their test patients.

    Parameters
    ----------
    out : path
        Gets ``training.json`` and ``splits.tsv``.
    split : Split
    plan : mapping
        What decides the result beside the split.

    Raises
    ------
    UsageError
        If the folder holds a training with other visits or another recipe.
    """
    path = out / "training.json"
    wanted = plain({**plan, "split": split.folds})
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in {**wanted, **kept} if kept.get(key) != wanted.get(key)]
        if changed:
            raise UsageError(
                f"{path.parent} holds a training with another {' and other '.join(changed)}",
                hint="give another output_dir, or the same visits and recipe as before",
            )
    write_json(path, wanted)
    rows = [
        {"visit": name, "fold": fold} for fold, names in enumerate(split.folds) for name in names
    ]
    write_tsv(out / "splits.tsv", ("visit", "fold"), rows)
