"""A small dataset, one complete run on it, and helpers to inspect the results."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.cli.run import main
from bids_msseg.nodes import preprocess, segment

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """Result of a command."""

    code: int
    out: str
    err: str


def call(
    *words: object, cwd: Path | None = None, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run the app as users do, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bids_msseg", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_here(*words: object) -> int:
    """Run the app in this process."""
    return main([str(word) for word in words])


@contextmanager
def only_the_cut() -> Iterator[None]:
    """Refuse networks, registrations and the correction of bias fields."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a step before the cut was run")

    with pytest.MonkeyPatch.context() as patched:
        for name in ("align_contrast", "correct_contrasts", "find_brain", "fit_template"):
            patched.setattr(preprocess, name, refuse)
        patched.setattr(segment, "segment_stack", refuse)
        yield


def rows(path: Path) -> list[dict[str, str]]:
    """Read a table."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


def record(out: Path, key: str) -> dict[str, Any]:
    """Read the record of a visit."""
    content: dict[str, Any] = json.loads((out / f"logs/visits/{key}.json").read_text())
    return content


def write_dataset(root: Path, make_phantom: Callable[..., Any]) -> Path:
    """Three participants with four visits, and one without FLAIR; skulls are off."""
    root.mkdir(parents=True)
    about = {"Name": "Phantoms", "BIDSVersion": "1.10.1", "License": "CC0", "Authors": ["A", "B"]}
    (root / "dataset_description.json").write_text(json.dumps(about))
    # inherited by every FLAIR
    (root / "FLAIR.json").write_text(json.dumps({"SkullStripped": True}))
    grids = {
        "FLAIR": make_phantom("RAS", (2.0, 2.0, 4.0)),
        "T1w": make_phantom("LPS", (2.0, 2.0, 2.0), turn=4.0),
        "T2w": make_phantom("RAS", (2.5, 2.5, 5.0), turn=-3.0),
    }
    for name, contrasts in {
        "sub-01/ses-1/anat/sub-01_ses-1": ("FLAIR", "T1w", "T2w"),
        "sub-01/ses-2/anat/sub-01_ses-2": ("FLAIR", "T1w"),
        "sub-02/anat/sub-02": ("FLAIR", "T2w"),
        "sub-04/anat/sub-04": ("T1w",),
    }.items():
        for seed, contrast in enumerate(contrasts):
            path = root / f"{name}_{contrast}.nii.gz"
            grids[contrast].write(path, contrast, seed=len(name) + seed, kind="int16")
    stored = make_phantom("LIP", (2.0, 3.0, 2.0))
    stored.write(root / "sub-03/anat/sub-03_acq-sag_FLAIR.nii.gz", "FLAIR", seed=3)
    return root


@dataclass(frozen=True)
class Finished:
    """A whole run: ``participant group`` of every visit."""

    bids: Path
    out: Path
    model: Path
    ended: Ended
    elsewhere: Path
    """Folder that held home, current folder and temporary folder of the run."""

    def copy(self, target: Path) -> Path:
        """Copy OUT without its work folder."""
        ignore = shutil.ignore_patterns(".work")
        return shutil.copytree(self.out, target, ignore=ignore, copy_function=shutil.copy2)

    def options(self, out: Path | None = None) -> list[object]:
        return [self.bids, out or self.out, "participant", "--model", self.model, *THREADS]


THREADS = ("--nprocs", "1", "--omp-nthreads", "1")


@pytest.fixture(scope="session")
def msseg() -> Callable[..., Ended]:
    """Run the app in a process of its own."""
    return call


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    make_phantom: Callable[..., Any],
    bright_model: Path,
) -> Finished:
    """Run everything once, from an empty folder, with a home that does not exist."""
    top = tmp_path_factory.mktemp("e2e")
    bids = write_dataset(top / "raw", make_phantom)
    out, elsewhere = top / "derivatives" / "bids_msseg", top / "elsewhere"
    for name in ("cwd", "tmp"):
        (elsewhere / name).mkdir(parents=True)
    environment = {"HOME": str(elsewhere / "home"), "TMPDIR": str(elsewhere / "tmp")}
    words = [bids, out, "participant", "group", "--model", bright_model, *THREADS]
    ended = call(*words, cwd=elsewhere / "cwd", environment=environment)
    return Finished(bids, out, bright_model, ended, elsewhere)


def contents(folder: Path, *, without: Sequence[str] = ()) -> dict[str, bytes]:
    """All files below a folder, by name, without some top-level ones."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in without
    }


def times(folder: Path) -> dict[str, int]:
    """When each file was changed, in ns."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def files_of() -> Callable[..., dict[str, bytes]]:
    """Contents of a folder by file name."""
    return contents


@pytest.fixture(scope="session")
def times_of() -> Callable[[Path], dict[str, int]]:
    """Modification times of a folder by file name."""
    return times
