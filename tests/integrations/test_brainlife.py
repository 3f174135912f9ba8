"""The ``main`` script of brainlife, with a ``singularity`` stub that starts the app."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bids_msseg import __version__

MAIN = Path(__file__).resolve().parents[2] / "integrations/brainlife/main"
SAMPLE = MAIN.with_name("config.json.sample")
IMAGE = {"MSSEG_IMAGE": "docker://registry.org/msseg:0"}

STARTS_THE_BARE_APP = """#!/bin/bash
# singularity exec -e -B DIR --pwd DIR IMAGE PROGRAM ARGUMENTS
printf '%s\\n' "$@" > singularity.txt
[ "$1 $2 $3 $5" = "exec -e -B --pwd" ] || exit 99
shift 7
exec "$@" --omp-nthreads 1
"""
RECORDS = """#!/bin/bash
printf '%s\\n' "$@" > singularity.txt
exit 18
"""
FAILS = """#!/bin/bash
find bids -type f | sort > tree.txt
exit 18
"""


@pytest.fixture
def jq(needs: Callable[[str], str]) -> str:
    return needs("jq")


def config(folder: Path, **content: Any) -> None:
    (folder / "config.json").write_text(json.dumps(content))


def test_sample_config_matches_main() -> None:
    sample = json.loads(SAMPLE.read_text())
    read = MAIN.read_text()
    assert {"flair", "t1", "t2"} < set(sample)
    assert all(f"{key}:" in read or key in read for key in sample)
    datatypes = {one["keys"][0]: one["datatype"] for one in sample["_inputs"]}
    assert datatypes == {
        "flair": "neuro/anat/flair",
        "t1": "neuro/anat/t1w",
        "t2": "neuro/anat/t2w",
    }


def test_main_has_scheduler_directives() -> None:
    head = MAIN.read_text().split("\nset -euo")[0].splitlines()
    assert head[0] == "#!/bin/bash"
    assert any(line.startswith("#PBS -l ") for line in head)
    assert any(line.startswith("#SBATCH --cpus-per-task") for line in head)


@pytest.mark.usefixtures("jq")
def test_main_builds_bids_tree_and_returns_exit_code(surroundings: Any, tmp_path: Path) -> None:
    surroundings.add("singularity", FAILS)
    task = tmp_path / "task"
    task.mkdir()
    for name in ("flair", "t1"):
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    about = [{"id": "flair", "meta": {"subject": "AB_01", "session": "m-6"}}]
    config(task, flair="../flair.nii.gz", t1="../t1.nii.gz", _inputs=about)
    ended = surroundings.call([MAIN], task, IMAGE)
    assert ended.code == 18, ended.err
    assert (task / "tree.txt").read_text().split() == [
        "bids/dataset_description.json",
        "bids/sub-AB01/ses-m6/anat/sub-AB01_ses-m6_FLAIR.nii.gz",
        "bids/sub-AB01/ses-m6/anat/sub-AB01_ses-m6_T1w.nii.gz",
    ]
    (message,) = json.loads((task / "product.json").read_text())["brainlife"]
    assert message == {"type": "error", "msg": "msseg ended with 18"}


@pytest.mark.usefixtures("jq")
@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"t1": "config.json"}, "a FLAIR (neuro/anat/flair) is needed"),
        ({"flair": "no.nii.gz"}, "there is no file no.nii.gz, which config.json names as flair"),
    ],
)
def test_missing_flair_is_reported(
    surroundings: Any, tmp_path: Path, content: dict[str, str], text: str
) -> None:
    surroundings.add("singularity", FAILS)
    config(tmp_path, **content)
    assert surroundings.call([MAIN], tmp_path, IMAGE).code == 66
    (message,) = json.loads((tmp_path / "product.json").read_text())["brainlife"]
    assert message == {"type": "error", "msg": text}
    assert not (tmp_path / "tree.txt").exists()


@pytest.mark.usefixtures("jq")
@pytest.mark.parametrize("given", [{}, {"MSSEG_IMAGE": ""}, {"MSSEG_IMAGE": "/images/msseg.sif"}])
def test_image_defaults_to_released_image(
    surroundings: Any, tmp_path: Path, given: dict[str, str]
) -> None:
    surroundings.add("singularity", RECORDS)
    (tmp_path / "flair.nii.gz").write_bytes(b"")
    config(tmp_path, flair="flair.nii.gz")
    surroundings.call([MAIN], tmp_path, given)
    words = (tmp_path / "singularity.txt").read_text().split()
    name = (MAIN.parents[1] / "image.txt").read_text().strip()
    released = f"docker://{name}:{__version__}"
    assert words[words.index("--pwd") + 2] == (given.get("MSSEG_IMAGE") or released)


@pytest.mark.launch
@pytest.mark.usefixtures("jq")
def test_complete_task_writes_mask_table_and_report(
    surroundings: Any, demo: Path, tmp_path: Path
) -> None:
    surroundings.add("singularity", STARTS_THE_BARE_APP)
    inputs, task = tmp_path / "inputs", tmp_path / "task"
    inputs.mkdir()
    task.mkdir()
    for suffix, name in (("FLAIR", "flair"), ("T1w", "t1")):
        (source,) = demo.glob(f"sub-02/**/sub-02*_{suffix}.nii.gz")
        shutil.copy(source, inputs / f"{name}.nii.gz")
    config(task, flair="../inputs/flair.nii.gz", t1="../inputs/t1.nii.gz", t2="", fast=True)
    ended = surroundings.call([MAIN], task, IMAGE)
    assert ended.code == 0, ended.err

    assert IMAGE["MSSEG_IMAGE"] in (task / "singularity.txt").read_text().split()
    mask, flair = nib.load(task / "mask/mask.nii.gz"), nib.load(inputs / "flair.nii.gz")
    assert mask.shape == flair.shape
    np.testing.assert_allclose(mask.affine, flair.affine, atol=1e-5)
    with (task / "table/lesions.tsv").open(newline="") as stream:
        (row,) = csv.DictReader(stream, delimiter="\t")
    assert (row["participant_id"], row["status"]) == ("sub-1", "ok")
    assert row["contrasts"] == "FLAIR+T1w"
    assert set(row) <= set(json.loads((task / "table/lesions.json").read_text()))
    product = json.loads((task / "product.json").read_text())
    assert product["meta"]["lesion_count"] == int(row["lesion_count"])
    assert product["brainlife"][0]["type"] == "info"
    page = (task / "report/index.html").read_text(encoding="utf-8")
    links = re.findall(r'(?:href|src)="([^"#:]+)"', page)
    assert any(link.endswith("_desc-lesions_stats.tsv") for link in links)
    assert [link for link in links if not (task / "report" / link).is_file()] == []
    assert not (task / "derivatives/bids_msseg/.work").exists()
    assert {path.name for path in task.iterdir()} == {
        *("config.json", "singularity.txt", "product.json"),
        *("bids", "derivatives", "mask", "table", "report"),
    }
