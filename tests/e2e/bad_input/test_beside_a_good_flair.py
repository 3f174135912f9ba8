"""Unusable T1w and T2w with a usable FLAIR: the error names the image."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.cli.run import main

from .images import SHAPE, nifti, zipped
from .place import ONE_THREAD, broken_texts, remains

pytestmark = pytest.mark.slow
GOOD = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) + 1
CASES: dict[str, tuple[bytes, str]] = {
    "cut off": (zipped(nifti())[:-300], "cut off|damaged|incomplete"),
    "no gzip": (b"junk", "not compressed|damaged|no NIfTI"),
    "4-D": (zipped(nifti(np.stack([GOOD] * 3, -1))), "has 4 dimensions"),
    "constant": (zipped(nifti(np.full(SHAPE, 7, np.int16))), "same value|constant"),
    "all NaN": (zipped(nifti(np.full(SHAPE, np.nan, np.float32))), "finite|NaN|value"),
    "empty": (b"", "empty"),
}


@pytest.fixture(scope="module")
def flair(tmp_path_factory: pytest.TempPathFactory, make_phantom: Callable[..., Any]) -> bytes:
    path = tmp_path_factory.mktemp("flair") / "x.nii.gz"
    make_phantom("RAS", (3.0, 3.0, 3.0)).write(path, "FLAIR", seed=1, kind="int16")
    assert nib.load(path).shape
    return path.read_bytes()


@pytest.mark.parametrize("contrast", ["T1w", "T2w"])
@pytest.mark.parametrize("name", CASES)
def test_error_names_unusable_contrast(
    contrast: str,
    name: str,
    flair: bytes,
    tmp_path: Path,
    toy_cascade: Path,
    capsys: pytest.CaptureFixture[str],
    note_row: Callable[..., None],
) -> None:
    content, says = CASES[name]
    anat = tmp_path / "bids/sub-01/anat"
    anat.mkdir(parents=True)
    about = b'{"Name": "Small", "BIDSVersion": "1.10.1"}'
    (tmp_path / "bids/dataset_description.json").write_bytes(about)
    (anat / "sub-01_FLAIR.nii.gz").write_bytes(flair)
    (anat / f"sub-01_{contrast}.nii.gz").write_bytes(content)
    out = tmp_path / "out"
    words = [
        tmp_path / "bids",
        out,
        "participant",
        "--model",
        toy_cascade,
        "-w",
        tmp_path / "work",
    ]
    code = main([str(word) for word in (*words, *ONE_THREAD)])
    log = capsys.readouterr().err
    line = next((line for line in log.splitlines() if "failed" in line), log)
    hint = next((line for line in log.splitlines() if line.startswith("  hint: ")), "")
    message = line.partition(" failed: ")[2].replace(str(tmp_path), "…")
    note_row(f"{contrast}: {name}", code, message, hint.removeprefix("  hint: "))
    assert code == 65, log
    assert f"sub-01_{contrast}" in line or f"{contrast} image" in line, log
    assert re.search(says, line), line
    assert hint
    assert "Traceback" not in log
    assert remains(out) == []
    assert broken_texts(out) == []
