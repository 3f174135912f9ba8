"""The command line of SAMSEG and the reading of its posterior, with a fake ``run_samseg``.

The fake program only tests the adapter; it says nothing of SAMSEG's results.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bids_msseg.errors import DataError, UsageError
from bids_msseg.imaging.volume import load_volume
from bids_msseg.segmenters.images import VisitImages
from bids_msseg.segmenters.samseg import open_samseg

FAKE_RUN_SAMSEG = """
import json, os, sys
import nibabel as nib
import numpy as np

words = sys.argv[1:]
json.dump(words, open("words.json", "w"))
image = nib.load(words[words.index("--output") - 1])
out = os.path.join(words[words.index("--output") + 1], "posteriors")
if "--without" not in words:
    os.makedirs(out)
    found = (np.asarray(image.dataobj) > 150).astype(np.float32)
    nib.save(nib.MGHImage(found, image.affine), os.path.join(out, "Lesions.mgz"))
"""


@pytest.fixture
def fake_run_samseg(make_program: Callable[..., Path]) -> Path:
    return make_program("run_samseg", FAKE_RUN_SAMSEG)


def test_samseg_gets_command_line_and_posterior_is_read(
    fake_run_samseg: Path, images: VisitImages
) -> None:
    options = {"program": str(fake_run_samseg), "options": ["--samples", "5"]}
    segmenter = open_samseg(options)
    segmenter.check()
    found = segmenter.segment(images, threads=2, device="auto")
    seen = load_volume(images.files["FLAIR"]).data > 150
    np.testing.assert_array_equal(found.data, seen.astype(np.float32))
    words = json.loads((images.folder / "words.json").read_text())
    assert words == [
        "--input", str(images.files["T1w"]), str(images.files["FLAIR"]),
        "--output", str(images.folder / "samseg"), "--pallidum-separate", "--lesion",
        "--lesion-mask-pattern", "0", "1", "--save-posteriors", "Lesions",
        "--threads", "2", "--samples", "5",
    ]  # fmt: skip


def test_visit_with_flair_only_is_segmented(
    fake_run_samseg: Path, flair_only: VisitImages
) -> None:
    segmenter = open_samseg({"program": str(fake_run_samseg)})
    assert segmenter.segment(flair_only, threads=1, device="cpu").data.sum() == 4
    words = json.loads((flair_only.folder / "words.json").read_text())
    assert words[words.index("--lesion-mask-pattern") + 1 :][:2] == ["1", "--save-posteriors"]


def test_missing_posterior_is_refused(fake_run_samseg: Path, images: VisitImages) -> None:
    segmenter = open_samseg({"program": str(fake_run_samseg), "options": ["--without"]})
    with pytest.raises(DataError, match=r"Lesions\.mgz"):
        segmenter.segment(images, threads=1, device="cpu")


def test_check_refuses_missing_program(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="program not found"):
        open_samseg({"program": str(tmp_path / "run_samseg")}).check()


def test_describe_returns_version_threshold_and_citation(fake_run_samseg: Path) -> None:
    folder = fake_run_samseg.parents[1] / "lib/python3.11/site-packages/samseg-0.4a0.dist-info"
    folder.mkdir(parents=True)
    segmenter = open_samseg({"program": str(fake_run_samseg)})
    header = segmenter.describe()
    assert (header.segmenter, header.name, header.version) == ("samseg", "SAMSEG", "0.4a0")
    assert header.point.threshold == 0.3
    assert "10.1016/j.neuroimage.2020.117471" in header.citation
    assert segmenter.whole_head
    stripped = open_samseg({"program": str(fake_run_samseg), "input": "brain"})
    assert not stripped.whole_head
    assert stripped.describe().sha256 != header.sha256
