"""A small dataset for cases of bad input, the run on it, and checks of the outputs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bids_msseg.cli.run import main

from .images import SHAPE, nifti, zipped

FLAIR = "sub-01/anat/sub-01_FLAIR.nii.gz"
ONE_THREAD = ("--nprocs", "1", "--omp-nthreads", "1")
HALF_WRITTEN = re.compile(
    r".*\.part|\.building-.*|.*\.tmp|\.[0-9a-f]{6}-[0-9a-f]+-[0-9a-f]{8}\..*"
)
NOBODY = 65534


@dataclass
class Place:
    """A dataset with one visit, whose image is far too small to be a head, and a weights file."""

    root: Path
    model: Path
    bids: Path = field(init=False)
    out: Path = field(init=False)
    words: list[str] = field(default_factory=list)
    """Further options."""
    positional: list[str] = field(init=False)
    unprivileged: bool = False
    """Run as a user without root permissions."""

    def __post_init__(self) -> None:
        self.bids, self.out = self.root / "bids", self.root / "out"
        self.describe({"Name": "Small", "BIDSVersion": "1.10.1"})
        # constant values: even if accepted, the visit would fail at its first step
        self.put(FLAIR, zipped(nifti(np.full(SHAPE, 7, np.int16))))
        self.positional = [str(self.bids), str(self.out), "participant"]

    def describe(self, content: object) -> None:
        self.put("dataset_description.json", json.dumps(content).encode())

    def put(self, name: str, content: bytes) -> Path:
        """Write a file of the dataset."""
        path = self.bids / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def beside(self, name: str, content: bytes) -> str:
        """Write a file beside the dataset and name it."""
        path = self.root / name
        path.write_bytes(content)
        return str(path)

    def remove(self, name: str = FLAIR) -> Path:
        path = self.bids / name
        path.unlink()
        return path

    def option(self, *words: object) -> None:
        self.words += [str(word) for word in words]

    def run(self) -> int:
        """Run the whole app in this process."""
        model = [] if "--model" in self.words else ["--model", str(self.model)]
        words = [*model, *ONE_THREAD, *self.words]
        if not self.unprivileged or os.geteuid() != 0:
            return main([*self.positional, *words])
        # first run as root, to import modules that another user may not be able to read
        bids, _, level = self.positional
        main([bids, str(self.root / "primed"), level, *words])
        with _as_nobody(self.root):
            return main([*self.positional, *words])


@contextmanager
def _as_nobody(root: Path) -> Iterator[None]:
    """Run without root permissions for a while."""
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@dataclass(frozen=True)
class Case:
    """One way in which input is bad.

    ``says`` and ``hint`` are patterns that the message and its hint have to match.
    """

    name: str
    spoil: Callable[[Place], object]
    code: int
    says: str
    hint: str
    visit: bool = False
    """Whether the visit fails, and not the whole run: then it has a record and a page."""


def tree(folder: Path) -> dict[str, object]:
    """Describe everything below a folder, without following links or opening pipes."""
    found: dict[str, object] = {}
    for top, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(top, name)
            key = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[key] = path.readlink()
            elif path.is_file() and os.access(path, os.R_OK):
                found[key] = path.read_bytes()
            else:
                found[key] = path.stat().st_mode
    return found


def remains(out: Path) -> Sequence[str]:
    """List files that a refused visit must not leave: images, half-written files."""
    if not out.is_dir():
        return []
    return [
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if (HALF_WRITTEN.fullmatch(path.name) or ".nii" in path.name)
        # the first import of templateflow in a process fills its home with empty files
        and path.relative_to(out).parts[:2] != (".work", "templateflow")
    ]


def broken_texts(out: Path) -> Sequence[str]:
    """List incomplete JSON files, pages and tables in OUT."""
    bad = []
    for path in out.rglob("*") if out.is_dir() else ():
        if ".work" in path.relative_to(out).parts or not path.is_file():
            continue
        if path.suffix == ".json":
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                bad.append(path.name)
        if path.suffix in (".html", ".tsv"):
            text = path.read_text(encoding="utf-8").rstrip("\n")
            whole = text.endswith("</html>") if path.suffix == ".html" else bool(text)
            bad += [] if whole else [path.name]
    return bad
