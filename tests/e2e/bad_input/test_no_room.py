"""No space for the work folder: a full disk, and a file size limit."""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .place import ONE_THREAD, broken_texts, remains, tree

pytestmark = pytest.mark.slow
ROOM_MB = 2
"""The work of the first steps fits; the stack of the phantom has 17 MB."""
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from bids_msseg.cli.run import main
raise SystemExit(main(sys.argv[2:]))
"""


@pytest.fixture
def bids(tmp_path: Path, make_phantom: Callable[..., Any]) -> Path:
    """Two visits, to check that both are reported."""
    folder = tmp_path / "bids"
    for label in ("01", "02"):
        path = folder / f"sub-{label}/anat/sub-{label}_FLAIR.nii.gz"
        make_phantom(spacing=(4.0, 4.0, 4.0)).write(path, "FLAIR", kind="int16")
    about = {"Name": "Phantoms", "BIDSVersion": "1.10.1"}
    (folder / "dataset_description.json").write_text(json.dumps(about))
    (folder / "FLAIR.json").write_text(json.dumps({"SkullStripped": True}))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 2 MB, or skip if that is not permitted."""
    folder, libc = tmp_path / "disk", ctypes.CDLL(None, use_errno=True)
    folder.mkdir()
    size = f"size={ROOM_MB}m".encode()
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, size):
        pytest.skip("mounting needs root")
    yield folder
    libc.umount2(bytes(folder), 2)


def _run(limit: int, bids: Path, work: Path, model: Path) -> tuple[int, str]:
    words = [bids, bids.parent / "out", "participant", "-w", work, "--model", model]
    command = [sys.executable, "-c", LIMITED, limit, *words, "--fast", *ONE_THREAD]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def _check(ended: tuple[int, str], bids: Path, says: str, hint: str) -> None:
    code, log = ended
    assert code == 74, log
    assert "Traceback" not in log
    for label in ("01", "02"):
        assert re.search(rf"sub-{label} failed: .*{says}.*\n  hint: .*{hint}", log), log
        content = (bids.parent / f"out/logs/visits/sub-{label}.json").read_text(encoding="utf-8")
        assert re.search(says, json.loads(content)["reason"])
    assert log.rstrip().endswith("exit code 74 (io error)")
    assert remains(bids.parent / "out") == []
    assert broken_texts(bids.parent / "out") == []


def test_full_work_disk_gives_exit_code_74(
    bids: Path, small_disk: Path, bright_model: Path, note_row: Callable[..., None]
) -> None:
    before = tree(bids)
    ended = _run(-1, bids, small_disk / "work", bright_model)
    _check(ended, bids, "no space left on the disk", "--work-dir to a larger disk")
    assert tree(bids) == before
    note_row("work folder's disk is full", ended[0], "no space left on the disk", "free some …")


def test_file_size_limit_gives_exit_code_74(
    bids: Path, bright_model: Path, note_row: Callable[..., None]
) -> None:
    ended = _run(ROOM_MB * 2**20, bids, bids.parent / "work", bright_model)
    _check(ended, bids, "exceeds the file size limit", "ulimit -f")
    note_row("ulimit -f of 2 MB", ended[0], "a file exceeds the limit …", "raise the limit, …")
