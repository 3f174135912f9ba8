"""The page of an evaluation in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bids_msseg.reports.evaluation.report import render_page, write_page

from .evaluations import make_evaluation, two_cases
from .test_browser import Visit
from .test_browser import pytestmark as pytestmark
from .test_evaluation import HOSTILE


def answers(folder: Path, questions: dict[str, str]) -> dict[str, str]:
    """Run JavaScript snippets one after another in the page; return their results by name."""
    html = re.sub(r"<meta http-equiv[^>]*>", "", render_page(make_evaluation(*two_cases())))
    asked = "".join(
        f"{{const p=document.createElement('p');p.className='answer';p.title='{name}';"
        f"p.textContent=await (async()=>{{{code}}})();document.body.append(p);}}"
        for name, code in questions.items()
    )
    tools = (
        "const one=(q)=>document.querySelector(q);"
        "const wait=()=>new Promise((done)=>setTimeout(done,50));"
        "const click=async(e)=>{e.dispatchEvent(new MouseEvent('click',"
        "{bubbles:true,cancelable:true,view:window}));await wait();"
        "return (one(':target')||{}).id||'nowhere';};"
    )
    page = folder / "asked.html"
    script = f"<script>(async()=>{{{tools}{asked}}})();</script></body>"
    page.write_text(html.replace("</body>", script))
    dom = Visit(folder, page, "--dump-dom", "--virtual-time-budget=5000").dom
    return dict(re.findall(r'<p class="answer" title="([^"]*)">([^<]*)</p>', dom))


def test_page_opens_without_network_requests_or_errors(tmp_path: Path) -> None:
    seen = Visit(tmp_path, write_page(make_evaluation(*two_cases()), tmp_path))
    assert seen.console == []
    assert seen.requests == []


def test_clicks_lead_to_linked_visit_row_or_close_up(tmp_path: Path) -> None:
    marks = ".plot:nth-of-type({}) a:nth-of-type({})"
    said = answers(
        tmp_path,
        {
            "point": f"return await click(one('{marks.format(1, 2)} path'))",
            "difference": f"return await click(one('{marks.format(2, 1)} path'))",
            "close-up": "return await click(one('#sub-01-manual-2-view > a'))",
            "row": "return await click(one('#sub-01-manual-2 a'))",
            "line": "return await click(one('#sub-01 .tiles path.false'))",
            "name": "return await click(one('#visits tbody tr:nth-child(2) a'))",
        },
    )
    assert said == {
        "point": "sub-02_ses-1",
        "difference": "sub-01",
        "close-up": "sub-01-manual-2",
        "row": "sub-01-manual-2-view",
        "line": "sub-01-auto-2",
        "name": "sub-02_ses-1",
    }


def test_outlines_can_be_hidden_and_extra_columns_shown(tmp_path: Path) -> None:
    style = "return getComputedStyle(one('{}')).display"
    missed, extra = "#sub-01 .tiles path.missed", "#visits th.extra"
    said = answers(
        tmp_path,
        {
            "missed": style.format(missed),
            "hidden": f"one('#show-missed').click();{style.format(missed)}",
            "found": style.format("#sub-01 .tiles path.found"),
            "extra": style.format(extra),
            "all": f"one('#all-columns').click();{style.format(extra)}",
        },
    )
    assert said == {
        "missed": "inline",
        "hidden": "none",
        "found": "inline",
        "extra": "none",
        "all": "table-cell",
    }


def test_tables_sort_numbers_and_words(tmp_path: Path) -> None:
    names = "return [...document.querySelectorAll('#visits tbody th')].map((e)=>e.textContent)+''"
    press = "one('#visits thead th:nth-child({}) button').click();"
    said = answers(
        tmp_path,
        {
            "load": press.format(3) + names,
            "again": press.format(3) + names,
            "site": press.format(2) + names,
            "said": "return one('#visits [aria-sort]').textContent.trim()",
        },
    )
    # 0.45 mL of sub-01 against 0.29 mL of sub-02
    assert said == {
        "load": "sub-02_ses-1,sub-01",
        "again": "sub-01,sub-02_ses-1",
        "site": "sub-01,sub-02_ses-1",
        "said": "site",
    }


def test_links_are_focusable_and_drawings_have_aria_attributes(tmp_path: Path) -> None:
    said = answers(
        tmp_path,
        {
            "points": "return [...document.querySelectorAll('.plot a')].every((a)=>a.tabIndex>=0)",
            "cards": "return [...document.querySelectorAll('.cards li > a')].every("
            "(a)=>a.tabIndex>=0)",
            "pictures": "return [...document.querySelectorAll('svg')].every("
            "(s)=>s.getAttribute('aria-label')||s.getAttribute('aria-hidden'))",
        },
    )
    assert said == {"points": "true", "cards": "true", "pictures": "true"}


def test_script_in_data_does_not_run(tmp_path: Path) -> None:
    content = make_evaluation(*two_cases())
    hostile = type(content)(
        HOSTILE, content.cases, content.tables, {"lesions": {"state": HOSTILE}}, (HOSTILE,)
    )
    seen = Visit(tmp_path, write_page(hostile, tmp_path))
    assert "<title>ran</title>" not in seen.dom
    assert seen.requests == []


@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)])
def test_page_follows_preferred_colour_scheme(tmp_path: Path, scheme: str, bright: bool) -> None:
    page, shot = write_page(make_evaluation(*two_cases()), tmp_path), tmp_path / "shot.png"
    dress = f"--blink-settings=preferredColorScheme={scheme}"
    Visit(tmp_path, page, f"--screenshot={shot}", "--window-size=1280,900", dress)
    with Image.open(shot) as image:
        paper = np.array(image.convert("L"))[5, 5]
    assert (paper > 127) is np.bool_(bright)


def test_evaluation_page_prints_to_pdf(tmp_path: Path) -> None:
    page, pdf = write_page(make_evaluation(*two_cases()), tmp_path), tmp_path / "page.pdf"
    Visit(tmp_path, page, f"--print-to-pdf={pdf}")
    assert 3 <= pdf.read_bytes().count(b"/Type /Page\n") <= 14
