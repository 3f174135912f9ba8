"""The node that runs another segmenter."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nipype.pipeline.engine.nodes import NodeExecutionError

from bids_msseg.imaging.volume import load_volume
from bids_msseg.nodes.base import FAILURE_FILE
from bids_msseg.nodes.segment import SegmentByOther
from bids_msseg.segmenters.base import Identity
from bids_msseg.segmenters.command import CommandSegmenter

AFFINE = np.eye(4)
BRAIN = np.s_[3:9, 3:9, 3:9]
COPY = """
import shutil, sys
print("copied")
shutil.copy(*sys.argv[1:])
"""


@pytest.fixture
def inputs(save: Callable[..., Path], save_affine: Callable[..., Path]) -> dict[str, Any]:
    """A FLAIR that also serves as lesion probability, and a T1w shifted by 2 mm."""
    brain = np.zeros((12, 12, 12), np.uint8)
    brain[BRAIN] = 1
    flair = np.full((12, 12, 12), 0.25, np.float32)
    move = np.eye(4)
    move[0, 3] = 2
    return {
        "flair_file": save("flair", flair, AFFINE),
        "mask_file": save("brain", brain, AFFINE),
        "t1w_file": save("t1w", 2 * flair, move @ AFFINE),
        "t1w_transform": save_affine("move", move),
        "digest": "d",
    }


def _copy(name: str) -> CommandSegmenter:
    identity = Identity("command", "copy", "1", "", "")
    return CommandSegmenter(identity, (sys.executable, "-c", COPY, name, "{out}"))


def test_probability_and_log_of_other_segmenter_are_kept(
    run: Callable[..., Any], inputs: dict[str, Any]
) -> None:
    found = run(SegmentByOther, segmenter=_copy("{flair}"), **inputs)
    path = Path(found.probability_file)
    probability = load_volume(path)
    assert probability.shape == (14, 14, 14)
    assert probability.data.sum() == pytest.approx(0.25 * 6**3)
    assert (path.parent / "segmenter.log").read_text() == "copied\n"
    assert not (path.parent / "images").exists()


def test_failed_segmenter_reports_error_and_keeps_images(
    run: Callable[..., Any], inputs: dict[str, Any], tmp_path: Path
) -> None:
    """The input images are kept for inspection."""
    with pytest.raises(NodeExecutionError):
        run(SegmentByOther, segmenter=_copy("{folder}/absent"), **inputs)
    failure = json.loads(next(tmp_path.rglob(FAILURE_FILE)).read_text())
    assert failure["code"] == 1
    assert "copy exited with code 1" in failure["message"]
    assert next(tmp_path.rglob("images/t1w.nii.gz")).is_file()
    assert not list(tmp_path.rglob("probability.nii.gz"))
