"""Recipes and entries for Neurodesk, ReproNim, conda-forge and the BIDS website.

Neurodesk's and the website's own checks are not on PyPI; their rules are written down here.
"""

from __future__ import annotations

import ast
import base64
import os
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bids_msseg import __version__
from bids_msseg.cli import demo
from bids_msseg.cli.run import build_parser, visible_options
from bids_msseg.errors import ExitCode

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integrations"
IMAGE = (FOLDER / "image.txt").read_text().strip()
OWNER = IMAGE.split("/")[1]
PROGRAMS = re.findall(r'"(msseg[\w-]*)=(bids_msseg[\w.:]+)"', (ROOT / "setup.py").read_text())


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return content


# Neurodesk: builder/validation.py of neurodesk/neurocontainers

CATEGORIES = {
    *("functional imaging", "fetal imaging", "image reconstruction", "spectroscopy"),
    *("image registration", "rodent imaging", "data organisation", "diffusion imaging"),
    *("structural imaging", "quantitative imaging", "image segmentation", "visualization"),
    *("statistics", "quality control", "spine", "electrophysiology", "bids apps"),
    *("machine learning", "phase processing", "molecular biology", "hippocampus", "body"),
    *("shape analysis", "cryo EM", "programming", "workflows"),
}
RECIPE_KEYS = {
    *("name", "version", "architectures", "build", "variants", "auto_update", "icon"),
    *("copyright", "readme", "readme_url", "structured_readme", "files", "deploy", "categories"),
    *("show_in_menu", "show_in_applist", "gui_apps", "apptainer_args", "draft", "description"),
    *("options", "variables", "epoch"),
}
TEST_KEYS = {
    *("name", "description", "command", "timeout", "depends_on", "validate"),
    *("expected_output_contains", "expected_exit_code"),
}


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return read("neurodesk/build.yaml")


@pytest.fixture(scope="module")
def suite() -> dict[str, Any]:
    return read("neurodesk/fulltest.yaml")


def test_neurodesk_recipe_follows_rules(recipe: dict[str, Any]) -> None:
    assert set(recipe) <= RECIPE_KEYS
    assert "_" not in recipe["name"]
    assert recipe["version"] == __version__
    assert set(recipe["architectures"]) == {"x86_64", "aarch64"}
    assert set(recipe["categories"]) <= CATEGORIES
    assert recipe["auto_update"] == {"method": "github_release", "repo": f"{OWNER}/bids_msseg"}
    assert recipe["copyright"][0]["license"] == "Apache-2.0"
    readme = recipe["structured_readme"]
    assert set(readme) == {"description", "example", "documentation", "citation"}
    assert "research use only" in readme["description"]


def test_neurodesk_recipe_uses_released_image(recipe: dict[str, Any]) -> None:
    build = recipe["build"]
    assert (build["kind"], build["pkg-manager"]) == ("neurodocker", "apt")
    assert build["base-image"] == IMAGE + ":{{ context.version }}"
    assert build["directives"] == []
    assert recipe["deploy"]["bins"] == [name for name, _ in PROGRAMS]


def test_neurodesk_icon_is_valid_svg(recipe: dict[str, Any]) -> None:
    kind, _, data = recipe["icon"].partition(";base64,")
    assert kind == "data:image/svg+xml"
    picture = ET.fromstring(base64.b64decode(data, validate=True))  # noqa: S314 it is our own
    assert picture.tag.endswith("svg")


def test_neurodesk_test_suite_matches_recipe(
    recipe: dict[str, Any], suite: dict[str, Any]
) -> None:
    assert (suite["name"], suite["version"]) == (recipe["name"], recipe["version"])
    # the artefact follows from name and version
    assert "container" not in suite
    names = [test["name"] for test in suite["tests"]]
    assert len(names) == len(set(names))
    for place, test in enumerate(suite["tests"]):
        assert set(test) <= TEST_KEYS
        assert test.get("depends_on", names[0]) in names[: place + 1]


def test_neurodesk_test_suite_uses_existing_commands_and_options(suite: dict[str, Any]) -> None:
    commands = [test["command"] for test in suite["tests"]]
    started = {word for text in commands for word in re.findall(r"\bmsseg(?:-\w+)?\b", text)}
    assert started == {name for name, _ in PROGRAMS}
    codes = {test.get("expected_exit_code", 0) for test in suite["tests"]}
    assert codes == {ExitCode.SUCCESS, ExitCode.NO_INPUT, ExitCode.UNKNOWN_LEVEL}
    options = {word for text in commands for word in re.findall(r"(?<= )--[\w-]+", text)}
    known = {
        word
        for parser in (build_parser(), demo.build_parser())
        for option in visible_options(parser)
        for word in option.option_strings
    }
    assert options <= known


