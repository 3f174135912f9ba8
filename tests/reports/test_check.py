"""What pages and the group table say of a check by msseg-check."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.reports.check import check_page, read_limits
from bids_msseg.reports.group import write_group
from bids_msseg.reports.participant import write_participant_page

COLUMN = "load_limits_of_agreement_ml"


def load(lower: object, upper: object) -> dict[str, Any]:
    return {"Load": {"lower_limit_ml": {"value": lower}, "upper_limit_ml": {"value": upper}}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (load(-0.25, 0.5), "-0.25,0.5"),
        (load(-1, 12.34567), "-1,12.3457"),
        (load(None, 0.5), ""),
        (load("much", 0.5), ""),
        ({"Load": {"lower_limit_ml": {"value": 1}}}, ""),
        ({"Load": []}, ""),
        ([], ""),
    ],
)
def test_limits_of_agreement_are_read(tmp_path: Path, content: object, expected: str) -> None:
    (tmp_path / "check.json").write_text(json.dumps(content))
    assert read_limits(tmp_path) == expected


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_damaged_summary_is_no_check(tmp_path: Path, text: str) -> None:
    (tmp_path / "check.json").write_text(text)
    assert read_limits(tmp_path) == ""
    assert read_limits(tmp_path / "nowhere") == ""


def test_the_group_table_carries_the_limits_of_finished_visits(out_dir: Path) -> None:
    (out_dir / "check.json").write_text(json.dumps(load(-0.25, 0.5)))
    files = write_group(out_dir)
    with files.tsv.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row[COLUMN] for row in rows] == ["-0.25,0.5", "n/a", "n/a"]
    described = json.loads(files.json.read_text(encoding="utf-8"))
    assert set(described) == set(rows[0])
    assert described[COLUMN]["Units"] == "mL"


def test_without_a_check_there_is_no_column_and_no_link(
    out_dir: Path, read_page: Callable[..., Any]
) -> None:
    files = write_group(out_dir)
    assert COLUMN not in files.tsv.read_text(encoding="utf-8")
    assert COLUMN not in files.json.read_text(encoding="utf-8")
    assert check_page(out_dir) == ""
    for page in (files.html, write_participant_page(out_dir, "01")):
        assert "check.html" not in read_page(page).all("a", "href")


def test_pages_link_to_the_check(out_dir: Path, read_page: Callable[..., Any]) -> None:
    (out_dir / "check.html").write_text("a page")
    for page in (write_group(out_dir).html, write_participant_page(out_dir, "01")):
        assert "check.html" in read_page(page).all("a", "href")
