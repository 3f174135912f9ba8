"""The page of a check, as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.check.files import write_results
from bids_msseg.check.page import interval, render_check, value, write_page
from bids_msseg.check.summary import VisitCheck, sensitivity, summarise

Make = Callable[..., Any]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class _Closed(HTMLParser):
    """Parser that requires balanced tags."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def render(folder: Path, visits: list[VisitCheck], reference: dict[str, Any] | None = None) -> str:
    content = write_results(folder, visits, [], {"draws": 1}, reference)
    html = render_check(content, visits, reference)
    parser = _Closed()
    parser.feed(html)
    assert parser.open == []
    return html


def test_the_page_shows_rates_volumes_and_loads(tmp_path: Path, make_check: Make) -> None:
    html = render(tmp_path, [make_check("01"), make_check("02", 3.0, (3.0, 3.3))])
    text = re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL))
    assert "2 visits of 2 participants" in text
    # two of four painted lesions were found
    assert "50 %" in text
    assert "n = 4" in text
    for words in ("3-10", "deep white matter", "0.4", "sub-02", "Dice of both masks"):
        assert words in text
    assert "labelled cohort, painted" not in text
    for name in ("check.tsv", "check_visits.tsv", "check.json"):
        assert f'href="{name}"' in html
    assert "<script" not in html
    # a mark for each pseudo-rescan
    assert html.count('class="mark') == 3


def test_page_shows_results_of_labelled_cohort(
    tmp_path: Path, make_check: Make, make_lesion: Make
) -> None:
    known = {
        **summarise([make_check("09")]),
        "Cohort": "17 visits, cascade-5",
        "ExpertSensitivity": sensitivity([("09", make_lesion(5.0, found=True))]),
    }
    html = render(tmp_path, [make_check("01")], known)
    for words in ("labelled cohort, painted", "experts&#39; lesions", "17 visits, cascade-5"):
        assert words in html


def test_page_without_rescans_and_lesions_has_note(tmp_path: Path, make_check: Make) -> None:
    html = render(tmp_path, [make_check(rescans=(), lesions=(), draws=())])
    assert "There is no pseudo-rescan" in html
    assert "n/a" in html
    assert 'class="mark' not in html


def test_page_escapes_text_of_data(tmp_path: Path, make_check: Make) -> None:
    html = render(tmp_path, [make_check(flags=(EVIL,), session=EVIL)])
    assert "<script" not in html
    assert "<img" not in html


def test_values_and_intervals_are_formatted() -> None:
    rows = ({"share": 0.625}, {"share": None}, {"value": 0.12345})
    assert [value(row) for row in rows] == ["62 %", "n/a", "0.123"]
    assert interval({"share": 0.5, "low": 0.25, "high": 0.75}) == "25 to 75 %"
    assert interval({"value": 0.5, "low": None, "high": None}) == ""


@pytest.mark.parametrize("loads", [(0.0, (0.0,)), (0.0, (0.0, 0.0, 0.0))])
def test_page_plots_zero_loads(
    tmp_path: Path, make_check: Make, loads: tuple[float, tuple[float, ...]]
) -> None:
    html = render(tmp_path, [make_check("01", *loads)])
    assert html.count('class="mark') == len(loads[1])


def test_the_page_is_written_beside_the_tables(tmp_path: Path, make_check: Make) -> None:
    visits = [make_check()]
    content = write_results(tmp_path, visits, [], {}, None)
    assert write_page(tmp_path, content, visits, None) == tmp_path / "check.html"
    assert (tmp_path / "check.html").read_text(encoding="utf-8").startswith("<!doctype html>")
