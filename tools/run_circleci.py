"""Run the ``run:`` steps of ``.circleci/config.yml`` locally, in the order of CircleCI.

Each run works in a clone of the last commit, with the tag that CircleCI would see. Steps that move
files between CircleCI's machines are skipped: here all jobs share one folder. If Docker is not
available, a ``docker`` script that calls ``tools/ctr.sh`` replaces it, and the image is pushed to
its loopback registry.

usage: python tools/run_circleci.py FOLDER [--jobs NAME ...] [--list]
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SHELL = ["bash", "-eo", "pipefail", "-c"]  # CircleCI's own


def ordered_jobs(config: Mapping[str, Any]) -> list[str]:
    """Sort the jobs of all workflows so that each comes after what it requires.

    Raises
    ------
    graphlib.CycleError
        If jobs require each other.
    """
    needs: dict[str, list[str]] = {}
    for workflow in config["workflows"].values():
        for entry in workflow["jobs"]:
            named = {entry: {}} if isinstance(entry, str) else entry
            for name, about in named.items():
                needs[name] = list(about.get("requires", []))
    return list(TopologicalSorter(needs).static_order())


def run_steps(config: Mapping[str, Any], job: str) -> Iterator[dict[str, Any]]:
    """List the ``run`` steps of a job, with its commands replaced by their steps."""
    pending = list(config["jobs"][job]["steps"])
    while pending:
        step = pending.pop(0)
        if isinstance(step, str):
            pending[:0] = config.get("commands", {}).get(step, {}).get("steps", [])
        elif "run" in step:
            run = step["run"]
            yield {"name": run, "command": run} if isinstance(run, str) else run


def stand_in_for_docker(folder: Path) -> Path:
    """Write a ``docker`` script that calls ``tools/ctr.sh``, and return its folder."""
    ctr = shlex.quote(str(ROOT / "tools/ctr.sh"))
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "docker"
    script.write_text(f"""#!/bin/sh
case $1 in
  info) exit 0 ;;
  build) exec {ctr} "$@" ;;
  login | push) command=$1; shift; exec {ctr} podman "$command" --tls-verify=false "$@" ;;
  *) exec {ctr} podman "$@" ;;
esac
""")
    script.chmod(0o755)
    return folder


def docker_answers() -> bool:
    """Return whether Docker is available on this machine."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def surroundings(folder: Path, version: str, *, docker: bool) -> dict[str, str]:
    """Return the environment that CircleCI and its context would set.

    If a ``docker`` is needed and not available, a replacement is added to the path.
    """
    registry = os.environ.get("REGISTRY", "127.0.0.1:5000")
    variables = {
        "CIRCLECI": "true",
        "CIRCLE_TAG": version,
        "IMAGE_NAME": f"{registry}/tests/msseg",
        "REGISTRY_USER": "nobody",
        "REGISTRY_PASSWORD": "none",
    }
    path = os.environ["PATH"]
    if docker and not docker_answers():
        path = f"{stand_in_for_docker(folder / 'bin')}:{path}"
        subprocess.run([ROOT / "tools/ctr.sh", "prepare"], check=True)
        subprocess.run([ROOT / "tools/ctr.sh", "registry-start"], check=True)
    shared = os.environ.get("MSSEG_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    return {**os.environ, **variables, "PATH": path, "MSSEG_SHARED_DATA": shared}


def read_version() -> str:
    """Read the package's version without importing it."""
    text = (ROOT / "bids_msseg/__init__.py").read_text()
    return text.split('__version__ = "')[1].split('"')[0]


def run_jobs(config: Mapping[str, Any], jobs: list[str], folder: Path) -> int:
    """Run steps until one fails, and print the result of each."""
    clone = folder / "project"
    if not clone.exists():
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    commands = [step["command"] for job in jobs for step in run_steps(config, job)]
    docker = any("docker " in command for command in commands)
    environment = surroundings(folder, read_version(), docker=docker)
    lines = []
    try:
        for job in jobs:
            for step in run_steps(config, job):
                print(f"== {job}: {step['name']}", flush=True)
                begin = time.monotonic()
                result = subprocess.run(
                    [*SHELL, step["command"]],
                    cwd=clone,
                    env={**environment, **step.get("environment", {})},
                    stdin=subprocess.DEVNULL,
                    check=False,
                )
                seconds = time.monotonic() - begin
                status = "ok" if result.returncode == 0 else f"exit {result.returncode}"
                lines.append(f"{status:8} {seconds:5.0f} s  {job}: {step['name']}")
                if result.returncode:
                    return result.returncode
    finally:
        print(*lines, sep="\n")
        if docker and (folder / "bin").exists():
            subprocess.run([ROOT / "tools/ctr.sh", "registry-stop"], check=False)
    return 0


def main() -> int:
    """Read the command line and run the jobs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="folder for the clone and the image")
    parser.add_argument("--jobs", nargs="+", metavar="NAME", help="these only, in their order")
    parser.add_argument("--list", action="store_true", help="print steps, run nothing")
    options = parser.parse_args()
    config = yaml.safe_load((ROOT / ".circleci/config.yml").read_text())
    jobs = [job for job in ordered_jobs(config) if job in (options.jobs or config["jobs"])]
    if not options.list:
        return run_jobs(config, jobs, options.folder.absolute())
    for job in jobs:
        for step in run_steps(config, job):
            print(f"{job}: {step['name']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
