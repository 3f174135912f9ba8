"""Table of the resource usage of steps, for jobs that share one OUT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

from bids_msseg.bids.files import write_tsv
from bids_msseg.reports.tables import read_tsv
from bids_msseg.workflow.execution import Usage
from bids_msseg.workflow.locks import VisitLocks


def add_usage(path: Path, usage: Iterable[Usage], locks: VisitLocks) -> None:
    """Add or replace the usage of steps in a table that other runs may change, with a lock."""
    locks.acquire(path.name, wait=True)
    try:
        rows = {(row.get("visit"), row.get("step")): row for row in read_tsv(path)}
        rows |= {(step_usage.visit, step_usage.step): asdict(step_usage) for step_usage in usage}
        write_tsv(path, [field.name for field in fields(Usage)], rows.values())
    finally:
        locks.release(path.name)
