"""Take the pictures of docs/how-to/qc.md from the pages of a finished run.

OUT is the output folder of ``msseg RAW OUT participant group`` on the longitudinal patients of
Ljubljana (Lesjak et al. 2016, CC-BY), of which the page of ``sub-12`` is shown. Needs playwright
(in the test requirements) and chromium.

usage: python docs/recipes/shoot_pages.py OUT
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import FloatRect, Page, sync_playwright

FIGURES = Path(__file__).resolve().parents[1] / "figures"
OPTIONS = (
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
)
PATIENCE_MS = 180_000
PLOTS: FloatRect = {"x": 0, "y": 0, "width": 1360, "height": 1130}


def shoot_participant(page: Page, path: Path) -> None:
    """Show the second lesion of the first visit in the viewer, with rejected candidates."""
    page.goto(path.as_uri())
    page.locator(".viewer").first.scroll_into_view_if_needed()
    page.wait_for_selector(".viewer[data-ready]")
    page.locator("input[value=rejected]").first.check()
    page.locator("button.go").nth(1).click()
    page.wait_for_timeout(1000)
    page.screenshot(path=FIGURES / "page_participant.png")


def shoot_group(page: Page, path: Path) -> None:
    """Show the cohort with one participant marked everywhere."""
    page.goto(path.as_uri())
    page.locator("#participant").fill("sub-12")
    page.wait_for_timeout(500)
    page.screenshot(path=FIGURES / "page_group.png", full_page=True, clip=PLOTS)


def main(out: Path) -> None:
    """Open both pages with the network off."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=[*OPTIONS])
        context = browser.new_context(viewport={"width": 1360, "height": 1000}, offline=True)
        context.set_default_timeout(PATIENCE_MS)
        shoot_participant(context.new_page(), out / "sub-12.html")
        shoot_group(context.new_page(), out / "group_lesions.html")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
