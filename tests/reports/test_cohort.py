from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.reports.group.cohort import (
    Participants,
    find_facets,
    read_participants,
    summarise,
)

cells = st.sampled_from(["n/a", "", "A", "B", "1", "2", "3.5", "nan", "1e400", "x y"])


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"participant_id": f"sub-{i}"} for i in range(count)]


def test_no_file_nobody_known(tmp_path: Path) -> None:
    assert read_participants(None) == read_participants(tmp_path) == Participants({})


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it lists no participants"),
        (b"participant_id\tsex\n", "it lists no participants"),
        (b"subject\tsex\nsub-01\tM\n", "it has no column participant_id, only subject, sex"),
        (b"participant_id\tsite\nsub-01\tM\xfcnchen\n", "it is not UTF-8 (save it as UTF-8)"),
        ("participant_id\n".encode("utf-16"), "it is not UTF-8 (save it as UTF-8)"),
        (b"participant_id\n" + b"x" * 200_000, "it is not a table (field larger than"),
        ("pipe", "it cannot be read (Not a regular file)"),
        ("folder", "it cannot be read (Is a directory)"),
        ("link", "it is a broken link"),
    ],
)
def test_a_table_that_cannot_be_used_is_told(
    tmp_path: Path, content: bytes | str, why: str
) -> None:
    path = tmp_path / "participants.tsv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        {"pipe": os.mkfifo, "folder": os.mkdir, "link": partial(os.symlink, "gone")}[content](path)
    found = read_participants(tmp_path)
    assert found.rows == {}
    (note,) = found.notes
    assert note.startswith(f"participants.tsv is not used: {why}")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_labels_come_with_and_without_prefix(tmp_path: Path, mark: bytes) -> None:
    table = b"participant_id\tsex\nsub-01\tM\n02\tF\n\tF\nn/a\tF\n"
    (tmp_path / "participants.tsv").write_bytes(mark + table)
    found = read_participants(tmp_path)
    assert {name: row["sex"] for name, row in found.rows.items()} == {"sub-01": "M", "sub-02": "F"}
    assert found.notes == ()


def test_rows_that_contradict_each_other_count_for_nothing(tmp_path: Path) -> None:
    lines = ["01\tM\t30\tA", "sub-01\tF\t30\tn/a", "sub-01\tM\tn/a\tA", "sub-02\tF\tn/a\tB"]
    text = "\n".join(["participant_id\tsex\tage\tsite", *lines, lines[-1], ""])
    (tmp_path / "participants.tsv").write_text(text)
    found = read_participants(tmp_path)
    cells = {name: (row["sex"], row["age"], row["site"]) for name, row in found.rows.items()}
    assert cells == {"sub-01": ("n/a", "30", "A"), "sub-02": ("F", "n/a", "B")}
    assert found.notes == (
        "participants.tsv has contradictory values, treated as n/a: sub-01 (sex)",
    )


def test_a_cell_of_5000_digits_is_no_number() -> None:
    people = {f"sub-{i}": {"code": str(i) if i else "7" * 5000} for i in range(5)}
    found = find_facets(rows_of(5), people)
    assert (list(found.levels), list(found.numbers)) == (["code"], [])


@pytest.mark.parametrize("name", ["age", "Age", "age_at_scan", "AGE (years)", "edss"])
@pytest.mark.parametrize(
    ("text", "number"),
    [("30,5", 30.5), ("41,25", 41.25), ("-0,5", -0.5), ("50.5", 50.5), ("7", 7.0)],
)
def test_a_decimal_comma_is_one(tmp_path: Path, name: str, text: str, number: float) -> None:
    cells = [text, "20", "21", "n/a"]
    lines = [f"sub-{i}\t{cell}" for i, cell in enumerate(cells)]
    table = "\n".join([f"participant_id\t{name}", *lines, ""])
    (tmp_path / "participants.tsv").write_text(table)
    people = read_participants(tmp_path)
    assert people.notes == ()
    assert find_facets(rows_of(4), people.rows).numbers == {name: (number, 20, 21, None)}


@pytest.mark.parametrize("name", ["age", "Age", "age_at_scan", "mean age"])
@pytest.mark.parametrize("text", ["30y", "89+", "030Y", "unknown", "30-35", "1,234"])
def test_an_age_that_is_no_number_is_told(tmp_path: Path, name: str, text: str) -> None:
    """The others still make an axis."""
    lines = [f"sub-{i}\t{cell}" for i, cell in enumerate([text, "20", "21", "22,5"])]
    table = "\n".join([f"participant_id\t{name}", *lines, ""])
    (tmp_path / "participants.tsv").write_text(table)
    people = read_participants(tmp_path)
    (note,) = people.notes
    assert f"sub-0 ({text!r})" in note
    assert find_facets(rows_of(4), people.rows).numbers == {name: (None, 20, 21, 22.5)}


@pytest.mark.parametrize(
    ("name", "cells", "told"),
    [
        ("age_group", ["adult", "child", "adult"], False),
        ("age", ["30y", "40y", "50y"], True),
        ("age", ["n/a", "", "30"], False),
        ("stage", ["1a", "2", "3"], False),
        ("language", ["en", "de", "1"], False),
    ],
)
def test_only_ages_are_looked_at(tmp_path: Path, name: str, cells: list[str], told: bool) -> None:
    lines = [f"sub-{i}\t{cell}" for i, cell in enumerate(cells)]
    table = "\n".join([f"participant_id\t{name}", *lines, ""])
    (tmp_path / "participants.tsv").write_text(table)
    assert bool(read_participants(tmp_path).notes) == told


def test_codes_of_sites_are_both_numbers_and_levels() -> None:
    people = {f"sub-{i}": {"site": str(i % 3 + 1), "age": str(20 + i)} for i in range(6)}
    found = find_facets(rows_of(6), people)
    assert list(found.levels) == ["site"]
    assert list(found.numbers) == ["site", "age"]


def test_a_column_of_names_divides_nothing() -> None:
    people = {f"sub-{i}": {"scan": f"scan of {i}"} for i in range(13)}
    found = find_facets(rows_of(13), people)
    assert not found.levels
    assert not found.numbers


def test_the_table_s_own_columns_divide_too() -> None:
    rows = [
        {**row, "session_id": f"ses-{i % 2}", "brain_volume_ml": str(1200.5 + i)}
        for i, row in enumerate(rows_of(4))
    ]
    found = find_facets(rows, {})
    assert list(found.levels) == ["session_id"]
    assert list(found.numbers) == ["brain_volume_ml"]


@given(st.lists(cells, min_size=1, max_size=8), st.data())
def test_every_visit_counts_once_in_every_column(values: list[str], data: st.DataObject) -> None:
    rows = rows_of(len(values))
    people = {row["participant_id"]: {"what": v} for row, v in zip(rows, values, strict=True)}
    loads = data.draw(
        st.lists(st.none() | st.floats(0, 200), min_size=len(rows), max_size=len(rows))
    )
    facets = find_facets(rows, people)
    summary = summarise(rows, loads, facets)
    known = sum(load is not None for load in loads)
    for column in {row["column"] for row in summary}:
        assert sum(int(r["visits"]) for r in summary if r["column"] == column) == known


def test_quartiles() -> None:
    (row,) = summarise(rows_of(5), [4.0, 1.0, 2.0, None, 3.0], find_facets(rows_of(5), {}))
    assert list(row.values()) == [
        *("everybody", "everybody", "4", "4", "2.5", "1.75", "3.25", "1", "4")
    ]
