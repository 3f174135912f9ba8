"""Write lock files: installed versions of setup.py's requirements and their dependencies.

``requirements.lock`` is what all programs need, ``requirements-docs.lock`` what building the
documentation adds, ``requirements-test.lock`` what the tests add to both. torch is left out: the
Makefile chooses its build.

usage: python tools/lock.py
"""

from __future__ import annotations

import ast
import importlib.metadata as metadata
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"torch"}
FILES = {"": ("RUNTIME", "EVALUATE", "TRAIN"), "-docs": ("DOCS",), "-test": ("TEST",)}
"""End of each file's name, and the lists of setup.py that it is written from."""


def named(variable: str) -> list[str]:
    """Read a list of requirements from setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable:
            return list(ast.literal_eval(node.value))
    raise KeyError(variable)


def closure(requirements: list[str]) -> dict[str, str]:
    """Return the versions of requirements and of all their dependencies."""
    versions: dict[str, str] = {}
    queue = [Requirement(text) for text in requirements]
    while queue:
        requirement = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(requirement.name)
        extras = requirement.extras
        if name in versions and not extras:
            continue
        package = metadata.distribution(name)
        versions[name] = package.version
        for text in package.requires or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in {"", *extras}):
                needed.marker = None
                queue.append(needed)
    return {name: version for name, version in versions.items() if name not in LEFT_OUT}


def write(path: Path, packages: dict[str, str]) -> None:
    """Write one lock file."""
    pins = "".join(f"{name}=={version}\n" for name, version in sorted(packages.items()))
    arguments = ("--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--quiet", "-")
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "uv", "pip", "compile", *arguments],
        input=pins,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        sys.exit(f"uv could not write {path.name}: {result.stderr.strip()}")
    path.write_text(f"# written by tools/lock.py\n{result.stdout}")


def main() -> None:
    """Write all lock files."""
    before: dict[str, str] = {}
    for part, variables in FILES.items():
        versions = closure(
            [requirement for variable in variables for requirement in named(variable)]
        )
        added = {name: version for name, version in versions.items() if name not in before}
        write(ROOT / f"requirements{part}.lock", added)
        before |= versions


if __name__ == "__main__":
    main()
