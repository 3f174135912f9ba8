"""Runs of real programs: success, failure, signals and timeout."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bids_msseg.errors import ExitCode, MssegError, TemporaryError, UsageError
from bids_msseg.segmenters.programs import (
    LOG_FILE,
    failure,
    installed_version,
    locate,
    log_tail,
    run_program,
)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_program_runs_in_its_folder_and_writes_log(tmp_path: Path) -> None:
    code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MORE'], os.getcwd())"
    run_program(
        python(code),
        name="x",
        folder=tmp_path,
        threads=3,
        timeout_s=600,
        environment={"MORE": "m"},
    )
    assert (tmp_path / LOG_FILE).read_text().split() == ["3", "m", str(tmp_path.resolve())]


def test_command_line_is_run_by_shell(tmp_path: Path) -> None:
    run_program("echo one > a && mv a b", name="x", folder=tmp_path, threads=1)
    assert (tmp_path / "b").read_text() == "one\n"


def test_failed_program_raises_error_with_log_tail(tmp_path: Path) -> None:
    code = "import sys; print('no  licence\\n'); sys.exit(5)"
    with pytest.raises(MssegError) as caught:
        run_program(python(code), name="SEG", folder=tmp_path, threads=1)
    assert caught.value.code == ExitCode.FAILURE
    assert caught.value.message == "SEG exited with code 5; its log ends: no licence"
    assert str(tmp_path / LOG_FILE) in caught.value.hint


@pytest.mark.parametrize("command", [["/no/such/program"], ["a\0b"]])
def test_program_that_cannot_start_raises_usage_error(tmp_path: Path, command: list[str]) -> None:
    with pytest.raises(UsageError, match="cannot be started"):
        run_program(command, name="x", folder=tmp_path, threads=1)


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), 9)", "sys.exit(137)"])
def test_killed_program_raises_temporary_error(tmp_path: Path, code: str) -> None:
    """A container or shell whose program is killed exits with code 137."""
    with pytest.raises(TemporaryError, match="memory"):
        run_program(python(f"import os, sys; {code}"), name="x", folder=tmp_path, threads=1)


def test_timeout_ends_program_and_its_children(tmp_path: Path) -> None:
    child = "import time; time.sleep(1.5); open('late', 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(TemporaryError, match="timeout_minutes"):
        run_program(python(code), name="x", folder=tmp_path, threads=1, timeout_s=0.6)
    time.sleep(2)
    assert not (tmp_path / "late").exists()


def test_log_tail_is_limited_to_end_of_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\xff first\n" + b"".join(b"line %d\n\n" % n for n in range(5000)))
    tail = log_tail(log)
    assert tail.endswith("line 4998 | line 4999")
    assert "first" not in tail
    assert len(tail) < 1100
    assert log_tail(tmp_path / "absent") == ""
    assert failure("x", "is wrong", tmp_path / "absent").message == "x is wrong"


def test_program_path_and_version_are_found(
    make_program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = make_program("run_samseg", "")
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    assert locate("run_samseg") == str(program)
    assert locate("no-such-program") == "no-such-program"
    root = program.parents[1]
    assert installed_version(str(program), "samseg") == ""
    (root / "build-stamp.txt").write_text("freesurfer-7.4.1\n")
    assert installed_version(str(program), "samseg") == "freesurfer-7.4.1"
    (root / "lib/python3.11/site-packages/samseg-0.4a0.dist-info").mkdir(parents=True)
    assert installed_version(str(program), "samseg") == "0.4a0"
    assert installed_version("run_samseg", "samseg") == ""
