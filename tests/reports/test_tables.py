from __future__ import annotations

import os
from pathlib import Path

import pytest

from bids_msseg.bids.files import load_tsv
from bids_msseg.reports.tables import arrange, read_tsv


def labels(path: Path) -> list[str]:
    table = arrange(read_tsv(path))
    return [] if table is None else [heading.label for heading in table.headings]


def test_only_known_and_filled_columns_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("index\tsurprise\tvolume_mm3\tp_lesion\n1\tx\t3.14159\tn/a\n2\ty\tn/a\tn/a\n")
    table = arrange(read_tsv(path))
    assert table is not None
    assert labels(path) == ["no.", "volume"]
    assert table.rows == (("1", "3.1"), ("2", "n/a"))


def test_three_coordinates_make_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("centroid_x\tcentroid_y\tcentroid_z\tcentroid_template_x\n-1.6\t2\t3.4\t1\n")
    table = arrange(read_tsv(path))
    assert table is not None
    assert table.rows == (("-2, 2, 3",),)


def test_ragged_rows_quotes_and_words_where_numbers_belong(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('index\tvolume_mm3\treason\n1\n2\tmany\t"half\n3\t4\tx\textra\n')
    table = arrange(read_tsv(path))
    assert table is not None
    assert table.rows == (("1", "n/a", "n/a"), ("2", "many", '"half'), ("3", "4.0", "x"))


def test_a_mark_of_the_encoding_is_no_part_of_a_heading(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbfindex\r\n1\r\n")
    assert read_tsv(tmp_path / "t.tsv") == [{"index": "1"}]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.tsv")
    assert read_tsv(tmp_path / "t.tsv") == []
    with pytest.raises(OSError, match="Not a regular file"):
        load_tsv(tmp_path / "t.tsv")


def test_a_cell_without_end_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("index\n" + "x" * 200_000)
    assert read_tsv(tmp_path / "t.tsv") == []
    with pytest.raises(ValueError, match="field larger than"):
        load_tsv(tmp_path / "t.tsv")


def test_no_file_no_table(tmp_path: Path) -> None:
    assert labels(tmp_path / "missing.tsv") == []
    (tmp_path / "empty.tsv").write_text("")
    assert labels(tmp_path / "empty.tsv") == []
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00\x81\n\x9d")
    assert labels(tmp_path / "binary.tsv") == []
