"""The Apptainer image, run as on clusters, gives the same results as the app."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bids_msseg import __version__

pytestmark = [pytest.mark.container, pytest.mark.slow]


def test_image_self_test_help_and_labels(apptainer: Any, tools: Any) -> None:
    words = [*apptainer.program, "test", "--cleanenv", "--containall", apptainer.image]
    tested = tools.call(words)
    assert tested.code == 0, tested.err
    shown = tools.call([*apptainer.program, "run-help", apptainer.image])
    assert "not for diagnostic use" in shown.out
    labels = tools.call([*apptainer.program, "inspect", "--labels", apptainer.image])
    assert f"org.opencontainers.image.version: {__version__}" in labels.out
    for name in ("source", "url", "revision", "created", "licenses", "base.name"):
        assert f"org.opencontainers.image.{name}: " in labels.out
    assert "{{" not in labels.out


def test_image_without_arguments_shows_help(apptainer: Any, tools: Any) -> None:
    ended = tools.call(apptainer.command([], {}))
    assert ended.code == 0, ended.err
    assert "BIDS_DIR" in ended.out


@pytest.mark.parametrize("kind", ["demo", "given"])
def test_demo_results_equal_those_without_container(
    apptainer: Any, datasets: Any, tools: Any, clock: Any, scratch: Path, kind: str
) -> None:
    """``apptainer run --cleanenv --containall -B BIDS:/bids:ro -B OUT:/out IMAGE ...``."""
    data = datasets.demo(kind)
    out = tools.open_folder(scratch / kind / "apptainer")
    binds = {data.bids: "/bids:ro", out: "/out"}
    for number, (program, *words) in enumerate(data.inside()):
        # msseg is what the image runs
        asked = {"action": "run"} if program == "msseg" else {"action": "exec"}
        command = words if program == "msseg" else [program, *words]
        ended = clock.time(
            f"{kind}, command {number + 1}, apptainer", apptainer.command(command, binds, **asked)
        )
        assert ended.code == 0, ended.err
        assert tools.results(out) == data.after_each[number]
    assert tools.names(out) == tools.names(data.bare)
    about = json.loads((out / "dataset_description.json").read_text())
    container = {"Type": "singularity", "Tag": apptainer.image.name}
    assert about["GeneratedBy"][0]["Container"] == container


@pytest.mark.realdata
def test_raw_head_with_read_only_root_and_unused_home(
    apptainer: Any, datasets: Any, tools: Any, clock: Any, scratch: Path, shared_data: Path
) -> None:
    """HOME and /tmp hold 64 MB and stay empty; the root is read-only."""
    data = datasets.head(shared_data)
    out = tools.open_folder(scratch / "head" / "apptainer")
    work = tools.open_folder(scratch / "head" / "apptainer-work")
    script = 'msseg "$@" >&2 && find "$HOME" /tmp /var/tmp -type f && ! touch /opt/x 2> /dev/null'
    asked = ["sh", "-c", script, *data.inside()[0], "--work-dir", "/work"]
    binds = {data.bids: "/bids:ro", out: "/out", work: "/work"}
    ended = clock.time("head, apptainer", apptainer.command(asked, binds, action="exec"))
    assert ended.code == 0, ended.err
    assert ended.out.strip() == ""
    assert tools.results(out) == tools.results(data.bare)
    assert not (out / ".work").exists()
