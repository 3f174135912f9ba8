"""The Docker image gives the same results as the app, and writes to no other folder."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

from bids_msseg import __version__

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.container, pytest.mark.slow]
HARDENED = ["--rm", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL"]
# mount points, and files that container engines mount
LAID = r"[AC] /(bids|out|etc|run|proc|sys|dev)(/(hosts|hostname|resolv.conf|mtab|.containerenv))?"
STRANGER = 4321
"""User ID that is unknown to the image and the host."""
LARGEST_GB = 2.2


def test_version_and_programs(docker: Any, tools: Any) -> None:
    options = [*HARDENED, f"--user={STRANGER}"]
    ended = tools.call(docker.command(["--version"], {}, options=options))
    assert ended.code == 0, ended.err
    assert ended.out.split()[-1] == __version__
    shown = tools.call(docker.command(["--help"], {}, options=HARDENED, entrypoint="msseg-demo"))
    assert shown.code == 0, shown.err
    assert "synthetic" in shown.out


def test_image_without_arguments_shows_help(docker: Any, tools: Any) -> None:
    ended = tools.call(docker.command([], {}, options=HARDENED))
    assert ended.code == 0, ended.err
    assert "BIDS_DIR" in ended.out


def test_image_labels_describe_version_and_source(docker: Any, tools: Any) -> None:
    words = ["inspect", "--type=image", "--format={{json .Config.Labels}}", docker.image]
    ended = tools.call([*docker.program, *words])
    assert ended.code == 0, ended.err
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): text for name, text in json.loads(ended.out).items()}
    assert labels["version"] == __version__
    assert labels["licenses"] == "Apache-2.0"
    assert labels["source"] == labels["url"]
    assert labels["source"].startswith("https://github.com/")
    assert labels["base.name"].startswith("docker.io/")
    assert re.fullmatch(r"unknown|[0-9a-f]{40}", labels["revision"])
    assert re.fullmatch(r"(sha256:[0-9a-f]{64})?", labels.get("base.digest", ""))
    assert datetime.fromisoformat(labels["created"]).tzinfo is not None


def test_image_size_is_limited(docker: Any, tools: Any, clock: Any) -> None:
    words = docker.command(["-"], {}, options=["--rm", "-i"], entrypoint="python")
    ended = tools.call(words, stdin=ROOT / "tools/image_size.py")
    assert ended.code == 0, ended.err
    clock.lines += ended.out.splitlines()
    found = re.search(r"^unpacked: (\d+) MB$", ended.out, re.MULTILINE)
    assert found is not None
    assert 500 < float(found[1]) < 1000 * LARGEST_GB


def test_sbom_lists_all_locked_packages(docker: Any, tools: Any) -> None:
    words = docker.command(
        ["-"], {}, options=["--rm", "-i", "--network=none"], entrypoint="python"
    )
    ended = tools.call(words, stdin=ROOT / "tools/sbom.py")
    assert ended.code == 0, ended.err
    content = json.loads(ended.out)
    assert content["metadata"]["component"]["version"] == __version__
    listed = {canonicalize_name(one["name"]): one["version"] for one in content["components"]}
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    names = [re.split(r"[=; ]", line)[0] for line in lines if re.match(r"\w", line)]
    assert {canonicalize_name(name) for name in names} | {"torch"} <= listed.keys()


@pytest.mark.parametrize("kind", ["demo", "given"])
def test_demo_results_equal_those_without_container(
    docker: Any, datasets: Any, tools: Any, clock: Any, scratch: Path, kind: str
) -> None:
    """``docker run -v BIDS:/bids:ro -v OUT:/out msseg /bids /out participant``.

    Only a caller who is neither root nor the image's own user must add ``--user``.
    """
    data = datasets.demo(kind)
    out = tools.open_folder(scratch / kind / "docker")
    name = f"msseg-{scratch.name}"
    binds = {data.bids: "/bids:ro", out: "/out"}
    options = [f"--name={name}", *tools.as_user()]
    for number, (program, *words) in enumerate(data.inside()):
        # msseg is what the image starts
        entrypoint = "" if program == "msseg" else program
        command = docker.command(words, binds, options=options, entrypoint=entrypoint)
        try:
            ended = clock.time(f"{kind}, command {number + 1}, docker", command)
            assert ended.code == 0, ended.err
            changed = tools.call([*docker.program, "diff", name])
        finally:
            tools.call([*docker.program, "rm", "--force", name])
        assert changed.code == 0, changed.err
        assert [line for line in changed.out.splitlines() if not re.fullmatch(LAID, line)] == []
        assert tools.results(out) == data.after_each[number]
    assert tools.names(out) == tools.names(data.bare)
    about = json.loads((out / "dataset_description.json").read_text())
    container = {"Type": "docker", "Tag": f"msseg:{__version__}"}
    assert about["GeneratedBy"][0]["Container"] == container
    bare = json.loads((data.bare / "dataset_description.json").read_text())
    assert "Container" not in bare["GeneratedBy"][0]


@pytest.mark.realdata
def test_raw_head_in_hardened_container(
    docker: Any, datasets: Any, tools: Any, clock: Any, scratch: Path, shared_data: Path
) -> None:
    """No network, read-only root, no capabilities, an unknown user; /tmp stays empty."""
    data = datasets.head(shared_data)
    out = tools.open_folder(scratch / "head" / "docker", STRANGER)
    work = tools.open_folder(scratch / "head" / "docker-work", STRANGER)
    script = 'msseg "$@" >&2 && ls -A /tmp && ! touch /opt/x 2> /dev/null'
    asked = ["-c", script, *data.inside()[0], "--work-dir", "/work"]
    binds = {data.bids: "/bids:ro", out: "/out", work: "/work"}
    options = [*HARDENED, *tools.as_user(STRANGER)]
    words = docker.command(asked, binds, options=options, entrypoint="sh")
    ended = clock.time("head, docker", words)
    assert ended.code == 0, ended.err
    assert ended.out.strip() == ""
    assert tools.results(out) == tools.results(data.bare)
    assert not (out / ".work").exists()
