"""Atomic writing of files, and removal of stale files."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_msseg.io.atomic import (
    make_scratch,
    open_alone,
    publish,
    remove_stale_files,
    replacing,
    write_atomic,
)


def test_write_atomic_accepts_text_bytes_and_callable(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.nii.gz"
    for content in ("é", "é".encode(), lambda path: path.write_text("é", encoding="utf-8")):
        write_atomic(target, content)
        assert target.read_text(encoding="utf-8") == "é"
        assert [path.name for path in target.parent.iterdir()] == ["a.nii.gz"]


def test_temporary_file_is_hidden_and_keeps_extension(tmp_path: Path) -> None:
    seen: list[Path] = []

    def write(path: Path) -> None:
        seen.append(path)
        path.touch()

    write_atomic(tmp_path / "a.nii.gz", write)
    assert seen[0].name.startswith(".")
    assert seen[0].name.endswith(".nii.gz")
    assert seen[0].parent == tmp_path


def test_failed_write_keeps_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        write_atomic(target, fail)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def by_content(final: Path, fill: Callable[[Path], object]) -> None:
    write_atomic(final, fill)


def by_name(final: Path, fill: Callable[[Path], object]) -> None:
    with replacing(final, single_writer=True) as temporary:
        fill(temporary)


def by_stream(final: Path, fill: Callable[[Path], object]) -> None:
    with open_alone(final) as stream:
        fill(Path(stream.name))


WRITERS = pytest.mark.parametrize("write", [by_content, by_name, by_stream])


@WRITERS
def test_content_is_synced_before_rename(
    write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final, synced = tmp_path / "a.npz", []

    def sync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, final.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write(final, lambda path: path.write_bytes(b"whole"))
    assert synced == [(5, False)]
    assert final.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [final]


@WRITERS
def test_interrupted_writer_leaves_only_old_file(
    write: Callable[..., None], tmp_path: Path
) -> None:
    final = tmp_path / "a.npz"
    final.write_bytes(b"old")

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(final, fail)
    assert final.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("write", [by_name, by_stream])
@pytest.mark.parametrize("name", ["net.pt", "sub-01.npz", "points.json"])
def test_single_writer_replaces_stale_file_of_killed_writer(
    write: Callable[..., None], name: str, tmp_path: Path
) -> None:
    (tmp_path / f"{name}.part").write_bytes(b"much longer than what comes now")
    seen: list[str] = []

    def fill(path: Path) -> None:
        seen.append(path.name)
        path.write_bytes(b"whole")

    write(tmp_path / name, fill)
    assert seen == [f"{name}.part"]
    assert (tmp_path / name).read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_files_are_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_killed_writer_leaves_no_final_file(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from bids_msseg.io.atomic import write_atomic\n"
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
    def test_copies_across_file_systems(
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

    def test_does_not_copy_after_input_output_error(
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

    def test_folder_at_target_path_raises_error(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "y").mkdir()
        with pytest.raises(OSError, match="y"):
            publish(source, tmp_path / "y")
        assert source.exists()


@pytest.fixture
def abandoned(tmp_path: Path) -> Path:
    """Return the temporary file of a process that was killed while writing."""
    code = """
import os, signal, sys
from pathlib import Path
from bids_msseg.io.atomic import write_atomic
def die(path):
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
write_atomic(Path(sys.argv[1]), die)
"""
    words = [sys.executable, "-c", code, str(tmp_path / "a.nii.gz")]
    assert subprocess.run(words, cwd=Path(__file__).parents[2], check=False).returncode == -9
    (path,) = tmp_path.iterdir()
    return path


def test_stale_files_of_killed_process_are_removed(abandoned: Path) -> None:
    folder = abandoned.parent
    others = [folder / name for name in ("a.nii.gz", ".hidden", ".bidsignore", ".abcdef.x")]
    for path in others:
        path.touch()
    assert remove_stale_files(folder) == (abandoned.name,)
    assert sorted(folder.iterdir()) == sorted(others)


def test_temporary_file_of_running_process_is_kept(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.touch()
        assert remove_stale_files(tmp_path) == ()
        assert path.exists()

    write_atomic(tmp_path / "a", write)


@pytest.mark.parametrize(("age_s", "goes"), [(3600, False), (90_000, True), (-3600, False)])
def test_stale_files_of_another_computer_are_removed_after_a_day(
    abandoned: Path, age_s: float, *, goes: bool
) -> None:
    computer, _, rest = abandoned.name[1:].partition("-")
    other = f"{int(computer, 16) ^ 1:06x}"
    path = abandoned.rename(abandoned.with_name(f".{other}-{rest}"))
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    assert (remove_stale_files(path.parent) == (path.name,)) is goes


def test_stale_files_of_another_container_are_kept(abandoned: Path) -> None:
    """A container has the name of its host, but its own process IDs."""
    code = "import sys; from pathlib import Path; from bids_msseg.io.atomic import *\n"
    code += "print(remove_stale_files(Path(sys.argv[1])))"
    apart = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False).returncode:
        pytest.skip("numbers of processes cannot be kept apart here")
    words = [*apart, sys.executable, "-c", code, str(abandoned.parent)]
    ended = subprocess.run(
        words, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    assert (ended.stdout, abandoned.exists()) == ("()\n", True)
    assert remove_stale_files(abandoned.parent) == (abandoned.name,)


def test_missing_folder_has_no_stale_files(tmp_path: Path) -> None:
    assert remove_stale_files(tmp_path / "none") == ()


def test_scratch_folder_of_killed_process_is_removed(abandoned: Path) -> None:
    folder = abandoned.parent
    abandoned.unlink()
    mine = make_scratch(folder)
    assert mine.stat().st_mode & 0o777 == 0o700
    process = f"-{os.getpid():x}-"
    dead = folder / mine.name.replace(process, f"-{abandoned.name.split('-')[1]}-")
    (dead / "below").mkdir(parents=True)
    (dead / "below" / "file").touch()
    (folder / "tmp-of-somebody").mkdir()
    assert remove_stale_files(folder) == (dead.name,)
    assert sorted(folder.iterdir()) == sorted([mine, folder / "tmp-of-somebody"])
