"""Fixtures of the table of bad input, and ``--bad-input-table``, which prints it."""

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="print the table of cases at the end")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not config.getoption(OPTION, default=False):
        return
    terminalreporter.write_line("| case | exit code | message | hint |\n|---|---|---|---|")
    for row in config.stash[ROWS]:
        terminalreporter.write_line("| " + " | ".join(row) + " |")


def _cell(text: str) -> str:
    """Write a cell of a Markdown table: no moment, nothing that does not print, no markup."""
    shown = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)
    return re.sub(r"([\\|*_\[<`])", r"\\\1", MOMENT.sub("", shown))


@pytest.fixture
def note_row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a row for the table."""
    rows = request.config.stash.get(ROWS, [])

    def note(*cells: object) -> None:
        rows.append(tuple(_cell(str(cell)) for cell in cells))

    return note


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh nets of widths (4, 8), as training saves them."""
    import torch

    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.cascade.networks import CandidateNet, RefinementNet
    from bids_msseg.models.weights import OperatingPoint

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("tiny") / "tiny.safetensors"
    nets = [CandidateNet((4, 8))], [RefinementNet((4, 8))]
    save_cascade(path, *nets, name="tiny", version="0", point=OperatingPoint())
    return path


@pytest.fixture
def place(tiny_model: Path) -> Iterator[Place]:
    """A dataset of one visit in a folder that other users may enter."""
    root = Path(tempfile.mkdtemp(prefix="msseg-bad-"))
    root.chmod(0o755)
    try:
        yield Place(root, shutil.copy(tiny_model, root / "tiny.safetensors"))
    finally:
        shutil.rmtree(root)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Refuse every connection, and list what was tried."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> NoReturn:
        tried.append(arguments)
        raise OSError("the network is cut off for this test")

    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return tried
