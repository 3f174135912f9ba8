"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.bids.files import (
    format_cell,
    make_scratch,
    publish,
    read_small,
    remove_leftovers,
    write_atomic,
    write_json,
    write_tsv,
)


def test_text_bytes_and_callable(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.nii.gz"
    for content in ("é", "é".encode(), lambda path: path.write_text("é", encoding="utf-8")):
        write_atomic(target, content)
        assert target.read_text(encoding="utf-8") == "é"
        assert [path.name for path in target.parent.iterdir()] == ["a.nii.gz"]


def test_the_temporary_name_is_hidden_and_keeps_the_ending(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(path: Path) -> None:
        seen.append(path)
        path.touch()

    write_atomic(tmp_path / "a.nii.gz", write)
    assert seen[0].name.startswith(".")
    assert seen[0].name.endswith(".nii.gz")
    assert seen[0].parent == tmp_path


def test_failure_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_atomic(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from bids_msseg.bids.files import write_atomic\n"
        "def slow(path):\n"
        "    path.write_bytes(b'x' * 1000); print('half', flush=True); time.sleep(60)\n"
        "write_atomic(Path(sys.argv[1]), slow)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == b"half\n"
        job.send_signal(signal.SIGKILL)
    assert [path.name for path in tmp_path.glob("*.nii.gz") if path.name[0] != "."] == []


class TestPublish:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "work" / "x.nii.gz"
        path.parent.mkdir()
        path.write_bytes(b"content")
        return path

    @pytest.mark.parametrize("keep", [True, False])
    def test_moves_or_copies(self, source: Path, tmp_path: Path, keep: bool) -> None:
        final = tmp_path / "out" / "sub" / "y.nii.gz"
        publish(source, final, keep=keep)
        assert final.read_bytes() == b"content"
        assert source.exists() == keep
        assert list(final.parent.iterdir()) == [final]

    @pytest.mark.parametrize("keep", [True, False])
    def test_across_file_systems(
        self, source: Path, tmp_path: Path, keep: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace = Path.replace

        def refuse(self: Path, target: Path) -> Path:
            if self == source:
                raise OSError(errno.EXDEV, "other device")
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", refuse)
        publish(source, tmp_path / "y", keep=keep)
        assert (tmp_path / "y").read_bytes() == b"content"
        assert source.exists() == keep

    def test_only_another_file_system_is_a_reason_to_copy(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Path) -> Path:
            raise OSError(errno.EIO, "input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", refuse)
            patch.setattr("shutil.copyfile", lambda *_: pytest.fail("copied"))
            with pytest.raises(OSError, match="input/output"):
                publish(source, tmp_path / "y")
        assert source.exists()

    def test_other_errors_are_told(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "y").mkdir()
        with pytest.raises(OSError, match="y"):
            publish(source, tmp_path / "y")
        assert source.exists()


def test_text_that_utf_8_cannot_hold_costs_a_letter_and_not_the_run(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"Na\ud83dme": "\ud800", "files": [Path("f\udcff"), "é"]})
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert found == {"Na?me": "?", "files": ["f?", "é"]}
    write_atomic(tmp_path / "a.txt", "of \ud800")
    assert (tmp_path / "a.txt").read_bytes() == b"of ?"
    assert format_cell("\ud800\tx") == "? x"


def test_json(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json",
        {
            "b": np.float32(0.5),
            "a": [math.nan, math.inf, np.int64(3)],
            "p": Path("x/y"),
            "t": ("é", True, None),
            "n": np.eye(2),
        },
    )
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {
        "b": 0.5,
        "a": [None, None, 3],
        "p": "x/y",
        "t": ["é", True, None],
        "n": [[1, 0], [0, 1]],
    }
    assert list(json.loads(text)) == ["b", "a", "p", "t", "n"]
    assert "é" in text
    assert text.endswith("}\n")


def test_tsv(tmp_path: Path) -> None:
    rows = [{"a": 1.50, "b": None, "c": "x\ty\nz"}, {"b": math.nan, "c": np.float64(1e6)}]
    write_tsv(tmp_path / "a.tsv", ("a", "b", "c"), rows)
    assert (tmp_path / "a.tsv").read_text() == ("a\tb\tc\n1.5\tn/a\tx y z\nn/a\tn/a\t1000000\n")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_tables_can_be_read_back(value: float) -> None:
    text = format_cell(value)
    # four decimals from one upwards, six digits below
    assert float(text) == pytest.approx(
        value, rel=1e-5, abs=5.01e-5 if abs(value) >= 1 else 1e-300
    )
    assert text != "-0"


@given(st.text())
def test_text_in_tables_stays_in_its_cell(value: str) -> None:
    assert len(format_cell(value).split("\t")) == 1
    assert len(format_cell(value).splitlines()) == 1


@pytest.fixture
def abandoned(tmp_path: Path) -> Path:
    """What a process that was killed in the middle of writing leaves."""
    code = """
import os, signal, sys
from pathlib import Path
from bids_msseg.bids.files import write_atomic
def die(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), die)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")]
    assert subprocess.run(words, cwd=Path(__file__).parents[2], check=False).returncode == -9
    (path,) = tmp_path.iterdir()
    return path


def test_a_small_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xefabc\n")
    assert read_small(tmp_path / "a") == b"\xefabc\n"
    assert read_small(tmp_path / "a", most=5) == b"\xefabc\n"


def test_what_is_no_small_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"123456")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="Longer than 5 bytes"):
        read_small(tmp_path / "long", most=5)
    for name in ("pipe", "endless", "folder", "none"):
        with pytest.raises(OSError, match=r"regular|directory"):
            read_small(tmp_path / name)


def test_leftovers_of_the_dead_are_removed(abandoned: Path) -> None:
    folder = abandoned.parent
    others = [folder / name for name in ("a.nii.gz", ".hidden", ".bidsignore", ".abcdef.x")]
    for path in others:
        path.touch()
    assert remove_leftovers(folder) == (abandoned.name,)
    assert sorted(folder.iterdir()) == sorted(others)


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    def look(path: Path) -> None:
        path.touch()
        assert remove_leftovers(tmp_path) == ()
        assert path.exists()

    write_atomic(tmp_path / "a", look)


@pytest.mark.parametrize(("age_s", "goes"), [(3600, False), (90_000, True), (-3600, False)])
def test_leftovers_of_another_computer_go_after_a_day(
    abandoned: Path, age_s: float, *, goes: bool
) -> None:
    computer, _, rest = abandoned.name[1:].partition("-")
    other = f"{int(computer, 16) ^ 1:06x}"
    path = abandoned.rename(abandoned.with_name(f".{other}-{rest}"))
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    assert (remove_leftovers(path.parent) == (path.name,)) is goes


def test_leftovers_of_another_container_stay(abandoned: Path) -> None:
    """It has the host's name, and numbers of processes of its own."""
    code = "import sys; from pathlib import Path; from bids_msseg.bids.files import *\n"
    code += "print(remove_leftovers(Path(sys.argv[1])))"
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("numbers of processes cannot be kept apart here")
    words = [*apart, sys.executable, "-c", code, str(abandoned.parent)]
    ended = subprocess.run(
        words, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    assert (ended.stdout, abandoned.exists()) == ("()\n", True)
    assert remove_leftovers(abandoned.parent) == (abandoned.name,)


def test_leftovers_of_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert remove_leftovers(tmp_path / "none") == ()


def test_scratch_folders_of_the_dead_are_removed(abandoned: Path) -> None:
    folder = abandoned.parent
    abandoned.unlink()
    mine = make_scratch(folder)
    assert mine.stat().st_mode & 0o777 == 0o700
    process = f"-{os.getpid():x}-"
    dead = folder / mine.name.replace(process, f"-{abandoned.name.split('-')[1]}-")
    (dead / "below").mkdir(parents=True)
    (dead / "below" / "file").touch()
    (folder / "tmp-of-somebody").mkdir()
    assert remove_leftovers(folder) == (dead.name,)
    assert sorted(folder.iterdir()) == sorted([mine, folder / "tmp-of-somebody"])
