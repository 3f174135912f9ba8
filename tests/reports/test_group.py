from __future__ import annotations

import csv
import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.bids.record import ContrastUse, VisitRecord, write_record
from bids_msseg.errors import CannotCreateError, NoInputError
from bids_msseg.reports.group import columns, group_rows, mixtures, write_group

Read = Callable[[Path | str], Any]

EXPECTED = [
    "participant_id",
    "session_id",
    "status",
    "lesion_load_ml",
    "lesion_count",
    "periventricular_load_ml",
    "periventricular_count",
    "juxtacortical_load_ml",
    "juxtacortical_count",
    "infratentorial_load_ml",
    "infratentorial_count",
    "deep_white_matter_load_ml",
    "deep_white_matter_count",
    "brain_volume_ml",
    "lesion_load_percent_of_brain",
    "rejected_count",
    "contrasts",
    "flair_voxel_mm",
    "model",
    "model_sha256",
    "threshold",
    "min_lesion_volume_mm3",
    "flags",
    "reason",
]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def test_one_row_a_visit(out_dir: Path) -> None:
    files = write_group(out_dir)
    assert (files.visits, files.incomplete) == (3, 2)
    assert files.tsv == out_dir / "group_lesions.tsv"
    first, failed, skipped = rows_of(files.tsv)
    assert list(first) == EXPECTED
    assert list(first.values()) == [
        "sub-01",
        "ses-1",
        "ok",
        "12.5",
        "31",
        "8",
        "9",
        "2.5",
        "12",
        "0",
        "0",
        "2",
        "10",
        "1250",
        "1",
        "14",
        "FLAIR+T1w",
        "0.57x0.57x3.30",
        "first 0.1.0",
        "0123456789ab",
        "0.4",
        "3",
        "The slices are thick.",
        "n/a",
    ]
    assert failed["session_id"] == "ses-2"
    assert failed["reason"] == "cannot read …/sub-01_ses-2_FLAIR.nii.gz: it is cut off"
    assert skipped["reason"] == "there is no FLAIR"
    measured = EXPECTED[3:22]
    assert {failed[name] for name in measured} == {"n/a"}


def test_what_a_failed_visit_left_is_no_result(make_record: Any) -> None:
    record = dataclasses.replace(make_record(), status="failed", reason="killed")
    row = group_rows([record])[0]
    assert row["lesion_load_ml"] == row["periventricular_count"] == "n/a"
    assert row["contrasts"] == "FLAIR+T1w"


def test_the_dictionary_describes_every_column(out_dir: Path) -> None:
    files = write_group(out_dir)
    dictionary = json.loads(files.json.read_text())
    assert list(dictionary) == EXPECTED
    assert all(entry["Description"] for entry in dictionary.values())
    assert dictionary["lesion_load_ml"]["Units"] == "mL"
    assert set(dictionary["status"]["Levels"]) == {"ok", "failed", "skipped"}


def test_column_names_are_unique() -> None:
    names = [column.name for column in columns()]
    assert len(names) == len(set(names))


def test_tabs_and_lines_in_text_do_not_break_the_table(tmp_path: Path, make_record: Any) -> None:
    write_record(tmp_path, make_record(flags=("a\tb", "c\nd")))
    row = rows_of(write_group(tmp_path).tsv)[0]
    assert row["flags"] == "a b; c d"
    assert row["reason"] == "n/a"


def test_missing_numbers_are_said_missing(tmp_path: Path) -> None:
    write_record(tmp_path, VisitRecord("01", None, "sub-01", "ok", brain_volume_ml=0.0))
    row = rows_of(write_group(tmp_path).tsv)[0]
    assert row["session_id"] == "n/a"
    assert row["brain_volume_ml"] == "0"
    assert {row[name] for name in EXPECTED if name not in ("participant_id", "status")} == {
        "n/a",
        "0",
    }


def test_the_page_lists_links_and_sorts(out_dir: Path, read_page: Read) -> None:
    page = read_page(write_group(out_dir).html)
    assert "3 visits of 1 participant" in page.text
    assert "1 ok · 1 failed · 1 skipped" in page.text
    assert page.all("a", "href").count("sub-01.html#ses-1") == 2  # the dot and the row
    assert "sub-01.html#ses-10" in page.all("a", "href")
    assert page.tags["circle"] == 1
    assert page.tags["button"] == sum(bool(column.shown) for column in columns())
    assert "there is no FLAIR" in page.text


def test_the_page_runs_its_own_script_only(out_dir: Path, read_page: Read) -> None:
    html = write_group(out_dir).html
    policy = read_page(html).all("meta", "content")[0]
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        r"script-src 'sha256-[A-Za-z0-9+/]{43}='",
        policy,
    )
    assert html.read_text().count("<script") == 1


def test_text_from_data_never_becomes_markup(
    tmp_path: Path, make_record: Any, read_page: Read
) -> None:
    evil = "</td><script>alert(1)</script>"
    contrasts = {evil: ContrastUse("f", (1.0, 1.0, 1.0))}
    write_record(tmp_path, make_record(flags=(evil,), contrasts=contrasts))
    write_record(tmp_path, VisitRecord("02", None, "", "failed", evil))
    (tmp_path / "logs/visits/sub-<b>x.json").write_text("{")
    page = read_page(write_group(tmp_path).html)
    assert page.tags["script"] == 1
    assert page.tags["b"] == 0
    assert page.text.count(evil) == 3


def test_mixed_cohorts_are_pointed_out(tmp_path: Path, make_record: Any, read_page: Read) -> None:
    write_record(tmp_path, make_record("01", None))
    write_record(tmp_path, make_record("02", None, options={"threshold": 0.5}))
    text = read_page(write_group(tmp_path).html).text
    assert "Not all alike: different thresholds: 0.4 (1 visit), 0.5 (1 visit)" in text
    assert "different smallest lesions in mm³: 3 (1 visit), n/a (1 visit)" in text
    assert "different models" not in text


def test_failed_visits_mix_nothing(make_record: Any) -> None:
    rows = group_rows([make_record(), VisitRecord("02", None, "", "failed", "x")])
    assert mixtures(rows) == []


def test_the_same_records_give_the_same_bytes(out_dir: Path) -> None:
    first = [path.read_bytes() for path in write_group_paths(out_dir)]
    assert [path.read_bytes() for path in write_group_paths(out_dir)] == first


def write_group_paths(out_dir: Path) -> tuple[Path, Path, Path]:
    files = write_group(out_dir)
    return files.tsv, files.json, files.html


def test_no_record_is_an_error_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="run the participant level"):
        write_group(tmp_path)


def test_a_table_that_cannot_be_written_is_an_error(out_dir: Path) -> None:
    (out_dir / "group_lesions.tsv").mkdir()
    with pytest.raises(CannotCreateError, match=r"group_lesions\.tsv"):
        write_group(out_dir)


@pytest.mark.slow
def test_a_thousand_visits_take_seconds(tmp_path: Path, make_record: Any) -> None:
    for number in range(1000):
        write_record(tmp_path, make_record(f"{number:04d}", "1"))
    start = time.perf_counter()
    files = write_group(tmp_path)
    assert time.perf_counter() - start < 5
    assert files.visits == len(rows_of(files.tsv)) == 1000
