"""The demo on a coarse grid: heads with skull, processed with the bundled weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.cli.demo import main as demo
from bids_msseg.models.weights import DEFAULT_MODEL

from .conftest import rows

WEIGHTS = resources.files("bids_msseg") / "data" / "weights" / f"{DEFAULT_MODEL}.safetensors"


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"the weights {WEIGHTS.name} are not there")
def test_demo_dataset_is_processed_and_scored(
    tmp_path: Path,
    msseg: Callable[..., Any],
    bids_issues: Callable[[Path], list[dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bids, out = tmp_path / "bids", tmp_path / "out"
    assert demo([str(bids), "--grid", "coarse"]) == 0
    shown = ("--fill-lesions", "--atlas", "sides")
    ended = msseg(bids, out, "participant", "group", *shown, "--nprocs", "2", "--fast")
    assert ended.code == 0, ended.err
    table = rows(out / "group_lesions.tsv")
    assert [row["status"] for row in table] == ["ok"] * 4
    assert len({row["participant_id"] for row in table}) == 3
    assert "FLAIR+T1w" in {row["contrasts"] for row in table}
    assert all(700 < float(row["brain_volume_ml"]) < 2200 for row in table)
    for pattern in (
        "seg-anatomy_dseg.nii.gz",
        "desc-filled_FLAIR.nii.gz",
        "desc-filled_T1w.nii.gz",
    ):
        assert len(list(out.glob(f"sub-*/**/anat/*_{pattern}"))) == 4
    regions = rows(out / "group_lesions_atlas.tsv")
    assert {row["atlas"] for row in regions} == {"sides"}
    assert any(row["name"].startswith("left ") for row in regions)

    assert bids_issues(out) == []

    capsys.readouterr()
    assert demo(["score", str(bids), str(out)]) == 0
    printed = capsys.readouterr().out
    assert "SYNTHETIC" in printed
    assert re.findall(r"sub-\d+", printed), printed
