"""Selection of visits, resuming, and results of a check; no image is read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.paths import check_record_path
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.bids.visit import Selection, Visit
from bids_msseg.check import run
from bids_msseg.check.files import Stored, write_stored
from bids_msseg.check.jobs import Job, Plan, do_visit, is_finished
from bids_msseg.check.run import check_dataset, choose_visits, expected_seconds
from bids_msseg.config import RunConfig
from bids_msseg.errors import CannotCreateError, DataError, ExitCode, NoInputError, TemporaryError
from bids_msseg.models.weights import CascadePoint, ModelHeader
from bids_msseg.resources import Resources
from bids_msseg.workflow.locks import VisitLocks

HEADER = ModelHeader("toy", "1", {}, CascadePoint(threshold=0.3), {}, "0" * 64)
PLAN = Plan(draws=1, max_visits=5)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    (tmp_path / "raw").mkdir()
    (tmp_path / "out" / ".work").mkdir(parents=True)
    options = {"bids_dir": tmp_path / "raw", "output_dir": tmp_path / "out", "nprocs": 1}
    return RunConfig.from_options({**options, "omp_nthreads": 1, "levels": ["participant"]})


@pytest.fixture
def check(
    monkeypatch: pytest.MonkeyPatch,
    config: RunConfig,
    make_check: Callable[..., Any],
    tmp_path: Path,
) -> Callable[..., tuple[ExitCode, list[str]]]:
    """Check three visits with a stub measurement; return the measured visits."""
    visits = [Visit(label, None, tmp_path / "raw" / f"{label}.nii.gz") for label in "123"]
    for visit in visits:
        visit.flair.write_text(visit.key)
    monkeypatch.setattr(run, "_check_needs", lambda _: True)
    monkeypatch.setattr(run, "read_model_header", lambda _: HEADER)
    monkeypatch.setattr(run, "find_model", lambda _: tmp_path / "toy.safetensors")

    def checked(
        plan: Plan = PLAN, *, errors: dict[str, Exception] | None = None, only: str = "123"
    ) -> tuple[ExitCode, list[str]]:
        measured: list[str] = []

        def do(job: Job) -> Exception | None:
            measured.append(job.visit.key)
            if job.visit.key in (errors or {}):
                return (errors or {})[job.visit.key]
            write_stored(
                job.out_dir,
                Stored(make_check(job.visit.participant), job.fingerprint, job.settings),
            )
            return None

        chosen = tuple(visit for visit in visits if visit.participant in only)
        monkeypatch.setattr(run, "do_visit", do)
        monkeypatch.setattr(run, "select_visits", lambda _: Selection(chosen, ()))
        return check_dataset(config, plan), measured

    return checked


def statuses(out: Path) -> dict[str, str]:
    return {row["participant_id"]: row["status"] for row in load_tsv(out / "check_visits.tsv")}


def test_check_writes_all_files_and_resumes(check: Callable[..., Any], config: RunConfig) -> None:
    out = config.output_dir
    assert check() == (ExitCode.SUCCESS, ["sub-1", "sub-2", "sub-3"])
    assert {"check.tsv", "check_visits.tsv", "check.json", "check.html"} <= {
        path.name for path in out.iterdir()
    }
    assert statuses(out) == dict.fromkeys(("sub-1", "sub-2", "sub-3"), "ok")
    assert json.loads((out / "dataset_description.json").read_text())["DatasetType"] == (
        "derivative"
    )
    assert "check*" in (out / ".bidsignore").read_text().split()
    before = check_record_path(out, "1", None).stat().st_mtime_ns
    assert check() == (ExitCode.SUCCESS, [])
    assert check_record_path(out, "1", None).stat().st_mtime_ns == before
    check_record_path(out, "2", None).unlink()
    assert check()[1] == ["sub-2"]
    # another image, another number of draws
    (config.bids_dir / "3.nii.gz").write_text("changed")
    assert check()[1] == ["sub-3"]
    assert check(Plan(draws=2, max_visits=5))[1] == ["sub-1", "sub-2", "sub-3"]


def test_checks_of_single_participants_are_combined(
    check: Callable[..., Any], config: RunConfig
) -> None:
    for label in "12":
        assert check(only=label)[1] == [f"sub-{label}"]
    assert set(statuses(config.output_dir)) == {"sub-1", "sub-2"}


def test_visits_checked_with_other_settings_are_excluded(
    check: Callable[..., Any], config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    check(Plan(draws=2, max_visits=5), only="1")
    with caplog.at_level(logging.WARNING, "bids_msseg"):
        check(only="2")
    assert "1 visit checked with other settings" in caplog.text
    assert set(statuses(config.output_dir)) == {"sub-2"}


@pytest.mark.parametrize(
    ("errors", "code"),
    [
        ({"sub-2": DataError("cut off", hint="fetch it")}, ExitCode.DATA_ERROR),
        (
            {
                "sub-2": DataError("cut off", hint="fetch it"),
                "sub-3": DataError("empty", hint="look at it"),
            },
            ExitCode.DATA_ERROR,
        ),
        (
            {
                "sub-2": DataError("cut off", hint="fetch it"),
                "sub-3": NoInputError("gone", hint="fetch it"),
            },
            ExitCode.FAILURE,
        ),
    ],
)
def test_a_visit_that_fails_does_not_stop_others(
    check: Callable[..., Any], config: RunConfig, errors: dict[str, Any], code: ExitCode
) -> None:
    found, measured = check(errors=errors)
    assert (found, len(measured)) == (code, 3)
    assert statuses(config.output_dir) == {
        f"sub-{label}": "failed" if f"sub-{label}" in errors else "ok" for label in "123"
    }
    # the visit is retried
    assert check() == (ExitCode.SUCCESS, sorted(errors))


def test_changed_visit_that_fails_is_listed_once(
    check: Callable[..., Any], config: RunConfig
) -> None:
    check()
    (config.bids_dir / "3.nii.gz").write_text("changed")
    assert check(errors={"sub-3": DataError("cut off", hint="fetch it")})[1] == ["sub-3"]
    table = (config.output_dir / "check_visits.tsv").read_text(encoding="utf-8")
    assert [line.split("\t")[0] for line in table.splitlines()[1:]] == ["sub-1", "sub-2", "sub-3"]
    assert statuses(config.output_dir)["sub-3"] == "failed"
    assert "sub-3" not in (config.output_dir / "check.tsv").read_text(encoding="utf-8")


def test_no_tables_are_written_if_all_visits_fail(
    check: Callable[..., Any], config: RunConfig
) -> None:
    errors = {f"sub-{label}": DataError("cut off", hint="fetch it") for label in "123"}
    assert check(errors=errors)[0] == ExitCode.DATA_ERROR
    assert not list(config.output_dir.glob("check*"))


def test_existing_dataset_description_is_kept(
    check: Callable[..., Any], config: RunConfig
) -> None:
    out = config.output_dir
    (out / "dataset_description.json").write_text("{}")
    (out / "README.md").write_text("Options of the latest run")
    (out / ".bidsignore").write_text("*.html\n")
    check()
    assert (out / "dataset_description.json").read_text() == "{}"
    assert (out / "README.md").read_text() == "Options of the latest run"
    assert "check*" in (out / ".bidsignore").read_text().split()


def test_visit_locked_by_another_run_is_skipped(
    check: Callable[..., Any], config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = VisitLocks.acquire
    monkeypatch.setattr(
        VisitLocks,
        "acquire",
        lambda self, name, wait=False: "sub-2" not in name and take(self, name, wait=wait),
    )
    assert check() == (ExitCode.TEMPORARY, ["sub-1", "sub-3"])
    assert set(statuses(config.output_dir)) == {"sub-1", "sub-3"}


def test_unwritable_output_raises_cannot_create_error(
    check: Callable[..., Any], config: RunConfig
) -> None:
    (config.output_dir / "check.tsv").mkdir()
    with pytest.raises(CannotCreateError):
        check()


@pytest.mark.parametrize(
    ("timings", "message"),
    [({"segment": 10.0, "bias": 5.0}, "expected time 1 min 45 s"), ({}, "not known")],
)
def test_expected_time_is_logged_before_first_visit(
    check: Callable[..., Any],
    config: RunConfig,
    caplog: pytest.LogCaptureFixture,
    timings: dict[str, float],
    message: str,
) -> None:
    """Three visits, each 5 s and three runs of 10 s."""
    record = VisitRecord("9", None, "sub-9", "ok", timings_s=timings)
    write_record(config.output_dir, record)
    with caplog.at_level(logging.INFO, "bids_msseg"):
        check()
    lines = [one.getMessage() for one in caplog.records]
    (announced,) = [place for place, line in enumerate(lines) if message in line]
    assert "3 visits, 3 runs of the networks" in lines[announced]
    assert announced < min(place for place, line in enumerate(lines) if "[1/3]" in line)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], None),
        ([{"bias": 3.0}], None),
        ([{"segment": 10.0}], 70),
        ([{"segment": 10.0, "coregister_T1w": 4.0, "conform_FLAIR": 1.0, "draw": 9.0}], 75),
        ([{"segment": 10.0}, {"segment": 20.0}, {"segment": 90.0}], 140),
    ],
)
def test_expected_seconds(times: list[dict[str, float]], expected: float | None) -> None:
    records = [VisitRecord("1", None, "sub-1", "ok", timings_s=one) for one in times]
    failed = VisitRecord("2", None, "sub-2", "failed", timings_s={"segment": 1.0})
    assert expected_seconds([*records, failed], Plan(draws=3, max_visits=1).runs) == expected


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (1, ["sub-1_ses-a"]),
        (2, ["sub-1_ses-a", "sub-4"]),
        (3, ["sub-1_ses-a", "sub-3", "sub-4"]),
        (4, ["sub-1_ses-a", "sub-2", "sub-3", "sub-4"]),
        (5, ["sub-1_ses-a", "sub-1_ses-b", "sub-2", "sub-3", "sub-4"]),
        (9, ["sub-1_ses-a", "sub-1_ses-b", "sub-1_ses-c", "sub-2", "sub-3", "sub-4"]),
    ],
)
def test_visits_are_spread_over_participants(most: int, expected: list[str]) -> None:
    names = [("1", "a"), ("1", "b"), ("1", "c"), ("2", None), ("3", None), ("4", None)]
    visits = [Visit(participant, session, Path()) for participant, session in names]
    assert [one.key for one in choose_visits(visits, most)] == expected


@pytest.mark.parametrize(
    ("resources", "on_cpu", "expected"),
    [
        (Resources(2, 2, 64.0), True, (2, 1)),
        (Resources(8, 4, 64.0), True, (8, 1)),
        (Resources(8, 1, 64.0), True, (8, 1)),
        (Resources(8, 8, 8.0), True, (2, 4)),
        (Resources(8, 1, 8.0), True, (2, 1)),
        (Resources(2, 2, 2.0), True, (1, 2)),
        (Resources(8, 4, 64.0), False, (1, 4)),
    ],
)
def test_visits_at_a_time_and_threads_follow_resources(
    resources: Resources, on_cpu: bool, expected: tuple[int, int]
) -> None:
    assert run._divide_cpus(resources, on_cpu=on_cpu) == expected


def test_killed_worker_raises_temporary_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise BrokenProcessPool("gone")

    class Pool:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, *_: object) -> object:
            return object()

        def shutdown(self, **_: object) -> None:
            pass

    monkeypatch.setattr(run, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(run, "as_completed", killed)
    jobs: Any = ["job", "job"]
    with pytest.raises(TemporaryError):
        list(run._each(jobs, 2))


def test_unreadable_visit_is_returned_as_error(tmp_path: Path) -> None:
    visit = Visit("1", None, tmp_path / "nowhere.nii.gz")
    job = Job(visit, tmp_path, tmp_path / "m", "cpu", 1, None, 1, 0, "f", {})  # type: ignore[arg-type]
    error = do_visit(job)
    assert isinstance(error, NoInputError)
    assert not is_finished(job)
    assert list(tmp_path.iterdir()) == []
