"""Fixtures of the table of bad input, and ``--bad-input-table``, which writes it."""

from __future__ import annotations

import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from .place import Place

ROWS = pytest.StashKey[list[tuple[str, ...]]]()
OPTION = "--bad-input-table"
MOMENT = re.compile(r"^\d\d:\d\d:\d\d +(?:[A-Z]+ +)?")
HEAD = """# Bad input, case by case

Exit code, message and hint of each case in `tests/e2e/bad_input/`. This command writes the file:

```
python -m pytest tests/e2e/bad_input -q --bad-input-table=docs/validation/bad_input.md
```

The tests also require that OUT has no half-written file and that the dataset is unchanged. Exit
code 0 means that the input is unusual and can be used; the message is then the note. `…` is the
folder of the test.

| case | exit code | message | hint |
|---|---|---|---|
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=Path, metavar="FILE", help="write the table of cases to FILE")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    target = config.getoption(OPTION, default=None)
    if target is None:
        return
    lines = ["| " + " | ".join(row) + " |\n" for row in config.stash[ROWS]]
    (config.invocation_params.dir / target).write_text(HEAD + "".join(lines), encoding="utf-8")
    terminalreporter.write_line(f"{len(lines)} cases: {target}")


def _cell(text: str) -> str:
    """Write a cell of a Markdown table: no time stamp, no control characters, no markup."""
    shown = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)
    return re.sub(r"([\\|*_\[<`])", r"\\\1", MOMENT.sub("", shown))


@pytest.fixture
def note_row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a row for the table."""
    rows = request.config.stash.get(ROWS, [])

    def note(*cells: object) -> None:
        rows.append(tuple(_cell(str(cell)) for cell in cells))

    return note


@pytest.fixture
def place(toy_cascade: Path) -> Iterator[Place]:
    """A dataset of one visit in a folder that other users may enter."""
    root = Path(tempfile.mkdtemp(prefix="msseg-bad-"))
    root.chmod(0o755)
    try:
        yield Place(root, shutil.copy(toy_cascade, root / "toy.safetensors"))
    finally:
        shutil.rmtree(root)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Refuse every connection, and list the attempts."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> NoReturn:
        tried.append(arguments)
        raise OSError("the network is cut off for this test")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return tried
