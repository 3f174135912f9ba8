"""``.github/workflows``: schema, minimal permissions, pinned actions, and step scripts.

Step scripts run locally with mock programs for Docker, cosign and gh.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bids_msseg import __version__

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / ".github/workflows"
NAMES = ("ci", "release")
SCHEMAS = ("vendor.github-workflows", "custom.github-workflows-require-timeout")
WITHOUT_MAJOR_TAG = {
    # PyPA moves a branch, Sigstore tags full versions only
    "pypa/gh-action-pypi-publish@release/v1",
    "sigstore/cosign-installer@v4.1.2",
}
PERMISSIONS = {
    "check": {"contents": "read"},
    "ci": {"contents": "read"},
    "image": {"contents": "read", "packages": "write"},
    "tag": {"packages": "write", "id-token": "write"},
    "wheel": {"contents": "read"},
    "pypi": {"id-token": "write"},
    "site": {"contents": "read"},
    "pages": {"pages": "write", "id-token": "write"},
    "notes": {"contents": "write"},
}
BASE_DIGEST = "sha256:" + 64 * "0"


def load(name: str) -> dict[str, Any]:
    """Read a workflow; YAML reads its key ``on`` as True."""
    content: dict[Any, Any] = yaml.safe_load((WORKFLOWS / f"{name}.yml").read_text())
    content["on"] = content.pop(True)
    return content


def steps() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield all steps with the names of their workflow and job."""
    for name in NAMES:
        for job, about in load(name)["jobs"].items():
            for step in about.get("steps", []):
                yield name, job, step


def script(job: str, name: str) -> str:
    """Find the script of a step of the release."""
    (found,) = (step["run"] for _, at, step in steps() if at == job and step.get("name") == name)
    return str(found)


@pytest.fixture(scope="module")
def release() -> dict[str, Any]:
    return load("release")


