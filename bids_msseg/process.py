"""Log on stderr, signals, and exit codes of a program."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Final

from bids_msseg import __version__
from bids_msseg.errors import ExitCode, MssegError, space_error
from bids_msseg.streams import discard_unwritten, tolerant_streams

PACKAGE: Final = "bids_msseg"
SIGTERM_GRACE_S: Final = 5.0
"""Time after the first SIGTERM from which another one ends the process."""
SIGTERM_RETRY_S: Final = 0.1
POOL_CLOSE_S: Final = 1.0


class _TerminatedError(BaseException):
    """Exception for SIGTERM that no ``except Exception`` catches."""


def supervise(
    job: Callable[[], int], *, verbose: int = 0, crash_folder: Path | None = None
) -> ExitCode:
    """Run a job, log a closing message in every case, and return the exit code."""
    with tolerant_streams(), log_to_stderr(verbose), _sigterm_raises() as ignore_sigterm:
        try:
            code = _run_job(
                lambda: _run_and_flush(job), verbose=verbose, crash_folder=crash_folder
            )
        except _TerminatedError:
            # the signal arrived while another end of the run was reported
            code = _report_stop("terminated by SIGTERM", ExitCode.TERMINATED)
        ignore_sigterm()
        _log().info("%s", _closing_line(code))
        discard_unwritten()
    return code


def _run_and_flush(job: Callable[[], int]) -> int:
    """Run a job and flush stdout, so that failed output counts as a failed job."""
    code = job()
    sys.stdout.flush()
    return code


def refuse(error: MssegError, *, program: str) -> ExitCode:
    """Print why a command line is refused, before logging starts; return the code."""
    for line in (f"{error}", _closing_line(error.code)):
        print(f"{program}: {line}", file=sys.stderr)
    return error.code


@contextmanager
def log_to_stderr(verbose: int = 0) -> Iterator[None]:
    """Log to stderr: others' messages one level higher; ``verbose`` 2 shows everything."""
    root, package, nipype = (logging.getLogger(name) for name in (None, PACKAGE, "nipype"))
    others_level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = _StderrHandler(others_level)
    # nipype adds a handler of its own, to stdout, unless it finds one
    null_handler = logging.NullHandler()
    levels = root.level, package.level
    root.addHandler(handler)
    nipype.addHandler(null_handler)
    root.setLevel(others_level)
    package.setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(levels[0])
        package.setLevel(levels[1])
        nipype.removeHandler(null_handler)
        root.removeHandler(handler)


class _StderrHandler(logging.Handler):
    """Handler for the current stderr, with the threshold for loggers of other packages."""

    def __init__(self, others_level: int) -> None:
        super().__init__()
        self._others_level = others_level

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] == PACKAGE:
            return True
        # libraries' Python warnings are for developers
        is_python_warning = record.name == "py.warnings"
        level = logging.INFO if is_python_warning else record.levelno
        return level >= self._others_level

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(_formatter(record.levelno).format(record), file=sys.stderr, flush=True)
        except Exception:  # noqa: BLE001 logging's own rule: a log line never ends the program
            self.handleError(record)


def _formatter(level: int) -> logging.Formatter:
    mark = "" if level == logging.INFO else "%(levelname)s "
    return logging.Formatter(f"%(asctime)s  {mark}%(message)s", datefmt="%H:%M:%S")


