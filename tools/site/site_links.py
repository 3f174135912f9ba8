"""Links between pages: those that leave ``docs/``, and those without a target."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

GENERATED = ("docs/reference/usage.md", "docs/reference/outputs.md")
"""Generated pages: pages of ``docs/`` may link to them, though they are only on the site."""
_LINK = re.compile(r"(\]\(|\b(?:src|href)=\")([^)\s\"]+)")
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`[^`\n]*`")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//|#", re.IGNORECASE)
_INCLUDE = re.compile(r"<!-- include ([\w./-]+):(\w+) -->")


def links_of(text: str) -> list[str]:
    """List the links and images of a page that stay in the repository.

    Parameters
    ----------
    text : str
        Markdown; code is passed over.

    Returns
    -------
    list of str
        As written, with their anchors.

    Examples
    --------
    >>> links_of("[a](b.md#c) ![d](e.png) `[no](no.md)` [f](https://example.org) [g](#h)")
    ['b.md#c', 'e.png']
    """
    plain = _INLINE.sub("", _FENCE.sub("", text))
    links = (match[2] for match in _LINK.finditer(plain))
    return [link for link in links if not _ELSEWHERE.match(link)]


def anchors_of(text: str) -> set[str]:
    r"""List the anchors of a page's headings, as far as GitHub and MkDocs spell them alike.

    Examples
    --------
    >>> sorted(anchors_of("# What `--x` does\\n\\n## Two  words"))
    ['two-words', 'what---x-does']
    """
    plain = _FENCE.sub("", text)
    headings = re.findall(r"^#+ +(.+?) *#*$", plain, re.MULTILINE)
    return {
        re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())
        for heading in headings
    }


def broken_links(path: Path, root: Path) -> list[str]:
    """Find links and images of a page whose file or heading is not there.

    Headings of :data:`GENERATED` pages are left to the strict build.

    Parameters
    ----------
    path : Path
        A Markdown file.
    root : Path
        Top folder of the repository; a link out of it is broken.

    Returns
    -------
    list of str
        One sentence each.
    """
    wrong = []
    for link in links_of(path.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = Path(os.path.normpath(path.parent / name))
        if target in {root / page for page in GENERATED}:
            continue
        if not target.is_relative_to(root) or not target.exists():
            wrong.append(f"{path.relative_to(root)}: {link} is not there")
        elif anchor and target.suffix == ".md" and anchor not in _anchors(target):
            wrong.append(f"{path.relative_to(root)}: {name} has no heading #{anchor}")
    return wrong


def outside_targets(pages: Iterable[Path], docs: Path, root: Path) -> list[str]:
    """List the files outside a folder that its pages link to.

    Parameters
    ----------
    pages : iterable of Path
        Markdown files below ``docs``.
    docs, root : Path
        Their folder, and the top folder.

    Returns
    -------
    list of str
        Below ``root``, with slashes.
    """
    targets = {
        _target(link, page.parent, root)
        for page in pages
        for link in links_of(page.read_text(encoding="utf-8"))
    }
    return sorted(
        target for target in targets if target and not target.startswith(f"{docs.name}/")
    )


def turn_links(text: str, place: str, places: Mapping[str, str], root: Path) -> str:
    """Make links between files of the repository links between pages of the site.

    Parameters
    ----------
    text : str
        Markdown of a page.
    place : str
        Where the page is on the site, and so below ``docs/`` where it has a source there.
    places : mapping of str to str
        Path below ``root`` to place on the site; other files are looked for under ``files/``.
    root : Path
        Top folder of the repository.

    Returns
    -------
    str
    """
    folder = (root / "docs" / place).parent

    def turned(match: re.Match[str]) -> str:
        link = match[2]
        target = None if _ELSEWHERE.match(link) else _target(link, folder, root)
        if not target or target.startswith("docs/"):
            return match[0]
        _, hash_, anchor = link.partition("#")
        new = places.get(target, f"files/{target}")
        return match[1] + os.path.relpath(new, Path(place).parent) + hash_ + anchor

    return "".join(
        part if is_code else _LINK.sub(turned, part) for part, is_code in _split_code(text)
    )


def include_sections(text: str, root: Path) -> str:
    """Replace ``<!-- include FILE:NAME -->`` by what stands in FILE between the marks of NAME.

    Parameters
    ----------
    text : str
        Markdown.
    root : Path
        Folder that FILE is below; its links are turned to be right in ``docs/``.

    Returns
    -------
    str

    Raises
    ------
    LookupError
        If the file has no ``<!-- NAME -->`` and ``<!-- /NAME -->``.
    """

    def section(match: re.Match[str]) -> str:
        content = (root / match[1]).read_text(encoding="utf-8")
        inside = re.search(rf"<!-- {match[2]} -->\n(.*?)<!-- /{match[2]} -->", content, re.DOTALL)
        if inside is None:
            raise LookupError(f"{match[1]} has no section marked {match[2]}")
        return _LINK.sub(_from_docs, inside[1])

    return _INCLUDE.sub(section, text)


def _anchors(path: Path) -> set[str]:
    return anchors_of(path.read_text(encoding="utf-8"))


def _from_docs(match: re.Match[str]) -> str:
    link = match[2]
    if _ELSEWHERE.match(link):
        return match[0]
    return match[1] + (link.removeprefix("docs/") if link.startswith("docs/") else f"../{link}")


def _target(link: str, folder: Path, root: Path) -> str | None:
    path = Path(os.path.normpath(folder / link.partition("#")[0]))
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else None


def _split_code(text: str) -> Iterator[tuple[str, bool]]:
    """Split a page into text and fenced code."""
    last = 0
    for match in _FENCE.finditer(text):
        yield text[last : match.start()], False
        yield match[0], True
        last = match.end()
    yield text[last:], False
