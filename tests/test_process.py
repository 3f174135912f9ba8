from __future__ import annotations

import errno
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_msseg.errors import DataError, ExitCode, NoInputError, UsageError
from bids_msseg.process import log_to_stderr, refuse, supervise


def _raises(error: BaseException) -> Callable[[], int]:
    def job() -> int:
        raise error

    return job


def _kills_itself() -> int:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    return 0


OUTCOMES: dict[str, tuple[Callable[[], int], int, str]] = {
    "success": (lambda: 0, 0, ""),
    "failure reported by the job": (lambda: ExitCode.FAILURE, 1, ""),
    "bad data": (_raises(DataError("it broke", hint="fix it")), 65, "it broke\n  hint: fix it"),
    "missing": (_raises(NoInputError("no FLAIR", hint="add one")), 66, "ERROR no FLAIR"),
    "ctrl-c": (_raises(KeyboardInterrupt()), 130, "interrupted: finished results are kept"),
    "sigterm": (_kills_itself, 143, "terminated by SIGTERM: finished results are kept"),
    "full disk": (
        _raises(OSError(errno.ENOSPC, "No space left on device", "/out/x.nii.gz")),
        74,
        "no space left for /out/x.nii.gz\n  hint: free some",
    ),
    "quota": (_raises(OSError(errno.EDQUOT, "Disk quota exceeded")), 74, "no space left on"),
    "limit of ulimit -f": (
        _raises(OSError(errno.EFBIG, "File too large", "/out/x.nii.gz")),
        74,
        "/out/x.nii.gz exceeds the file size limit",
    ),
    "another os error": (_raises(FileNotFoundError("gone")), 1, "FileNotFoundError: gone"),
    "a bug": (_raises(ZeroDivisionError("by zero\nsecond line")), 1, "ZeroDivisionError: by zero"),
}


@pytest.mark.parametrize(("job", "code", "message"), OUTCOMES.values(), ids=OUTCOMES)
def test_exit_code_and_message_of_each_outcome(
    job: Callable[[], int],
    code: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert supervise(job, crash_folder=tmp_path) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    name = ExitCode(code).name.lower().replace("_", " ")
    assert shown.splitlines()[-1].endswith(f"exit code {code} ({name})")


def test_unexpected_error_writes_traceback_to_crash_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supervise(_raises(ZeroDivisionError("by zero")), crash_folder=tmp_path / "out" / "logs")
    (written,) = (tmp_path / "out" / "logs").iterdir()
    assert re.fullmatch(r"crash-\d{8}-\d{6}-\d+\.txt", written.name)
    content = written.read_text(encoding="utf-8")
    assert content.startswith("bids_msseg 0.")
    assert content.endswith("ZeroDivisionError: by zero\n")
    assert str(written) in capsys.readouterr().err


def test_crash_file_falls_back_to_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "spare"))
    supervise(_raises(ZeroDivisionError()), crash_folder=tmp_path / "file" / "logs")
    (written,) = (tmp_path / "spare").iterdir()
    assert str(written) in capsys.readouterr().err


def test_traceback_is_shown_if_crash_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "file"))
    assert supervise(_raises(ZeroDivisionError())) == 1
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert "(traceback above)" in shown


def test_verbose_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    supervise(_raises(ZeroDivisionError()), verbose=1, crash_folder=tmp_path)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_signal_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    supervise(_kills_itself)
    assert signal.getsignal(signal.SIGTERM) is before