def test_neurodesk_test_suite_expects_run_outputs(suite: dict[str, Any]) -> None:
    (found,) = (test["validate"] for test in suite["tests"] if test["name"] == "Segmentation")
    left = set((ROOT / "tests/e2e/expected_outputs.txt").read_text().split())
    out = "${output_dir}/out/"
    expected = [one["output_exists"] for one in found if "output_exists" in one]
    expected.append(next(one["same_dimensions"] for one in found if "same_dimensions" in one)[1])
    assert len(expected) == 4
    assert {name.removeprefix(out) for name in expected} <= left


# ReproNim


def test_repronim_recipe_uses_released_image() -> None:
    path = FOLDER / f"repronim/Singularity.bids-bids-msseg--{__version__}"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines[:2] == ["Bootstrap: docker", f"From: {IMAGE}:{__version__}"]
    assert {line for line in lines if line.startswith("%")} == {"%post", "%environment"}


# BIDS website: data/tools/apps.yml and tools/ci/validate_apps.py of bids-standard/bids-website


def test_bids_website_entry_is_valid() -> None:
    (entry,) = read("bids_website/apps.yml")["apps"]
    assert entry["gh"] == f"{OWNER}/bids_msseg"
    assert entry["status"] == "active"
    assert (entry["ds_type"], entry["datatype"]) == (["raw"], ["anat"])
    assert entry["ci"] == "gh"
    assert (ROOT / f".github/workflows/{entry['workflow']}.yml").is_file()
    # the website uses this key only for Docker Hub
    assert "dh" not in entry
    assert "research use only" in entry["description"]


# conda-forge

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


@pytest.fixture(scope="module")
def conda() -> dict[str, Any]:
    return read("conda_forge/recipe.yaml")


def declared_requirements() -> set[str]:
    """Requirements of setup.py and its small extras, in the spelling of conda."""
    found = set()
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
        if isinstance(node, ast.Assign) and name in ("RUNTIME", "EVALUATE", "TRAIN"):
            for text in ast.literal_eval(node.value):
                wanted = Requirement(text)
                name = canonicalize_name(wanted.name)
                found.add(f"{CONDA_NAMES.get(name, name)} {wanted.specifier}")
    return found


def test_conda_requirements_match_setup(conda: dict[str, Any]) -> None:
    run = conda["requirements"]["run"]
    assert set(run) - {"__unix", "python >=${{ python_min }}"} == declared_requirements()
    assert run[2:] == sorted(run[2:])
    setup = (ROOT / "setup.py").read_text()
    assert f'python_requires=">={conda["context"]["python_min"]}"' in setup
    needs = re.search(r'requires = \["setuptools(\S+)"\]', (ROOT / "pyproject.toml").read_text())
    assert needs is not None
    assert f"setuptools {needs[1]}" in conda["requirements"]["host"]


def test_conda_entry_points_match_setup(conda: dict[str, Any]) -> None:
    points = conda["build"]["python"]["entry_points"]
    assert points == [f"{name} = {target}" for name, target in PROGRAMS]


def test_conda_recipe_has_current_version(conda: dict[str, Any]) -> None:
    assert conda["schema_version"] == 1
    assert conda["context"]["version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{64}", conda["source"]["sha256"])
    assert all((ROOT / name).is_file() for name in conda["about"]["license_file"])
    assert conda["extra"]["recipe-maintainers"] == [OWNER]


READS = """
import sys
from rattler_build import Stage0Recipe
print(Stage0Recipe.from_file(sys.argv[1]).to_dict())
"""


@pytest.mark.ecosystem
def test_rattler_build_reads_the_recipe(surroundings: Any, tmp_path: Path) -> None:
    folder = os.environ.get("MSSEG_ECOSYSTEM")
    python = folder and shutil.which("python", path=f"{folder}/py-rattler-build/bin")
    if not python:
        pytest.skip("there is no py-rattler-build below MSSEG_ECOSYSTEM: `make ecosystem`")
    words = [python, "-c", READS, FOLDER / "conda_forge/recipe.yaml"]
    done = surroundings.call(words, tmp_path)
    assert done.code == 0, done.err
    assert "bids-msseg" in done.out