@contextmanager
def _sigterm_raises() -> Iterator[Callable[[], None]]:
    """Turn SIGTERM into an exception, not in workers; yield a function that disables it."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    handler = _SigtermHandler(sys.unraisablehook)
    previous = signal.signal(signal.SIGTERM, handler.handle)
    sys.unraisablehook = handler.retry_if_dropped
    try:
        yield handler.disable
    finally:
        sys.unraisablehook = handler.previous_hook
        signal.signal(signal.SIGTERM, previous)
        handler.cancel_retry()


class _SigtermHandler:
    """SIGTERM handler that raises an exception once and, if that had no effect, exits."""

    # schedulers may send SIGTERM several times, which must not interrupt the cleanup; code may
    # also drop exceptions, as Python does in __del__ and around a fork

    def __init__(self, hook: Callable[[sys.UnraisableHookArgs], object]) -> None:
        self.previous_hook = hook
        self._owner = os.getpid()
        self._raised_at: float | None = None
        self._retry_timer: threading.Timer | None = None
        self._disabled = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            # a forked worker inherits this handler, but its parent must be able to end it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._raised_at is None and not self._disabled:
            self._raised_at = time.monotonic()
            raise _TerminatedError
        elif self._raised_at is not None and time.monotonic() - self._raised_at > SIGTERM_GRACE_S:
            with suppress(Exception):
                _end_workers()
            os._exit(ExitCode.TERMINATED)

    def disable(self) -> None:
        """Disable the exception from now on."""
        self._disabled = True

    def retry_if_dropped(self, dropped: sys.UnraisableHookArgs) -> None:
        """Send SIGTERM again shortly after Python has dropped the exception."""
        if not isinstance(dropped.exc_value, _TerminatedError):
            self.previous_hook(dropped)
            return
        self._raised_at = None
        self._retry_timer = threading.Timer(
            SIGTERM_RETRY_S, os.kill, (self._owner, signal.SIGTERM)
        )
        self._retry_timer.daemon = True
        self._retry_timer.start()

    def cancel_retry(self) -> None:
        if self._retry_timer is not None:
            self._retry_timer.cancel()


def _run_job(job: Callable[[], int], *, verbose: int, crash_folder: Path | None) -> ExitCode:
    try:
        return ExitCode(job())
    except MssegError as error:
        return _report(error)
    except KeyboardInterrupt:
        return _report_stop("interrupted", ExitCode.INTERRUPTED)
    except _TerminatedError:
        return _report_stop("terminated by SIGTERM", ExitCode.TERMINATED)
    except Exception as error:  # noqa: BLE001 no caller could give it a code
        if full := space_error(error):
            return _report(full)
        return _report_crash(error, verbose=verbose, crash_folder=crash_folder)


def _report(error: MssegError) -> ExitCode:
    _log().error("%s", error)
    return error.code


def _report_stop(reason: str, code: ExitCode) -> ExitCode:
    """End the workers, for which Python would wait, log the reason and return the code."""
    _end_workers()
    _join_threads()
    _log().warning("%s: finished results are kept; run the same command to resume", reason)
    return code


def _end_workers() -> None:
    for child in multiprocessing.active_children():
        child.terminate()


def _join_threads() -> None:
    """Wait until the threads of process pools have ended."""
    # if one is just closing its pipe, Python prints a traceback after the closing message
    deadline = time.monotonic() + POOL_CLOSE_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))


def _report_crash(error: Exception, *, verbose: int, crash_folder: Path | None) -> ExitCode:
    text = "".join(traceback.format_exception(error))
    crash_file = _write_crash(text, crash_folder)
    location = f"traceback in {crash_file}" if crash_file else "traceback above"
    if verbose or not crash_file:
        _log().error("%s", text.rstrip())
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    _log().error(
        "unexpected %s (%s)\n  hint: report it with the traceback%s",
        summary,
        location,
        "" if verbose else "; -v prints it here",
    )
    return ExitCode.FAILURE


def _write_crash(text: str, crash_folder: Path | None) -> Path | None:
    now = datetime.now().astimezone()
    name = f"crash-{now:%Y%m%d-%H%M%S}-{os.getpid()}.txt"
    content = f"bids_msseg {__version__}\n{now.isoformat()}\n{' '.join(sys.argv)}\n\n{text}"
    for folder in (crash_folder, Path(tempfile.gettempdir())):
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return None


def _closing_line(code: ExitCode) -> str:
    return f"exit code {code.value} ({code.name.lower().replace('_', ' ')})"


def _log() -> logging.Logger:
    return logging.getLogger(PACKAGE)
