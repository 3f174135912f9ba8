"""Writing files so that a reader, or a killed run, never meets half of one."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from platform import node
from typing import BinaryIO, Final

Content = bytes | str | Callable[[Path], object]
ABANDONED_S: Final = 86_400
"""Age in s from which a temporary file of another computer or container counts as left behind."""
_PASSING = re.compile(r"(?:\.|tmp-)([0-9a-f]{6})-([0-9a-f]+)-[0-9a-f]{8}(?:\..+)?")


@contextmanager
def replacing(final: Path, *, single_writer: bool = False) -> Iterator[Path]:
    """Give a temporary name beside a file's place, and move the file there if all went well.

    Parameters
    ----------
    final : Path
        Final name; its folder exists. An existing file is replaced as a whole.
    single_writer : bool, default False
        No other process writes this file. The temporary name is then the final one with
        ``.part``, so that the next writer removes what a killed one left. Otherwise it is hidden,
        no other process has it, and :func:`remove_leftovers` knows it.

    Yields
    ------
    Path
        Name of the file to make. Without ``single_writer`` it has the ending of the final one.

    Raises
    ------
    OSError
        Where it cannot be written. The temporary file is gone then and an earlier file untouched.
    """
    name = f"{final.name}.part" if single_writer else f".{_whose()}.{final.name}"
    temporary = final.with_name(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_alone(final: Path) -> Iterator[BinaryIO]:
    """Open a file to which no other process writes; it gets its name when it is complete.

    Parameters
    ----------
    final : Path
        Final name; its folder exists.

    Yields
    ------
    binary stream

    Raises
    ------
    OSError
        As :func:`replacing`.
    """
    with replacing(final, single_writer=True) as temporary, temporary.open("wb") as stream:
        yield stream


def write_atomic(path: Path, content: Content) -> None:
    """Write a file under a temporary name beside its place, then move it there.

    Parameters
    ----------
    path : Path
        Final name; missing folders are made. An existing file is replaced as a whole.
    content : bytes, str or callable
        What to write; text as UTF-8, with ``?`` for what UTF-8 has no word for. A callable gets
        the temporary path, which has the ending of the final one, and has to make that file.

    Raises
    ------
    OSError
        Where it cannot be written. The temporary file is gone then and an earlier file untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if callable(content):
            content(temporary)
        else:
            # lone surrogates come out of other people's JSON, and out of odd file names
            data = content.encode("utf-8", "replace") if isinstance(content, str) else content
            temporary.write_bytes(data)


def publish(source: Path, final: Path, *, keep: bool = False) -> None:
    """Move a finished file to its final place in one step.

    Parameters
    ----------
    source : Path
        A complete file, usually in the work folder.
    final : Path
        Its final name; missing folders are made.
    keep : bool, default False
        Leave the source where it is (nipype looks for it when a run is taken up again).

    Raises
    ------
    OSError
        Where it cannot be written; ``final`` is then as before.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    if not keep:
        _sync(source)
        try:
            source.replace(final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        else:
            return
    with replacing(final) as temporary:
        shutil.copyfile(source, temporary)
    if not keep:
        source.unlink()


def remove_leftovers(folder: Path) -> tuple[str, ...]:
    """Remove temporary files and scratch folders of processes that were killed.

    Files of a process that lives stay, and so do those of another computer or container, where
    nobody can ask for it, unless nothing was written to them for a day.

    Parameters
    ----------
    folder : Path
        Looked at without the folders below; it need not exist.

    Returns
    -------
    tuple of str
        Names of what was removed.
    """
    removed = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            match = _PASSING.fullmatch(path.name)
            if match and _is_left(path, computer=match[1], process=int(match[2], 16)):
                _remove(path)
                removed.append(path.name)
    return tuple(removed)


def make_scratch(folder: Path) -> Path:
    """Make a folder for whatever passes, which :func:`remove_leftovers` knows.

    Parameters
    ----------
    folder : Path
        Where; it exists.

    Returns
    -------
    Path
        Nobody else can read it.
    """
    scratch = folder / f"tmp-{_whose()}"
    scratch.mkdir(mode=0o700)
    return scratch


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_left(path: Path, *, computer: str, process: int) -> bool:
    if computer != _computer():
        return time.time() - path.stat().st_mtime > ABANDONED_S
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _whose() -> str:
    """Name this computer, this process, and nothing else that is made now."""
    return f"{_computer()}-{os.getpid():x}-{secrets.token_hex(4)}"


def _computer() -> str:
    """Digest the name of this computer, which is nobody's business, and where its numbers hold.

    A container may count processes by itself under the name of its host.
    """
    numbers = ""
    with suppress(OSError):
        numbers = str(Path("/proc/self/ns/pid").readlink())
    return sha256(f"{node()} {numbers}".encode()).hexdigest()[:6]


def _sync(path: Path) -> None:
    """Bring the content to the disk before its name: else a power cut leaves an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
