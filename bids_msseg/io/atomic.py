"""Atomic writing of files, so that no reader finds a partial file, even after a killed run."""

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
_TEMPORARY_NAME = re.compile(r"(?:\.|tmp-)([0-9a-f]{6})-([0-9a-f]+)-[0-9a-f]{8}(?:\..+)?")


@contextmanager
def replacing(final: Path, *, single_writer: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; rename it at the end, or remove it on error."""
    name = f"{final.name}.part" if single_writer else f".{_process_mark()}.{final.name}"
    temporary = final.with_name(name)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_alone(final: Path) -> Iterator[BinaryIO]:
    """Open a file with a single writer; it gets its final name when it is complete."""
    with replacing(final, single_writer=True) as temporary, temporary.open("wb") as stream:
        yield stream


def write_atomic(path: Path, content: Content) -> None:
    """Write a file atomically, and missing folders; a callable must write the path it gets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        if callable(content):
            content(temporary)
        else:
            # lone surrogates occur in JSON of other programs and in file names
            data = content.encode("utf-8", "replace") if isinstance(content, str) else content
            temporary.write_bytes(data)


def publish(source: Path, final: Path, *, keep: bool = False) -> None:
    """Move a finished file atomically; ``keep`` copies it, as nipype needs it to resume a run."""
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


def remove_stale_files(folder: Path) -> tuple[str, ...]:
    """Remove temporary files and scratch folders of killed processes; return their names."""
    removed = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            match = _TEMPORARY_NAME.fullmatch(path.name)
            if match and _is_abandoned(path, computer=match[1], process=int(match[2], 16)):
                _remove(path)
                removed.append(path.name)
    return tuple(removed)


def make_scratch(folder: Path) -> Path:
    """Make a private scratch folder that :func:`remove_stale_files` recognises."""
    scratch = folder / f"tmp-{_process_mark()}"
    # another run may remove an empty folder that it made
    folder.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(mode=0o700)
    return scratch


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_abandoned(path: Path, *, computer: str, process: int) -> bool:
    if computer != _computer():
        return time.time() - path.stat().st_mtime > ABANDONED_S
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def _process_mark() -> str:
    """Return a unique mark of this computer and this process."""
    return f"{_computer()}-{os.getpid():x}-{secrets.token_hex(4)}"


def _computer() -> str:
    """Return a digest of the computer name, to keep it private, and of the PID namespace."""
    numbers = ""
    with suppress(OSError):
        numbers = str(Path("/proc/self/ns/pid").readlink())
    return sha256(f"{node()} {numbers}".encode()).hexdigest()[:6]


def _sync(path: Path) -> None:
    """Flush a file to disk before renaming; otherwise a power cut could leave it empty."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
