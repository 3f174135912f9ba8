"""``.circleci/config.yml`` follows its schema, and only a version tag pushes an image."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bids_msseg import __version__

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / ".circleci/config.yml"


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load(CONFIG.read_text())


@pytest.fixture(scope="module")
def runner() -> Any:
    """The module that runs the steps locally."""
    spec = importlib.util.spec_from_file_location("run_circleci", ROOT / "tools/run_circleci.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_config_follows_circleci_schema() -> None:
    beside = Path(sys.executable).with_name("check-jsonschema")
    program = str(beside) if beside.exists() else shutil.which("check-jsonschema")
    assert program, "check-jsonschema is one of the test requirements of setup.py"
    words = [program, "--builtin-schema", "vendor.circle-ci", CONFIG]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_only_version_tags_deploy_after_all_other_jobs(
    config: dict[str, Any], runner: Any
) -> None:
    jobs = runner.ordered_jobs(config)
    assert set(jobs) == set(config["jobs"])
    assert jobs[-1] == "deploy"
    (entry,) = (one["deploy"] for one in config["workflows"]["all"]["jobs"] if "deploy" in one)
    assert entry["filters"]["branches"] == {"ignore": "/.*/"}
    tags = entry["filters"]["tags"]["only"].strip("/")
    assert re.fullmatch(tags, __version__)
    assert not re.fullmatch(tags, f"{__version__}-rc")
    graph = {
        name: about for one in config["workflows"]["all"]["jobs"] for name, about in one.items()
    }
    before, pending = set(), ["deploy"]
    while pending:
        needed = graph[pending.pop()].get("requires", [])
        before |= set(needed)
        pending += needed
    assert before == set(config["jobs"]) - {"deploy"}
    # jobs without a tag filter, and jobs that require them, do not run on tags
    assert all("tags" in about["filters"] for about in graph.values())


def test_step_scripts_parse_and_make_targets_exist(config: dict[str, Any], runner: Any) -> None:
    steps = [(job, step) for job in config["jobs"] for step in runner.run_steps(config, job)]
    assert len(steps) >= len(config["jobs"])
    for _, step in steps:
        done = subprocess.run(["bash", "-n", "-c", step["command"]], capture_output=True)
        assert done.stderr == b""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = re.findall(r"\bmake ([\w-]+)", CONFIG.read_text())
    assert set(asked) <= set(targets)


def test_run_steps_expands_commands_in_place(runner: Any) -> None:
    config = {
        "commands": {
            "both": {"steps": ["checkout", {"run": "one"}, "inner"]},
            "inner": {"steps": [{"run": {"name": "second", "command": "two"}}]},
        },
        "jobs": {"job": {"steps": ["both", {"save_cache": {}}, {"run": "three"}]}},
    }
    steps = list(runner.run_steps(config, "job"))
    assert [step["command"] for step in steps] == ["one", "two", "three"]
    assert [step["name"] for step in steps] == ["one", "second", "three"]


def test_docker_is_provided_only_if_a_job_calls_it(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    asked = []

    def note(*_: object, docker: bool) -> dict[str, str]:
        asked.append(docker)
        return {"PATH": "/usr/bin:/bin"}

    monkeypatch.setattr(runner, "surroundings", note)
    jobs = {"plain": {"steps": [{"run": "true"}]}, "image": {"steps": [{"run": ": docker info"}]}}
    for names in (["plain"], ["plain", "image"]):
        assert runner.run_jobs({"jobs": jobs}, names, tmp_path) == 0
    assert asked == [False, True]


def test_run_jobs_stops_at_first_failing_step(
    runner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "project").mkdir()
    monkeypatch.setattr(
        runner, "surroundings", lambda *_, **__: {"PATH": "/usr/bin:/bin", "A": "a"}
    )
    config = {
        "jobs": {
            "job": {
                "steps": [
                    {"run": "echo $A > printed"},
                    {"run": "false | true"},
                    {"run": "touch reached"},
                ]
            }
        }
    }
    assert runner.run_jobs(config, ["job"], tmp_path) == 1
    assert (tmp_path / "project/printed").read_text() == "a\n"
    assert not (tmp_path / "project/reached").exists()
    assert "exit 1" in capfd.readouterr().out
