"""Package metadata in ``setup.py``, and text files of a release."""

from __future__ import annotations

import ast
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from bids_msseg import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bids_msseg"
LISTS = ("RUNTIME", "EVALUATE", "TRAIN", "DOCS", "TEST")
CAPPED = {"mkdocs"}
"""Distributions with an upper bound; setup.py gives the reason."""
DISTRIBUTIONS = {
    # only distributions whose name differs from the imported module
    "PIL": "pillow",
    "bids": "pybids",
    "cc3d": "connected-components-3d",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def requirements(variable: str) -> list[Requirement]:
    """Read a list of setup.py without running it."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == variable:
            return [Requirement(text) for text in ast.literal_eval(node.value)]
    raise KeyError(variable)


def distributions(*variables: str) -> set[str]:
    return {canonicalize_name(one.name) for name in variables for one in requirements(name)}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imports(node: ast.AST, *, lazy: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield other packages that code imports, and whether the import is in a function."""
    for child in ast.iter_child_nodes(node):
        if is_for_types(child):
            continue
        if isinstance(child, ast.Import):
            found = [alias.name for alias in child.names]
        else:
            found = [child.module or ""] if isinstance(child, ast.ImportFrom) else []
        for name in found:
            top = name.partition(".")[0]
            if top != "bids_msseg" and top not in sys.stdlib_module_names:
                yield canonicalize_name(DISTRIBUTIONS.get(top, top)), lazy
        yield from imports(child, lazy=lazy or isinstance(child, ast.FunctionDef))


def own_imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, and the names of their parent packages."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = []
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def reachable(start: Iterable[str], files: Mapping[str, Path]) -> set[str]:
    """Return the given modules and all that they import, directly or indirectly."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name in files and name not in found:
            found.add(name)
            waiting += own_imports(files[name])
    return found


def all_imports() -> set[tuple[str, bool]]:
    found: set[tuple[str, bool]] = set()
    for path in PACKAGE.rglob("*.py"):
        found |= set(imports(ast.parse(path.read_text(encoding="utf-8"))))
    return found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os, numpy.linalg", [("numpy", False)]),
        ("def f():\n    from skimage.measure import x", [("scikit-image", True)]),
        ("class A:\n    def f(self):\n        import yaml", [("pyyaml", True)]),
        ("if TYPE_CHECKING:\n    import torch", []),
        ("from bids_msseg import cli", []),
        ("try:\n    import PIL\nexcept ImportError:\n    pass", [("pillow", False)]),
    ],
)
def test_imports_are_found(code: str, expected: list[tuple[str, bool]]) -> None:
    assert list(imports(ast.parse(code))) == expected


def test_every_imported_package_is_a_requirement() -> None:
    declared = distributions("RUNTIME", "EVALUATE", "TRAIN", "NNUNET")
    assert {name for name, _ in all_imports()} <= declared


def test_imports_at_module_level_are_runtime_requirements() -> None:
    at_once = {name for name, lazy in all_imports() if not lazy}
    assert at_once <= distributions("RUNTIME")


def test_reachable_follows_imports_of_packages_and_functions(tmp_path: Path) -> None:
    texts = {
        "p": "",
        "p.a": "from p import b",
        "p.b": "def f():\n    import p.c.d",
        "p.c": "from p.e import one",
        "p.c.d": "",
        "p.e": "from p.a import back",
        "p.lonely": "import p.a, p.friend",
        "p.friend": "import p.lonely",
    }
    files = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    assert reachable(["p.a"], files) == set(texts) - {"p.lonely", "p.friend"}
    assert reachable(["p.friend"], files) == set(texts)
    assert reachable(["p.none"], files) == set()


def test_every_module_is_reachable_from_a_program(metadata: dict[str, Any]) -> None:
    """Code that only benchmarks or tests use belongs in benchmarks/ or tests/."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in PACKAGE.rglob("*.py")
    }
    scripts = metadata["entry_points"]["console_scripts"]
    programs = [re.split("[=:]", line)[1] for line in scripts]
    # run by python -m
    programs += ["bids_msseg.__main__", "bids_msseg.training.pretrain"]
    assert set(files) - reachable(programs, files) == set()


@pytest.mark.parametrize("variable", LISTS)
def test_requirements_have_lower_bounds_only(variable: str) -> None:
    for wanted in requirements(variable):
        operators = {one.operator for one in wanted.specifier}
        assert operators == ({">=", "<"} if wanted.name in CAPPED else {">="}), str(wanted)