def test_every_workflow_is_tested() -> None:
    assert sorted(path.stem for path in WORKFLOWS.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("name", NAMES)
def test_workflow_follows_github_schema(name: str, schema: str) -> None:
    beside = Path(sys.executable).with_name("check-jsonschema")
    program = str(beside) if beside.exists() else shutil.which("check-jsonschema")
    assert program, "check-jsonschema is one of the test requirements of setup.py"
    words = [program, "--builtin-schema", schema, WORKFLOWS / f"{name}.yml"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_actions_are_pinned_by_their_major_tag() -> None:
    used = {step["uses"] for _, _, step in steps() if "uses" in step}
    assert used >= WITHOUT_MAJOR_TAG
    assert [
        one for one in used - WITHOUT_MAJOR_TAG if not re.fullmatch(r"[\w/-]+@v\d+", one)
    ] == []


def test_jobs_have_minimal_permissions(release: dict[str, Any]) -> None:
    assert load("ci")["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in load("ci")["jobs"].values())
    assert release["permissions"] == {}
    assert {name: job["permissions"] for name, job in release["jobs"].items()} == PERMISSIONS


def test_no_step_keeps_or_prints_credentials() -> None:
    for name, job, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, (name, job)
        # scripts get values as environment variables, never as inserted text
        assert "${{" not in step.get("run", ""), (name, job)
        assert "secrets." not in str(step.get("env", "")), (name, job)


def test_step_scripts_parse_and_make_targets_exist() -> None:
    scripts = [step["run"] for _, _, step in steps() if "run" in step]
    for text in scripts:
        done = subprocess.run(["bash", "-n", "-c", text], capture_output=True)
        assert done.stderr == b""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asked = {name for text in scripts for name in re.findall(r"\bmake ([\w-]+)", text)}
    assert {"lint", "test", "docs", "audit"} <= asked <= set(targets)


def test_only_version_tags_release_after_all_checks(release: dict[str, Any]) -> None:
    (pattern,) = release["on"]["push"]["tags"]
    tags = pattern.replace(".", r"\.")
    assert re.fullmatch(tags, __version__)
    assert not any(
        re.fullmatch(tags, one) for one in (f"{__version__}rc1", f"v{__version__}", "1")
    )
    assert set(release["on"]) == {"push"}
    jobs = release["jobs"]
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in load("ci")["on"]
    for name, about in jobs.items():
        if "write" not in about["permissions"].values():
            continue
        before, pending = set(), [name]
        while pending:
            needs = jobs[pending.pop()].get("needs", [])
            needed = {needs} if isinstance(needs, str) else set(needs)
            before |= needed
            pending += needed
        assert {"check", "ci"} <= before, name


def test_workflows_do_not_contain_owner_name() -> None:
    owner = (ROOT / "integrations/image.txt").read_text().strip().split("/")[1]
    for name in NAMES:
        assert owner not in (WORKFLOWS / f"{name}.yml").read_text()
    (found,) = (step for _, _, step in steps() if step.get("id") == "facts")
    assert found["env"] == {"OWNER": "${{ github.repository_owner }}"}


def test_images_are_built_for_all_variants_with_attestations(release: dict[str, Any]) -> None:
    (build,) = (step["with"] for _, _, step in steps() if step.get("id") == "build")
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"
    dockerfile = (ROOT / "Dockerfile").read_text()
    known = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    given = dict(line.split("=", 1) for line in build["build-args"].splitlines())
    # the base image and the index for torch keep the defaults of the Dockerfile
    assert known - given.keys() == {"BASE", "TORCH_INDEX"}
    assert given.keys() <= known
    matrix = release["jobs"]["image"]["strategy"]["matrix"]["include"]
    assert {(one["kind"], one["arch"]) for one in matrix} == {
        ("cpu", "amd64"),
        ("cpu", "arm64"),
        ("cuda", "amd64"),
    }
    torch = re.search(r"^ARG TORCH=(\S+)\+cpu$", dockerfile, re.MULTILINE)
    assert torch is not None
    for one in matrix:
        assert one["torch"] == torch[1] + ("+cpu" if one["kind"] == "cpu" else "")
        assert one["runner"].endswith("-arm") == (one["arch"] == "arm64")


def test_image_tags_match_documentation(release: dict[str, Any]) -> None:
    matrix = release["jobs"]["tag"]["strategy"]["matrix"]["include"]
    tags = {f":{__version__}{one['suffix']}" for one in matrix}
    tags |= {f":{one['moving']}" for one in matrix}
    assert tags == {f":{__version__}", f":{__version__}-cuda", ":latest", ":cuda"}
    page = (ROOT / "docs/how-to/docker_apptainer.md").read_text()
    rows = re.findall(r"^\| `(:\S+)` \|", page, re.MULTILINE)
    assert sorted(rows) == sorted(tags)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy of the files that the first job reads, prepared for a release."""
    folder = tmp_path / "checkout"
    for name in ("bids_msseg/__init__.py", "integrations/image.txt", "Dockerfile", "CITATION.cff"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    citation = (folder / "CITATION.cff").read_text().splitlines()
    kept = [line for line in citation if not line.startswith("date-released:")]
    (folder / "CITATION.cff").write_text("\n".join([*kept, 'date-released: "2027-01-31"', ""]))
    changes = (
        f"# Changes\n\n## [Unreleased]\n\n## [{__version__}] - 2027-01-31\n\n### Added\n\n- A.\n"
    )
    (folder / "CHANGES.md").write_text(changes + "\n## [0.0.9] - 2026-01-31\n\n- B.\n")
    return folder


def run(text: str, folder: Path, programs: dict[str, str], **environment: str) -> int:
    """Run a script as GitHub does, with mock programs first in PATH."""
    place = folder.parent / "programs"
    place.mkdir(exist_ok=True)
    for name, content in programs.items():
        (place / name).write_text(f"#!/bin/bash\n{content}\n")
        (place / name).chmod(0o755)
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    words = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    surroundings = {**os.environ, "PATH": path, **environment}
    return subprocess.run(words, cwd=folder, env=surroundings, check=False).returncode


def facts(folder: Path, **environment: str) -> dict[str, str]:
    """Run the first job; return its outputs, or none if it fails."""
    output = folder.parent / "output"
    owner = (ROOT / "integrations/image.txt").read_text().split("/")[1]
    given = {"GITHUB_REF_NAME": __version__, "OWNER": owner.upper(), "GITHUB_OUTPUT": str(output)}
    text = script("check", "The tag, the owner and the texts agree")
    code = run(text, folder, {"docker": f"echo {BASE_DIGEST}"}, **given | environment)
    if code:
        return {}
    return dict(line.split("=", 1) for line in output.read_text().splitlines())


def test_release_starts_if_tag_owner_and_files_agree(checkout: Path) -> None:
    found = facts(checkout)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found.pop("created"))
    assert found == {
        "image": (ROOT / "integrations/image.txt").read_text().strip(),
        "version": __version__,
        "base_digest": BASE_DIGEST,
    }


@pytest.mark.parametrize("environment", [{"GITHUB_REF_NAME": "9.9.9"}, {"OWNER": "somebody-else"}])
def test_release_with_other_tag_or_owner_is_refused(
    checkout: Path, environment: dict[str, str]
) -> None:
    assert facts(checkout, **environment) == {}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("CHANGES.md", f"## [{__version__}] - 2027-01-31\n"),
        ("CITATION.cff", f"version: {__version__}\n"),
        ("CITATION.cff", 'date-released: "2027-01-31"\n'),
    ],
)
def test_missing_version_or_date_refuses_release(checkout: Path, name: str, line: str) -> None:
    path = checkout / name
    before = path.read_text()
    assert line in before
    path.write_text(before.replace(line, ""))
    assert facts(checkout) == {}


def test_architectures_are_joined_under_both_tags_and_signed(tmp_path: Path) -> None:
    for digest in ("a1", "b2"):
        (tmp_path / "work/digests" / digest).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work/digests" / digest).touch()
    calls = tmp_path / "calls"
    programs = {
        "docker": f'echo "docker $*" >> {calls}\n[ "$3" = create ] || echo {BASE_DIGEST}',
        "cosign": f'echo "cosign $*" >> {calls}',
    }
    text = script("tag", "Join the architectures under their tags and sign")
    given = {"IMAGE": "r.io/o/n", "TAG": "1.2.3", "MOVING": "latest"}
    workflow = "o/n/.github/workflows/release.yml@refs/tags/1.2.3"
    assert run(text, tmp_path / "work", programs, GITHUB_WORKFLOW_REF=workflow, **given) == 0
    create, inspect, sign, verify = calls.read_text().splitlines()
    assert create == (
        "docker buildx imagetools create --tag r.io/o/n:1.2.3 --tag r.io/o/n:latest "
        "r.io/o/n@sha256:a1 r.io/o/n@sha256:b2"
    )
    assert inspect.startswith("docker buildx imagetools inspect r.io/o/n:1.2.3 ")
    assert sign == f"cosign sign --yes r.io/o/n@{BASE_DIGEST}"
    assert verify.startswith(f"cosign verify r.io/o/n@{BASE_DIGEST} ")
    assert f"https://github.com/{workflow}" in verify


@pytest.mark.parametrize(
    ("sbom", "provenance", "accepted"),
    [
        ({"SPDX": {"name": "x"}}, {"SLSA": {"x": 1}}, True),
        ({"linux/amd64": {"SPDX": {}}}, {"linux/amd64": {"SLSA": {}}}, True),
        ({}, {"SLSA": {"x": 1}}, False),
        ({"SPDX": {"name": "x"}}, None, False),
    ],
)
def test_image_without_sbom_or_provenance_is_refused(
    tmp_path: Path, sbom: Any, provenance: Any, accepted: bool
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    work = tmp_path / "work"
    work.mkdir()
    prints = f"case \"$*\" in *SBOM*) echo '{json.dumps(sbom)}' ;;"
    prints += f" *) echo '{json.dumps(provenance)}' ;; esac"
    text = script("image", "The registry has both attestations")
    found = run(text, work, {"docker": prints}, IMAGE="r.io/o/n", DIGEST=BASE_DIGEST)
    assert (found == 0) is accepted


@pytest.mark.parametrize(
    ("listed", "accepted"),
    [
        ({"bomFormat": "CycloneDX", "components": [{"name": "numpy"}]}, True),
        ({"bomFormat": "CycloneDX", "components": []}, False),
        ({"spdxVersion": "SPDX-2.3"}, False),
        ("", False),
    ],
)
def test_sbom_of_image_must_list_components(tmp_path: Path, listed: Any, accepted: bool) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    (tmp_path / "work/tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/sbom.py", tmp_path / "work/tools")
    calls = tmp_path / "calls"
    programs = {"docker": f"echo \"$*\" > {calls}; cat > /dev/null; echo '{json.dumps(listed)}'"}
    text = script("image", "List the Python packages of the image")
    given = {"IMAGE": "r.io/o/n", "DIGEST": BASE_DIGEST, "LISTED": "a.cdx.json"}
    assert (run(text, tmp_path / "work", programs, **given) == 0) is accepted
    assert calls.read_text().split()[-2:] == [f"r.io/o/n@{BASE_DIGEST}", "-"]
    assert json.loads((tmp_path / "work/a.cdx.json").read_text()) == listed


def test_uploaded_artifacts_are_downloaded_by_other_jobs(release: dict[str, Any]) -> None:
    kept, fetched = set(), set()
    for job in release["jobs"].values():
        for step in job.get("steps", []):
            given = step.get("with", {})
            if step.get("uses", "").startswith("actions/upload-artifact@"):
                kept.add(given["name"].partition("-")[0])
            if step.get("uses", "").startswith("actions/download-artifact@"):
                fetched.add(given.get("name", given.get("pattern")).partition("-")[0])
    assert kept == fetched == {"digest", "dist", "sbom"}


def test_release_page_has_notes_of_this_version_only(checkout: Path) -> None:
    (checkout / "dist").mkdir()
    (checkout / "dist/a.whl").touch()
    (checkout / "sbom").mkdir()
    (checkout / "sbom/a.cdx.json").touch()
    calls = checkout.parent / "calls"
    programs = {"gh": f'echo "$*" > {calls}'}
    text = script("notes", "Write the release page")
    assert run(text, checkout, programs, VERSION=__version__) == 0
    assert (checkout / "notes.md").read_text().split() == ["###", "Added", "-", "A."]
    assert calls.read_text().startswith(f"release create {__version__} --verify-tag ")
    assert calls.read_text().strip().endswith("dist/a.whl sbom/a.cdx.json")
