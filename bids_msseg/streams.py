"""Handling of standard streams that are closed at the start or whose reader exits early.

A run continues for hours after its terminal was closed or ``| head`` has exited; only the text
that it would have written there is lost.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO, cast

READER_GONE: Final = (errno.EPIPE, errno.ECONNRESET)


class _Steady:
    """Stream wrapper that discards text after the reader has gone."""

    def __init__(self, stream: TextIO, *, is_log: bool) -> None:
        self.bare = stream
        self._is_log = is_log

    def write(self, text: str) -> int:
        with self._tolerant():
            return self.bare.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._tolerant():
            self.bare.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["bare"], name)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if _is_for_good(error, self.bare):
                _close_off(self.bare)
            elif not self._is_log:
                raise


def _is_for_good(error: OSError, stream: TextIO) -> bool:
    """Return whether an error means a missing reader, not a full or failing disk."""
    if error.errno in READER_GONE:
        return True
    if error.errno != errno.EIO:
        return False
    try:
        # a terminal that was hung up
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def steady(stream: TextIO | None, *, is_log: bool) -> TextIO:
    """Wrap a stream so that writing does not fail after its reader has gone.

    None, which Python uses for a stream closed at the start, becomes the null device. With
    ``is_log``, a full disk causes no error either.
    """
    if isinstance(stream, _Steady):
        return stream
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    return cast(TextIO, _Steady(stream, is_log=is_log))


def settle() -> None:
    """Discard the text that stdout and stderr could not write.

    Otherwise the interpreter would try again at its exit, and end with its own exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        bare = stream.bare if isinstance(stream, _Steady) else stream
        try:
            bare.flush()
        except OSError:
            _close_off(bare)


def _close_off(stream: TextIO) -> None:
    """Redirect the file descriptor of a stream to the null device.

    This discards buffered text and affects all streams that share the descriptor.
    """
    with suppress(OSError, ValueError, AttributeError):
        target = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, target)
        os.close(nowhere)


@contextmanager
def steady_streams() -> Iterator[None]:
    """Apply :func:`steady` to stdout and stderr while the context is open.

    A missing stream is replaced permanently.
    """
    _fill_descriptors()
    sys.stdout = sys.stdout or steady(None, is_log=False)
    sys.stderr = sys.stderr or steady(None, is_log=True)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = steady(before[0], is_log=False), steady(before[1], is_log=True)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _fill_descriptors() -> None:
    """Open the null device on unused file descriptors from 0 to 2.

    Otherwise a result file could get one of them and receive what C libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # the lowest one that is free
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
