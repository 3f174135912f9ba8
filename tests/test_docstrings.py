"""The declared API has numpydoc docstrings; internal code has short ones."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"^(Parameters|Returns|Yields|Raises|Attributes|Notes)\n-{3,}$", re.MULTILINE)

Described = ast.FunctionDef | ast.ClassDef


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, ...]]:
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "site"))
    import site_api

    names: dict[str, tuple[str, ...]] = site_api.declared_names()
    sys.modules.pop("site_api")
    return names


def described(path: Path) -> Iterator[tuple[str, Described, str]]:
    """Yield functions, classes and methods with their top-level name and docstring."""
    for top in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(top, Described):
            for node in ast.walk(top):
                if isinstance(node, Described):
                    yield top.name, node, ast.get_docstring(node) or ""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def modules() -> list[Path]:
    return sorted((ROOT / "bids_msseg").rglob("*.py"))


def test_internal_docstrings_have_no_sections(declared: dict[str, tuple[str, ...]]) -> None:
    long = [
        f"{module_of(path)}.{top}: {node.name}"
        for path in modules()
        for top, node, text in described(path)
        if top not in declared.get(module_of(path), ()) and SECTION.search(text)
    ]
    assert long == []


def test_declared_functions_describe_their_parameters(
    declared: dict[str, tuple[str, ...]],
) -> None:
    undescribed = [
        f"{name}.{node.name}: {argument.arg}"
        for name, names in declared.items()
        for top, node, text in described(ROOT / Path(*name.split(".")).with_suffix(".py"))
        if isinstance(node, ast.FunctionDef) and node.name == top and top in names
        for argument in (*node.args.args, *node.args.kwonlyargs)
        if not re.search(rf"^(\w+, )*{argument.arg}(, \w+)* :", text, re.MULTILINE)
    ]
    assert undescribed == []


def test_only_declared_modules_have_a_list_of_public_names(
    declared: dict[str, tuple[str, ...]],
) -> None:
    listing = {
        module_of(path)
        for path in modules()
        if re.search(r"^__all__ = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert listing == {*declared, "bids_msseg.__init__"}
    assert all(names for names in declared.values())
