"""Results in OUT of visits whose folder is no longer in the dataset."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from bids_msseg.app.selection import remove_files
from bids_msseg.bids.dataset import is_other_dataset
from bids_msseg.bids.paths import (
    ROI_FOLDER,
    changes_path,
    existing_outputs,
    intermediate_path,
    participant_dir,
    record_path,
    records_dir,
    report_path,
    visit_dir,
)
from bids_msseg.bids.visit import LABEL, Visit, visit_order
from bids_msseg.config import RunConfig
from bids_msseg.errors import MssegError
from bids_msseg.reports.tables import read_tsv
from bids_msseg.reports.text import listed
from bids_msseg.workflow.locks import VisitLocks

LOGGER = logging.getLogger("bids_msseg")
_RECORD: Final = re.compile(rf"sub-({LABEL})(?:_ses-({LABEL}))?\.json")


def find_absent_visits(config: RunConfig) -> tuple[Visit, ...]:
    """List the visits of selected participants with a record in OUT that left the dataset."""
    # none for a dataset without participants, or with another name than that of OUT
    bids_dir, out_dir, query = config.bids_dir, config.output_dir, config.query
    selected, excluded = set(query.participant_label), set(query.exclude_participant_label)
    absent = tuple(
        visit
        for visit in _recorded_visits(out_dir)
        if visit.participant not in excluded
        and (not selected or visit.participant in selected)
        and _is_absent(bids_dir, visit)
    )
    if not absent or is_other_dataset(bids_dir, out_dir):
        return ()
    from bids_msseg.bids.index import list_participants

    return absent if list_participants(bids_dir) else ()


def _recorded_visits(out_dir: Path) -> list[Visit]:
    """List the visits with a record in OUT, in natural order; they have no images."""
    matches = (_RECORD.fullmatch(path.name) for path in records_dir(out_dir).glob("sub-*.json"))
    visits = [Visit(match[1], match[2], Path()) for match in matches if match]
    return sorted(visits, key=lambda visit: visit_order(visit.participant, visit.session))


def _is_absent(bids_dir: Path, visit: Visit) -> bool:
    top = bids_dir / f"sub-{visit.participant}"
    if os.path.lexists(top / (f"ses-{visit.session}" if visit.session else "anat")):
        return False
    if not os.path.lexists(top):
        return True
    from bids_msseg.bids.index import list_visits, may_read

    # a folder that is not mounted, closed or empty (not fetched) does not show its visits
    if not (may_read(top) and top.is_dir() and any(top.iterdir())):
        return False
    folders = list_visits(bids_dir, [visit.participant])
    return visit.session not in {folder.session for folder in folders}


def warn_of_absent(visits: Sequence[Visit]) -> None:
    """Warn of results of visits that are no longer in the dataset, if there are any."""
    if visits:
        LOGGER.warning(
            "results of visits that are no longer in the dataset are in the output folder: %s\n"
            "  hint: use --clean-outputs at the participant level to remove them, for a "
            "participant without a folder also --participant-label",
            listed([visit.key for visit in visits]),
        )


def is_removable(config: RunConfig, visit: Visit) -> bool:
    """Return whether results of an absent visit are removed on request."""
    # a job or a part of a cohort may show only some of the participants
    named = visit.participant in config.query.participant_label
    return config.execution.clean_outputs and (
        named or os.path.lexists(config.bids_dir / f"sub-{visit.participant}")
    )


def handle_absent(
    config: RunConfig, visits: Sequence[Visit], locks: VisitLocks
) -> dict[str, list[str]]:
    """Report or remove results of absent visits; return the other visits of participants."""
    # a long run may have passed since they were listed
    absent = [visit for visit in visits if _is_absent(config.bids_dir, visit)]
    warn_of_absent([visit for visit in absent if not is_removable(config, visit)])
    changed = {
        visit.participant
        for visit in absent
        if is_removable(config, visit) and _remove_visit(config.output_dir, visit, locks)
    }
    remaining: dict[str, list[str]] = {}
    for visit in _recorded_visits(config.output_dir):
        if visit.participant in changed:
            remaining.setdefault(visit.participant, []).append(visit.key)
    return remaining


def _remove_visit(out_dir: Path, visit: Visit, locks: VisitLocks) -> bool:
    """Remove the results of a visit, its record last, unless another run uses them."""
    if not (locks.acquire(f"changes of {visit.participant}") and locks.acquire(visit.key)):
        LOGGER.warning("%s: old results are kept: another run uses them", visit.key)
        return False
    others = (other for other in _recorded_visits(out_dir) if other.key != visit.key)
    is_last = all(other.participant != visit.participant for other in others)
    try:
        remove_files(existing_outputs(out_dir, visit))
        remove_files([intermediate_path(out_dir, visit.participant, visit.session)])
        remove_files(_outdated_files(out_dir, visit, is_last=is_last))
        remove_files([record_path(out_dir, visit.participant, visit.session)])
    except MssegError as error:
        LOGGER.warning("%s: old results are kept: %s", visit.key, error.message)
        return False
    _remove_empty_folders(out_dir, visit, is_last=is_last)
    LOGGER.info("%s: removed results of a visit that is no longer in the dataset", visit.key)
    return True


def _outdated_files(out_dir: Path, visit: Visit, *, is_last: bool) -> tuple[Path, ...]:
    """List the files of a participant that also describe a visit and are not written anew."""
    table = changes_path(out_dir, visit.participant, ".tsv")
    tables = (table, changes_path(out_dir, visit.participant, ".json"))
    if is_last:
        return (*tables, report_path(out_dir, visit.participant))
    columns = ("session_before", "session_after")
    sessions = {row.get(column) for row in read_tsv(table) for column in columns}
    return tables if f"ses-{visit.session}" in sessions else ()


def _remove_empty_folders(out_dir: Path, visit: Visit, *, is_last: bool) -> None:
    """Remove the empty folders of a visit, and of its participant after the last visit."""
    roots = (out_dir, out_dir / ROI_FOLDER)
    folders = [visit_dir(root, visit) / "anat" for root in roots]
    folders += [visit_dir(root, visit) for root in roots if visit.session]
    if is_last:
        folders.append(participant_dir(out_dir, visit.participant) / "figures")
        folders += [participant_dir(root, visit.participant) for root in roots]
        folders.append(out_dir / ROI_FOLDER)
    for folder in folders:
        with suppress(OSError):  # not empty, or never made
            folder.rmdir()
