"""Comparison of two visits of a participant by the real workflow."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.bids.changes import (
    BRAIN_CHANGES,
    PairResult,
    VisitPair,
    failed_summary,
    pair_files,
    pair_summary,
)
from bids_msseg.bids.derivatives import OUTPUTS, preprocessed
from bids_msseg.bids.files import write_tsv
from bids_msseg.bids.paths import changes_path, records_dir
from bids_msseg.bids.record import (
    VisitRecord,
    read_record,
    read_records,
    recorded_visit,
    write_record,
)
from bids_msseg.bids.record_values import ContrastUse
from bids_msseg.imaging.registration.itk import read_itk_affine
from bids_msseg.imaging.registration.visit_alignment import Alignment
from bids_msseg.imaging.volume import Volume, save_volume
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.load import rows_to_table
from bids_msseg.lesions.load_table import lesion_table
from bids_msseg.lesions.longitudinal.rows import Code
from bids_msseg.nodes.changes import PairContext
from bids_msseg.reports.group.table import group_rows
from bids_msseg.reports.participant import write_participant_page
from bids_msseg.workflow import changes as changes_module
from bids_msseg.workflow.changes import ChangeOutcome, compare_participants
from bids_msseg.workflow.execution import Execution
from bids_msseg.workflow.outcome import Failure

FRESH = ((-22, 20, 14), (5, 5, 5))
SHIFT = np.array([4.0, -3.0, 6.0])


def record_of(session: str, **more: Any) -> VisitRecord:
    content: dict[str, Any] = {
        "contrasts": {"FLAIR": ContrastUse(f"f{session}.nii.gz", (2.0, 2.0, 4.0))},
        "options": {"threshold": 0.5},
        "fingerprint": f"fingerprint {session}",
        "lesion_load_ml": 1.0,
    }
    return VisitRecord("01", session, f"sub-01_ses-{session}", "ok", **{**content, **more})


def write_visit(out: Path, record: VisitRecord, phantom: Any, *, fresh: bool, seed: int) -> None:
    """Write the images and the table of a finished visit."""
    lesions = phantom.lesions
    flair = phantom.image("FLAIR", seed)
    if fresh:
        there = phantom.inside(*FRESH)
        flair = np.where(there, 230, flair).astype(np.float32)
        lesions = lesions | there
    labels = label_lesions(lesions, voxel_volume=16)
    images = (
        (preprocessed("FLAIR"), flair),
        (OUTPUTS["brain"], (flair > 0).astype(np.uint8)),
        (OUTPUTS["probseg"], np.where(lesions, 0.9, 0).astype(np.float32)),
        (OUTPUTS["labels"], labels.astype(np.int16)),
    )
    visit = recorded_visit(record)
    for output, data in images:
        path = output.path(out, visit, ".nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_volume(Volume(data, phantom.affine), path)
    rows = rows_to_table(lesion_table(labels, phantom.affine))
    table = OUTPUTS["lesion_stats"].path(out, visit, ".tsv")
    write_tsv(table, tuple(rows[0]), rows)
    write_record(out, record)


@dataclass(frozen=True)
class Compared:
    """Result of a comparison run."""

    execution: Execution
    outcomes: list[ChangeOutcome]

    @property
    def out(self) -> Path:
        return self.execution.out_dir

    def again(self) -> list[ChangeOutcome]:
        return compare_participants(["01", "02"], self.execution)

    def record(self, session: str) -> VisitRecord:
        record = read_record(self.out, "01", session)
        assert record
        return record


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, make_phantom: Callable[..., Any]
) -> Compared:
    """Compare three visits: the first, a failed one, and a moved one with one more lesion."""
    top = tmp_path_factory.mktemp("changes")
    out = top / "out"
    write_visit(out, record_of("1"), make_phantom("RAS", (2.0, 2.0, 4.0)), fresh=False, seed=1)
    write_record(out, VisitRecord("01", "2", "", "failed", reason="no brain"))
    moved = make_phantom("LPS", (2.0, 2.0, 4.0))
    moved_image = moved_phantom(moved)
    write_visit(out, record_of("3"), moved_image, fresh=True, seed=2)
    write_record(out, replace(record_of("1"), participant="02", session=None, prefix="sub-02"))
    execution = Execution(top / "work", out)
    return Compared(execution, compare_participants(["01", "02"], execution))


def moved_phantom(phantom: Any) -> Any:
    """Shift the affine of a phantom, as if the head had moved."""

    class Moved:
        shape, lesions, image, inside = (
            phantom.shape,
            phantom.lesions,
            phantom.image,
            phantom.inside,
        )
        affine = phantom.affine + np.pad(SHIFT[:, None], ((0, 1), (3, 0)))

    return Moved


def test_visit_is_compared_with_previous_finished_visit(compared: Compared) -> None:
    assert compared.outcomes == [ChangeOutcome("01", 1)]
    changes = compared.record("3").changes
    assert changes["compared_with"] == "1"
    counts = {name: changes[f"n_{name}"] for name in ("new", "enlarging", "shrinking", "resolved")}
    assert counts == {"new": 1, "enlarging": 0, "shrinking": 0, "resolved": 0}
    assert (changes["n_stable"], changes["lesions_at_both"]) == (3, 3)
    assert compared.record("1").changes == {}


def test_change_table_has_one_row_per_lesion(compared: Compared) -> None:
    path = changes_path(compared.out, "01", ".tsv")
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    dictionary = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert list(rows[0]) == list(dictionary)
    assert [row["change"] for row in rows] == ["new", *["stable"] * 3]
    new = rows[0]
    assert (new["session_before"], new["session_after"]) == ("ses-1", "ses-3")
    assert (new["lesions_before"], new["before_mm3"]) == ("n/a", "0")
    # FRESH is given in the world coordinates before the shift
    centre = [float(new[f"centroid_{axis}"]) for axis in "xyz"]
    assert centre == pytest.approx(np.array(FRESH[0]) + SHIFT, abs=1.5)
    assert float(compared.record("3").changes["new_ml"] or 0) == pytest.approx(
        float(new["after_mm3"]) / 1000, abs=1e-5
    )


def test_change_image_has_grid_of_later_flair(compared: Compared) -> None:
    files = pair_files(compared.out, "1", compared.record("3"))
    assert all(path.is_file() for path in files.all)
    codes: Any = nib.load(files.codes)
    visit = recorded_visit(compared.record("3"))
    labels: Any = nib.load(OUTPUTS["labels"].path(compared.out, visit, ".nii.gz"))
    assert np.array_equal(codes.affine, labels.affine)
    data, lesions = np.asarray(codes.dataobj), np.asarray(labels.dataobj)
    assert set(np.unique(data)) == {0, Code.STABLE, Code.NEW}
    assert np.array_equal(data > 0, lesions > 0)
    assert len(np.unique(lesions[data == Code.NEW])) == 1
    sidecar = json.loads(files.codes_sidecar.read_text("utf-8"))
    assert sidecar["SpatialReference"] == "bids:raw:f3.nii.gz"
    # keys must be unique without regard to case
    assert len({name.casefold() for name in sidecar}) == len(sidecar)
    columns = files.labels.read_text("utf-8").splitlines()[0].split("\t")
    assert columns == ["index", "name", "meaning"]
    assert "meaning" in sidecar


def test_pair_transform_contains_head_motion(compared: Compared) -> None:
    files = pair_files(compared.out, "1", compared.record("3"))
    expected = np.eye(4)
    expected[:3, 3] = -SHIFT
    assert np.allclose(read_itk_affine(files.transform), expected, atol=0.5)


def test_page_and_group_table_show_changes(
    compared: Compared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bids_msseg.reports.participant.read_scene", lambda *_: _no_scene())
    page = write_participant_page(compared.out, "01").read_text("utf-8")
    assert 'id="changes-3"' in page
    assert "From session 1 to session 3" in page
    assert page.count("data:image/png") >= 3
    rows = {row["session_id"]: row for row in group_rows([compared.record(s) for s in "123"])}
    assert (rows["ses-3"]["compared_with"], rows["ses-3"]["n_new"]) == ("ses-1", "1")
    assert rows["ses-1"]["n_new"] == "n/a"


def _no_scene() -> Any:
    from bids_msseg.reports.images.volumes import Scene

    return Scene()


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((0.85, 30.0, ()), (0.84, 31.5, ()), (-0.01, 1.5)),
        ((0.85, 30.0, ()), (0.84, 31.5, ("too large",)), (None, None)),
        ((0.85, 30.0, None), (0.84, 31.5, ()), (None, None)),
        ((math.nan, 30.0, ()), (0.84, 31.5, ()), (None, 1.5)),
    ],
)
def test_brain_changes_are_computed_only_if_both_are_plausible(
    before: Any, after: Any, expected: tuple[float | None, float | None], tmp_path: Path
) -> None:
    records = []
    for session, (fraction, ventricles, doubts) in (("1", before), ("2", after)):
        measures = {"brain_parenchymal_fraction": fraction, "ventricles_ml": ventricles}
        records.append(record_of(session, brain_measures=measures, anatomy_implausible=doubts))
    pair = VisitPair(*records)
    summary = pair_summary(pair, PairResult((), (), (), 0.1, 0.25, 0), "f")
    found = [summary[name] for name in BRAIN_CHANGES]
    assert found == [None if one is None else pytest.approx(one) for one in expected]
    later = replace(records[1], changes=summary)
    page = write_participant_page(tmp_path, "01", records=[records[0], later]).read_text("utf-8")
    assert ("parenchymal fraction changed by -0.0100" in page) == (None not in expected)
    (row,) = group_rows([later])
    assert row["ventricles_change_ml"] == ("n/a" if expected[1] is None else "1.5")


def test_finished_comparison_is_not_repeated(compared: Compared) -> None:
    path = changes_path(compared.out, "01", ".tsv")
    before = path.stat().st_mtime_ns
    assert compared.again() == []
    assert path.stat().st_mtime_ns == before


def test_failed_pair_has_reason_and_obsolete_pair_is_removed(compared: Compared) -> None:
    first, third = compared.record("1"), compared.record("3")
    probseg = OUTPUTS["probseg"].path(compared.out, recorded_visit(first), ".nii.gz")
    kept = probseg.read_bytes()
    probseg.unlink()
    write_record(compared.out, replace(third, fingerprint="other", changes={}))
    (outcome,) = compared.again()
    assert outcome.failure
    assert "is missing" in outcome.failure.message
    changes = compared.record("3").changes
    assert changes["failed"] == outcome.failure.message
    assert "could not be compared" in write_participant_page(compared.out, "01").read_text("utf-8")
    assert all("sub-01" in path.name for path in outcome.failure.crash_files)

    probseg.write_bytes(kept)
    write_record(compared.out, third)
    write_record(compared.out, replace(first, status="failed"))
    assert compared.again() == []
    assert not changes_path(compared.out, "01", ".tsv").exists()
    assert not any(path.exists() for path in pair_files(compared.out, "1", third).all)
    assert compared.record("3").changes == {}


def test_given_masks_are_compared_without_a_probability(
    tmp_path: Path, make_phantom: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    for session, fresh in (("1", False), ("2", True)):
        uri = f"bids:manual:sub-01/ses-{session}/anat/mask.nii.gz"
        record = record_of(session, lesion_mask=uri, options={})
        phantom = make_phantom("RAS", (2.0, 2.0, 4.0))
        write_visit(out, record, phantom, fresh=fresh, seed=int(session))
        OUTPUTS["probseg"].path(out, recorded_visit(record), ".nii.gz").unlink()
    outcomes = compare_participants(["01"], Execution(tmp_path / "work", out))
    assert outcomes == [ChangeOutcome("01", 1)]
    later = read_record(out, "01", "2")
    assert later
    assert (later.changes["n_new"], later.changes["n_stable"]) == (1, 3)
    assert "sources" not in str(later.changes["notes"])


def test_exclusion_masks_of_one_visit_only_give_caution() -> None:
    masks = ("bids:infarct:sub-01/anat/sub-01_mask.nii.gz",)
    plain, masked = (record_of("1", exclude_masks=one) for one in ((), masks))
    assert VisitPair(plain, record_of("2")).cautions() == ()
    assert VisitPair(masked, record_of("2", exclude_masks=masks)).cautions() == ()
    (caution,) = VisitPair(masked, record_of("2")).cautions()
    assert "exclusion masks" in caution


# Order of the visits


@pytest.fixture
def requested_pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str | None]]:
    """Record the pairs of sessions to compare, without running the comparison."""
    pairs: list[tuple[str | None, str | None]] = []

    def build(contexts: list[Any], **_: object) -> object:
        pairs.extend((one.pair.earlier.session, one.pair.later.session) for one in contexts)
        return object()

    def run(workflows: dict[str, object], _: Execution) -> dict[str, Failure]:
        return {key: Failure("not run", "run it", 1) for key in workflows}

    monkeypatch.setattr(changes_module, "init_changes_wf", build)
    monkeypatch.setattr(changes_module, "run_workflows", run)
    return pairs


def visits(top: Path, *sessions: str, dates: bool = True) -> Execution:
    """Write finished visits, their folders in the dataset, and the table of their dates."""
    rows = [f"ses-{one}\t19{number:02d}-05-01T12:00:00" for number, one in enumerate(sessions)]
    table = top / "raw/sub-01/sub-01_sessions.tsv"
    table.parent.mkdir(parents=True)
    if dates:
        table.write_text("\n".join(["session_id\tacq_time", *rows, ""]))
    for session in sessions:
        (table.parent / f"ses-{session}").mkdir()
        write_record(top / "out", record_of(session))
    return Execution(top / "work", top / "out")


@pytest.mark.parametrize(
    "sessions", [("predrug", "postdrug"), ("baseline", "12months"), ("scan2", "scan1", "scan10")]
)
def test_pairs_follow_dates_not_session_labels(
    requested_pairs: list[Any], sessions: tuple[str, ...], tmp_path: Path
) -> None:
    execution = visits(tmp_path, *sessions)
    compare_participants(["01"], execution, bids_dir=tmp_path / "raw")
    assert requested_pairs == list(pairwise(sessions))
    records = read_records(execution.out_dir)
    assert [record.session for record in records] == list(sessions)
    assert [record.visit_number for record in records] == list(range(1, len(sessions) + 1))
    source = "acq_time in sub-01_sessions.tsv"
    assert all(record.order_source.startswith(source) for record in records)
    rows = group_rows(records)
    assert [row["session_id"] for row in rows] == [f"ses-{one}" for one in sessions]
    assert [row["visit_number"] for row in rows] == [str(one.visit_number) for one in records]
    page = write_participant_page(execution.out_dir, "01").read_text("utf-8")
    assert f"Order of the visits: {', '.join(sessions)}" in page
    assert source in page


@pytest.mark.parametrize(
    "sessions", [("predrug", "postdrug"), ("baseline", "12months"), ("a", "b", "c")]
)
def test_visits_of_unknown_order_need_session_order_option(
    requested_pairs: list[Any],
    sessions: tuple[str, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    execution = visits(tmp_path, *sessions, dates=False)
    # result of an earlier version that relied on labels
    later = record_of(sessions[-1], changes={"compared_with": sessions[0], "n_new": 4})
    write_record(execution.out_dir, later)
    assert compare_participants(["01"], execution, bids_dir=tmp_path / "raw") == []
    assert requested_pairs == []
    records = read_records(execution.out_dir)
    assert [record.visit_number for record in records] == [None] * len(sessions)
    assert all(record.order_source.startswith("not known") for record in records)
    assert [record.changes for record in records] == [{}] * len(sessions)
    assert {row["compared_with"] for row in group_rows(records)} == {"n/a"}
    page = write_participant_page(execution.out_dir, "01").read_text("utf-8")
    assert "The order of these visits is not known" in page
    (logged,) = (one for one in caplog.records if "sub-01" in one.message)
    assert logged.levelname == "WARNING"
    assert "--session-order" in logged.message

    compare_participants(["01"], execution, session_order=sessions)
    assert requested_pairs == list(pairwise(sessions))
    assert {one.order_source for one in read_records(execution.out_dir)} == {"--session-order"}


def test_order_covers_only_finished_visits_and_is_written_once(
    requested_pairs: list[Any], tmp_path: Path
) -> None:
    execution = visits(tmp_path, "M6", "M12", "unplanned", dates=False)
    failed = VisitRecord("01", "unplanned", "", "failed", reason="no brain")
    write_record(execution.out_dir, failed)
    compare_participants(["01"], execution)
    assert requested_pairs == [("M6", "M12")]
    written = {path: path.stat().st_mtime_ns for path in execution.out_dir.rglob("*.json")}
    numbers = {one.session: one.visit_number for one in read_records(execution.out_dir)}
    assert numbers == {"M6": 1, "M12": 2, "unplanned": None}
    assert read_record(execution.out_dir, "01", "unplanned") == failed
    records = read_records(execution.out_dir, "01")
    changes_module._record_order(
        execution.out_dir, records, "01", changes_module._order(None, "01", records, ())
    )
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_label_order_does_not_depend_on_which_visits_are_finished(
    requested_pairs: list[Any], tmp_path: Path
) -> None:
    execution = visits(tmp_path, "T0", "T3", "T7", dates=False)
    write_record(execution.out_dir, VisitRecord("01", "T0", "", "failed", reason="no brain"))
    compare_participants(["01"], execution, bids_dir=tmp_path / "raw")
    assert requested_pairs == [("T3", "T7")]
    numbers = {one.session: one.visit_number for one in read_records(execution.out_dir)}
    assert numbers == {"T0": None, "T3": 1, "T7": 2}


@pytest.mark.parametrize("number", [1, 3, 30])
def test_record_folder_is_listed_once(
    requested_pairs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    people = [f"{label:02d}" for label in range(number)]
    for participant in people:
        for session in ("1", "2"):
            key = f"sub-{participant}_ses-{session}"
            write_record(
                tmp_path, replace(record_of(session), participant=participant, prefix=key)
            )
    listed: list[Path] = []
    glob = Path.glob
    monkeypatch.setattr(
        Path,
        "glob",
        lambda self, *given, **more: listed.append(self) or glob(self, *given, **more),
    )
    compare_participants(people, Execution(tmp_path / "work", tmp_path))
    assert listed == [records_dir(tmp_path)]
    assert requested_pairs == [("1", "2")] * number


@pytest.mark.parametrize(
    ("sessions", "gone"),
    [
        (("baseline", "2"), "1"),
        (("1", "12months"), "2"),
        (("M6", "M12"), "M0"),
        (("predrug", "postdrug", "followup"), "placebo"),
        (("2",), "1"),
    ],
)
def test_sessions_removed_from_dataset_are_not_compared(
    requested_pairs: list[Any], tmp_path: Path, sessions: tuple[str, ...], gone: str
) -> None:
    execution = visits(tmp_path, *sessions)
    # result of a run before the session was renamed or removed
    old = {"compared_with": sessions[0], "fingerprint": "f", "n_new": 4}
    write_record(execution.out_dir, record_of(gone, visit_number=2, changes=old))
    compare_participants(["01"], execution, bids_dir=tmp_path / "raw")
    assert requested_pairs == list(pairwise(sessions))
    records = {str(record.session): record for record in read_records(execution.out_dir)}
    numbers = [records[session].visit_number for session in sessions]
    assert numbers == ([1, 2, 3][: len(sessions)] if len(sessions) > 1 else [None])
    left = records[gone]
    assert (left.status, left.visit_number, left.order_source) == ("ok", None, "")
    assert left.changes == {}


# Visits that cannot be aligned

SHIFTED = np.eye(4)
SHIFTED[0, 3] = 70
REASONS = {
    "little information": Alignment(np.eye(4), 0.1, (), "little information"),
    "half a turn": Alignment(np.eye(4), 0.1, (), "half a turn"),
    # refused by the check of the brain overlap
    "different parts of the brain": Alignment(SHIFTED, 0.1),
}


@pytest.mark.parametrize(
    ("odd", "failed", "reason"),
    [
        ("1", ["2"], "little information"),
        ("2", ["2", "3"], "half a turn"),
        ("3", ["3"], "different parts of the brain"),
    ],
)
def test_pair_with_failed_alignment_does_not_affect_other_pairs(
    tmp_path: Path,
    make_phantom: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    odd: str,
    failed: list[str],
    reason: str,
) -> None:
    out = tmp_path / "out"
    for session in "123":
        phantom = make_phantom("RAS", (2.0, 2.0, 5.0 if session == odd else 4.0))
        write_visit(out, record_of(session), phantom, fresh=False, seed=int(session))

    def align(earlier: Volume, later: Volume, **_: Any) -> Alignment:
        thickest = max(earlier.spacing.max(), later.spacing.max())
        return REASONS[reason] if thickest > 4.5 else Alignment(np.eye(4), 0.1)

    monkeypatch.setattr("bids_msseg.nodes.changes.align_visits", align)
    monkeypatch.setattr("bids_msseg.reports.participant.read_scene", lambda *_: _no_scene())
    pairs = {later: pair_files(out, one, record_of(later)) for one, later in pairwise("123")}
    for path in (path for files in pairs.values() for path in files.all):
        # stale file of an earlier comparison
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"old")
    execution = Execution(tmp_path / "work", out)
    assert compare_participants(["01"], execution) == [ChangeOutcome("01", 2 - len(failed))]
    records = {str(record.session): record for record in read_records(out)}
    for later, files in pairs.items():
        changes = records[later].changes
        there = [path for path in files.all if path.is_file()]
        assert b"old" not in {path.read_bytes() for path in there}
        if later in failed:
            assert reason in str(changes["failed"])
            assert changes["hint"]
            assert there == list(files.figures[1:])
        else:
            assert "failed" not in changes
            assert (changes["n_new"], changes["n_resolved"]) == (0, 0)
            assert there == list(files.all)
    found = {row["session_id"]: row["compared_with"] for row in group_rows(records.values())}
    assert found == {
        "ses-1": "n/a",
        "ses-2": "n/a" if "2" in failed else "ses-1",
        "ses-3": "n/a" if "3" in failed else "ses-2",
    }
    warned = [
        one.message.split()[0]
        for one in caplog.records
        if (one.name, one.levelname) == ("bids_msseg", "WARNING")
    ]
    assert warned == [f"sub-01_ses-{one}" for one in failed]
    page = write_participant_page(out, "01").read_text("utf-8")
    assert page.count("These visits could not be compared") == len(failed)
    assert page.count("earlier visit, not aligned") >= len(failed)

    assert compare_participants(["01"], execution) == []
    picture = pairs[failed[0]].figures[1]
    picture.unlink()
    compare_participants(["01"], execution)
    assert picture.is_file()


def _no_change(_: PairContext) -> None:
    pass


def _remove_figure(context: PairContext) -> None:
    context.files.figures[2].unlink()


def _remove_table(context: PairContext) -> None:
    changes_path(context.out_dir, "01", ".tsv").unlink()


def _reprocess_earlier(context: PairContext) -> None:
    write_record(context.out_dir, record_of("1", fingerprint="other"))


def _reprocess_later(context: PairContext) -> None:
    write_record(context.out_dir, record_of("2", fingerprint="other"))


def _change_failure_reason(context: PairContext) -> None:
    changes = failed_summary(context.pair, "not enough memory", "give it more")
    write_record(context.out_dir, record_of("2", changes=changes))


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (_no_change, False),
        (_remove_figure, True),
        (_remove_table, True),
        (_reprocess_earlier, True),
        (_reprocess_later, True),
        (_change_failure_reason, True),
    ],
)
def test_failed_alignment_is_retried_only_after_a_change(
    requested_pairs: list[Any], tmp_path: Path, change: Callable[[PairContext], None], again: bool
) -> None:
    execution = visits(tmp_path, "1", "2")
    context = PairContext(execution.out_dir, VisitPair(record_of("1"), record_of("2")))
    changes = failed_summary(context.pair, "half a turn", "look", context.fingerprint)
    write_record(execution.out_dir, record_of("2", changes=changes))
    tables = [changes_path(execution.out_dir, "01", one) for one in (".tsv", ".json")]
    for path in (*tables, *context.files.figures[1:]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    change(context)
    compare_participants(["01"], execution)
    assert requested_pairs == [("1", "2")] * again
