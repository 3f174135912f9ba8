"""Take a screenshot of a page, or of a part of it, in headless Chromium.

usage: python tools/screenshot.py PAGE.html OUT.png [--hide SELECTOR] [--size 1300x1500] [--dark]

``--hide`` hides the elements that match a CSS selector in a copy of the page, so that a part far
down can be shown. The content security policy of the page applies to the copy too.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image


def main() -> int:
    """Read the command line and take the screenshot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hide", default="")
    parser.add_argument("--size", default="1300x1500")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chrome")
    if browser is None:
        print("chromium is not installed", file=sys.stderr)
        return 1
    html = options.page.read_text(encoding="utf-8")
    style = f"<style>{options.hide} {{ display: none !important }}</style>" if options.hide else ""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "page.html")
        copy.write_text(html.replace("</head>", f"{style}</head>", 1), encoding="utf-8")
        shoot(browser, copy, options)
    with Image.open(options.out) as image:
        quantized = image.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
        quantized.save(options.out, optimize=True)
    return 0


def shoot(browser: str, page: Path, options: argparse.Namespace) -> None:
    """Write the screenshot with the browser."""
    subprocess.run(  # noqa: S603 (the browser on the PATH, and a page of ours)
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={options.size.replace('x', ',')}",
            f"--blink-settings=preferredColorScheme={0 if options.dark else 1}",
            f"--screenshot={options.out.resolve()}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )


if __name__ == "__main__":
    raise SystemExit(main())
