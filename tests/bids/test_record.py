"""Records of visits survive the way through a file, and damage to it."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bids_msseg.bids.record import (
    ContrastUse,
    ModelUse,
    VisitRecord,
    read_record,
    read_records,
    write_record,
)

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
)


def test_round_trip(tmp_path: Path) -> None:
    path = write_record(tmp_path, FULL)
    assert path == tmp_path / "logs/visits/sub-01_ses-1.json"
    assert read_records(tmp_path) == (FULL,)
    assert read_record(tmp_path, "01", "1") == FULL
    assert read_record(tmp_path, "01", None) is None


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_visits_without_result(tmp_path: Path, status: Any) -> None:
    record = VisitRecord("07", None, "", status, reason="no FLAIR", cure="add one")
    write_record(tmp_path, record)
    assert read_records(tmp_path) == (record,)


@given(
    st.builds(
        VisitRecord,
        participant=st.text("abc01", min_size=1),
        session=st.none() | st.text("abc01", min_size=1),
        prefix=st.text(),
        status=st.sampled_from(["ok", "failed", "skipped"]),
        reason=st.text(),
        crash_files=st.lists(st.text()).map(tuple),
        options=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
        brain_volume_ml=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        lesion_count=st.none() | st.integers(0, 10**6),
        regions=st.dictionaries(
            st.text(), st.tuples(st.floats(0, 1e3), st.none() | st.integers(0, 99))
        ),
        timings_s=st.dictionaries(st.text(), st.floats(0, 1e6)),
    )
)
def test_any_record_survives_json(record: VisitRecord) -> None:
    assert VisitRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_not_a_number_becomes_missing(tmp_path: Path) -> None:
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
    assert math.isnan(read.contrasts["FLAIR"].spacing_mm[0])


def test_order(tmp_path: Path) -> None:
    for participant, session in (("10", None), ("2", "b"), ("2", "a"), ("2", None)):
        write_record(tmp_path, VisitRecord(participant, session, "", "ok"))
    assert [one.key for one in read_records(tmp_path)] == [
        *("sub-2", "sub-2_ses-a", "sub-2_ses-b", "sub-10"),
    ]


def test_record_of_another_version(tmp_path: Path) -> None:
    path = write_record(tmp_path, FULL)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "from_the_future": [1]}))
    assert read_records(tmp_path) == (FULL,)
    path.write_text('{"participant": "01", "status": "ok"}')
    assert read_records(tmp_path) == (VisitRecord("01", None, "", "ok"),)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"participant": "01"}',
        '{"participant": "01", "status": "fine"}',
        '{"participant": "01", "status": "ok", "lesion_load_ml": "much"}',
        '{"participant": "01", "status": "ok", "contrasts": {"FLAIR": {}}}',
        '{"participant": "01", "status": "ok", "regions": {"x": [1]}}',
        '{"participant": "01", "status": "ok", "lesion_count": Infinity}',
        '{"participant": "01", "status": "ok", "flags": "one"}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_damage_becomes_a_failed_record(tmp_path: Path, text: str) -> None:
    path = write_record(tmp_path, FULL)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    write_record(tmp_path, VisitRecord("02", None, "", "ok"))
    damaged, sound = read_records(tmp_path)
    assert (damaged.key, damaged.status) == ("sub-01_ses-1", "failed")
    assert "sub-01_ses-1.json cannot be read" in damaged.reason
    assert sound.status == "ok"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.data())
def test_any_wrong_value_is_a_failed_record_at_worst(tmp_path: Path, data: Any) -> None:
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


def test_nothing_there(tmp_path: Path) -> None:
    assert read_records(tmp_path) == ()


def test_ten_thousand_in_seconds(tmp_path: Path) -> None:
    write_record(tmp_path, FULL)
    folder = tmp_path / "logs/visits"
    text = (folder / "sub-01_ses-1.json").read_text()
    for number in range(2000):
        (folder / f"sub-{number}.json").write_text(text)
    start = time.process_time()
    records = read_records(tmp_path)
    assert len(records) == 2001
    assert time.process_time() - start < 2, "10,000 would take more than ten seconds"
