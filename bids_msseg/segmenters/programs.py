"""Running of other programs in their own session, with a log, a time limit and clear errors."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bids_msseg.errors import MssegError, TemporaryError, UsageError

LOG_FILE = "segmenter.log"
TAIL_LINES, TAIL_CHARACTERS = 8, 1000
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Exit codes: of a program, and of a shell or a container whose program was killed."""
GRACE_S = 3.0
"""From SIGTERM to SIGKILL."""


def run_program(
    command: Sequence[str] | str,
    *,
    name: str,
    folder: Path,
    threads: int,
    timeout_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run words, or a line for ``/bin/sh``, with a log in ``folder``; MssegError if it fails."""
    log = folder / LOG_FILE
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(  # noqa: S603 (what the user asks for)
                command,
                shell=isinstance(command, str),
                cwd=folder,
                env={**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{name} cannot be started: {error}", hint="correct the segmenter command"
            ) from error
        code = _wait(process, name, log, timeout_s)
    if code in KILLED:
        raise TemporaryError(
            f"{name} was killed, most likely for lack of memory{log_tail(log)}",
            hint="give the job more memory, or lower --nprocs",
        )
    if code:
        outcome = f"exited with code {code}" if code > 0 else f"was terminated by signal {-code}"
        raise failure(name, outcome, log)


def _wait(process: subprocess.Popen[bytes], name: str, log: Path, timeout_s: float | None) -> int:
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        _end(process)
        raise TemporaryError(
            f"{name} was stopped after {error.timeout / 60:g} minutes{log_tail(log)}",
            hint="raise timeout_minutes in its configuration, or give it more CPUs",
        ) from error
    except BaseException:
        # a signal to this process has to end the program, too
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Terminate a program and its process group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def require_program(program: str, *, hint: str) -> None:
    """Raise UsageError if a program is missing."""
    if shutil.which(program) is None:
        raise UsageError(f"program not found: {program}", hint=hint)


def locate(program: str) -> str:
    """Return the absolute path of a program; its name if it is not found."""
    path = shutil.which(program)
    return program if path is None else str(Path(path).absolute())


def installed_version(program: str, package: str) -> str:
    """Return the version of a program (absolute path) from pip or FreeSurfer, or empty."""
    if not Path(program).is_absolute():
        return ""
    root = Path(program).parent.parent
    for folder in sorted(root.glob(f"lib/python*/site-packages/{package}-*.dist-info")):
        return re.sub(rf"^{package}-|\.dist-info$", "", folder.name)
    try:
        return (root / "build-stamp.txt").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def failure(name: str, problem: str, log: Path) -> MssegError:
    """Create the error of a failed segmenter, with the end of its log."""
    return MssegError(
        f"{name} {problem}{log_tail(log)}",
        hint=f"read its full log, {log}, then correct its command, options or installation",
    )


def log_tail(log: Path) -> str:
    """Return the last lines of a log as the end of a sentence; empty if there are none."""
    try:
        text = log.read_bytes()[-4 * TAIL_CHARACTERS :].decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    tail = " | ".join([line for line in lines if line][-TAIL_LINES:])[-TAIL_CHARACTERS:]
    return f"; its log ends: {tail}" if tail else ""
