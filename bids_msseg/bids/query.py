"""Query of a BIDS dataset: visits to process, their images, and reasons for exclusion.

Datasets of every version are read by the rules of BIDS 1.11.1. Sessions are separate visits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_msseg.bids.dataset import BIDS_VERSION
from bids_msseg.bids.files import read_small
from bids_msseg.bids.filters import Filters, parse_filters
from bids_msseg.bids.given_masks import check_derivatives
from bids_msseg.bids.ignore import FILE, IgnoreRules, read_ignore_rules
from bids_msseg.bids.images import DatasetImages, VisitId, listing
from bids_msseg.bids.index import (
    AnatFolder,
    list_participants,
    list_visits,
    may_read,
    open_index,
)
from bids_msseg.bids.inheritance import SidecarReader
from bids_msseg.bids.visit import (
    CONTRASTS,
    LABEL,
    Selection,
    Skipped,
    Visit,
    bare_label,
    visit_key,
    visit_order,
)
from bids_msseg.bids.visit_builder import VisitBuilder
from bids_msseg.errors import InvalidDatasetError, NoInputError, NothingSelectedError, UsageError

_NO_DATASETS = ("derivatives", "sourcedata", "code", "logs", "docs", "phenotype", "stimuli")
"""Folders beside the participants, which may hold ``sub-*`` folders of something else."""


def find_visits(
    bids_dir: Path,
    *,
    participants: Iterable[str] = (),
    sessions: Iterable[str] = (),
    filters: Mapping[str, Any] | None = None,
    database_dir: Path | None = None,
    derivatives: Mapping[str, Path] | None = None,
    lesion_masks: Mapping[str, Path] | None = None,
    exclude_masks: Mapping[str, Path] | None = None,
    ignore: Iterable[str] = (),
    skip_validation: bool = False,
) -> Selection:
    """Find the visits of a BIDS dataset to process; the result has at least one.

    Raises InvalidDatasetError, NothingSelectedError (labels or filters leave no visit),
    NoInputError (no usable FLAIR) or UsageError (invalid filter).
    """
    bids_dir = bids_dir.absolute()
    dataset_notes: tuple[str, ...] = ()
    if not skip_validation:
        dataset_notes = (*_version_notes(_read_description(bids_dir)), *_ignored_notes(bids_dir))
    check_derivatives(derivatives or {})
    parsed = parse_filters(filters)
    rules, read_notes = read_ignore_rules(bids_dir)
    scope = _select(bids_dir, participants, sessions, parsed, rules)
    labels = sorted({folder.participant for folder in scope.folders})
    with open_index(
        bids_dir,
        participants=labels if scope.restricted else None,
        folders=scope.folders,
        database_dir=database_dir,
    ) as (index, notes):
        visit_ids = {(folder.participant, folder.session) for folder in scope.folders}
        images = DatasetImages.query(index, parsed, rules, visit_ids)
    ignored = {contrast.lower() for contrast in ignore}
    ignored_contrasts = [contrast for contrast in CONTRASTS[1:] if contrast.lower() in ignored]
    builder = VisitBuilder(
        bids_dir,
        images,
        derivatives or {},
        SidecarReader(bids_dir),
        ignored_contrasts,
        lesion_masks or {},
        exclude_masks or {},
    )
    results = [builder.build(folder) for folder in scope.folders]
    visits = tuple(visit for visit in results if isinstance(visit, Visit))
    skipped = [*(visit for visit in results if isinstance(visit, Skipped)), *scope.absent]
    skipped.sort(key=lambda visit: visit_order(visit.participant, visit.session))
    if not visits:
        raise _no_visit(skipped, images, with_masks=bool(lesion_masks))
    excluded = _excluded_notes(visits, exclude_masks or {})
    all_notes = (
        *dataset_notes,
        *read_notes,
        *parsed.notes,
        *scope.notes,
        *images.notes,
        *notes,
        *excluded,
    )
    return Selection(visits, tuple(skipped), all_notes)


def _excluded_notes(visits: Sequence[Visit], sources: Mapping[str, Path]) -> tuple[str, ...]:
    """Return a note with the number of visits that have an exclusion mask."""
    # otherwise, masks with a wrong name would not be noticed
    if not sources:
        return ()
    count = sum(bool(visit.exclude_masks) for visit in visits)
    return (f"{count} of {len(visits)} visits have an exclusion mask in {', '.join(sources)}",)


@dataclass(frozen=True, slots=True)
class _Scope:
    """Visits selected by labels, and labels that are not in the dataset."""

    folders: tuple[AnatFolder, ...]
    absent: tuple[Skipped, ...]
    notes: tuple[str, ...]
    restricted: bool


def _select(
    bids_dir: Path,
    participants: Iterable[str],
    sessions: Iterable[str],
    filters: Filters,
    rules: IgnoreRules,
) -> _Scope:
    """Apply labels, ``.bidsignore`` and subject and session of the FLAIR filter to the folders."""
    present = list_participants(bids_dir)
    participant_labels = _clean_labels(participants, "sub")
    session_labels = _clean_labels(sessions, "ses")
    matching = list_visits(
        bids_dir,
        [label for label in present if not participant_labels or label in participant_labels],
    )
    inside, left_out = _split(bids_dir, matching, rules)
    folders = [
        folder
        for folder in inside
        if (not session_labels or folder.session in session_labels)
        and filters.allows(folder.participant, folder.session)
    ]
    folders.sort(key=lambda folder: visit_order(folder.participant, folder.session))
    if not folders:
        raise _nothing_selected(
            bids_dir, present, participant_labels, session_labels, inside, left_out
        )
    selected = {(folder.participant, folder.session) for folder in folders}
    absent, notes = _absent(present, participant_labels, session_labels, selected, left_out)
    if left_out:
        notes = (*notes, f"{FILE} excludes {listing(left_out)}")
    return _Scope(tuple(folders), absent, notes, restricted=bool(participant_labels))


def _split(
    bids_dir: Path, folders: Iterable[AnatFolder], rules: IgnoreRules
) -> tuple[list[AnatFolder], list[str]]:
    """Separate folders of visits from those that ``.bidsignore`` excludes, listed by key."""
    inside: list[AnatFolder] = []
    left_out: list[str] = []
    for folder in folders:
        if rules.ignores(folder.path.relative_to(bids_dir).as_posix(), folder=True):
            left_out.append(visit_key(folder.participant, folder.session))
        else:
            inside.append(folder)
    return inside, left_out


def _clean_labels(labels: Iterable[str], entity: str) -> list[str]:
    bare = list(dict.fromkeys(bare_label(label, entity) for label in labels))
    invalid = [label for label in bare if not re.fullmatch(LABEL, label)]
    if invalid:
        raise UsageError(
            f"invalid {entity}- label: {listing([repr(label) for label in invalid])}",
            hint="use letters and digits only; separate labels with spaces",
        )
    return bare


def _absent(
    present: Sequence[str],
    participants: Sequence[str],
    sessions: Sequence[str],
    selected: set[VisitId],
    left_out: Sequence[str],
) -> tuple[tuple[Skipped, ...], tuple[str, ...]]:
    """Return skipped visits for missing labels, and notes on sessions that are not found."""
    missing = "is not in the dataset"
    rows = []
    with_visits = {participant for participant, _ in selected}
    for participant in participants:
        name = f"sub-{participant}"
        if participant not in present:
            rows.append(Skipped(participant, None, f"{name} {missing}", _LABEL_HINT))
            continue
        for session in sessions:
            if visit_key(participant, session) in left_out:
                rows.append(_ignored_row(participant, session))
            elif (participant, session) not in selected:
                reason = f"{name} has no ses-{session}"
                rows.append(Skipped(participant, session, reason, _LABEL_HINT))
        ignored = any(visit == name or visit.startswith(f"{name}_") for visit in left_out)
        if not sessions and participant not in with_visits and ignored:
            rows.append(_ignored_row(participant))
    found_sessions = {session for _, session in selected}
    notes = [
        f"ses-{session} {missing}"
        for session in sessions
        if session not in found_sessions and not participants
    ]
    return tuple(rows), tuple(notes)


def _ignored_row(participant: str, session: str | None = None) -> Skipped:
    reason = f"{visit_key(participant, session)} is excluded by {FILE}"
    return Skipped(participant, session, reason, f"remove it from {FILE}, or do not select it")


_LABEL_HINT = "check the spelling of the label, including zeros"


def _nothing_selected(
    bids_dir: Path,
    present: Sequence[str],
    participants: Sequence[str],
    sessions: Sequence[str],
    inside: Sequence[AnatFolder],
    left_out: Sequence[str],
) -> NothingSelectedError:
    labels = [*(f"sub-{label}" for label in participants), *(f"ses-{label}" for label in sessions)]
    criteria = " ".join(labels) or ("the filter file" if present else "sub-*")
    available_participants = listing([f"sub-{label}" for label in present]) or "no sub-* folder"
    available_sessions = dict.fromkeys(
        f"ses-{folder.session}" for folder in inside if folder.session
    )
    hints = [
        f"BIDS_DIR holds {available_participants}"
        + (f", with {listing(list(available_sessions))}" if available_sessions else "")
    ]
    hints += [f"{FILE} excludes {listing(left_out)}"] if left_out else []
    below = _dataset_below(bids_dir)
    hints.append(_LABEL_HINT if below is None else _below_hint(below))
    return NothingSelectedError(
        f"no visit in {bids_dir} matches {criteria}", hint="; ".join(hints)
    )


def _dataset_below(folder: Path) -> Path | None:
    """Find the raw data of a study dataset without participants in its top folder."""
    if list_participants(folder):
        return None
    tops = [folder / "rawdata", *_folders(folder), *_folders(folder / "sourcedata")]
    return next((top for top in tops if any(map(Path.is_dir, top.glob("sub-*")))), None)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir() or not may_read(folder):
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith((".", "sub-")) and path.name not in _NO_DATASETS
    )


def _below_hint(below: Path) -> str:
    return f"use {below} as BIDS_DIR: it holds the participants"


def _no_visit(skipped: Sequence[Skipped], images: DatasetImages, *, with_masks: bool) -> Exception:
    reasons = listing([f"{visit.key}: {visit.reason}" for visit in skipped], "; ")
    hints = list(dict.fromkeys(visit.hint for visit in skipped if visit.hint))
    hint = listing(hints[:3], "; ") or "add FLAIR images"
    if images.filtered_out and not images.chosen["FLAIR"]:
        return NothingSelectedError(f"the filter file excludes every FLAIR ({reasons})", hint=hint)
    needed = "FLAIR and lesion mask" if with_masks else "FLAIR"
    return NoInputError(f"no visit has a usable {needed} ({reasons})", hint=hint)


def _ignored_notes(bids_dir: Path) -> tuple[str, ...]:
    """Return a note on folders that are ignored because of their names."""
    folders = [path.name for path in bids_dir.glob("sub-*") if path.is_dir()]
    invalid = sorted(name for name in folders if not re.fullmatch(f"sub-{LABEL}", name))
    note = f"ignored, because labels may hold letters and digits only: {listing(invalid)}"
    return (note,) if invalid else ()


def _version_notes(description: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note if the dataset does not follow BIDS 1.x; it is read anyway."""
    version = description.get("BIDSVersion")
    if isinstance(version, str) and re.fullmatch(r"1\.\d+(\.\d+)?(-\w+)?", version):
        return ()
    reported = "has no BIDSVersion" if version is None else f"has BIDSVersion {version!r}"
    return (f"dataset_description.json {reported}: the dataset is read as BIDS {BIDS_VERSION}",)


def _read_description(bids_dir: Path) -> dict[str, Any]:
    path = bids_dir / "dataset_description.json"
    hint = "use the top folder of a BIDS dataset, or add --skip-bids-validation"
    if not bids_dir.is_dir():
        raise InvalidDatasetError(f"{bids_dir} is not a folder", hint="check the path")
    try:
        content = json.loads(read_small(path).decode("utf-8-sig"))
    except FileNotFoundError as error:
        problem = "is a broken link" if path.is_symlink() else "is missing"
        below = _dataset_below(bids_dir)
        hint = hint if below is None else _below_hint(below)
        raise InvalidDatasetError(f"{path} {problem}", hint=hint) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidDatasetError(f"{path} is not readable JSON: {error}", hint=hint) from error
    if not isinstance(content, dict):
        raise InvalidDatasetError(f"{path} does not hold a JSON object", hint=hint)
    return content
