"""The table of the resource monitor, which is shared by jobs with the same OUT."""

from __future__ import annotations

from multiprocessing import get_context
from pathlib import Path

from bids_msseg.reports.tables import read_tsv
from bids_msseg.workflow.execution import Usage, add_usage
from bids_msseg.workflow.locks import LOCK_FILE, VisitLocks

STEPS = ("brain", "stack")


def _add(folder: Path, job: str) -> None:
    for number in range(8):
        with VisitLocks([folder]) as locks:
            rows = [Usage(f"sub-{job}x{number}", step, 1.0, 2.0, 0.5) for step in STEPS]
            add_usage(folder / "resources.tsv", rows, locks)


def test_repeated_step_replaces_its_row_in_resource_table(tmp_path: Path) -> None:
    table = tmp_path / "resources.tsv"
    first = [Usage("sub-01", "brain", 4.5, 4.0, 1.25), Usage("sub-01", "stack", 1.0, 1.0, 0.5)]
    again = [Usage("sub-01", "stack", 3.0, 2.5, 0.75), Usage("sub-02", "brain", 5.0, 4.5, 1.0)]
    with VisitLocks([tmp_path]) as locks:
        add_usage(table, first, locks)
        add_usage(table, again, locks)
    assert table.read_text(encoding="utf-8") == (
        "visit\tstep\tseconds\tcpu_seconds\tmemory_gb\n"
        "sub-01\tbrain\t4.5\t4\t1.25\n"
        "sub-01\tstack\t3\t2.5\t0.75\n"
        "sub-02\tbrain\t5\t4.5\t1\n"
    )


def test_concurrent_jobs_keep_all_resource_table_rows(tmp_path: Path) -> None:
    # forked, since each would take seconds to import nipype
    jobs = [get_context("fork").Process(target=_add, args=(tmp_path, job)) for job in "abc"]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    rows = read_tsv(tmp_path / "resources.tsv")
    assert {(row["visit"], row["step"]) for row in rows} == {
        (f"sub-{job}x{number}", step) for job in "abc" for number in range(8) for step in STEPS
    }
    assert len(rows) == 48
    assert not (tmp_path / LOCK_FILE).exists()
