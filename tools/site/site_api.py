"""Page of the Python API: the names on it, and links to them from docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "api.md"
_BLOCK = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc|obj):`(~?)([\w.]+)`")
_LITERAL = re.compile(r"``(.+?)``", re.DOTALL)


def declared_names() -> dict[str, tuple[str, ...]]:
    """Map each module on the page to the names in its ``__all__``."""
    modules = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return {name: _all_of(ROOT / Path(*name.split(".")).with_suffix(".py")) for name in modules}


def _all_of(path: Path) -> tuple[str, ...]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return tuple(ast.literal_eval(node.value))
    raise LookupError(f"{path} has no __all__")


class Roles(griffe.Extension):
    """Extension that turns roles in docstrings into links if their target is declared."""

    def __init__(self) -> None:
        super().__init__()
        self.declared = {
            f"{mod}.{name}" for mod, names in declared_names().items() for name in names
        }

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Convert the roles of a docstring; see :meth:`griffe.Extension.on_object`."""
        if obj.docstring is not None:
            scope = obj.module.path
            text = _ROLE.sub(lambda role: self.link(role, scope), obj.docstring.value)
            obj.docstring.value = _LITERAL.sub(lambda literal: f"`{literal[1]}`", text)

    def link(self, role: re.Match[str], scope: str) -> str:
        """Return a link to a declared name; other names become code."""
        short, name = role[1], role[2]
        label = name.rpartition(".")[2] if short else name
        target = next(
            (candidate for candidate in (name, f"{scope}.{name}") if candidate in self.declared),
            None,
        )
        return f"[`{label}`][{target}]" if target else f"`{label}`"
