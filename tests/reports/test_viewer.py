"""Interaction with pages in a real browser, offline, with WebGL 2 rendered in software."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, sync_playwright

from bids_msseg.bids.record import write_record
from bids_msseg.imaging.volume import Volume
from bids_msseg.pipeline.given_masks import read_exclusion_masks
from bids_msseg.pipeline.lesions import Grid
from bids_msseg.reports.group.report import write_group
from bids_msseg.reports.participant import write_participant_page

from .test_browser import CHROMIUM
from .test_browser import pytestmark as pytestmark

SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


class Reader:
    """A browser window that records errors, warnings and network requests."""

    def __init__(self, page: Page, shots: Path) -> None:
        self.page = page
        self.shots = shots
        self.faults: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", self._request)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(message.text)

    def _request(self, request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.asked.append(request.url)

    def open(self, path: Path) -> Page:
        """Open a page; if it has a viewer, wait until the first viewer has loaded its images."""
        self.page.goto(path.as_uri())
        viewer = self.page.locator(".viewer:not([hidden])").first
        if viewer.count():
            viewer.scroll_into_view_if_needed()
            self.page.wait_for_selector(".viewer[data-ready]", timeout=120_000)
        return self.page

    def shoot(self, name: str) -> Path:
        """Save a screenshot of the window."""
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path)
        return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as play:
        started = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *SOFTWARE_GL]
        )
        yield started
        started.close()


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the screenshots: MSSEG_SCREENSHOTS, or a temporary folder of pytest."""
    folder = Path(os.environ.get("MSSEG_SCREENSHOTS", "") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def reader(browser: Browser, shots: Path) -> Iterator[Reader]:
    """An offline reader; errors, warnings and network requests of the page fail the test."""
    context = browser.new_context(
        offline=True, viewport={"width": 1360, "height": 1000}, accept_downloads=True
    )
    context.set_default_timeout(120_000)  # software rendering on a busy machine
    found = Reader(context.new_page(), shots)
    yield found
    context.close()
    assert found.faults == []
    assert found.asked == []


def place(page: Page) -> np.ndarray:
    """Return the crosshair position of the first viewer, in mm."""
    text = page.locator(".viewer").first.get_attribute("data-mm") or ""
    return np.array([float(value) for value in text.split()])


def goal(row: Locator) -> np.ndarray:
    return np.array([float(value) for value in (row.get_attribute("data-mm") or "").split()])


def seen(page: Page) -> bytes:
    """Return a screenshot of the first viewer, after a pause for rendering."""
    page.wait_for_timeout(300)
    return page.locator(".stage").first.screenshot()


def test_click_on_table_row_moves_viewer_to_lesion(out_dir: Path, reader: Reader) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    rows = page.locator("tr[data-status=kept][data-mm]")
    first, second = rows.nth(0), rows.nth(1)
    assert np.allclose(place(page), goal(first), atol=0.02)
    assert np.linalg.norm(goal(first) - goal(second)) > 2
    before = seen(page)
    second.locator("td").nth(1).click()
    page.wait_for_selector("tr.current[data-index='2']")
    assert np.allclose(place(page), goal(second), atol=0.02)
    assert "lesion 2" in page.locator(".place").first.inner_text()
    assert "probability 0.90" in page.locator(".place").first.inner_text()
    assert seen(page) != before
    reader.shoot("participant_viewer")


def test_selecting_rejected_candidate_shows_its_layer(out_dir: Path, reader: Reader) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    box = page.locator("input[value=rejected]").first
    assert not box.is_checked()
    page.locator("summary", has_text="rejected candidate").click()
    row = page.locator("tr[data-status=rejected][data-mm]").first
    row.locator("button").click()
    page.wait_for_selector("tr.current[data-status=rejected]")
    assert box.is_checked()
    assert np.allclose(place(page), goal(row), atol=0.02)
    assert "rejected candidate 1" in page.locator(".place").first.inner_text()


def test_viewer_controls_switch_images_layers_and_planes(out_dir: Path, reader: Reader) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    pictures = [seen(page)]
    for change in (
        lambda: page.locator("input[value=lesions]").first.uncheck(),
        lambda: page.locator("input[value=probability]").first.check(),
        lambda: page.locator("input[value=T1w]").first.check(),
        lambda: page.locator("select").first.select_option("coronal"),
    ):
        change()
        pictures.append(seen(page))
    assert len(set(pictures)) == 5
    page.locator("input[value=probability]").first.uncheck()
    page.locator("input[value=lesions]").first.check()
    page.locator("input[value=FLAIR]").first.check()
    page.locator("select").first.select_option("all")
    assert seen(page) == pictures[0]


def test_keyboard_shortcuts_control_viewer(out_dir: Path, reader: Reader) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    canvas = page.locator(".viewer canvas").first
    canvas.focus()
    page.keyboard.press("n")
    page.wait_for_selector("tr.current[data-index='2']")
    page.keyboard.press("p")
    page.wait_for_selector("tr.current[data-index='1']")
    before = place(page)
    page.keyboard.press("PageUp")
    assert place(page)[2] == pytest.approx(before[2] + 4, abs=0.05)
    page.keyboard.press("m")
    assert not page.locator("input[value=lesions]").first.is_checked()
    page.keyboard.press("f")
    flicker = page.locator("[data-do=flicker]").first
    assert flicker.get_attribute("aria-pressed") == "true"
    page.wait_for_selector(".viewer[data-image=T1w]")
    page.wait_for_selector(".viewer[data-image=FLAIR]")
    canvas.press("f")
    assert flicker.get_attribute("aria-pressed") == "false"


def save(page: Page, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.locator("form.qc button.primary").first.click()
    target = folder / waiting.value.suggested_filename
    waiting.value.save_as(target)
    return target


def test_saved_qc_rating_is_valid_and_used_by_group_table(
    out_dir: Path, reader: Reader, tmp_path: Path
) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    page.locator("tr[data-status=kept] input").nth(1).check()
    page.locator("form.qc input[value=accept]").first.check()
    page.locator("form.qc input[name=rater]").first.fill("A <b>")
    assert "1 lesion rejected" in page.locator(".qc .sum").first.inner_text()
    assert "12.50 → 12.45 mL" in page.locator(".qc .sum").first.inner_text()
    reader.shoot("participant_rating")
    path = save(page, tmp_path)
    assert path.name == "sub-01_ses-1_desc-qc_rating.json"
    content = json.loads(path.read_text())
    schema = resources.files("bids_msseg").joinpath("data/qc.schema.json").read_text()
    jsonschema.validate(content, json.loads(schema))
    assert content["rater"] == "A <b>"
    assert content["lesions"] == [
        {"index": 2, "status": "kept", "volume_mm3": 50, "decision": "reject"}
    ]
    table = write_group(out_dir, qc_dir=tmp_path).tsv.read_text().splitlines()
    row = dict(zip(table[0].split("\t"), table[1].split("\t"), strict=True))
    assert (row["qc_rating"], row["qc_lesion_load_ml"]) == ("accept", "12.45")


def test_saved_qc_file_is_loaded_and_stale_file_is_refused(
    out_dir: Path, reader: Reader, tmp_path: Path
) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    page.locator("tr[data-status=kept] input").nth(2).check()
    path = save(page, tmp_path)
    page.reload()
    upload = page.locator("form.qc input[type=file]").first
    upload.set_input_files(path)
    page.wait_for_selector("tr.struck")
    assert page.locator("tr.struck").get_attribute("data-index") == "3"
    stale = json.loads(path.read_text()) | {"mask_sha256": "0" * 64}
    path.write_text(json.dumps(stale))
    upload.set_input_files(path)
    page.locator(".qc .sum", has_text="another mask of this visit").wait_for()


def outline(page: Page, left: int) -> None:
    """Draw a square of 80 pixels whose left edge has this offset from the centre."""
    box = page.locator(".viewer canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2 + left, box["y"] + box["height"] / 2 - 40
    page.mouse.move(x, y)
    page.mouse.down()
    for right, down in ((80, 0), (80, 80), (0, 80)):
        page.mouse.move(x + right, y + down, steps=8)
    page.mouse.up()


def drawn_voxels(page: Page) -> int:
    return int(page.locator(".viewer").first.get_attribute("data-drawn") or 0)


def test_drawn_region_is_undone_and_saved_as_exclusion_mask(
    out_dir: Path, small_head: dict[str, Volume], reader: Reader, tmp_path: Path
) -> None:
    page = reader.open(write_participant_page(out_dir, "01"))
    page.locator("select").first.select_option("axial")
    canvas, draw = page.locator(".viewer canvas").first, page.locator("[data-do=draw]").first
    draw.click()
    assert draw.get_attribute("aria-pressed") == "true"
    canvas.scroll_into_view_if_needed()
    before = seen(page)
    outline(page, -100)
    end, count = place(page), drawn_voxels(page)
    assert count > 0
    assert seen(page) != before
    outline(page, 20)
    assert drawn_voxels(page) > count
    canvas.press("u")
    assert drawn_voxels(page) == count
    assert "not saved yet" in page.locator(".place").first.inner_text()
    canvas.press("d")
    assert draw.get_attribute("aria-pressed") == "false"
    reader.shoot("participant_drawing")
    with page.expect_download() as waiting:
        page.locator("[data-do=save]").first.click()
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.name == "sub-01_ses-1_space-FLAIR_desc-drawn_mask.nii.gz"
    page.locator(".place").first.filter(has_not_text="not saved yet").wait_for()
    flair = small_head["flair"]
    mask, notes = read_exclusion_masks([path], Grid(flair))
    assert notes == ()
    assert mask.sum() == count
    voxels = np.argwhere(mask)
    size = np.ptp(voxels, axis=0) + 1
    assert size[2] == 1
    assert size[:2].min() > 3
    assert count >= 0.9 * size.prod()  # filled
    world = voxels @ flair.affine[:3, :3].T + flair.affine[:3, 3]
    assert np.linalg.norm(world - end, axis=1).min() < 1.5
    assert world[:, 0].min() > 0  # radiological: left on the screen is the right of the patient


def test_pictures_replace_viewer_without_webgl2(out_dir: Path, reader: Reader) -> None:
    reader.page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null;")
    page = reader.open(write_participant_page(out_dir, "01"))
    assert page.locator(".viewer-off").first.is_visible()
    assert "JavaScript and WebGL 2" in page.locator(".viewer-off").inner_text()
    assert not page.locator(".viewer").first.is_visible()
    assert page.locator(".mosaic img").first.is_visible()
    assert page.locator("form.qc").is_visible()


@pytest.fixture
def cohort(out_dir: Path, make_record: Callable[..., Any]) -> Path:
    """A cohort of two sites in a folder with its participants.tsv."""
    lines = ["participant_id\tsite\tage"]
    for i in range(1, 13):
        for session in ("1", "2"):
            load = round(1.7 * i + float(session), 2)
            record = make_record(f"{i:02d}", session, lesion_load_ml=load, flags=("x",) * (i == 5))
            write_record(out_dir, record)
        lines.append(f"sub-{i:02d}\t{'AB'[i % 2]}\t{25 + 3 * i % 20}")
    (out_dir / "participants.tsv").write_text("\n".join(lines) + "\n")
    return out_dir


def lit(page: Page) -> set[str]:
    return set(
        page.eval_on_selector_all(".lit", "all => all.map((one) => one.dataset.participant)")
    )


def dots(figure: Locator) -> dict[str, list[tuple[float, float]]]:
    """Return the positions of the dots of a plot by kind, in units of the drawing."""
    found: dict[str, list[tuple[float, float]]] = {}
    for path in figure.locator("path.dots").all():
        _, kind = (path.get_attribute("class") or "").split()
        places = re.findall(r"M(\S+) (\S+?)h", path.get_attribute("d") or "")
        found.setdefault(kind, []).extend((float(x), float(y)) for x, y in places)
    return found


def click_on(svg: Locator, x: float, y: float) -> None:
    """Click on a position given in units of the drawing."""
    box = svg.bounding_box()
    assert box is not None
    scale = box["width"] / 640
    svg.click(position={"x": x * scale, "y": y * scale})


def test_selected_participant_is_highlighted_in_plots_and_table(
    cohort: Path, reader: Reader
) -> None:
    page = reader.open(write_group(cohort, bids_dir=cohort).html)
    levels = page.locator("[data-plot=levels]")
    spots = dots(levels)
    assert len(spots["plain"]) == 22
    assert len(spots["ring"]) == len(spots["hole"]) == 2  # of the visits with a flag
    click_on(levels.locator("svg"), *spots["plain"][2])
    (chosen,) = lit(page)
    assert chosen == "sub-04"  # sites in their order, sub-02 and sub-04 are the first of A
    assert page.locator("#participant").input_value() == chosen
    for where in ("[data-plot=levels] circle", "[data-plot=numbers] circle", "tbody tr"):
        assert page.locator(f"{where}.lit").count() == 2
    assert page.locator("[data-plot=regions] rect.lit").count() == 2
    assert page.locator("[data-plot=numbers] path.lit").count() == 1  # joins both visits
    assert chosen in page.locator("#chosen").inner_text()
    assert (page.locator("#chosen a").get_attribute("href") or "").startswith(f"{chosen}.html")
    reader.shoot("group_highlight")
    page.mouse.move(5, 5)
    page.keyboard.press("Escape")
    assert lit(page) == set()
    page.locator("#participant").fill("07")
    assert lit(page) == {"sub-07"}
    page.locator("tbody a").first.focus()
    assert lit(page) == {"sub-01"}


def test_load_plot_is_grouped_by_selected_column(cohort: Path, reader: Reader) -> None:
    page = reader.open(write_group(cohort, bids_dir=cohort).html)
    levels = page.locator("[data-plot=levels]")
    assert levels.locator("select").input_value() == "site"  # the site is preselected
    label = levels.locator("svg").get_attribute("aria-label") or ""
    summary = (cohort / "group_lesions_summary.tsv").read_text().splitlines()
    medians = {line.split("\t")[1]: line.split("\t")[4] for line in summary if "site" in line}
    assert all(f"{level}: median {value} mL" in label for level, value in medians.items())
    levels.locator("select").select_option("everybody")
    assert levels.locator(".median").count() == 1
    assert page.locator("[data-plot=numbers] select").input_value() == "age"
    lines = page.locator("[data-plot=numbers] path.joins").get_attribute("d") or ""
    assert lines.count("M") == 12


def test_pages_work_in_dark_mode_on_small_screens_and_in_print(
    cohort: Path, reader: Reader, shots: Path
) -> None:
    paths = {
        "group": write_group(cohort, bids_dir=cohort).html,
        "participant": write_participant_page(cohort, "01"),
    }
    for name, path in paths.items():
        reader.page.emulate_media(color_scheme="dark")
        page = reader.open(path)
        reader.shoot(f"{name}_dark")
        page.set_viewport_size({"width": 420, "height": 900})
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 420, f"{name} is {wide} pixels wide on a telephone"
        reader.shoot(f"{name}_small")
        page.set_viewport_size({"width": 1360, "height": 1000})
        page.emulate_media(color_scheme="light")
        page.pdf(path=shots / f"{name}.pdf", print_background=False)
        assert (shots / f"{name}.pdf").stat().st_size > 20_000
