"""The pages in a real browser, opened from disk; see also ``test_viewer.py``."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bids_msseg.reports.images.figures import LESION
from bids_msseg.reports.participant import write_participant_page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


class Visit:
    """DOM, console messages and network requests of a page in the browser."""

    def __init__(self, folder: Path, page: Path, *options: str) -> None:
        log = folder / "net.json"
        log.unlink(missing_ok=True)
        done = subprocess.run(
            [
                str(CHROMIUM),
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--hide-scrollbars",
                f"--user-data-dir={folder / 'profile'}",
                f"--log-net-log={log}",
                "--enable-logging=stderr",
                *(options or ("--dump-dom",)),
                page.as_uri(),
            ],
            capture_output=True,
            check=True,
            text=True,
            timeout=120,
        )
        self.dom = done.stdout
        self.console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        self.requests = requests_of_pages(log)


def requests_of_pages(log: Path) -> list[str]:
    """Return the URLs that a page requested; requests of the browser itself have no origin."""
    asked = [event.get("params") or {} for event in json.loads(log.read_text())["events"]]
    return [
        one["url"]
        for one in asked
        if one.get("initiator", "not an origin") != "not an origin"
        and one.get("url", "").startswith("http")
    ]


def test_network_requests_and_console_errors_are_detected(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text('<img src="http://away.invalid/x.png"><script>console.error("boo")</script>')
    seen = Visit(tmp_path, page)
    assert seen.requests == ["http://away.invalid/x.png"]
    assert any("boo" in line for line in seen.console)


def test_injected_script_is_blocked_by_csp(out_dir: Path, tmp_path: Path) -> None:
    html = write_participant_page(out_dir, "01").read_text()
    page = tmp_path / "smuggled.html"
    page.write_text(html.replace("</main>", "<script>document.title='ran'</script></main>"))
    seen = Visit(tmp_path, page)
    assert "<title>ran</title>" not in seen.dom
    assert any("Content Security Policy" in line for line in seen.console)


def outline_pixels(folder: Path, page: Path) -> int:
    """Count the pixels in the colour of lesion outlines on a screenshot."""
    shot = folder / "shot.png"
    Visit(folder, page, f"--screenshot={shot}", "--window-size=1280,3000")
    with Image.open(shot) as image:
        pixels = np.array(image.convert("RGB")).astype(int)
    return int((abs(pixels - LESION).max(-1) < 12).sum())


def test_plain_picture_hides_lesion_outlines(out_dir: Path, tmp_path: Path) -> None:
    html = write_participant_page(out_dir, "01").read_text()
    first, second = re.findall(r'id="ses-1-lesions-\d"', html)
    assert f"{first} checked" in html
    only_lesions = html.split("<h3>Brain mask and registration")[0]
    outlined, plain = tmp_path / "outlined.html", tmp_path / "plain.html"
    outlined.write_text(only_lesions)
    plain.write_text(only_lesions.replace(" checked", "").replace(second, f"{second} checked"))
    assert outline_pixels(tmp_path, outlined) > 200
    assert outline_pixels(tmp_path, plain) == 0


def test_participant_page_prints_to_pdf(out_dir: Path, tmp_path: Path) -> None:
    page, pdf = write_participant_page(out_dir, "01"), tmp_path / "page.pdf"
    Visit(tmp_path, page, f"--print-to-pdf={pdf}")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert 3 <= pdf.read_bytes().count(b"/Type /Page\n") <= 12
