"""The batch scripts of SLURM; tests with the marker ``slurm`` use a real SLURM of one node.

``make slurm`` runs the marked tests. SLURM_CONF, if set, selects an existing SLURM.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.cli.run import parse_args

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "integrations/slurm"
NODE = ROOT / "tools/slurm_node.sh"
RECORDS_CALLS = """#!/bin/bash
# participant 02 fails
sleep 2
echo "$(date +%s.%N) $*" >> "$CALLS"
[[ " $* " != *" sub-02 "* ]] || exit 65
"""
SBATCH = """#!/bin/bash
# takes a job and says its number, as sbatch --parsable does
printf '%s\\n' "$*" >> "$SENT"
wc -l < "$SENT"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment variables by which sbatch finds a SLURM."""
    if "SLURM_CONF" in os.environ:
        yield {"SLURM_CONF": os.environ["SLURM_CONF"]}
        return
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([NODE, "start", folder], capture_output=True, text=True, check=False)
    if started.returncode == 69:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([NODE, "stop", folder], check=True)


def wait_for(jobs: tuple[str, str], surroundings: Any, slurm: dict[str, str]) -> None:
    """Wait until an array and its group job have left the queue."""
    while True:
        words = ["squeue", "--noheader", "--jobs", ",".join(jobs)]
        if not surroundings.call(words, ROOT, slurm).out.strip():
            return
        time.sleep(2)


def submit(
    surroundings: Any, folder: Path, bids: Path, more: dict[str, str], *options: str
) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    words = [SCRIPTS / "submit.sh", bids, folder / "out", *options]
    ended = surroundings.call(words, folder, more)
    assert ended.code == 0, ended.err
    numbers = re.search(r"job (\d+); group: job (\d+)", ended.out)
    assert numbers is not None
    return numbers[1], numbers[2]


def test_submit_sends_array_and_group_jobs(surroundings: Any, tmp_path: Path) -> None:
    surroundings.add("sbatch", SBATCH)
    bids, sent = tmp_path / "bids", tmp_path / "sent.txt"
    for name in ("sub-02", "sub-01", "sub-10", "derivatives"):
        (bids / name).mkdir(parents=True)
    variables = {"SENT": str(sent), "AT_ONCE": "2"}
    jobs = submit(surroundings, tmp_path / "run", bids, variables, "--mem=8G")
    assert jobs == ("1", "2")
    array, group = sent.read_text().splitlines()
    assert array == f"--parsable --array=1-3%2 --mem=8G {SCRIPTS}/participants.sbatch"
    assert group == f"--parsable --dependency=afterany:1 --mem=8G {SCRIPTS}/group.sbatch"
    listed = list((tmp_path / "run/out/logs").glob("participants-*.txt"))
    assert [path.read_text().split() for path in listed] == [["sub-01", "sub-02", "sub-10"]]
    # a new participant does not change the list of the first array
    (bids / "sub-00").mkdir()
    submit(surroundings, tmp_path / "run", bids, variables)
    assert listed[0].read_text().split()[0] == "sub-01"


def test_array_task_runs_its_participant_and_returns_exit_code(
    surroundings: Any, tmp_path: Path
) -> None:
    surroundings.add("recorder", RECORDS_CALLS)
    (tmp_path / "labels").write_text("sub-01\nsub-02\n")
    (tmp_path / "scratch").mkdir()
    variables = {
        "LABELS": str(tmp_path / "labels"),
        "BIDS": "/bids",
        "OUT": "/out",
        "MSSEG": "recorder",
        "MSSEG_OPTIONS": "--fast --model my",
        "WORK": str(tmp_path / "scratch"),
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "9",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_CPUS_PER_TASK": "2",
    }
    script = ["bash", SCRIPTS / "participants.sbatch"]
    ended = surroundings.call(script, tmp_path, variables)
    assert ended.code == 65
    assert ended.out.strip() == "sub-02 task 2 exit 65"
    _, *words = (tmp_path / "calls").read_text().split()
    config = parse_args(words)
    assert config.query.participant_label == ("02",)
    assert (config.performance.nprocs, config.processing.fast) == (2, True)
    assert config.work_dir.parent == tmp_path / "scratch"
    assert list((tmp_path / "scratch").iterdir()) == []
    beyond = surroundings.call(script, tmp_path, {**variables, "SLURM_ARRAY_TASK_ID": "3"})
    assert beyond.code == 64


@pytest.mark.slurm
def test_group_job_waits_for_all_tasks_including_failed(
    surroundings: Any, slurm: dict[str, str], tmp_path: Path
) -> None:
    surroundings.add("recorder", RECORDS_CALLS)
    bids = tmp_path / "bids"
    for name in ("sub-01", "sub-02", "sub-03"):
        (bids / name).mkdir(parents=True)
    calls = tmp_path / "calls"
    variables = {**slurm, "MSSEG": "recorder", "CALLS": str(calls)}
    small = ("--mem=100M", "--cpus-per-task=1")
    array, group = submit(surroundings, tmp_path / "run", bids, variables, *small)
    wait_for((array, group), surroundings, slurm)
    lines = calls.read_text().splitlines()
    assert len(lines) == 4
    assert lines[-1].endswith("/out group")
    logs = sorted((tmp_path / "run").glob(f"msseg-{array}_*.log"))
    # SLURM itself may write there, too
    told_last = [line for log in logs for line in log.read_text().splitlines() if "task" in line]
    assert told_last == [
        "sub-01 task 1 exit 0",
        "sub-02 task 2 exit 65",
        "sub-03 task 3 exit 0",
    ]


@pytest.mark.slurm
@pytest.mark.slow
def test_demo_dataset_is_processed_on_slurm(
    surroundings: Any, slurm: dict[str, str], demo: Path, tmp_path: Path
) -> None:
    variables = {**slurm, "MSSEG_OPTIONS": "--fast --omp-nthreads 1", "WORK": str(tmp_path)}
    small = ("--mem=2G", "--cpus-per-task=1")
    jobs = submit(surroundings, tmp_path / "run", demo, variables, *small)
    wait_for(jobs, surroundings, slurm)
    logs = {log.name: log.read_text() for log in (tmp_path / "run").glob("*.log")}
    table = tmp_path / "run/out/group_lesions.tsv"
    assert table.is_file(), logs
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    visits = {path.parent for path in demo.glob("sub-*/**/anat/*_FLAIR.nii.gz")}
    assert [row["status"] for row in rows] == ["ok"] * len(visits), logs
    assert list(tmp_path.glob("msseg-*")) == []
