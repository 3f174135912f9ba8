from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.reports.cohort import find_facets, read_participants, summarise

cells = st.sampled_from(["n/a", "", "A", "B", "1", "2", "3.5", "nan", "1e400", "x y"])


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"participant_id": f"sub-{i}"} for i in range(count)]


def test_no_file_nobody_known(tmp_path: Path) -> None:
    assert read_participants(None) == {}
    assert read_participants(tmp_path) == {}
    (tmp_path / "participants.tsv").write_text("name\nx\n")
    assert read_participants(tmp_path) == {}


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