@pytest.mark.parametrize("variable", LISTS)
def test_locked_versions_are_within_the_bounds(variable: str) -> None:
    locked: dict[str, str] = {}
    for part in ("", "-docs", "-test"):
        lines = (ROOT / f"requirements{part}.lock").read_text().splitlines()
        pins = [line.removesuffix(" \\") for line in lines if "==" in line]
        locked |= dict(pin.split("==", 1) for pin in pins)
        assert len(pins) <= sum(line.startswith("    --hash=sha256:") for line in lines)
    for wanted in requirements(variable):
        if wanted.name != "torch":  # the Makefile and the images choose its build
            assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), str(wanted)


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments that setup.py passes to setuptools."""
    given: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return given


def test_setup_metadata_has_version_urls_and_author(metadata: dict[str, Any]) -> None:
    assert metadata["version"] == __version__
    assert SpecifierSet(metadata["python_requires"]) == SpecifierSet(">=3.11")
    assert {"Documentation", "Source", "Issues", "Changes"} <= set(metadata["project_urls"])
    assert all(url.startswith("https://") for url in metadata["project_urls"].values())
    assert {"BIDS", "MRI", "multiple sclerosis"} <= set(metadata["keywords"])
    assert metadata["author"]
    assert metadata["maintainer"]


def test_extras_all_and_test_contain_the_other_extras(metadata: dict[str, Any]) -> None:
    extras = {name: set(wanted) for name, wanted in metadata["extras_require"].items()}
    assert extras["evaluate"] | extras["train"] == extras["all"]
    assert extras["evaluate"] | extras["train"] | extras["docs"] <= extras["test"]
    assert not extras["all"] & set(metadata["install_requires"])


def test_citation_file_follows_its_schema() -> None:
    beside = Path(sys.executable).with_name("check-jsonschema")
    program = str(beside) if beside.exists() else shutil.which("check-jsonschema")
    assert program, "check-jsonschema is one of the test requirements of setup.py"
    words = [program, "--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_citation_file_agrees_with_package_metadata(metadata: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    assert citation["license"] == metadata["license"]
    assert citation["repository-code"] == metadata["project_urls"]["Source"]
    assert citation["authors"] == [{"name": metadata["author"]}]
    assert citation["url"] == metadata["project_urls"]["Documentation"]
    assert citation["repository-artifact"] == metadata["project_urls"]["Container image"]
    (contact,) = citation["contact"]
    assert contact["website"] == metadata["project_urls"]["Issues"]
    assert {"abstract", "keywords", "message", "references", "type"} <= set(citation)


def test_changelog_versions_and_headings_are_valid() -> None:
    lines = (ROOT / "CHANGES.md").read_text(encoding="utf-8").splitlines()
    versions = [line for line in lines if line.startswith("## ")]
    assert versions[0] == "## [Unreleased]"
    for line in versions[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", line)
    numbers = [tuple(map(int, re.findall(r"\d+", line)[:3])) for line in versions[1:]]
    assert numbers == sorted(numbers, reverse=True)
    kinds = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    assert kinds
    assert set(kinds) <= KINDS
    assert max(map(len, lines)) <= 100


def test_changelog_sections_are_unique_and_have_entries_only() -> None:
    text = (ROOT / "CHANGES.md").read_text(encoding="utf-8")
    for version in re.split(r"(?m)^## ", text)[1:]:
        sections = re.split(r"(?m)^### ", version)[1:]
        names = [section.partition("\n")[0] for section in sections]
        assert len(names) == len(set(names))
        for section in sections:
            lines = section.partition("\n")[2].strip().splitlines()
            assert lines, names
            assert lines[0].startswith("- ")
            assert all(re.match(r"- \S|  \S|$|\[[^]]+\]: ", line) for line in lines), names


@pytest.mark.parametrize(
    ("name", "most"), [("CONTRIBUTING.md", 80), ("docs/developer/release.md", 60)]
)
def test_guides_do_not_exceed_line_limit(name: str, most: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


@pytest.mark.parametrize(
    "artefact",
    [
        *("amd64", "arm64", "CUDA", "SBOM", "provenance", "cosign", "CycloneDX", "apptainer pull"),
        *("wheel", "source distribution", "documentation", "release page", "Zenodo", "DOI"),
        *("integrations/nipoppy", "integrations/neurodesk", "integrations/repronim"),
        *("integrations/bids_website", "integrations/conda_forge", "integrations/brainlife"),
        *("Boutiques", "CITATION.cff", "CHANGES.md", "requirements.lock"),
    ],
)
def test_release_checklist_names_each_artefact(artefact: str) -> None:
    assert artefact in (ROOT / "docs/developer/release.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/developer/release.md"])
def test_make_targets_and_files_named_in_guides_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    named = set(re.findall(r"`((?:bids_msseg|docs|tests|tools|integrations)/[\w./-]+)`", text))
    assert named
    assert [one for one in named if not (ROOT / one).exists()] == []


def test_pre_commit_hooks_use_local_programs() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = content["repos"]
    assert local["repo"] == "local"
    hooks = {hook["id"]: hook for hook in local["hooks"]}
    assert set(hooks) == {"ruff", "ruff-format", "mypy"}
    for hook in hooks.values():
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")
