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


def test_region_is_shown_without_underscores() -> None:
    table = arrange([{"index": "1", "volume_mm3": "12.345", "region": "deep_white_matter"}])
    assert table is not None
    assert table.rows == (("1", "12.3", "deep white matter"),)


def test_three_coordinates_make_one_cell(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("centroid_x\tcentroid_y\tcentroid_z\tcentroid_template_x\n-1.6\t2\t3.4\t1\n")
    table = arrange(read_tsv(path))
    assert table is not None
    assert table.rows == (("-2, 2, 3",),)


def test_arrange_accepts_ragged_rows_quotes_and_non_numeric_text(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text('index\tvolume_mm3\treason\n1\n2\tmany\t"half\n3\t4\tx\textra\n')
    table = arrange(read_tsv(path))
    assert table is not None
    assert table.rows == (("1", "n/a", "n/a"), ("2", "many", '"half'), ("3", "4.0", "x"))


def test_byte_order_mark_is_not_part_of_heading(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(b"\xef\xbb\xbfindex\r\n1\r\n")
    assert read_tsv(tmp_path / "t.tsv") == [{"index": "1"}]


def test_named_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.tsv")
    assert read_tsv(tmp_path / "t.tsv") == []
    with pytest.raises(OSError, match="Not a regular file"):
        load_tsv(tmp_path / "t.tsv")


def test_table_with_oversized_cell_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("index\n" + "x" * 200_000)
    assert read_tsv(tmp_path / "t.tsv") == []
    with pytest.raises(ValueError, match="field larger than"):
        load_tsv(tmp_path / "t.tsv")


def test_missing_empty_or_binary_file_gives_no_table(tmp_path: Path) -> None:
    assert labels(tmp_path / "missing.tsv") == []
    (tmp_path / "empty.tsv").write_text("")
    assert labels(tmp_path / "empty.tsv") == []
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00\x81\n\x9d")
    assert labels(tmp_path / "binary.tsv") == []