def test_supervise_works_outside_main_thread() -> None:
    codes = []
    thread = threading.Thread(target=lambda: codes.append(supervise(lambda: 0)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_refuse_prints_message_hint_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert refuse(UsageError("no such option", hint="see --help"), program="msseg") == 64
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "msseg: no such option\n  hint: see --help\nmsseg: exit code 64 (usage)\n"
    )


LEVELS = {
    # verbose: shown levels of (this package, other packages)
    0: ({"INFO", "WARNING"}, {"WARNING"}),
    1: ({"DEBUG", "INFO", "WARNING"}, {"INFO", "WARNING"}),
    2: ({"DEBUG", "INFO", "WARNING"}, {"DEBUG", "INFO", "WARNING"}),
    5: ({"DEBUG", "INFO", "WARNING"}, {"DEBUG", "INFO", "WARNING"}),
}


@pytest.mark.parametrize(("verbose", "expected"), LEVELS.items())
def test_logged_levels_depend_on_verbosity(
    verbose: int, expected: tuple[set[str], set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    with log_to_stderr(verbose):
        for name in ("bids_msseg.bids", "other.lib"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, "<%s %s>", name, logging.getLevelName(level))
    shown = capsys.readouterr().err
    found = [
        set(re.findall(rf"<{name} (\w+)>", shown)) for name in ("bids_msseg.bids", "other.lib")
    ]
    assert (found[0], found[1]) == expected


def test_info_messages_of_libraries_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    library = logging.getLogger("nipype.workflow")
    before = library.level
    library.setLevel(logging.INFO)
    try:
        with log_to_stderr():
            library.info("a node runs")
            library.warning("a node waits")
    finally:
        library.setLevel(before)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a node waits" in captured.err
    assert "a node runs" not in captured.err


@pytest.mark.parametrize(("verbose", "shows"), [(0, False), (1, True)])
def test_python_warnings_are_shown_only_with_verbose(
    verbose: int, shows: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with log_to_stderr(verbose):
            warnings.warn("deprecated thing", FutureWarning, stacklevel=1)
    assert ("deprecated thing" in capsys.readouterr().err) == shows


def test_log_to_stderr_restores_logging() -> None:
    def state() -> list[object]:
        loggers = [logging.getLogger(name) for name in (None, "bids_msseg", "nipype")]
        return [(log.level, list(log.handlers)) for log in loggers]

    before = state()
    with log_to_stderr(2):
        assert state() != before
    assert state() == before


def test_log_lines_have_time_and_level_if_not_info(capsys: pytest.CaptureFixture[str]) -> None:
    with log_to_stderr():
        log = logging.getLogger("bids_msseg")
        log.info("plain")
        log.warning("odd")
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d  plain", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d  WARNING odd", second)


def test_sigterm_dropped_by_python_is_retried() -> None:
    class Drops:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    def job() -> int:
        Drops()
        time.sleep(20)
        return 0

    hook = sys.unraisablehook
    begun = time.monotonic()
    assert supervise(job) == 143
    assert time.monotonic() - begun < 10
    assert sys.unraisablehook is hook


def test_other_dropped_exceptions_reach_previous_hook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fails:
        def __del__(self) -> None:
            raise ZeroDivisionError

    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: unraisable.append(dropped.exc_type))

    def job() -> int:
        Fails()
        return 0

    assert supervise(job) == 0
    assert unraisable == [ZeroDivisionError]


CLEANING = """
import sys, time
from bids_msseg import process

def job():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(0.5)
        print("clean", flush=True)
    return 0

sys.exit(process.supervise(job))
"""


def _python(tmp_path: Path, code: str) -> subprocess.Popen[str]:
    script = tmp_path / "script.py"
    # background processes of a shell, and their children, may ignore SIGINT
    heed = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    script.write_text(heed + textwrap.dedent(code), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def test_second_sigterm_does_not_interrupt_cleanup(tmp_path: Path) -> None:
    with _python(tmp_path, CLEANING) as process:
        assert process.stdout is not None
        for word in ("ready", "cleaning"):
            assert process.stdout.readline() == f"{word}\n"
            process.send_signal(signal.SIGTERM)
        shown, log = process.communicate(timeout=20)
    assert (process.returncode, shown) == (143, "clean\n")
    assert log.splitlines()[-1].endswith("exit code 143 (terminated)")


DEAF = """
import multiprocessing, sys, time
from bids_msseg import process

process.SIGTERM_GRACE_S = 0.3

def job():
    worker = multiprocessing.Process(target=time.sleep, args=(60,))
    worker.start()
    while True:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except BaseException:
            print("dropped", flush=True)

if __name__ == "__main__":
    sys.exit(process.supervise(job))
"""


def test_later_sigterm_ends_process_that_ignored_the_first(tmp_path: Path) -> None:
    with _python(tmp_path, DEAF) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "dropped\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        # returns only when the worker, which inherits the pipe, has ended too
        process.communicate(timeout=20)
    assert process.returncode == 143


POOL = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from bids_msseg.process import supervise

def job():
    with_pool = ProcessPoolExecutor(2)
    futures = [with_pool.submit(time.sleep, 60) for _ in range(2)]
    time.sleep(0.5)
    print("ready", flush=True)
    for future in futures:
        future.result()
    return 0

if __name__ == "__main__":
    sys.exit(supervise(job))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_worker_processes(tmp_path: Path, number: signal.Signals, code: int) -> None:
    with _python(tmp_path, POOL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, shown = process.communicate(timeout=20)
    assert process.returncode == code
    assert shown.splitlines()[-1].endswith(f"exit code {code} ({ExitCode(code).name.lower()})")


LATE = """
import os, signal, sys
from bids_msseg import process

def send_sigterm_first(code):
    os.kill(os.getpid(), signal.SIGTERM)
    return plain(code)

plain, process._closing_line = process._closing_line, send_sigterm_first
sys.exit(process.supervise(lambda: 0))
"""
DURING_CTRL_C = """
import os, signal, sys
from bids_msseg import process

def interrupted():
    raise KeyboardInterrupt

calls = []
def ending():
    calls.append(1)
    if len(calls) == 1:
        os.kill(os.getpid(), signal.SIGTERM)

process._end_workers = ending
sys.exit(process.supervise(interrupted))
"""


@pytest.mark.parametrize(("code", "wanted"), [(LATE, 0), (DURING_CTRL_C, 143)])
def test_sigterm_during_exit_shows_no_traceback(tmp_path: Path, code: str, wanted: int) -> None:
    with _python(tmp_path, code) as process:
        _, shown = process.communicate(timeout=60)
    assert process.returncode == wanted
    assert "Traceback" not in shown
    assert shown.splitlines()[-1].split("exit code ")[1].startswith(f"{wanted} ")


UNREAD = """
import logging, sys
from bids_msseg.process import supervise
from bids_msseg.progress import Progress, VisitOutcome

def job():
    with Progress(1) as progress:
        logging.getLogger("bids_msseg").error("sub-01 failed")
        progress.finish("sub-01", "failed", 1.0)
        progress.close([VisitOutcome("sub-01", "failed")])
    return 65

sys.exit(supervise(job))
"""


def test_closed_stderr_does_not_end_the_run(tmp_path: Path) -> None:
    """As with ``msseg ... 2>&1 | head -1``; rich alone would exit with code 1."""
    with _python(tmp_path, UNREAD) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(timeout=60) == 65
