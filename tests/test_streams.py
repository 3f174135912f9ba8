from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bids_msseg.streams import discard_unwritten, tolerant_stream, tolerant_streams

ROOT = Path(__file__).resolve().parents[1]


class _Fails(io.StringIO):
    """Text stream whose writes fail with a given error number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, _text: str, /) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("number", "is_log", "fails"),
    [
        (errno.EPIPE, False, False),
        (errno.EPIPE, True, False),
        (errno.ECONNRESET, False, False),
        (errno.ENOSPC, False, True),
        (errno.ENOSPC, True, False),
        # a disk, not a terminal
        (errno.EIO, False, True),
        (errno.EIO, True, False),
    ],
)
def test_only_disk_errors_of_output_are_raised(number: int, is_log: bool, fails: bool) -> None:
    stream = tolerant_stream(_Fails(number), is_log=is_log)
    if fails:
        with pytest.raises(OSError, match=os.strerror(number)):
            stream.write("x")
    else:
        assert stream.write("word") == 4
        stream.writelines(["a", "b"])


def test_tolerant_stream_forwards_to_wrapped_stream() -> None:
    bare = io.StringIO()
    stream = tolerant_stream(bare, is_log=False)
    print("a", "b", file=stream, flush=True)
    assert bare.getvalue() == "a b\n"
    assert not stream.isatty()
    assert tolerant_stream(stream, is_log=True) is stream


def test_standard_streams_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with tolerant_streams():
        print("listing")
        print("log", file=sys.stderr)
        assert sys.stdout is not out
    assert (sys.stdout, sys.stderr) == (out, err)
    assert (out.getvalue(), err.getvalue()) == ("listing\n", "log\n")


def test_missing_standard_streams_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with tolerant_streams():
        print("listing")
        # nipype uses the descriptor
        assert isinstance(sys.stderr.fileno(), int)
    assert sys.stdout is not None


def _run(code: str, *, prepare: Callable[[], object] | None = None, **streams: Any) -> int:
    """Run code in a new process with the given streams; return its exit code."""
    return subprocess.run(
        [sys.executable, "-c", f"import os, sys\nfrom bids_msseg.streams import *\n{code}"],
        check=False,
        cwd=ROOT,
        timeout=60,
        preexec_fn=prepare,
        **streams,
    ).returncode


WRITES = """
with tolerant_streams():
    for _ in range(3):
        print("x" * 100_000)
        print("log", file=sys.stderr, flush=True)
    os.write(1, b"as a library does")
sys.exit(7)
"""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_closed_reader_keeps_exit_code(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The interpreter must not report an error or change the exit code at its exit either."""
    reading, writing = os.pipe()
    os.close(reading)
    others = {"stdout": subprocess.DEVNULL, name: writing}
    assert _run(WRITES, **others) == 7
    os.close(writing)
    assert capfd.readouterr().err in ("", "log\nlog\nlog\n")


CLOSED = """
with tolerant_streams():
    with open({path!r}, "w") as result:
        os.system("echo of a library; echo and more >&2")
        print("listing")
        result.write(f"{{result.fileno() > 2}}")
sys.exit(7)
"""


def test_result_file_never_gets_standard_descriptor(tmp_path: Path) -> None:
    result = tmp_path / "result"
    code = CLOSED.format(path=str(result))
    assert _run(code, prepare=lambda: os.closerange(0, 3)) == 7
    assert result.read_text() == "True"


FULL = """
code = 0
with tolerant_streams():
    print("log", file=sys.stderr)
    try:
        print("listing", flush=True)
    except OSError:
        code = 74
    discard_unwritten()
sys.exit(code)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_full_disk_error_is_not_repeated_at_exit(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Path("/dev/full").open("w") as full:
        assert _run(FULL, stdout=full) == 74
        assert capfd.readouterr().err == "log\n"
        assert _run(FULL, stderr=full) == 0


def test_discard_unwritten_keeps_writable_output(capsys: pytest.CaptureFixture[str]) -> None:
    with tolerant_streams():
        print("listing")
        discard_unwritten()
    assert capsys.readouterr().out == "listing\n"
