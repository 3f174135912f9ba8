"""Group page of a large cohort in a real browser: table pages, search, sorting and filter."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from bids_msseg.bids.record import VisitRecord
from bids_msseg.reports.group.report import write_group

from .test_viewer import Reader, click_on, dots, lit
from .test_viewer import browser as browser
from .test_viewer import pytestmark as pytestmark
from .test_viewer import reader as reader
from .test_viewer import shots as shots

VISITS = 5000
FAILED = VISITS // 100
FLAGGED = VISITS // 5
MAX_ELEMENTS = 4000
PICTURE = "sub-0001/figures/sub-0001_ses-1_desc-lesions_FLAIR.png"


@pytest.fixture(scope="module")
def records(make_cohort: Callable[[int], tuple[VisitRecord, ...]]) -> tuple[VisitRecord, ...]:
    return make_cohort(VISITS)


@pytest.fixture(scope="module")
def page_file(records: tuple[VisitRecord, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of a synthetic cohort in which one visit has a picture."""
    out = tmp_path_factory.mktemp("large")
    picture = out / PICTURE
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (300, 100), (90, 60, 30)).save(picture)
    people = ["participant_id\tsite\tage"]
    people += [f"sub-{i:04d}\t{'ABC'[i % 3]}\t{20 + i % 50}" for i in range(1, VISITS // 2 + 1)]
    (out / "participants.tsv").write_text("\n".join(people) + "\n")
    return write_group(out, bids_dir=out, records=records).html


@pytest.fixture
def page(page_file: Path, reader: Reader) -> Page:
    return reader.open(page_file)


def keys(page: Page) -> list[str]:
    """Return participant and session of the visible rows."""
    rows = page.eval_on_selector_all(
        "tbody tr", "all => all.map((row) => [row.cells[0].textContent, row.cells[1].textContent])"
    )
    return ["_".join(cells) for cells in rows]


def shown(page: Page) -> str:
    return page.locator("#shown").inner_text()


def sort_by(page: Page, name: str) -> None:
    page.locator("thead button", has_text=re.compile(f"^{name}\\b")).first.click()


def test_large_cohort_page_shows_100_rows_and_few_elements(
    page: Page, records: tuple[VisitRecord, ...]
) -> None:
    assert keys(page) == [record.key for record in records[:100]]
    assert shown(page) == "5000 rows, 1 to 100 shown"
    assert page.evaluate("document.querySelectorAll('*').length") < MAX_ELEMENTS
    assert page.evaluate("document.querySelectorAll('.plots *').length") < 500
    spots = dots(page.locator("[data-plot=numbers]"))
    assert len(spots["ring"]) == FLAGGED
    assert len(spots["plain"]) == VISITS - FAILED - FLAGGED


@pytest.mark.parametrize(
    ("turns", "first"),
    [(["next"], 100), (["last"], 4900), (["last", "previous"], 4800), (["next", "first"], 0)],
)
def test_pages_are_turned_by_keyboard(
    page: Page, records: tuple[VisitRecord, ...], turns: list[str], first: int
) -> None:
    for turn in turns:
        page.locator(f"[data-turn={turn}]").press("Enter")
    assert keys(page) == [record.key for record in records[first : first + 100]]
    assert shown(page) == f"5000 rows, {first + 1} to {first + 100} shown"
    assert page.evaluate("document.activeElement.dataset.turn") == turns[-1]
    ends = page.locator("[data-turn=next]").get_attribute("aria-disabled")
    assert ends == ("true" if first == 4900 else "false")


@pytest.mark.parametrize("rows", [50, 200, 500])
def test_number_of_rows_per_page_can_be_selected(page: Page, rows: int) -> None:
    page.locator("#rows").select_option(str(rows))
    assert page.locator("tbody tr").count() == rows
    page.locator("[data-turn=next]").click()
    assert shown(page) == f"5000 rows, {rows + 1} to {2 * rows} shown"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sub-0042", ["sub-0042_ses-1", "sub-0042_ses-2"]),
        ("SUB-2500_ses-1", ["sub-2500_ses-1"]),
        ("cut off sub-245", ["sub-2450_ses-2"]),
        ("nobody has this", []),
    ],
)
def test_search_covers_rows_of_all_pages(page: Page, text: str, found: list[str]) -> None:
    page.locator("[data-turn=last]").click()
    page.locator("#filter").fill(text)
    assert keys(page) == found
    assert shown(page) == f"{len(found)} of 5000 rows"
    page.locator("#filter").fill("")
    assert shown(page) == "5000 rows, 1 to 100 shown"


