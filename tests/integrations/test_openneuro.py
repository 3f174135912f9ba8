"""A dataset as DataLad clones it from OpenNeuro: links into the annex, sidecars at the root."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DESCRIPTION = {
    "Name": "A study of MS",
    "BIDSVersion": "1.8.0",
    "License": "CC0",
    "Authors": ["Ada", "Ben"],
    "DatasetDOI": "doi:10.18112/openneuro.ds000001.v1.0.2",
}


def annex(root: Path, content: Path, name: str, *, fetched: bool = True) -> None:
    """Put a file into the annex and a link in its place, as git-annex does."""
    data = content.read_bytes()
    key = f"MD5E-s{len(data)}--{hashlib.md5(data, usedforsecurity=False).hexdigest()}.nii.gz"
    # unfetched content has another folder, because both participants have the same images
    target = root / ".git/annex/objects" / ("xK/9q" if fetched else "0p/Zw") / key / key
    link = root / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
    if fetched:
        target.parent.mkdir(parents=True)
        shutil.copyfile(content, target)
        target.chmod(0o444)
        target.parent.chmod(0o555)


@pytest.fixture
def clone(demo: Path, tmp_path: Path) -> Path:
    """Dataset with one fetched and one unfetched participant."""
    root = tmp_path / "ds000001"
    for suffix, entities in (("FLAIR", "acq-space_run-1"), ("T1w", "acq-mprage_run-01")):
        (source,) = demo.glob(f"sub-03/**/sub-03*_{suffix}.nii.gz")
        for label in ("03", "04"):
            name = f"sub-{label}/ses-m0/anat/sub-{label}_ses-m0_{entities}_{suffix}.nii.gz"
            annex(root, source, name, fetched=label == "03")
            (root / f"{suffix}.json").write_text(json.dumps({"MagneticFieldStrength": 3}))
    (root / "dataset_description.json").write_text(json.dumps(DESCRIPTION))
    (root / "participants.tsv").write_text("participant_id\nsub-03\nsub-04\n")
    (root / "CHANGES").write_text("1.0.2 2024-01-01\n  - fewer\n")
    (root / ".datalad").mkdir()
    (root / ".datalad/config").write_text('[datalad "dataset"]\n\tid = 0\n')
    (root / ".gitattributes").write_text("* annex.backend=MD5E\n")
    return root


def test_unfetched_image_is_refused_with_hint(
    surroundings: Any, clone: Path, tmp_path: Path
) -> None:
    words = ["msseg", clone, tmp_path / "out", "participant", "--participant-label", "04"]
    ended = surroundings.call(words, tmp_path)
    assert ended.code == 66
    assert "datalad get" in ended.err


@pytest.mark.launch
def test_fetched_participant_gives_valid_derivative_dataset(
    surroundings: Any, needs: Callable[[str], str], clone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    label = ["--participant-label", "sub-03", "--fast", "--nprocs", "1", "--omp-nthreads", "1"]
    image = {"BIDS_MSSEG_IMAGE": "registry.org/msseg:0.1.0"}
    before = sorted((path, os.lstat(path).st_mtime_ns) for path in clone.rglob("*"))
    ended = surroundings.call(["msseg", clone, out, "participant", "group", *label], clone, image)
    assert ended.code == 0, ended.err
    assert sorted((path, os.lstat(path).st_mtime_ns) for path in clone.rglob("*")) == before

    stem = "sub-03/ses-m0/anat/sub-03_ses-m0_acq-space_run-1"
    sidecar = json.loads((out / f"{stem}_space-FLAIR_label-L_mask.json").read_text())
    assert f"bids:raw:{stem}_FLAIR.nii.gz" in sidecar["Sources"]
    validator = needs("bids-validator-deno")
    done = subprocess.run(
        [validator, str(out), "--format", "json"], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["issues"]["issues"] == []

    about = json.loads((out / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative"
    assert about["License"] == "CC0"
    assert about["GeneratedBy"][0]["Container"]["Tag"] == "registry.org/msseg:0.1.0"
    assert about["SourceDatasets"] == [
        {
            "DOI": DESCRIPTION["DatasetDOI"],
            "URL": "https://openneuro.org/datasets/ds000001/versions/1.0.2",
            "Version": "1.0.2",
        }
    ]
    citation = (out / "logs/CITATION.md").read_text()
    assert citation.startswith("# Methods\n")
    assert "# References\n" in citation
