"""Exit codes and exceptions; all exit codes are defined here.

The codes are those of the BIDS execution specification
(https://github.com/bids-standard/execution-spec, ``src/outputs.md``); those from 64 to 75 follow
BSD ``sysexits.h``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

__all__ = [
    "CannotCreateError",
    "DataError",
    "ExitCode",
    "InvalidDatasetError",
    "IoError",
    "MssegError",
    "NoInputError",
    "NothingSelectedError",
    "TemporaryError",
    "UnknownLevelError",
    "UsageError",
]


class ExitCode(IntEnum):
    """Exit codes of the process."""

    SUCCESS = 0
    FAILURE = 1
    INVALID_DATASET = 16
    UNKNOWN_LEVEL = 17
    NOTHING_SELECTED = 18
    USAGE = 64
    DATA_ERROR = 65
    NO_INPUT = 66
    CANNOT_CREATE = 73
    IO_ERROR = 74
    TEMPORARY = 75
    INTERRUPTED = 130
    TERMINATED = 143


class MssegError(Exception):
    r"""Base class of failures that the user can understand and correct.

    ``message`` says what went wrong and ``hint`` what to do about it, in one sentence each.
    ``code`` is the exit code.

    Examples
    --------
    >>> error = NoInputError("sub-07 has no FLAIR", hint="add one, or leave sub-07 out")
    >>> int(error.code), str(error)
    (66, 'sub-07 has no FLAIR\n  hint: add one, or leave sub-07 out')
    """

    code: ExitCode = ExitCode.FAILURE

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        # keyword arguments are not pickled by default, and worker processes return errors
        return (_rebuild, (type(self), self.message, self.hint))

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}"


def _rebuild(kind: type[MssegError], message: str, hint: str) -> MssegError:
    return kind(message, hint=hint)


class InvalidDatasetError(MssegError):
    """The input folder is not a BIDS dataset."""

    code = ExitCode.INVALID_DATASET


class UnknownLevelError(MssegError):
    """An analysis level that this app does not have."""

    code = ExitCode.UNKNOWN_LEVEL


class NothingSelectedError(MssegError):
    """Labels or filters that select no visit."""

    code = ExitCode.NOTHING_SELECTED


class UsageError(MssegError):
    """A command line or configuration file that cannot be used."""

    code = ExitCode.USAGE


class DataError(MssegError):
    """A file whose content cannot be used."""

    code = ExitCode.DATA_ERROR


class NoInputError(MssegError):
    """A required file that is missing."""

    code = ExitCode.NO_INPUT


class CannotCreateError(MssegError):
    """A folder or file that cannot be written."""

    code = ExitCode.CANNOT_CREATE


class IoError(MssegError):
    """A failure while reading or writing."""

    code = ExitCode.IO_ERROR


class TemporaryError(MssegError):
    """A failure that may not occur in a later run."""

    code = ExitCode.TEMPORARY


@contextmanager
def convert_os_error(message: str, *, hint: str) -> Iterator[None]:
    """Convert an OSError to a CannotCreateError, with its reason after ``message``."""
    try:
        yield
    except OSError as error:
        raise CannotCreateError(f"{message}: {error.strerror or error}", hint=hint) from error


def space_error(error: Exception, *, name_file: bool = True) -> IoError | None:
    """Convert the OSError of a full disk or of the file size limit; return None for others."""
    number = error.errno if isinstance(error, OSError) else None
    name = error.filename if isinstance(error, OSError) and name_file else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        place = f"for {name}" if name else "on the disk"
        return IoError(
            f"no space left {place}",
            hint="free some space, or set --work-dir to a larger disk, and rerun",
        )
    if number == errno.EFBIG:
        return IoError(
            f"{name or 'a file'} exceeds the file size limit of this job",
            hint="raise the limit (ulimit -f unlimited), and rerun",
        )
    return None
