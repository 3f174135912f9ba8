"""Fixtures to start the app as other systems do: the demo dataset, and ``msseg`` in PATH."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bids_msseg.cli.demo import main as write_demo

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """Result of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Surroundings:
    """A folder of programs that comes first in PATH, and a HOME."""

    programs: Path
    home: Path

    def add(self, name: str, script: str) -> None:
        """Put a program there."""
        path = self.programs / name
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PBS_"))}
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return {**kept, "PATH": path, "HOME": str(self.home), **(more or {})}

    def call(
        self,
        words: Sequence[object],
        cwd: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)


MSSEG = f"""#!/bin/sh
PYTHONPATH={ROOT} exec {sys.executable} -m bids_msseg "$@"
"""


@pytest.fixture
def surroundings(tmp_path: Path) -> Surroundings:
    """PATH begins with a ``msseg`` that is this source."""
    made = Surroundings(tmp_path / "programs", tmp_path / "home")
    made.programs.mkdir()
    made.home.mkdir()
    made.add("msseg", MSSEG)
    return made


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only dataset of ``msseg-demo --grid coarse``; MSSEG_DEMO is an existing one."""
    if ready := os.environ.get("MSSEG_DEMO"):
        return Path(ready)
    bids = tmp_path_factory.mktemp("demo") / "bids"
    assert write_demo([str(bids), "--grid", "coarse"]) == 0
    return bids


@pytest.fixture
def needs() -> Callable[[str], str]:
    """Find a program, or skip."""

    def find(name: str) -> str:
        beside = Path(sys.executable).with_name(name)
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed")
        return found

    return find


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests that need daemons or programs of other systems, unless their marker is given."""
    for item in items:
        for name in ("slurm", "ecosystem", "launch"):
            if item.get_closest_marker(name) and name not in str(config.option.markexpr):
                item.add_marker(pytest.mark.skip(reason=f"`make {name}` runs it"))
