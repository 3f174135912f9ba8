"""Dockerfile and Singularity.def agree and are safe; these tests build no image."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bids_msseg import __version__

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "tools/install_image.sh"
PINNED = "${BASE}${BASE_DIGEST:+@${BASE_DIGEST}}"
"""The base image, with its digest if one is given."""
IMAGE = "org.opencontainers.image"


def logical_lines(text: str) -> Iterator[str]:
    """Join continued lines, drop comments."""
    kept = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in kept.replace("\\\n", " ").splitlines():
        if line.strip():
            yield re.sub(r"\s+", " ", line).strip()


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Instructions with their words."""
    lines = logical_lines((ROOT / "Dockerfile").read_text())
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


@pytest.fixture(scope="module")
def final(dockerfile: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Instructions of the last stage."""
    last = max(i for i, (word, _) in enumerate(dockerfile) if word == "FROM")
    return dockerfile[last:]


@pytest.fixture(scope="module")
def definition() -> list[dict[str, str]]:
    """Sections of each stage; the header under ``""``."""
    stages: list[dict[str, str]] = []
    for text in re.split(r"(?m)^(?=Bootstrap:)", (ROOT / "Singularity.def").read_text()):
        if text.strip():
            parts = re.split(r"(?m)^%", "\n" + text)
            sections = [part.partition("\n") for part in parts[1:]]
            stages.append({"": parts[0], **{name: body for name, _, body in sections}})
    return stages


def arguments(stage: dict[str, str]) -> dict[str, str]:
    return dict(line.strip().split("=", 1) for line in stage["arguments"].strip().splitlines())


def filled(text: str, given: dict[str, str]) -> str:
    """Replace `${NAME}` (Dockerfile) and `{{ NAME }}` (Singularity.def) by the arguments."""
    return re.sub(r"\$\{(\w+)\}|\{\{ (\w+) \}\}", lambda one: given[one[1] or one[2]], text)


def values(instructions: list[tuple[str, str]], word: str) -> dict[str, str]:
    """Names and values of ``ENV``, ``ARG`` or ``LABEL``."""
    found = " ".join(rest for name, rest in instructions if name == word)
    return {name: value.strip('"') for name, value in re.findall(r'([\w.]+)=("[^"]*"|\S+)', found)}


def test_build_arguments_agree_and_are_pinned(
    dockerfile: list[tuple[str, str]], definition: list[dict[str, str]]
) -> None:
    asked = values(dockerfile, "ARG")
    for stage in definition:
        ours = arguments(stage)
        assert {name: asked[name] for name in ours} == ours
    assert re.fullmatch(r"docker\.io/library/python:3\.1\d-slim-\w+", asked["BASE"])
    assert asked["VERSION"] == __version__
    ours = arguments(definition[0])
    for name in (RECIPE, "Makefile"):
        text = (ROOT / name).read_text()
        assert ours["TORCH"] in text
        assert ours["TORCH_INDEX"] in text
    torch = ours["TORCH"].removeprefix("torch==")
    allowed = re.search(r'"(torch[^"]*)"', (ROOT / "setup.py").read_text())
    assert allowed is not None
    assert Requirement(allowed[1]).specifier.contains(torch)


def test_documentation_lists_build_arguments_of_both_files(
    dockerfile: list[tuple[str, str]], definition: list[dict[str, str]]
) -> None:
    page = (ROOT / "docs/how-to/docker_apptainer.md").read_text()
    rows = re.findall(r"^\| ((?:`[A-Z_]+`(?:, )?)+) \|", page, re.MULTILINE)
    ours = {rest.partition("=")[0] for word, rest in dockerfile if word == "ARG"}
    assert set(re.findall(r"\w+", " ".join(rows))) == ours
    said = re.search(r"definition file has the arguments ([^.]*)\.", " ".join(page.split()))
    assert said is not None
    theirs = set().union(*map(arguments, definition))
    assert set(re.findall(r"`([A-Z_]+)`", said[1])) == theirs


def test_every_stage_starts_from_the_base_or_another_stage(
    dockerfile: list[tuple[str, str]], definition: list[dict[str, str]]
) -> None:
    known = {PINNED}
    for word, rest in dockerfile:
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert base in known
            known.add(name)
    assert all("From: {{ BASE }}" in stage[""] for stage in definition)


def test_image_runs_msseg_as_non_root_user(final: list[tuple[str, str]]) -> None:
    words = dict(final)
    assert words["USER"] not in ("root", "0")
    assert words["ENTRYPOINT"] == '["msseg"]'
    assert words["HEALTHCHECK"] == "NONE"
    assert "ADD" not in words
    assert words["CMD"] == '["--help"]'
    assert '"msseg=' in (ROOT / "setup.py").read_text()


def test_both_files_run_msseg_in_same_environment(
    final: list[tuple[str, str]], definition: list[dict[str, str]]
) -> None:
    ours = values(final, "ENV")
    ours.pop("BIDS_MSSEG_IMAGE")
    exports = re.findall(r"export (\w+)=(\S+)", definition[-1]["environment"])
    assert dict(exports) == ours
    assert ours["PATH"].startswith("/opt/msseg/bin:")
    script = [line.strip() for line in definition[-1]["runscript"].strip().splitlines()]
    assert script == ["[ $# -gt 0 ] || set -- --help", 'exec msseg "$@"']
    assert {"test", "help"} <= definition[-1].keys()
    assert f"= {__version__}" in definition[-1]["test"]


def test_both_files_have_same_labels(
    dockerfile: list[tuple[str, str]],
    final: list[tuple[str, str]],
    definition: list[dict[str, str]],
) -> None:
    given = values(dockerfile, "ARG") | {"BASE_DIGEST": ""}
    described = {name: filled(text, given) for name, text in values(final, "LABEL").items()}
    lines = filled(definition[-1]["labels"], arguments(definition[-1])).strip().splitlines()
    labels = dict(line.split(maxsplit=1) for line in lines)
    assert labels.items() <= described.items()
    # the definition file has the digest in BASE, and another description
    assert described.keys() - labels.keys() == {f"{IMAGE}.base.digest", f"{IMAGE}.description"}
    assert labels[f"{IMAGE}.version"] == __version__


@pytest.mark.parametrize(
    ("label", "argument"),
    [
        ("source", "SOURCE"),
        ("url", "SOURCE"),
        ("version", "VERSION"),
        ("revision", "REVISION"),
        ("created", "CREATED"),
        ("base.name", "BASE"),
        ("base.digest", "BASE_DIGEST"),
    ],
)
def test_label_value_comes_from_build_argument(
    final: list[tuple[str, str]], label: str, argument: str
) -> None:
    assert values(final, "LABEL")[f"{IMAGE}.{label}"] == f"${{{argument}}}"
    assert argument in [rest.partition("=")[0] for word, rest in final if word == "ARG"]


def test_build_specific_arguments_follow_large_layers(final: list[tuple[str, str]]) -> None:
    words = [word for word, _ in final]
    assert words.index("ARG") > max(place for place, word in enumerate(words) if word == "COPY")


def test_both_files_install_with_same_script(
    dockerfile: list[tuple[str, str]], definition: list[dict[str, str]]
) -> None:
    docker = [rest for word, rest in dockerfile if word == "RUN" and "install_image" in rest]
    steps = re.findall(r"install_image\.sh (\w+)", definition[0]["post"])
    assert sorted(steps) == sorted(rest.split()[2] for rest in docker)
    assert "pip" not in definition[0]["post"] + "".join(docker)


def test_both_files_copy_same_files_of_build_context(
    dockerfile: list[tuple[str, str]], definition: list[dict[str, str]]
) -> None:
    copies = [rest.split()[:-1] for word, rest in dockerfile if word == "COPY"]
    docker = {name for names in copies if not names[0].startswith("--") for name in names}
    assert docker == {line.split()[0] for line in definition[0]["files"].strip().splitlines()}
    assert all((ROOT / name).exists() for name in docker)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    assert kept == docker


def test_build_context_contains_package_data() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    refused = [line for line in lines if line and line[0] not in "!#" and line != "*"]
    data = [p.relative_to(ROOT).as_posix() for p in (ROOT / "bids_msseg/data").rglob("*.*")]
    data = [name for name in data if "__pycache__" not in name]
    assert any(name.endswith(".safetensors") for name in data)
    assert not [n for n in data if any(fnmatch.fnmatch(n, line) for line in refused)]


@pytest.mark.parametrize(("shell", "script"), [("sh", RECIPE), ("bash", "tools/ctr.sh")])
def test_scripts_parse(shell: str, script: str) -> None:
    done = subprocess.run([shell, "-n", ROOT / script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
