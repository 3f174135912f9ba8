"""Documentation: links, generated pages, and the strict build of the site."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from bids_msseg.bids.changes import CODES
from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.models.weights import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parents[2]
WITH_LINKS = sorted(
    path
    for folder in (".", "docs", "bids_msseg/data/weights", "integrations")
    for path in (ROOT / folder).glob("**/*.md" if folder in ("docs", "integrations") else "*.md")
)


@pytest.fixture(name="tool")
def _tool(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "site"))
    return importlib.import_module


def links(tool: object) -> ModuleType:
    return tool("site_links")  # type: ignore[operator]


@pytest.mark.parametrize("path", WITH_LINKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documentation_page_has_no_broken_links(path: Path, tool: object) -> None:
    assert links(tool).broken_links(path, ROOT) == []


def test_broken_links_reports_missing_file_image_and_heading(tmp_path: Path, tool: object) -> None:
    (tmp_path / "b.md").write_text("# Two words\n")
    page = tmp_path / "a.md"
    page.write_text(
        "[1](b.md#two-words) [2](b.md#three) ![3](c.png) [4](../d.md) `[5](e.md)` "
        "[6](https://example.org)\n```\n[7](f.md)\n```\n"
    )
    assert links(tool).broken_links(page, tmp_path) == [
        "a.md: b.md has no heading #three",
        "a.md: c.png is not there",
        "a.md: ../d.md is not there",
    ]


def test_turn_links_rewrites_links_outside_docs(tool: object) -> None:
    text = (
        "[a](../../CHANGES.md#x) [b](../../tools/y.py) [c](z.md)\n"
        "```\n[d](../../CHANGES.md)\n```\n"
    )
    places = {"CHANGES.md": "changelog.md"}
    turned = links(tool).turn_links(text, "how-to/one.md", places, ROOT)
    assert turned == (
        "[a](../changelog.md#x) [b](../files/tools/y.py) [c](z.md)\n"
        "```\n[d](../../CHANGES.md)\n```\n"
    )


@pytest.mark.parametrize(
    ("place", "link", "turned"),
    [
        ("index.md", "../LICENSE", "files/LICENSE"),
        ("how-to/one.md", "../../LICENSE", "../files/LICENSE"),
        ("how-to/one.md", "../LICENSE", "../LICENSE"),  # docs/LICENSE, a page of the site
        ("how-to/one.md", "../../CHANGES.md#x", "../changelog.md#x"),
    ],
)
def test_turn_links_resolves_relative_to_page_folder(
    place: str, link: str, turned: str, tool: object
) -> None:
    places = {"CHANGES.md": "changelog.md"}
    assert links(tool).turn_links(f"[a]({link})", place, places, ROOT) == f"[a]({turned})"


def test_outside_targets_lists_linked_files_outside_docs(tmp_path: Path, tool: object) -> None:
    pages = {
        "docs/a.md": "[1](../LICENSE) [2](b/c.md)",
        "docs/b/c.md": "[3](../../tools/x.py) [4](../a.md)",
        "docs/b/d.md": "[5](../../LICENSE) [6](../../../elsewhere)",
    }
    for place, text in pages.items():
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = links(tool).outside_targets(map(tmp_path.joinpath, pages), tmp_path / "docs", tmp_path)
    assert found == ["LICENSE", "tools/x.py"]


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("`docs/index.md`", "[`index.md`](index.md)"),
        ("`docs/developer/design.md`", "[`developer/design.md`](developer/design.md)"),
        ("`docs/no_such_page.md`", "`docs/no_such_page.md`"),
    ],
)
def test_page_names_in_changelog_become_links_if_page_exists(
    text: str, linked: str, tool: object
) -> None:
    hooks = tool("site_hooks")  # type: ignore[operator]
    assert hooks._CODE_PAGE.sub(hooks._linked, text) == linked


def test_include_sections_copies_section_and_rewrites_links(tmp_path: Path, tool: object) -> None:
    (tmp_path / "R.md").write_text("<!-- a -->\n[x](docs/y.md) [z](LICENSE)\n<!-- /a -->\n")
    include = links(tool).include_sections
    assert include("<!-- include R.md:a -->", tmp_path) == "[x](y.md) [z](../LICENSE)\n"
    with pytest.raises(LookupError, match="no section marked b"):
        include("<!-- include R.md:b -->", tmp_path)


def test_usage_page_lists_options_of_every_entry_point(tool: object) -> None:
    usage = tool("site_usage")  # type: ignore[operator]
    named = re.findall(r'"(msseg[\w-]*)=bids_msseg', (ROOT / "setup.py").read_text())
    assert sorted(named) == sorted(one for one in usage.PROGRAMS if " " not in one)
    page = usage.usage_page()
    for build in usage.PROGRAMS.values():
        for action in build()._actions:
            if action.help != argparse.SUPPRESS:
                assert all(flag in page for flag in action.option_strings)


def test_program_section_lists_options_of_argument_parser(tool: object) -> None:
    parser = argparse.ArgumentParser(prog="p", description="D.", add_help=False)
    parser.add_argument("--some-file", metavar="A|B", default=3, help="up to *_x, [%(default)s]")
    parser.add_argument("--secret", help=argparse.SUPPRESS)
    section = tool("site_usage").program_section("p", parser)  # type: ignore[operator]
    assert "| `--some-file A|B` | up to `*_x`, \\[3] |" in section
    assert "secret" not in section


def test_outputs_page_describes_every_expected_output(tool: object) -> None:
    outputs = tool("site_outputs")  # type: ignore[operator]
    page = outputs.outputs_page()
    names = (ROOT / "tests/e2e/expected_outputs.txt").read_text().split()
    for stem in outputs.file_patterns(names):
        assert stem.rpartition("/")[2] in page
        assert outputs.describe_file(stem)
    with pytest.raises(LookupError, match="does not describe"):
        outputs.describe_file("sub-X/new_file")


def test_outputs_page_takes_descriptions_of_visit_files_from_table(tool: object) -> None:
    outputs = tool("site_outputs")  # type: ignore[operator]
    texts = {outputs.cell(output.description) for output in (*OUTPUTS.values(), CODES)}
    page = outputs.outputs_page()
    assert all(text in page for text in texts)
    names = (ROOT / "tests/e2e/expected_outputs.txt").read_text().split()
    for stem in outputs.file_patterns(names):
        if "/anat/" in stem or ("/figures/" in stem and "changes" not in stem):
            assert outputs.describe_file(stem) in texts


def test_file_patterns_are_equal_with_and_without_sessions(tool: object) -> None:
    patterns = tool("site_outputs").file_patterns  # type: ignore[operator]
    names = ["sub-02/anat/sub-02_acq-a_desc-b_mask.json", "logs/visits/sub-02.json"]
    with_session = [
        "sub-01/ses-1/anat/sub-01_ses-1_desc-b_mask.json",
        "logs/visits/sub-01_ses-1.json",
    ]
    assert patterns(names) == patterns(with_session) == patterns(names + with_session)


def test_every_column_of_scores_is_described(tool: object) -> None:
    outputs = tool("site_outputs")  # type: ignore[operator]
    assert tuple(outputs._SCORES) == outputs.SCORES


def test_navigation_lists_existing_pages_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"[\w/-]+\.md", text.partition("\nnav:")[2])
    assert len(listed) == len(set(listed))
    made = {"reference/usage.md", "reference/outputs.md", "changelog.md"}
    docs = ROOT / "docs"
    assert set(listed) - made <= {str(path.relative_to(docs)) for path in docs.rglob("*.md")}


def test_roles_of_docstrings_become_links(tool: object) -> None:
    api = tool("site_api")  # type: ignore[operator]
    roles = api.Roles()
    text = "See :class:`~bids_msseg.imaging.volume.Volume`, :func:`predict`, :data:`nothing`."
    found = api._ROLE.sub(lambda one: roles.link(one, "bids_msseg.models.inference"), text)
    assert found == (
        "See [`Volume`][bids_msseg.imaging.volume.Volume], "
        "[`predict`][bids_msseg.models.inference.predict], `nothing`."
    )


class _Needs(HTMLParser):
    """Parser that collects the resources and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "img", "iframe") and found.get("src"):
            self.loads.append(str(found["src"]))
        if tag == "link" and found.get("rel") in ("stylesheet", "preconnect", "icon"):
            self.loads.append(str(found["href"]))
        if tag == "a" and found.get("href"):
            self.leads.append(str(found["href"]))


@pytest.mark.slow
def test_site_builds_without_warnings_and_is_self_contained(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {path: _Needs() for path in tmp_path.rglob("*.html") if path.name != "404.html"}
    for path, needs in pages.items():
        needs.feed(path.read_text(encoding="utf-8"))
        assert [one for one in needs.loads if re.match(r"(https?:)?//", one)] == [], path
        inside = (one.partition("#")[0].partition("?")[0] for one in needs.leads + needs.loads)
        missing = [
            one for one in inside if one and ":" not in one and not (path.parent / one).exists()
        ]
        assert missing == [], path
    text = (tmp_path / "reference" / "api.html").read_text(encoding="utf-8")
    assert 'id="bids_msseg.api.segment"' in text
    assert 'id="bids_msseg.models.inference.tile_starts"' not in text
    assert ":class:" not in text
    assert (tmp_path / "cards" / f"{DEFAULT_MODEL}.html").is_file()
