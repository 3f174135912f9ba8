"""A real launch of the command by Boutiques, without a container."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.cli.run import bids_exec_spec

INVOCATION = Path(__file__).resolve().parents[2] / "integrations/boutiques/invocation.json"


@pytest.mark.launch
def test_bosh_launches_the_app(
    surroundings: Any, needs: Callable[[str], str], demo: Path, tmp_path: Path
) -> None:
    bosh = needs("bosh")
    descriptor = tmp_path / "boutiques.json"
    descriptor.write_text(bids_exec_spec(), encoding="utf-8")
    (tmp_path / "bids").symlink_to(demo)
    asked = json.loads(INVOCATION.read_text()) | {"SubjectLabel": ["03"]}
    (tmp_path / "invocation.json").write_text(json.dumps(asked), encoding="utf-8")
    words = [bosh, "exec", "launch", "--no-container", descriptor, "invocation.json"]
    ended = surroundings.call(words, tmp_path)
    out = tmp_path / "derivatives/bids_msseg"
    assert ended.code == 0, ended.out + ended.err
    record = json.loads((out / "logs/visits/sub-03.json").read_text())
    assert record["status"] == "ok"
    assert (out / "sub-03.html").is_file()
