"""Pages made of docstrings: one a room of the package, and what docstrings need to be Markdown.

Public names: :func:`api_pages`, :class:`Roles`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

PACKAGE = Path(__file__).resolve().parents[2] / "bids_msseg"
ROOMS = {
    "": "Top: configuration, errors, segment()",
    "cli": "cli: the command lines",
    "app": "app: which visits are processed, and what became of them",
    "check": "check: painted lesions and pseudo-rescans of own scans",
    "bids": "bids: datasets, names, records",
    "pipeline": "pipeline: the method, from images to lesions",
    "imaging": "imaging: images as arrays with affines",
    "models": "models: networks, inference, weights",
    "segmenters": "segmenters: other segmenters in place of the networks",
    "trainer": "trainer: the training loop of any network",
    "training": "training: label maps, synthetic images, losses, the protocol",
    "lesions": "lesions: instances, loads, regions, agreement",
    "io": "io: files that appear complete or not at all",
    "nodes": "nodes: one function call each",
    "workflow": "workflow: which node feeds which",
    "reports": "reports: pages and pictures",
    "evaluation": "evaluation: agreement with experts, consensus of raters",
    "demo": "demo: the synthetic dataset",
}
_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc|obj):`(~?)([\w.]+)`")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)


def api_pages() -> dict[str, str]:
    """Write the pages.

    Returns
    -------
    dict of str to str
        Place in the site to Markdown with one mkdocstrings block a module.
    """
    return {f"api/{room or 'top'}.md": _page(room) for room in ROOMS}


def modules(room: str) -> Iterator[str]:
    """Name the modules of a room, private ones left out.

    Parameters
    ----------
    room : str
        Folder below the package; empty for its top.
    """
    folder = PACKAGE / room
    files = sorted(folder.rglob("*.py") if room else folder.glob("*.py"))
    for path in files:
        if not path.stem.startswith("_"):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def _page(room: str) -> str:
    parts = [f"# {ROOMS[room]}\n"]
    for name in modules(room):
        if _has_public(name):
            parts.append(f"::: {name}\n")
        else:
            parts.append(f"## `{name}`\n")
    return "\n".join(parts)


def _has_public(name: str) -> bool:
    path = PACKAGE.parent / Path(*name.split(".")).with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is not None


class Roles(griffe.Extension):
    """Turn the roles of reStructuredText in docstrings into links where the target has a page."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """See :meth:`griffe.Extension.on_object`."""
        if obj.docstring is not None:
            scope = obj.module.path

            def link(match: re.Match[str]) -> str:
                return _link(match, scope)

            text = _ROLE.sub(link, obj.docstring.value)
            obj.docstring.value = _LITERAL.sub(lambda one: f"`{one[1]}`", text)


def _link(match: re.Match[str], scope: str) -> str:
    short, name = match[1], match[2]
    shown = name.rpartition(".")[2] if short else name
    if name.startswith("bids_msseg"):
        return f"[`{shown}`][{name}]" if _is_there(name) else f"`{shown}`"
    whole = f"{scope}.{name}"
    return f"[`{shown}`][{whole}]" if _is_there(whole) else f"`{shown}`"


def _is_there(name: str) -> bool:
    """Whether a page has this name; modules, and public names at their top."""
    parts = name.split(".")
    for depth in (len(parts), len(parts) - 1):
        path = PACKAGE.parent / Path(*parts[:depth]).with_suffix(".py")
        if path.is_file() and not path.stem.startswith("_"):
            rest = parts[depth:]
            return not rest or (not rest[0].startswith("_") and rest[0] in _names(path))
    return False


def _names(path: Path) -> set[str]:
    """List what a module defines and describes."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            found.add(node.name)
    return found
