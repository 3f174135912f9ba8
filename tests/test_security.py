"""Rules for the whole package: no pickle, no shell, no network, no unchecked unpacking."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "bids_msseg"
NEVER = {
    "eval",
    "exec",
    "os.popen",
    "os.system",
    "pickle.dump",
    "pickle.dumps",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "joblib.load",
    "pandas.read_pickle",
    "yaml.load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "torch.hub.load",
}
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
NETWORK = {"http", "urllib", "requests", "socket", "ftplib", "aiohttp", "httpx"}
MAY_NAME_URLS = {"urllib.parse"}


def _name(node: ast.expr) -> str:
    """Return the dotted name of an expression; empty if it has none."""
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def findings(source: str) -> Iterator[str]:
    """Yield the forbidden calls and imports of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield from _call(node)
        if isinstance(node, ast.Import):
            yield from _imports([alias.name for alias in node.names])
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # calls of such a name do not contain its module
            yield from (name for name in names if name in NEVER or name in NEEDED)
            yield from _imports([node.module or ""])


def _imports(modules: list[str]) -> Iterator[str]:
    for module in modules:
        if module.split(".")[0] in NETWORK and module not in MAY_NAME_URLS:
            yield f"import {module}"


def _call(node: ast.Call) -> Iterator[str]:
    name = _name(node.func)
    given = {
        word.arg: word.value.value
        for word in node.keywords
        if isinstance(word.value, ast.Constant) and word.arg
    }
    if name in NEVER or name.endswith((".extractall", ".read_pickle")):
        yield name
    if given.get("shell"):
        yield f"{name} with a shell"
    if name in NEEDED:
        option, value = NEEDED[name]
        if given.get(option) is not value:
            yield f"{name} without {option}={value}"


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "import pickle\npickle.loads(b'')",
        "from pickle import loads",
        "from torch import load\nfrom os import system",
        "subprocess.run(text, shell=True)",
        "import socket",
        "from urllib.request import urlopen",
        "archive.extractall(p)",
        "yaml.load(t)",
    ],
)
def test_forbidden_code_is_found(source: str) -> None:
    assert list(findings(source))


def test_safe_code_is_accepted() -> None:
    fine = "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)"
    assert list(findings(f"import pickle\nfrom urllib.parse import quote\n{fine}")) == []


def test_package_contains_no_forbidden_code() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) > 100
    found = {
        path.relative_to(PACKAGE).as_posix(): list(findings(path.read_text(encoding="utf-8")))
        for path in modules
    }
    assert {name: what for name, what in found.items() if what} == {}