@pytest.mark.parametrize(
    ("flag", "number", "first"),
    [
        ("flagged", FLAGGED, "sub-0001_ses-1"),
        ("unflagged", VISITS - FLAGGED, "sub-0001_ses-2"),
        ("status-failed", FAILED, "sub-0050_ses-2"),
        ("0", FLAGGED // 2, "sub-0003_ses-2"),
        ("1", FLAGGED // 2, "sub-0001_ses-1"),
    ],
)
def test_flag_filter_covers_rows_of_all_pages(
    page: Page, flag: str, number: int, first: str
) -> None:
    page.locator("#flag").select_option(flag)
    assert keys(page)[0] == first
    assert shown(page).startswith(f"{number} of 5000 rows")
    label = page.locator(f"#flag option[value='{flag}']").text_content() or ""
    assert label.endswith(f"({number})")


def test_search_sorting_and_filter_can_be_combined(
    page: Page, records: tuple[VisitRecord, ...]
) -> None:
    page.locator("#flag").select_option("1")  # visits 0, 10, 20, ..., all of the first session
    page.locator("#filter").fill("ses-2")
    assert keys(page) == []
    page.locator("#filter").fill("sub-00")
    sort_by(page, "lesion load")
    sort_by(page, "lesion load")
    wanted = [one for one in records[:198:10] if one.lesion_load_ml is not None]
    wanted.sort(key=lambda one: -(one.lesion_load_ml or 0))
    assert keys(page) == [one.key for one in wanted]


def test_all_rows_are_sorted_with_missing_values_last(
    page: Page, records: tuple[VisitRecord, ...]
) -> None:
    finished = [one for one in records if one.lesion_load_ml is not None]
    finished.sort(key=lambda one: one.lesion_load_ml or 0)
    failed = [one.key for one in records if one.status == "failed"]
    for order, direction in ((finished, "ascending"), (finished[::-1], "descending")):
        sort_by(page, "lesion load")
        assert page.locator(f"th[aria-sort={direction}]").count() == 1
        assert keys(page) == [one.key for one in order[:100]]
        page.locator("[data-turn=last]").click()
        assert keys(page)[-FAILED:] == failed
    sort_by(page, "session")
    assert {key.partition("_")[2] for key in keys(page)} == {"ses-1"}


def test_selecting_participant_opens_its_table_page(page: Page) -> None:
    page.locator("#participant").fill("sub-2400")
    assert shown(page) == "5000 rows, 4701 to 4800 shown"
    assert lit(page) == {"sub-2400"}
    assert page.locator("tbody tr.lit").count() == 2
    assert page.locator("[data-plot=numbers] circle.lit").count() == 1  # the other visit failed
    assert page.locator("#participants option").count() == 1
    page.locator("#participant").fill("sub-1")
    assert page.locator("#participants option").count() == 20
    assert lit(page) == set()


def test_click_on_plot_dot_selects_one_participant(page: Page) -> None:
    plot = page.locator("[data-plot=numbers]")
    place = max(dots(plot)["plain"], key=lambda one: one[0] - one[1])
    click_on(plot.locator("svg"), *place)
    (participant,) = lit(page)
    assert page.locator("#participant").input_value() == participant
    assert page.locator("tbody tr.lit").count() == 2


def test_pictures_are_loaded_from_files(page: Page) -> None:
    assert page.locator(".contact img").count() == 1
    page.locator(".contact img").scroll_into_view_if_needed()
    expect(page.locator(".contact img")).to_have_js_property("naturalWidth", 300)
    assert page.locator(".contact img").get_attribute("src") == PICTURE
    page.locator("[data-turn=next]").click()
    assert page.locator("#sheet").is_hidden()


def test_page_without_javascript_shows_first_rows(page_file: Path, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    plain = context.new_page()
    plain.goto(page_file.as_uri())
    assert plain.locator("tbody tr").count() == 100
    assert plain.locator("#tools").is_hidden()
    assert plain.locator("noscript a").get_attribute("href") == "group_lesions.tsv"
    context.close()
