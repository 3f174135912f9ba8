"""Writing and reading of visit records, including damaged files."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_msseg.bids import record as module
from bids_msseg.bids.record import (
    VisitRecord,
    read_record,
    read_records,
    read_records_of,
    write_record,
)
from bids_msseg.bids.record_values import ContrastUse, ModelUse, Scalar

FULL = VisitRecord(
    participant="01",
    session="1",
    prefix="sub-01_ses-1_acq-x",
    status="ok",
    crash_files=("logs/crash-1.txt",),
    contrasts={
        "FLAIR": ContrastUse("sub-01/ses-1/anat/sub-01_ses-1_acq-x_FLAIR.nii.gz", (0.5, 1.0, 3.0)),
        "T2w": ContrastUse("sub-01/ses-1/anat/sub-01_ses-1_T2w.nii.gz", (1, 1, 1), False, "no"),
    },
    model=ModelUse("cascade", "1.0", "ab" * 32),
    options={"threshold": 0.5, "fast": False, "device": "cpu", "mem": None},
    brain_volume_ml=1345.9,
    lesion_load_ml=4.25,
    lesion_count=12,
    candidate_count=30,
    rejected_count=18,
    regions={"periventricular": (3.0, 5), "infratentorial": (None, None)},
    flags=("thick slices",),
    notes=("two runs",),
    timings_s={"bias": 8.5},
    fingerprint="f00",
    versions={"torch": "2.13.0"},
    methods="Lesions were segmented …",
    visit_number=2,
    order_source="the session labels",
    figures=("lesions", "registrationT2w"),
    lesion_mask="bids:manual:sub-01/anat/sub-01_label-L_mask.nii.gz",
    exclude_masks=("bids:infarct:sub-01/anat/sub-01_desc-infarct_mask.nii.gz",),
    excluded_ml=0.25,
    brain_measures={"ventricles_ml": 31.5, "brain_parenchymal_fraction": 0.81},
    anatomy_implausible=("brainstem_ml 2 is not within 12-60",),
)


def test_full_record_round_trips_through_file(tmp_path: Path) -> None:
    path = write_record(tmp_path, FULL)
    assert path == tmp_path / "logs/visits/sub-01_ses-1.json"
    assert read_records(tmp_path) == (FULL,)
    assert read_record(tmp_path, "01", "1") == FULL
    assert read_record(tmp_path, "01", None) is None


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_record_without_result_round_trips_through_file(tmp_path: Path, status: Any) -> None:
    record = VisitRecord("07", None, "", status, reason="no FLAIR", hint="add one")
    write_record(tmp_path, record)
    assert read_records(tmp_path) == (record,)


@given(
    st.builds(
        VisitRecord,
        participant=st.just("a0"),
        session=st.none() | st.just("b1"),
        prefix=st.just(""),
        status=st.sampled_from(["ok", "failed", "skipped"]),
        reason=st.text(),
        crash_files=st.lists(st.text()).map(tuple),
        options=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
        brain_volume_ml=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
        lesion_count=st.none() | st.integers(0, 10**6),
        regions=st.dictionaries(
            st.text(), st.tuples(st.floats(0, 1e3), st.none() | st.integers(0, 99))
        ),
        timings_s=st.dictionaries(st.text(), st.floats(0, 1e6)),
    )
)
def test_any_record_round_trips_through_json(record: VisitRecord) -> None:
    assert VisitRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_nan_is_read_as_missing(tmp_path: Path) -> None:
    spacing = (math.nan, 1.0, 1.0)
    record = replace(
        FULL,
        lesion_load_ml=math.nan,
        timings_s={"bias": math.nan},
        contrasts={"FLAIR": ContrastUse("x", spacing)},
    )
    write_record(tmp_path, record)
    (read,) = read_records(tmp_path)
    assert read.status == "ok"
    assert read.lesion_load_ml is None
    assert read.timings_s == {}
    assert math.isnan(read.contrasts["FLAIR"].spacing_mm[0])


def test_integral_float_is_read_as_count(tmp_path: Path) -> None:
    path = write_record(tmp_path, FULL)
    path.write_text(json.dumps({**FULL.to_dict(), "lesion_count": 12.0}))
    (record,) = read_records(tmp_path)
    assert record == FULL


def test_records_are_in_natural_order(tmp_path: Path) -> None:
    for participant, session in (("10", None), ("2", "b"), ("2", "a"), ("2", None)):
        write_record(tmp_path, VisitRecord(participant, session, "", "ok"))
    assert [one.key for one in read_records(tmp_path)] == [
        *("sub-2", "sub-2_ses-a", "sub-2_ses-b", "sub-10"),
    ]


@pytest.mark.parametrize(
    ("numbers", "order"),
    [
        ({"post": 2, "pre": 1}, ["pre", "post"]),
        ({"12months": 3, "6months": 2, "baseline": 1}, ["baseline", "6months", "12months"]),
        ({"1": 1, "2": None, "10": 2}, ["1", "2", "10"]),
        ({"a": None, "b": 2, "c": 1}, ["c", "b", "a"]),
        ({"a": None, "b": None}, ["a", "b"]),
    ],
)
def test_records_of_participant_follow_visit_numbers(
    tmp_path: Path, numbers: dict[str, int | None], order: list[str]
) -> None:
    for session, number in numbers.items():
        write_record(tmp_path, VisitRecord("01", session, "", "ok", visit_number=number))
    write_record(tmp_path, VisitRecord("02", "a", "", "ok"))
    assert [one.session for one in read_records(tmp_path)] == [*order, "a"]


def test_record_of_another_version_is_read(tmp_path: Path) -> None:
    path = write_record(tmp_path, FULL)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "from_the_future": [1]}))
    assert read_records(tmp_path) == (FULL,)
    path.unlink()
    # with the byte order mark that Windows Notepad writes
    path.with_name("sub-01.json").write_bytes(b'\xef\xbb\xbf{"participant": "01", "status": "ok"}')
    assert read_records(tmp_path) == (VisitRecord("01", None, "", "ok"),)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"participant": "01"}', "[" * 100_000, "\udcff"]
)
def test_damaged_file_gives_failed_record(tmp_path: Path, text: str) -> None:
    path = write_record(tmp_path, FULL)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    write_record(tmp_path, VisitRecord("02", None, "", "ok"))
    damaged, sound = read_records(tmp_path)
    assert (damaged.key, damaged.status) == ("sub-01_ses-1", "failed")
    assert "sub-01_ses-1.json cannot be read" in damaged.reason
    assert sound.status == "ok"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_random_value_in_any_field_gives_valid_status(tmp_path: Path, data: Any) -> None:
    content = FULL.to_dict()
    name = data.draw(st.sampled_from(sorted(content)))
    content[name] = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        )
    )
    path = write_record(tmp_path, FULL)
    path.write_text(json.dumps(content))
    (record,) = read_records(tmp_path)
    assert record.status in ("ok", "failed", "skipped")


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("status", "fine", "status: .*'fine'"),
        ("status", None, "status: .*None"),
        ("participant", "", "participant: "),
        ("participant", "../01", "participant: "),
        ("participant", "9" * 5000, "prefix: .* …"),
        ("participant", "02", "'sub-01_ses-1_acq-x' does not name a file of sub-02_ses-1"),
        ("session", "", "session: "),
        ("session", None, "it describes sub-01"),
        ("prefix", "sub-01_ses-1_acq-", "does not name a file of sub-01_ses-1"),
        ("prefix", "sub-02_ses-1", "does not name a file of sub-01_ses-1"),
        ("prefix", "sub-01_ses-1/../x", "does not name a file of sub-01_ses-1"),
        ("reason", "\ud800", "hex escape"),
        ("flags", ["\ud800"], "hex escape"),
        ("flags", "one", "flags: .*'one'"),
        ("options", {"threshold": "\ud800"}, "hex escape"),
        ("contrasts", {"FLAIR": {}}, "contrasts.FLAIR.file: "),
        ("lesion_load_ml", "much", "lesion_load_ml: .*'much'"),
        ("lesion_load_ml", -5, "lesion_load_ml: .*-5"),
        ("lesion_load_ml", math.inf, "lesion_load_ml: .*inf"),
        ("lesion_load_ml", 10**400, "lesion_load_ml: "),
        ("lesion_count", math.inf, "lesion_count: .*inf"),
        ("lesion_count", -1, "lesion_count: .*-1"),
        ("regions", {"x": [1]}, "regions.x.1: "),
        ("regions", {"x": [-1, 1]}, "regions.x.0: .*-1"),
        ("timings_s", {"bias": math.inf}, "timings_s.bias: .*inf"),
        ("visit_number", "first", "visit_number: .*'first'"),
        ("visit_number", -1, "visit_number: .*-1"),
        ("order_source", None, "order_source: .*None"),
        ("figures", "lesions", "figures: .*'lesions'"),
        ("figures", ["a_b"], "figures.0: .*'a_b'"),
        ("figures", ["../x"], "figures.0: "),
        ("brain_measures", {"ventricles_ml": "wide"}, "brain_measures.ventricles_ml: .*'wide'"),
        ("anatomy_implausible", "one", "anatomy_implausible: .*'one'"),
        ("changes", {"n_new": "many"}, "changes.n_new: .*'many'"),
        ("changes", {"new_ml": math.nan}, "changes.new_ml: .*nan"),
        (
            "changes",
            {"brain_parenchymal_fraction_change": "less"},
            "changes.brain_parenchymal_fraction_change: .*'less'",
        ),
        ("changes", {"compared_with": "a/b"}, "changes.compared_with: .*'a/b'"),
        ("changes", {"notes": 1}, "changes.notes: .*1"),
    ],
)
def test_error_states_field_of_invalid_value(
    tmp_path: Path, field: str, value: Any, why: str
) -> None:
    path = write_record(tmp_path, FULL)
    path.write_text(json.dumps({**FULL.to_dict(), field: value}))
    (read,) = read_records(tmp_path)
    assert (read.key, read.status, read.lesion_load_ml) == ("sub-01_ses-1", "failed", None)
    assert re.search(why, read.reason), read.reason
    assert len(read.reason.encode()) < 400


def test_changes_round_trip_through_file(tmp_path: Path) -> None:
    changes: dict[str, Scalar] = {
        **{"compared_with": "1", "fingerprint": "f", "n_new": 2, "new_ml": 0.5, "notes": ""},
        **{"border_sd_mm": None, "failed": None, "from_the_future": "x"},
    }
    write_record(tmp_path, replace(FULL, changes=changes))
    (read,) = read_records(tmp_path)
    assert read.changes == changes


@pytest.mark.parametrize(
    "wanted", [(), ("1",), ("01", "10"), ("1", "01", "10", "1a"), ("1", "99"), ("1", "1")]
)
def test_read_records_of_reads_only_selected_participants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...]
) -> None:
    for label in ("1", "01", "10", "1a"):
        write_record(tmp_path, VisitRecord(label, None, "", "skipped"))
        for number, session in enumerate(("post", "pre"), start=1):
            visit = f"sub-{label}_ses-{session}"
            write_record(
                tmp_path, VisitRecord(label, session, visit, "ok", visit_number=3 - number)
            )
    expected = {one: read_records(tmp_path, one) for one in wanted if one != "99"}
    opened: list[str] = []
    read = module._read
    monkeypatch.setattr(module, "_read", lambda path: opened.append(path.stem) or read(path))
    assert read_records_of(tmp_path, wanted) == expected
    assert len(opened) == 3 * len(expected)


def test_copied_record_under_wrong_name_is_failed(tmp_path: Path) -> None:
    path = write_record(tmp_path, FULL)
    for name in ("sub-09", "sub-01_ses-1 copy", "sub-01_ses-1_acq-x"):
        path.with_name(f"{name}.json").write_bytes(path.read_bytes())
    by_reason = {one.reason: (one.key, one.status) for one in read_records(tmp_path)}
    assert by_reason == {
        "": ("sub-01_ses-1", "ok"),
        **{
            f"the record {name}.json cannot be read: it describes sub-01_ses-1": (key, "failed")
            for name, key in (
                ("sub-01_ses-1 copy", "sub-01_ses-1"),
                ("sub-01_ses-1_acq-x", "sub-01_ses-1"),
                ("sub-09", "sub-09"),
            )
        },
    }


def test_special_files_are_failed_records_and_do_not_block(tmp_path: Path) -> None:
    folder = write_record(tmp_path, FULL).parent
    os.mkfifo(folder / "sub-44.json")
    (folder / "sub-45.json").mkdir()
    (folder / "sub-46.json").symlink_to("/dev/zero")
    (folder / "sub-47.json").symlink_to("gone")
    reasons = {
        one.key: one.reason.partition(" cannot be read: ")[2] for one in read_records(tmp_path)
    }
    assert reasons == {
        "sub-01_ses-1": "",
        "sub-44": "Not a regular file",
        "sub-45": "Is a directory",
        "sub-46": "Not a regular file",
        "sub-47": "No such file or directory",
    }


def test_record_with_undecodable_file_name_is_failed(tmp_path: Path) -> None:
    folder = write_record(tmp_path, FULL).parent
    (folder / "sub-\udcff.json").write_text("{}")
    (_, odd) = sorted(read_records(tmp_path), key=lambda one: one.status == "failed")
    assert (odd.participant, odd.status) == ("?", "failed")
    assert odd.reason.startswith("the record sub-?.json cannot be read")


def test_missing_folder_gives_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path) == ()


def test_two_thousand_records_are_read(tmp_path: Path) -> None:
    write_record(tmp_path, FULL)
    folder = tmp_path / "logs/visits"
    text = (folder / "sub-01_ses-1.json").read_text()
    text = text.replace('"session": "1"', '"session": null').replace("01_ses-1", "NUMBER")
    text = text.replace('"participant": "01"', '"participant": "NUMBER"')
    for number in range(2000):
        (folder / f"sub-{number}.json").write_text(text.replace("NUMBER", str(number)))
    records = read_records(tmp_path)
    assert [one.status for one in records] == ["ok"] * 2001
