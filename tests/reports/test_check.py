"""Results of msseg-check on pages and in the group table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.files import load_tsv
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.reports.check import LoadLimits, check_page, read_limits
from bids_msseg.reports.group.report import write_group
from bids_msseg.reports.participant import write_participant_page

COLUMNS = ("lesion_load_lower_limit_ml", "lesion_load_upper_limit_ml")
SETTINGS = {"model_sha256": "0123456789abcdef" * 4, "threshold": 0.4, "min_lesion_volume": 3.0}
"""Settings of the finished visit of ``out_dir``."""


def load(lower: object, upper: object, **settings: object) -> dict[str, Any]:
    return {
        "Settings": {**SETTINGS, **settings},
        "Load": {"lower_limit_ml": {"value": lower}, "upper_limit_ml": {"value": upper}},
    }


def limits(out_dir: Path) -> list[tuple[str, ...]]:
    """Write the group table and return both limits of every visit."""
    return [tuple(row[name] for name in COLUMNS) for row in load_tsv(write_group(out_dir).tsv)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (load(-0.25, 0.5), LoadLimits(-0.25, 0.5, "0123456789abcdef" * 4, 0.4, 3.0)),
        (load(-1, 2, threshold=0.5), LoadLimits(-1.0, 2.0, "0123456789abcdef" * 4, 0.5, 3.0)),
        (load(None, 0.5), None),
        (load("much", 0.5), None),
        (load(-1, float("nan")), None),
        (load(-1, 2, threshold=None), None),
        ({**load(-1, 2), "Settings": {}}, None),
        ({"Settings": SETTINGS, "Load": {"lower_limit_ml": {"value": 1}}}, None),
        ({"Settings": SETTINGS, "Load": []}, None),
        ([], None),
    ],
)
def test_limits_of_agreement_are_read(
    tmp_path: Path, content: object, expected: LoadLimits | None
) -> None:
    (tmp_path / "check.json").write_text(json.dumps(content))
    assert read_limits(tmp_path) == expected


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_read_limits_of_damaged_or_missing_file_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "check.json").write_text(text)
    assert read_limits(tmp_path) is None
    assert read_limits(tmp_path / "nowhere") is None


def test_group_table_contains_limits_of_successful_visits(out_dir: Path) -> None:
    (out_dir / "check.json").write_text(json.dumps(load(-0.25, 0.5)))
    assert limits(out_dir) == [("-0.25", "0.5"), ("n/a", "n/a"), ("n/a", "n/a")]
    described = json.loads((out_dir / "group_lesions.json").read_text(encoding="utf-8"))
    heading = (out_dir / "group_lesions.tsv").read_text(encoding="utf-8").partition("\n")[0]
    assert list(described) == heading.split("\t")
    assert {described[name]["Units"] for name in COLUMNS} == {"mL"}


@pytest.mark.parametrize(
    "change", [{"model_sha256": "f" * 64}, {"threshold": 0.5}, {"min_lesion_volume": 5.0}]
)
def test_limits_of_other_settings_are_not_applied(
    out_dir: Path, change: dict[str, object]
) -> None:
    (out_dir / "check.json").write_text(json.dumps(load(-0.25, 0.5, **change)))
    assert limits(out_dir) == [("n/a", "n/a")] * 3


def test_limits_are_not_applied_to_fast_runs(
    out_dir: Path, make_record: Callable[..., VisitRecord]
) -> None:
    options = {"threshold": 0.4, "min_lesion_volume": 3.0}
    (out_dir / "check.json").write_text(json.dumps(load(-0.25, 0.5)))
    write_record(out_dir, make_record("01", "1", options={**options, "fast": False}))
    assert limits(out_dir)[0] == ("-0.25", "0.5")
    write_record(out_dir, make_record("01", "1", options={**options, "fast": True}))
    assert limits(out_dir)[0] == ("n/a", "n/a")


def test_no_limit_columns_or_check_link_without_check(
    out_dir: Path, read_page: Callable[..., Any]
) -> None:
    files = write_group(out_dir)
    for name in COLUMNS:
        assert name not in files.tsv.read_text(encoding="utf-8")
        assert name not in files.tsv.with_suffix(".json").read_text(encoding="utf-8")
    assert check_page(out_dir) == ""
    for page in (files.html, write_participant_page(out_dir, "01")):
        assert "check.html" not in read_page(page).all("a", "href")


def test_pages_link_to_check_page(out_dir: Path, read_page: Callable[..., Any]) -> None:
    (out_dir / "check.html").write_text("a page")
    for page in (write_group(out_dir).html, write_participant_page(out_dir, "01")):
        assert "check.html" in read_page(page).all("a", "href")
