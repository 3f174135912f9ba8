"""One image name and one owner in all files: the line of ``integrations/image.txt``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bids_msseg import __version__

ROOT = Path(__file__).resolve().parents[2]
IMAGE = (ROOT / "integrations/image.txt").read_text().strip()
OWNER = IMAGE.split("/")[1]
FOLDERS = (".github", "bids_msseg/data", "docs", "integrations")
TAGS = {
    "",  # a name whose tag is given elsewhere
    ":latest",
    ":cuda",
    f":{__version__}",
    f":{__version__}-cuda",
    # placeholders of Nipoppy and Neurodesk for the version
    ":[[PIPELINE_VERSION]]",
    ":{{ context.version }}",
}
NAMES = re.compile(
    r"ghcr\.io/(?P<image>[\w.-]+)/bids_msseg(?P<tag>:(?:\[\[\w+\]\]|\{\{ [\w.]+ \}\}|[\w.-]*\w))?"
    r"|github\.com/(?P<source>[\w.-]+)/bids_msseg\b"
    r"|//(?P<site>[\w-]+)\.github\.io/bids_msseg\b"
)
USED = re.compile(
    r"(?:docker://|\bFROM |\bFrom: |image\"?: *\"?)"
    r"(?=[a-z0-9])([\w./-]+(?::(?:\[\[\w+\]\]|\{\{ [\w.]+ \}\}|[\w.-]+))?)"
)


def files() -> Iterator[Path]:
    """Text files that may name the project."""
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file())
    yield from (path for path in ROOT.iterdir() if path.is_file())


def used_images(text: str) -> list[str]:
    """Find the image names that a text uses; variables are ignored."""
    return [match[1].rstrip(".,") for match in USED.finditer(text)]


Mentions = dict[str, list[re.Match[str]]]


@pytest.fixture(scope="module")
def mentions() -> Mentions:
    """Find the names of the project by file."""
    found = {}
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if matches := list(NAMES.finditer(text)):
            found[path.relative_to(ROOT).as_posix()] = matches
    return found


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('docker://ghcr.io/a/bids_msseg:[[PIPELINE_VERSION]]"', ("a", ":[[PIPELINE_VERSION]]")),
        ("ghcr.io/a-b/bids_msseg:{{ context.version }}\n", ("a-b", ":{{ context.version }}")),
        ("`ghcr.io/a/bids_msseg:0.1.0`; more", ("a", ":0.1.0")),
        ("It is ghcr.io/a/bids_msseg:0.1.0.", ("a", ":0.1.0")),
        ("IMAGE=ghcr.io/a/bids_msseg", ("a", None)),
        ("https://github.com/a/bids_msseg/issues", ("a",)),
        ("https://a.github.io/bids_msseg/", ("a",)),
    ],
)
def test_name_pattern_matches_image_and_url_forms(
    text: str, parts: tuple[str | None, ...]
) -> None:
    (found,) = NAMES.finditer(text)
    groups = [found[name] for name in ("image", "source", "site") if found[name]]
    assert groups == [parts[0]]
    if len(parts) == 2:
        assert found["tag"] == parts[1]


def test_image_name_is_valid_for_registries() -> None:
    part = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
    assert re.fullmatch(rf"ghcr\.io/{part}/bids_msseg", IMAGE)


def test_all_owners_equal_owner_of_image(mentions: Mentions) -> None:
    others = {
        (name, match[0])
        for name, matches in mentions.items()
        for match in matches
        if (match["image"] or match["source"] or match["site"]) != OWNER
    }
    assert others == set()


def test_all_image_tags_are_released_tags(mentions: Mentions) -> None:
    others = {
        (name, match[0])
        for name, matches in mentions.items()
        for match in matches
        if match["image"] and (match["tag"] or "") not in TAGS
    }
    assert others == set()


@pytest.mark.parametrize(
    "name",
    [
        "bids_msseg/data/boutiques.json",
        "docs/how-to/docker_apptainer.md",
        "integrations/babs/bids_msseg.yaml",
        "integrations/boutiques/README.md",
        "integrations/brainlife/main",
        "integrations/datalad/run.sh",
        "integrations/neurodesk/build.yaml",
        f"integrations/nipoppy/bids_msseg-{__version__}/config.json",
        f"integrations/nipoppy/bids_msseg-{__version__}/descriptor.json",
        f"integrations/repronim/Singularity.bids-bids-msseg--{__version__}",
    ],
)
def test_container_files_name_project_image(mentions: Mentions, name: str) -> None:
    assert OWNER in {match["image"] for match in mentions[name]}


@pytest.mark.parametrize(
    "name",
    [
        "CITATION.cff",
        "Dockerfile",
        "Singularity.def",
        "integrations/conda_forge/recipe.yaml",
        "integrations/neurodesk/build.yaml",
        "setup.py",
    ],
)
def test_project_metadata_links_to_repository(mentions: Mentions, name: str) -> None:
    assert OWNER in {match["source"] for match in mentions[name]}


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("apptainer pull a.sif docker://ghcr.io/a/b:1\n", ["ghcr.io/a/b:1"]),
        ("FROM ghcr.io/a/b:1\n", ["ghcr.io/a/b:1"]),
        ("Bootstrap: docker\nFrom: ghcr.io/a/b\n", ["ghcr.io/a/b"]),
        ('"image": "ghcr.io/a/b"', ["ghcr.io/a/b"]),
        ("base-image: a/b:{{ context.version }}", ["a/b:{{ context.version }}"]),
        ("docker://$IMAGE:1, docker://NAME:TAG, docker://' + name", []),
    ],
)
def test_used_images_finds_image_names(text: str, images: list[str]) -> None:
    assert used_images(text) == images


def test_no_integration_runs_another_image() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name)
        for path in (ROOT / "integrations").rglob("*")
        if path.is_file()
        for name in used_images(path.read_text(encoding="utf-8"))
    }
    assert found
    assert {(file, name) for file, name in found if not name.startswith(IMAGE)} == set()
