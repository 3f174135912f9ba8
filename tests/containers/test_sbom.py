"""SBOM of an environment: the fields that CycloneDX requires, and all installed packages."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from datetime import UTC, datetime
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from packaging.utils import canonicalize_name

from bids_msseg import __version__

TOOL = Path(__file__).resolve().parents[2] / "tools/sbom.py"
WHEN = datetime(2027, 1, 31, 12, tzinfo=UTC)
COMPONENT = {
    "type": "object",
    "required": ["type", "name", "version", "bom-ref", "purl"],
    "properties": {
        "type": {"enum": ["application", "library"]},
        "name": {"type": "string", "minLength": 1},
        "version": {"type": "string", "minLength": 1},
        "bom-ref": {"type": "string", "minLength": 1},
        "purl": {"pattern": r"^pkg:pypi/[a-z0-9-]+@[A-Za-z0-9.%_-]+$"},
        "licenses": {
            "type": "array",
            "minItems": 1,
            "items": {
                "oneOf": [
                    {"required": ["expression"], "additionalProperties": False,
                     "properties": {"expression": {"type": "string"}}},
                    {"required": ["license"], "additionalProperties": False,
                     "properties": {"license": {"required": ["name"]}}},
                ]
            },
        },
    },
    "additionalProperties": False,
}  # fmt: skip
SCHEMA = {
    # rules of CycloneDX's bom-1.6.schema.json for the fields that the tool writes
    "type": "object",
    "required": ["bomFormat", "specVersion", "serialNumber", "version", "metadata", "components"],
    "properties": {
        "$schema": {"const": "http://cyclonedx.org/schema/bom-1.6.schema.json"},
        "bomFormat": {"const": "CycloneDX"},
        "specVersion": {"const": "1.6"},
        "serialNumber": {
            "pattern": "^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
        },
        "version": {"type": "integer", "minimum": 1},
        "metadata": {
            "required": ["timestamp", "tools"],
            "properties": {"component": COMPONENT},
        },
        "components": {"type": "array", "uniqueItems": True, "items": COMPONENT},
        "dependencies": {
            "type": "array",
            "items": {
                "required": ["ref"],
                "properties": {"dependsOn": {"type": "array", "uniqueItems": True}},
                "additionalProperties": {"type": "string"},
            },
        },
    },
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    return runpy.run_path(str(TOOL))


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """Output of the tool for this environment."""
    # as in an image: read from stdin, without the project folder in the path
    with TOOL.open() as source:
        words = [sys.executable, "-I", "-"]
        done = subprocess.run(words, stdin=source, capture_output=True, text=True, check=True)
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_sbom_has_fields_required_by_cyclonedx(written: dict[str, Any]) -> None:
    jsonschema.validate(written, SCHEMA)
    assert datetime.fromisoformat(written["metadata"]["timestamp"]).tzinfo is not None


def test_sbom_lists_every_installed_package_with_version(written: dict[str, Any]) -> None:
    listed = {one["name"]: one["version"] for one in written["components"]}
    main = written["metadata"]["component"]
    assert (main["type"], canonicalize_name(main["name"])) == ("application", "bids-msseg")
    assert main["version"] == __version__
    names = {canonicalize_name(name) for name in listed}
    assert len(names) == len(listed)
    # setuptools, when imported, adds a folder of vendored packages to the path
    paths = [one for one in sys.path if not one.endswith("_vendor")]
    for package in metadata.distributions(path=paths):
        name = package.metadata.get("Name")
        assert not name or canonicalize_name(name) in names | {"bids-msseg"}
    for name in ("numpy", "torch", "SimpleITK", "nibabel"):
        (version,) = {text for one, text in listed.items() if one.lower() == name.lower()}
        assert version == metadata.version(name)


def test_every_reference_resolves_to_a_component(written: dict[str, Any]) -> None:
    known = [one["bom-ref"] for one in written["components"]]
    known.append(written["metadata"]["component"]["bom-ref"])
    assert len(known) == len(set(known))
    links = {one["ref"]: one["dependsOn"] for one in written["dependencies"]}
    assert links.keys() == set(known)
    assert {ref for refs in links.values() for ref in refs} <= set(known)
    ours = {ref.partition("@")[0] for ref in links[known[-1]]}
    assert {"pkg:pypi/torch", "pkg:pypi/nipype", "pkg:pypi/pybids"} <= ours


class Package:
    """A mock distribution with the interface of ``importlib.metadata``."""

    def __init__(self, name: str, version: str, *requires: str, **about: list[str] | str) -> None:
        self.version = version
        self.requires = list(requires)
        self.metadata = Message()
        self.metadata["Name"] = name
        for key, values in about.items():
            for value in [values] if isinstance(values, str) else values:
                self.metadata[key.replace("_", "-")] = value


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("numpy", "2.4.0", "pkg:pypi/numpy@2.4.0"),
        ("torch", "2.13.0+cpu", "pkg:pypi/torch@2.13.0%2Bcpu"),
        ("Fill_Voids", "2.1.2", "pkg:pypi/fill-voids@2.1.2"),
        ("zope.interface", "1!7.0", "pkg:pypi/zope-interface@1%217.0"),
    ],
)
def test_package_urls(tool: dict[str, Any], name: str, version: str, expected: str) -> None:
    assert tool["purl"](name, version) == expected


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, []),
        ({"License_Expression": "MIT", "License": "words"}, [{"expression": "MIT"}]),
        ({"License": "BSD"}, [{"license": {"name": "BSD"}}]),
        (
            {"Classifier": ["License :: OSI Approved :: MIT License", "Topic :: Printing"]},
            [{"license": {"name": "MIT License"}}],
        ),
    ],
)
def test_licences(
    tool: dict[str, Any], about: dict[str, Any], expected: list[dict[str, Any]]
) -> None:
    package = Package("a", "1", **about)
    assert tool["licenses"](package.metadata) == expected
    assert tool["component"](package).get("licenses", []) == expected


def test_requirements_become_dependencies(tool: dict[str, Any]) -> None:
    packages = [
        Package("b.b", "2"),
        Package(
            "a", "1", "B_B>=1", "absent", 'c; extra == "more"', 'c[x]>1; python_version > "3"'
        ),
        Package("c", "3", 'b-b; extra == "all"'),
        Package("A", "0"),  # of another folder: the first one is imported
    ]
    found = tool["bill"](packages, WHEN)
    jsonschema.validate(found, SCHEMA)
    assert found["metadata"]["timestamp"] == "2027-01-31T12:00:00+00:00"
    assert [one["purl"] for one in found["components"]] == [
        "pkg:pypi/a@1",
        "pkg:pypi/b-b@2",
        "pkg:pypi/c@3",
    ]
    assert {one["ref"]: one["dependsOn"] for one in found["dependencies"]} == {
        "pkg:pypi/a@1": ["pkg:pypi/b-b@2", "pkg:pypi/c@3"],
        "pkg:pypi/b-b@2": [],
        "pkg:pypi/c@3": [],
    }
    assert tool["bill"](packages, WHEN) == found
    other = tool["bill"](packages[:3], WHEN)["serialNumber"]
    assert other == found["serialNumber"]
    assert tool["bill"](packages[:1], WHEN)["serialNumber"] != other


def test_make_target_writes_sbom_of_image() -> None:
    makefile = (TOOL.parents[1] / "Makefile").read_text()
    recipe = re.search(r"^sbom:\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    assert "< tools/sbom.py" in recipe[1]
