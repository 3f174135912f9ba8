"""Folds of patients, so that every score is of a patient that the networks have not seen."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.errors import UsageError

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles

FoldSet = tuple[int, ...]
MIN_FOLDS = 3
"""With fewer test folds the operating point is not chosen anew."""


@dataclass(frozen=True, slots=True)
class Split:
    """Visit names of each fold."""

    folds: tuple[tuple[str, ...], ...]

    @property
    def everything(self) -> FoldSet:
        """All fold numbers."""
        return tuple(range(len(self.folds)))

    def without(self, *left_out: int) -> FoldSet:
        """Return the fold numbers except these."""
        return tuple(fold for fold in self.everything if fold not in left_out)

    def members(self, folds: FoldSet) -> tuple[str, ...]:
        """Return the visits of these folds."""
        return tuple(name for fold in folds for name in self.folds[fold])

    def sources(self, test: int | None) -> tuple[tuple[int, FoldSet], ...]:
        """Pair each fold that trains CNN-2 with the folds that trained its CNN-1."""
        held_out = () if test is None else (test,)
        return tuple((fold, self.without(*held_out, fold)) for fold in self.without(*held_out))


def balanced_split(
    participants: Mapping[str, Sequence[str]],
    sites: Mapping[str, str],
    loads: Mapping[str, float],
    count: int,
) -> Split:
    """Assign participants to folds that are balanced by site and lesion load (mL)."""
    if len(participants) < count:
        raise ValueError(f"{len(participants)} participants cannot fill {count} folds")
    folds: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for site in sorted(set(sites.values())):
        queue = sorted(
            (name for name in participants if sites[name] == site),
            key=lambda name: (-loads[name], name),
        )
        for start in range(0, len(queue), count):
            group = queue[start : start + count]
            # the fold with the fewest participants gets the highest load of this group
            order = sorted(range(count), key=lambda fold: (sizes[fold], fold))
            for fold, name in zip(order, group, strict=False):
                folds[fold].extend(participants[name])
                sizes[fold] += 1
    return Split(tuple(tuple(fold) for fold in folds))


def count_people(files: Sequence[LabelledFiles]) -> int:
    """Count participants; each may have several visits."""
    return len({item.visit.participant for item in files})


def deal_folds(files: Sequence[LabelledFiles], loads: Mapping[str, float], count: int) -> Split:
    """Assign participants to folds, balanced by site and lesion load (mL of each visit)."""
    people: dict[str, list[str]] = {}
    sites: dict[str, str] = {}
    total_loads: dict[str, float] = {}
    for item in files:
        participant = item.visit.participant
        people.setdefault(participant, []).append(item.visit.key)
        sites[participant] = item.site
        total_loads[participant] = total_loads.get(participant, 0.0) + loads[item.visit.key]
    return balanced_split(people, sites, total_loads, count)


def deal_nested_folds(
    files: Sequence[LabelledFiles], loads: Mapping[str, float], count: int
) -> Split:
    """Assign participants to nested folds; UsageError for too few folds or participants."""
    people = count_people(files)
    if count < 3 or people < count:
        raise UsageError(
            f"{people} labelled participants cannot be divided into {count} nested folds",
            hint="use at least three folds and as many participants",
        )
    return deal_folds(files, loads, count)


def read_split(path: Path, visits: Sequence[str]) -> Split:
    """Read a split from a TSV file (``visit``, ``fold`` from 0); UsageError if it is invalid."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            fold_of = {
                row["visit"]: int(row["fold"]) for row in csv.DictReader(stream, delimiter="\t")
            }
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"cannot read the split {path}: {error}",
            hint="use a TSV file with the columns visit and fold",
        ) from error
    faults = _find_faults(fold_of, visits)
    if faults:
        raise UsageError(f"invalid split {path}: {faults[0]}", hint="correct the file")
    count = len(set(fold_of.values()))
    return Split(tuple(tuple(v for v in visits if fold_of[v] == fold) for fold in range(count)))


def _find_faults(fold_of: Mapping[str, int], visits: Sequence[str]) -> list[str]:
    people: dict[str, set[int]] = {}
    for visit, fold in fold_of.items():
        people.setdefault(visit.partition("_")[0], set()).add(fold)
    faults = [f"{name} is in two folds" for name, folds in people.items() if len(folds) > 1]
    faults += [f"{name} is in no fold" for name in visits if name not in fold_of]
    faults += [f"{name} is not a labelled visit" for name in fold_of if name not in visits]
    count = len(set(fold_of.values()))
    if sorted(set(fold_of.values())) != list(range(count)) or count < 3:
        faults.append("folds are not numbered 0, 1, 2 and so on")
    return faults
