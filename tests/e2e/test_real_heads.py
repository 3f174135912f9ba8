"""The whole app on a real head, if available, with the bundled weights."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg.models.weights import DEFAULT_MODEL

WEIGHTS = resources.files("bids_msseg") / "data" / "weights" / f"{DEFAULT_MODEL}.safetensors"


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"the weights {WEIGHTS.name} are not there")
def test_raw_head_with_flair_only_is_segmented(
    shared_data: Path, tmp_path: Path, msseg: Callable[..., Any]
) -> None:
    """Anisotropic FLAIR with skull and without T1w, with default options."""
    heads = shared_data / "raw-heads"
    out = tmp_path / "derivatives" / "bids_msseg"
    words = ["participant", "group", "--participant-label", "09", "--nprocs", "2"]
    ended = msseg(heads, out, *words)
    assert ended.code == 0, ended.err
    record = json.loads((out / "logs/visits/sub-09_ses-2.json").read_text())
    assert record["status"] == "ok"
    assert list(record["contrasts"]) == ["FLAIR"]
    assert 900 < record["brain_volume_ml"] < 1800
    assert 0.1 < record["lesion_load_ml"] < 100
    raw = nib.load(heads / "sub-09/ses-2/anat/sub-09_ses-2_FLAIR.nii.gz")
    stem = out / "sub-09/ses-2/anat/sub-09_ses-2_space-FLAIR"
    mask = nib.load(f"{stem}_label-L_mask.nii.gz")
    brain = nib.load(f"{stem}_desc-brain_mask.nii.gz")
    assert mask.shape == brain.shape == raw.shape
    np.testing.assert_allclose(mask.affine, raw.affine, atol=1e-4)
    inside = np.asarray(brain.dataobj) > 0
    lesions = np.asarray(mask.dataobj) > 0
    assert (lesions <= inside).all()
    # lesions are bright on FLAIR
    data = raw.get_fdata()
    assert np.median(data[lesions]) > 1.15 * np.median(data[inside])
    with (out / "group_lesions.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [row["participant_id"] for row in rows] == ["sub-09"]
    shutil.rmtree(out / ".work")
