"""Jobs that share one OUT, as an array on a cluster does."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.io import atomic

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = ("01", "02", "03", "04")
WRITER = """
import sys
from pathlib import Path
from bids_msseg.bids.dataset import write_dataset_files
from bids_msseg.bids.record import VisitRecord, write_record
from bids_msseg.reports.group.report import write_group
bids, out, options = Path(sys.argv[1]), Path(sys.argv[2]), {"fast": sys.argv[3] == "1"}
write_record(out, VisitRecord(f"0{sys.argv[3]}", None, "", "skipped", "no FLAIR", "add one"))
for number in range(20):
    image = {"BIDS_MSSEG_IMAGE": f"m:{number}"}
    write_dataset_files(out, bids, options=options, environment=image)
    if number % 10 == 0:
        write_group(out, bids_dir=bids)
"""


@pytest.fixture
def bids(tmp_path: Path, make_phantom: Callable[..., Any]) -> Path:
    """Four participants with a FLAIR each, skull off."""
    root = tmp_path / "raw"
    grid = make_phantom("RAS", (2.0, 2.0, 4.0))
    for seed, name in enumerate(PEOPLE):
        grid.write(root / f"sub-{name}/anat/sub-{name}_FLAIR.nii.gz", "FLAIR", seed=seed)
    about = {"Name": "Phantoms", "BIDSVersion": "1.10.1", "License": "CC0", "Authors": ["A", "B"]}
    (root / "dataset_description.json").write_text(json.dumps(about))
    (root / "FLAIR.json").write_text(json.dumps({"SkullStripped": True}))
    return root


def temporary_files(out: Path) -> list[Path]:
    """Temporary files of writers that were not renamed."""
    return [path for path in out.rglob("*") if atomic._TEMPORARY_NAME.fullmatch(path.name)]


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_concurrent_reader_sees_only_complete_dataset_files(bids: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    writers = [start("-c", WRITER, bids, out, number % 2) for number in range(3)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        # files whose names begin with a dot are incomplete
        finished = [path for path in out.glob("*.json") if not path.name.startswith(".")]
        for path in (*finished, out / "README.md", out / ".bidsignore"):
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf-8")
            assert text.endswith("\n")
            if path.suffix == ".json":
                assert json.loads(text)
            seen.add(path.name)
    assert [writer.wait() for writer in writers] == [0, 0, 0], writers[0].communicate()
    assert {"dataset_description.json", "README.md", ".bidsignore", "group_lesions.json"} <= seen
    assert temporary_files(out) == []
    lines = (out / ".bidsignore").read_text().splitlines()
    assert len(lines) == len(set(lines))


@pytest.mark.launch
def test_parallel_participant_jobs_then_group_level_succeed(
    bids: Path, bright_model: Path, tmp_path: Path, needs: Callable[[str], str]
) -> None:
    out = tmp_path / "out"
    options = ["--model", bright_model, "--nprocs", "1", "--omp-nthreads", "1"]
    app = ["-m", "bids_msseg", bids, out]
    jobs = [start(*app, "participant", "--participant-label", one, *options) for one in PEOPLE]
    logs = [job.communicate()[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0, 0], logs
    group = start(*app, "group")
    assert group.wait() == 0, group.communicate()

    with (out / "group_lesions.tsv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert [(row["participant_id"], row["status"]) for row in rows] == [
        (f"sub-{one}", "ok") for one in PEOPLE
    ]
    assert temporary_files(out) == []
    assert list((out / "logs").glob("crash-*")) == []
    assert all((out / f"sub-{one}.html").is_file() for one in PEOPLE)
    # all visits have the same set of files
    names = {
        one: {p.name.replace(f"sub-{one}", "sub") for p in (out / f"sub-{one}").rglob("*")}
        for one in PEOPLE
    }
    assert len({frozenset(found) for found in names.values()}) == 1
    validator = needs("bids-validator-deno")
    done = subprocess.run(
        [validator, str(out), "--format", "json"], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["issues"]["issues"] == []
