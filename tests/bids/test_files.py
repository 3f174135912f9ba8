"""JSON and TSV files, and reading of small files of unknown origin."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.bids.files import format_cell, read_small, write_json, write_tsv
from bids_msseg.io.atomic import write_atomic


def test_lone_surrogates_are_replaced_by_question_marks(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"Na\ud83dme": "\ud800", "files": [Path("f\udcff"), "é"]})
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert found == {"Na?me": "?", "files": ["f?", "é"]}
    write_atomic(tmp_path / "a.txt", "of \ud800")
    assert (tmp_path / "a.txt").read_bytes() == b"of ?"
    assert format_cell("\ud800\tx") == "? x"


def test_write_json_converts_special_values(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json",
        {
            "b": np.float32(0.5),
            "a": [math.nan, math.inf, np.int64(3)],
            "p": Path("x/y"),
            "t": ("é", True, None),
            "n": np.eye(2),
        },
    )
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "b": 0.5,
        "a": [None, None, 3],
        "p": "x/y",
        "t": ["é", True, None],
        "n": [[1, 0], [0, 1]],
    }
    assert list(json.loads(text)) == ["b", "a", "p", "t", "n"]
    assert "é" in text
    assert text.endswith("}\n")


def test_write_tsv_formats_cells(tmp_path: Path) -> None:
    rows = [{"a": 1.50, "b": None, "c": "x\ty\nz"}, {"b": math.nan, "c": np.float64(1e6)}]
    write_tsv(tmp_path / "a.tsv", ("a", "b", "c"), rows)
    assert (tmp_path / "a.tsv").read_text() == ("a\tb\tc\n1.5\tn/a\tx y z\nn/a\tn/a\t1000000\n")


def test_format_cell_rounds_numbers_and_marks_missing_values() -> None:
    cells = [format_cell(value) for value in (1345.9, 0.1234567, 12.0, 7, True, "a\tb")]
    assert cells == ["1345.9", "0.123457", "12", "7", "true", "a b"]
    assert {format_cell(value) for value in (None, math.nan, "")} == {"n/a"}


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_tables_can_be_read_back(value: float) -> None:
    text = format_cell(value)
    # four decimals from 1 upwards, six significant digits below
    assert float(text) == pytest.approx(
        value, rel=1e-5, abs=5.01e-5 if abs(value) >= 1 else 1e-300
    )
    assert text != "-0"


@given(st.text())
def test_text_in_tables_stays_in_its_cell(value: str) -> None:
    assert len(format_cell(value).split("\t")) == 1
    assert len(format_cell(value).splitlines()) == 1


def test_read_small_returns_whole_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xefabc\n")
    assert read_small(tmp_path / "a") == b"\xefabc\n"
    assert read_small(tmp_path / "a", most=5) == b"\xefabc\n"


def test_read_small_refuses_long_and_special_files(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"123456")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Longer than 5 bytes"):
        read_small(tmp_path / "long", most=5)
    for name in ("pipe", "endless", "folder", "none"):
        with pytest.raises(OSError, match=r"regular|directory"):
            read_small(tmp_path / name)
