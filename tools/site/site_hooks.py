"""MkDocs hooks that build the site: generated pages, links and includes.

Generated pages are added to those of ``docs/``: command lines (from the parsers), outputs (from
the code that writes them), model cards, and the list of changes. Links of ``docs/`` that leave it,
and so work when the repository is browsed, are redirected to those pages or to copies of the
files. A page of ``docs/`` that ``mkdocs.yml`` does not list is put under *More*.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from site_links import include_sections, outside_targets, turn_links
from site_outputs import outputs_page
from site_usage import usage_page

from bids_msseg.reports.methods import REFERENCES

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "bids_msseg" / "data" / "weights"
DOCS = ROOT / "docs"
_CODE_PAGE = re.compile(r"`docs/([\w/-]+\.md)`")


def generated_pages() -> dict[str, str]:
    """Write every page that is not in ``docs/``.

    Returns
    -------
    dict of str to str
        Place in the site to Markdown.
    """
    cards = {
        f"cards/{path.name}": path.read_text(encoding="utf-8") for path in WEIGHTS.glob("*.md")
    }
    changes = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    return {
        "reference/usage.md": usage_page(),
        "reference/outputs.md": outputs_page(),
        "changelog.md": _CODE_PAGE.sub(_linked, changes),
        **cards,
    }


def site_places() -> dict[str, str]:
    """Say where files of the repository are on the site.

    Returns
    -------
    dict of str to str
        Path below the root to place in the site.
    """
    cards = {str(path.relative_to(ROOT)): f"cards/{path.name}" for path in WEIGHTS.glob("*.md")}
    pages = {f"docs/{place}": place for place in _sources()}
    return {"CHANGES.md": "changelog.md", "README.md": "index.md", **cards, **pages}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation with model cards and pages that are not listed."""
    cards = [
        f"cards/{name}"
        for name in sorted((path.name for path in WEIGHTS.glob("*.md")), reverse=True)
    ]
    nav = [_filled(entry, {"CARDS": cards}) for entry in config.nav or []]
    listed = set(_pages(nav))
    unlisted = [place for place in _sources() if place not in listed]
    config.nav = [*nav, {"More": unlisted}] if unlisted else nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages, and copies of files that pages link to."""
    from mkdocs.structure.files import File

    pages = generated_pages()
    for place, text in pages.items():
        files.append(File.generated(config, place, content=text))
    sources = [DOCS / place for place in _sources()]
    for target in outside_targets(sources, DOCS, ROOT):
        if target not in site_places() and (ROOT / target).is_file():
            copy = File.generated(config, f"files/{target}", abs_src_path=str(ROOT / target))
            files.append(copy)
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Insert the includes of a page, and redirect links that leave ``docs/``."""
    place = page.file.src_uri
    text = include_sections(_with_code(markdown), ROOT)
    return turn_links(text, place, site_places(), ROOT)


def _sources() -> list[str]:
    """List the pages of ``docs/`` by their path below it."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def _linked(match: re.Match[str]) -> str:
    """Return a link to a page named in the list of changes, unless it was moved."""
    place = match[1]
    return f"[`{place}`]({place})" if (DOCS / place).is_file() else match[0]


def _with_code(markdown: str) -> str:
    """Insert the references from the code, and ``CITATION.cff``."""
    references = "\n".join(f"- {reference}" for reference in REFERENCES)
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").strip()
    text = markdown.replace("<!-- references -->", references)
    return text.replace("<!-- file CITATION.cff -->", citation)


def _filled(entry: Any, lists: dict[str, list[str]]) -> Any:
    if isinstance(entry, dict):
        return {title: _filled(inner, lists) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [child for inner in entry for child in _spread(inner, lists)]
    return entry


def _spread(inner: Any, lists: dict[str, list[str]]) -> list[Any]:
    if isinstance(inner, str) and inner in lists:
        return list(lists[inner])
    return [_filled(inner, lists)]


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inner = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in inner for page in _pages(entry)]
