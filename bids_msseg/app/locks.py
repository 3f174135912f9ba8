"""Locks on visits, and removal of stale files of killed runs."""

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
from bids_msseg.io.atomic import remove_stale_files
from bids_msseg.workflow.locks import VisitLocks

if TYPE_CHECKING:
    from bids_msseg.nodes.context import DerivativesContext
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
    """Lock all visits of a participant, or none; return whether they are locked."""
    locks.acquire(f"changes of {participant}", wait=True)
    acquired: list[str] = []
    for visit in visits:
        if not locks.acquire(visit):
            for name in (*acquired, f"changes of {participant}"):
                locks.release(name)
            return False
        acquired.append(visit)
    return True


def locked_by_other_runs(contexts: Iterable[DerivativesContext]) -> Iterator[Outcome]:
    """Log visits that another run is processing, and yield an outcome for each."""
    from bids_msseg.workflow.outcome import Outcome

    for context in contexts:
        LOGGER.warning(
            "%s is not run: another run is processing it\n"
            "  hint: wait for that run to finish the visit",
            context.visit.key,
        )
        yield Outcome(context, ok=False, seconds=0.0, stopped=True)


def remove_partial_files(out_dir: Path, contexts: Sequence[DerivativesContext]) -> None:
    """Remove partial files of killed runs from the folders that this run writes to."""
    folders = [out_dir, logs_dir(out_dir), records_dir(out_dir), intermediate_dir(out_dir)]
    for context in contexts:
        image = output_path(
            out_dir, context.visit, desc="brain", suffix="mask", extension=".nii.gz"
        )
        folders += [
            image.parent,
            figure_path(out_dir, context.visit, "x", extension=".png").parent,
        ]
        roi = lesion_roi_path(out_dir, context.visit)
        folders += [] if roi is None else [roi.parent]
    for folder in dict.fromkeys(folders):
        for name in remove_stale_files(folder):
            LOGGER.debug("removed %s, left by a killed run", folder / name)


def remove_work_folders(execution: Execution, todo: Sequence[DerivativesContext]) -> None:
    """Remove the work folders of these visits only, because other jobs may use the others."""
    from bids_msseg.workflow.execution import visit_folder

    for context in todo:
        for variant in (context, replace(context, intermediate=None)):
            shutil.rmtree(visit_folder(execution, variant), ignore_errors=True)
