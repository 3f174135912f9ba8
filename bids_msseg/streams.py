"""Handling of standard streams that are closed at the start or whose reader exits early."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TextIO, cast

READER_GONE_ERRORS: Final = (errno.EPIPE, errno.ECONNRESET)


class _TolerantStream:
    """Stream wrapper that discards text after the reader has gone."""

    def __init__(self, stream: TextIO, *, is_log: bool) -> None:
        self.wrapped = stream
        self._is_log = is_log

    def write(self, text: str) -> int:
        with self._ignore_lost_reader():
            return self.wrapped.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._ignore_lost_reader():
            self.wrapped.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["wrapped"], name)

    @contextmanager
    def _ignore_lost_reader(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if _is_reader_gone(error, self.wrapped):
                _redirect_to_null(self.wrapped)
            elif not self._is_log:
                raise


def _is_reader_gone(error: OSError, stream: TextIO) -> bool:
    """Return whether an error means a missing reader, not a full or failing disk."""
    if error.errno in READER_GONE_ERRORS:
        return True
    if error.errno != errno.EIO:
        return False
    try:
        # a terminal that was hung up
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def tolerant_stream(stream: TextIO | None, *, is_log: bool) -> TextIO:
    """Wrap a stream (None if closed) to ignore a missing reader, and a full disk if a log."""
    if isinstance(stream, _TolerantStream):
        return stream
    if stream is None:
        return Path(os.devnull).open("w", encoding="utf-8")
    return cast(TextIO, _TolerantStream(stream, is_log=is_log))


def discard_unwritten() -> None:
    """Discard unwritten text, for which the interpreter would change its exit code."""
    for stream in (sys.stdout, sys.stderr):
        wrapped = stream.wrapped if isinstance(stream, _TolerantStream) else stream
        try:
            wrapped.flush()
        except OSError:
            _redirect_to_null(wrapped)


def _redirect_to_null(stream: TextIO) -> None:
    """Redirect the file descriptor of a stream, with its buffered text, to the null device."""
    with suppress(OSError, ValueError, AttributeError):
        descriptor = stream.fileno()
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, descriptor)
        os.close(null_device)


@contextmanager
def tolerant_streams() -> Iterator[None]:
    """Apply :func:`tolerant_stream` to stdout and stderr while the context is open."""
    _fill_descriptors()
    sys.stdout = sys.stdout or tolerant_stream(None, is_log=False)
    sys.stderr = sys.stderr or tolerant_stream(None, is_log=True)
    previous = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        tolerant_stream(previous[0], is_log=False),
        tolerant_stream(previous[1], is_log=True),
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = previous


def _fill_descriptors() -> None:
    """Open the null device on unused file descriptors from 0 to 2."""
    # otherwise a result file could get one of them and receive what C libraries print
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # the lowest one that is free
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
