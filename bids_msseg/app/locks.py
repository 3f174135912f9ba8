"""Locks on visits, and removal of the files that killed runs left."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.bids.paths import (
    figure_path,
    intermediate_dir,
    lesion_roi_path,
    logs_dir,
    output_path,
    records_dir,
)
from bids_msseg.config import RunConfig
from bids_msseg.io.atomic import remove_leftovers
from bids_msseg.workflow.locks import VisitLocks

if TYPE_CHECKING:
    from bids_msseg.nodes.delivery import DerivativesContext
    from bids_msseg.workflow.execution import Execution
    from bids_msseg.workflow.outcome import Outcome

LOGGER = logging.getLogger("bids_msseg")


def open_locks(config: RunConfig) -> VisitLocks:
    """Open the locks in the logs of OUT and in the work folder."""
    folders = (logs_dir(config.output_dir), config.work_dir)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return VisitLocks(folders)


def lock_all(locks: VisitLocks, participant: str, visits: Sequence[str]) -> bool:
    """Lock all visits of a participant, or none; return whether they are locked.

    Runs compare the visits of a participant in turn, so that the last run has all visits.
    """
    locks.acquire(f"changes of {participant}", wait=True)
    acquired: list[str] = []
    for visit in visits:
        if not locks.acquire(visit):
            for name in (*acquired, f"changes of {participant}"):
                locks.release(name)
            return False
        acquired.append(visit)
    return True


def locked_by_other_runs(deliveries: Iterable[DerivativesContext]) -> Iterator[Outcome]:
    """Log visits that another run is processing, and yield an outcome for each."""
    from bids_msseg.workflow.outcome import Outcome

    for delivery in deliveries:
        LOGGER.warning(
            "%s is not run: another run is processing it\n"
            "  hint: wait for that run to finish the visit",
            delivery.visit.key,
        )
        yield Outcome(delivery, ok=False, seconds=0.0, stopped=True)


def remove_partial_files(out_dir: Path, deliveries: Sequence[DerivativesContext]) -> None:
    """Remove partial files of killed runs from the folders that this run writes to."""
    folders = [out_dir, logs_dir(out_dir), records_dir(out_dir), intermediate_dir(out_dir)]
    for delivery in deliveries:
        image = output_path(
            out_dir, delivery.visit, desc="brain", suffix="mask", extension=".nii.gz"
        )
        folders += [
            image.parent,
            figure_path(out_dir, delivery.visit, "x", extension=".png").parent,
        ]
        roi = lesion_roi_path(out_dir, delivery.visit)
        folders += [] if roi is None else [roi.parent]
    for folder in dict.fromkeys(folders):
        for name in remove_leftovers(folder):
            LOGGER.debug("removed %s, left by a killed run", folder / name)


def remove_work_folders(execution: Execution, todo: Sequence[DerivativesContext]) -> None:
    """Remove the work folders that earlier runs left for these visits.

    Folders of other visits are kept, because other jobs may use them.
    """
    from bids_msseg.workflow.execution import visit_folder

    for delivery in todo:
        for variant in (delivery, replace(delivery, intermediate=None)):
            shutil.rmtree(visit_folder(execution, variant), ignore_errors=True)
