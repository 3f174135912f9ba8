"""Stored results of a checked visit, and the tables built from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.files import load_tsv, write_json
from bids_msseg.bids.paths import check_record_path
from bids_msseg.bids.visit import Visit
from bids_msseg.check import files
from bids_msseg.check.files import (
    FORMAT,
    Stored,
    read_all,
    read_reference,
    read_stored,
    visit_row,
    write_results,
    write_stored,
)
from bids_msseg.check.summary import LOWER, NEITHER, UNKNOWN, UPPER, VisitCheck
from bids_msseg.check.text import LESION_COLUMNS, VISIT_COLUMNS, notes

Make = Callable[..., VisitCheck]
SETTINGS = {"draws": 1, "seed": 0, "threshold": 0.4}


@pytest.mark.parametrize("session", [None, "1"])
def test_stored_visit_is_read_back_unchanged(
    tmp_path: Path, make_check: Make, session: str | None
) -> None:
    kept = Stored(make_check(session=session), "abc", SETTINGS)
    write_stored(tmp_path, kept)
    assert read_stored(check_record_path(tmp_path, "01", session)) == kept
    assert read_all(tmp_path) == [kept]


def test_undefined_dice_stays_undefined(tmp_path: Path, make_check: Make) -> None:
    rescans = ({"rescan": 1, "load_ml": 0.0, "dice": math.nan},)
    write_stored(tmp_path, Stored(replace(make_check(), rescans=rescans), "abc", SETTINGS))
    (kept,) = read_all(tmp_path)
    assert kept.visit.rescans[0]["dice"] is None
    assert math.isnan(visit_row(kept.visit)["rescan_dice"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": "bids_msseg-check-0"},
        {"format": None},
        {"visit": {}},
        {"visit": []},
        {"settings": None},
        {"lesions": [{"volume_mm3": 3}]},
        {"rescans": 4},
        {"load_ml": "much"},
        {"participant": "02"},
    ],
)
def test_invalid_or_mismatched_check_record_is_ignored(
    tmp_path: Path, make_check: Make, change: dict[str, Any]
) -> None:
    content = {"format": FORMAT, **asdict(Stored(make_check(), "abc", SETTINGS))}
    for name, value in change.items():
        part = content if name in content else content["visit"]
        part[name] = value
    path = check_record_path(tmp_path, "01", None)
    write_json(path, content)
    assert read_stored(path) is None
    assert read_all(tmp_path) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_damaged_check_record_is_ignored(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sub-01.json"
    path.write_text(text)
    assert read_stored(path) is None
    assert read_stored(tmp_path / "nowhere.json") is None


def test_visit_row_of_small_example(make_check: Make) -> None:
    """Loads 2, 2.5 and 3 mL: their SD is 0.5."""
    row = visit_row(make_check("07", 2.0, (2.5, 3.0), session="b", flags=("one", "two")))
    assert set(row) | {"reason"} == set(VISIT_COLUMNS)
    expected = {
        "participant_id": "sub-07",
        "session_id": "ses-b",
        "status": "ok",
        "n_painted": 2,
        "n_found": 1,
        "draws": 1,
        "n_false": 1,
        "rescans": 2,
        "flags": "one; two",
        "t1w_lesion_contrast": -0.6,
        "flair_noise": 0.05,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["rescan_difference_ml"] == pytest.approx(0.75)
    assert row["load_sd_ml"] == pytest.approx(0.5)
    assert row["rescan_dice"] == pytest.approx(0.8)
    assert math.isnan(visit_row(make_check(rescans=()))["load_sd_ml"])


def test_write_results_writes_tables_and_summary(tmp_path: Path, make_check: Make) -> None:
    visits = [make_check("01"), make_check("02", session="1")]
    failures = [(Visit("03", None, Path()), "the FLAIR is cut off")]
    content = write_results(tmp_path, visits, failures, SETTINGS, None)
    lesions, rows = (load_tsv(tmp_path / name) for name in ("check.tsv", "check_visits.tsv"))
    assert [row["participant_id"] for row in lesions] == ["sub-01"] * 2 + ["sub-02"] * 2
    assert tuple(lesions[0]) == tuple(LESION_COLUMNS)
    assert [row["found"] for row in lesions] == ["false", "true"] * 2
    assert tuple(rows[0]) == tuple(VISIT_COLUMNS)
    assert [row["status"] for row in rows] == ["ok", "ok", "failed"]
    assert (rows[2]["reason"], rows[2]["n_painted"]) == ("the FLAIR is cut off", "n/a")
    stored = json.loads((tmp_path / "check.json").read_text())
    assert (stored["Visits"], stored["Settings"]) == (2, SETTINGS)
    assert set(stored) == set(content)
    for name, columns in {"check.tsv": lesions[0], "check_visits.tsv": rows[0]}.items():
        assert set(stored["Columns"][name]) == set(columns)
        assert all(one["Description"] for one in stored["Columns"][name].values())
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["check.json", "check.tsv", "check_visits.tsv"]


def reference(painted: tuple[float, float], drawn: tuple[float, float]) -> dict[str, Any]:
    return {
        name: [{"by": "size", "level": "3-10", "n": 9, "low": ends[0], "high": ends[1]}]
        for name, ends in (("Sensitivity", painted), ("ExpertSensitivity", drawn))
    }


def test_notes_describe_upper_lower_or_no_bound() -> None:
    said = {
        UNKNOWN: notes(None),
        UPPER: notes(reference((0.6, 0.7), (0.1, 0.2))),
        LOWER: notes(reference((0.1, 0.2), (0.6, 0.7))),
        NEITHER: notes(reference((0.1, 0.7), (0.2, 0.6))),
    }
    assert len({len(one) for one in said.values()}) == 1
    assert len(set(said.values())) == 4
    for kind in (UPPER, LOWER):
        assert f"{kind} bound" in " ".join(said[kind])
    for kind in (UNKNOWN, NEITHER):
        assert "is not a bound" in " ".join(said[kind])


def test_missing_reference_file_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "REFERENCE", "no_such_file.json")
    assert read_reference() is None
