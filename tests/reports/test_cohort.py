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


def test_missing_participants_tsv_gives_no_participants(tmp_path: Path) -> None:
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
def test_unusable_participants_tsv_gives_note_with_reason(
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
def test_participant_labels_with_or_without_prefix_are_read(tmp_path: Path, mark: bytes) -> None:
    table = b"participant_id\tsex\nsub-01\tM\n02\tF\n\tF\nn/a\tF\n"
    (tmp_path / "participants.tsv").write_bytes(mark + table)
    found = read_participants(tmp_path)
    assert {name: row["sex"] for name, row in found.rows.items()} == {"sub-01": "M", "sub-02": "F"}
    assert found.notes == ()


def test_contradictory_values_become_n_a_with_note(tmp_path: Path) -> None:
    lines = ["01\tM\t30\tA", "sub-01\tF\t30\tn/a", "sub-01\tM\tn/a\tA", "sub-02\tF\tn/a\tB"]
    text = "\n".join(["participant_id\tsex\tage\tsite", *lines, lines[-1], ""])
    (tmp_path / "participants.tsv").write_text(text)
    found = read_participants(tmp_path)
    cells = {name: (row["sex"], row["age"], row["site"]) for name, row in found.rows.items()}
    assert cells == {"sub-01": ("n/a", "30", "A"), "sub-02": ("F", "n/a", "B")}
    assert found.notes == (
        "participants.tsv has contradictory values, treated as n/a: sub-01 (sex)",
    )


def test_missing_participant_has_unknown_values() -> None:
    people = {f"sub-{i}": {"site": "AB"[i % 2], "age": str(30 + i)} for i in range(3)}
    found = find_facets(rows_of(4), people)
    assert found.levels == {"site": ("A", "B", "A", "n/a")}
    assert found.numbers == {"age": (30.0, 31.0, 32.0, None)}


def test_value_of_5000_digits_is_not_a_number() -> None:
    people = {f"sub-{i}": {"code": str(i) if i else "7" * 5000} for i in range(5)}
    found = find_facets(rows_of(5), people)
    assert (list(found.levels), list(found.numbers)) == (["code"], [])


@pytest.mark.parametrize("name", ["age", "Age", "age_at_scan", "AGE (years)", "edss"])
@pytest.mark.parametrize(
    ("text", "number"),
    [("30,5", 30.5), ("41,25", 41.25), ("-0,5", -0.5), ("50.5", 50.5), ("7", 7.0)],
)
def test_decimal_comma_is_read_as_number(
    tmp_path: Path, name: str, text: str, number: float
) -> None:
    cells = [text, "20", "21", "n/a"]
    lines = [f"sub-{i}\t{cell}" for i, cell in enumerate(cells)]
    table = "\n".join([f"participant_id\t{name}", *lines, ""])
    (tmp_path / "participants.tsv").write_text(table)
    people = read_participants(tmp_path)
    assert people.notes == ()
    assert find_facets(rows_of(4), people.rows).numbers == {name: (number, 20, 21, None)}


@pytest.mark.parametrize("name", ["age", "Age", "age_at_scan", "mean age"])
@pytest.mark.parametrize("text", ["30y", "89+", "030Y", "unknown", "30-35", "1,234"])
def test_non_numeric_age_gives_note_and_is_missing(tmp_path: Path, name: str, text: str) -> None:
    """The other values of the column remain numbers."""
    lines = [f"sub-{i}\t{cell}" for i, cell in enumerate([text, "20", "21", "22,5"])]
    table = "\n".join([f"participant_id\t{name}", *lines, ""])
    (tmp_path / "participants.tsv").write_text(table)
    people = read_participants(tmp_path)
    (note,) = people.notes
    assert f"sub-0 ({text!r})" in note
    assert find_facets(rows_of(4), people.rows).numbers == {name: (None, 20, 21, 22.5)}


@pytest.mark.parametrize(
    ("name", "cells", "noted"),
    [
        ("age_group", ["adult", "child", "adult"], False),
        ("age", ["30y", "40y", "50y"], True),
        ("age", ["n/a", "", "30"], False),
        ("stage", ["1a", "2", "3"], False),
        ("language", ["en", "de", "1"], False),
    ],
)
def test_only_age_columns_give_notes_on_non_numeric_values(
    tmp_path: Path, name: str, cells: list[str], noted: bool
) -> None:
    lines = [f"sub-{i}\t{cell}" for i, cell in enumerate(cells)]
    table = "\n".join([f"participant_id\t{name}", *lines, ""])
    (tmp_path / "participants.tsv").write_text(table)
    assert bool(read_participants(tmp_path).notes) == noted


def test_numeric_site_codes_are_both_numbers_and_levels() -> None:
    people = {f"sub-{i}": {"site": str(i % 3 + 1), "age": str(20 + i)} for i in range(6)}
    found = find_facets(rows_of(6), people)
    assert list(found.levels) == ["site"]
    assert list(found.numbers) == ["site", "age"]


def test_text_column_with_more_than_12_levels_is_no_facet() -> None:
    people = {f"sub-{i}": {"scan": f"scan of {i}"} for i in range(13)}
    found = find_facets(rows_of(13), people)
    assert not found.levels
    assert not found.numbers


def test_group_table_columns_are_facets() -> None:
    rows = [
        {**row, "session_id": f"ses-{i % 2}", "brain_volume_ml": str(1200.5 + i)}
        for i, row in enumerate(rows_of(4))
    ]
    found = find_facets(rows, {})
    assert list(found.levels) == ["session_id"]
    assert list(found.numbers) == ["brain_volume_ml"]


@given(st.lists(cells, min_size=1, max_size=8), st.data())
def test_summary_counts_every_visit_once_per_column(
    values: list[str], data: st.DataObject
) -> None:
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


def test_summarise_gives_median_quartiles_and_range() -> None:
    (row,) = summarise(rows_of(5), [4.0, 1.0, 2.0, None, 3.0], find_facets(rows_of(5), {}))
    assert list(row.values()) == [
        *("everybody", "everybody", "4", "4", "2.5", "1.75", "3.25", "1", "4")
    ]
