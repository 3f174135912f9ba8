"""Writing files so that a reader, or a killed run, never meets half of one."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path, PurePath
from platform import node
from typing import Any, Final

Content = bytes | str | Callable[[Path], object]
ABANDONED_S: Final = 86_400
"""Age in s from which a temporary file of another computer or container counts as left behind."""
MOST_BYTES: Final = 16 * 2**20
"""No sidecar, description or record is longer."""
MOST_TABLE_BYTES: Final = 256 * 2**20
"""No table is longer."""
_PASSING = re.compile(r"(?:\.|tmp-)([0-9a-f]{6})-([0-9a-f]+)-[0-9a-f]{8}(?:\..+)?")


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
    with _aside(path) as temporary:
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
    with _aside(final) as temporary:
        shutil.copyfile(source, temporary)
    if not keep:
        source.unlink()


def read_small(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """Read a whole file that somebody else may have put there.

    A pipe in its place is not waited for, and an endless device does not fill the memory.

    Parameters
    ----------
    path : Path
    most : int, default 16 MiB
        Bytes it may have.

    Returns
    -------
    bytes

    Raises
    ------
    OSError
        Where it cannot be read, is no regular file, or is longer.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, "Is a directory", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            content = stream.read(most + 1)
    finally:
        os.close(descriptor)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"Longer than {most} bytes", str(path))
    return content


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, atomically, in the order given.

    Parameters
    ----------
    path : Path
        Final name.
    content : mapping
        NumPy numbers and arrays, paths, tuples and sets of text are accepted; NaN and infinities
        become null, which JSON has no other word for, and lone surrogates ``?``.
    """
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text + "\n")


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as BIDS has them: tab-separated, ``n/a`` for what is missing.

    Parameters
    ----------
    path : Path
        Final name.
    columns : sequence of str
        Headings, in order.
    rows : iterable of mapping
        Column name to value; absent, None, NaN and empty values become ``n/a``.
    """
    lines = ["\t".join(columns)]
    lines += ["\t".join(format_cell(row.get(name)) for name in columns) for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")


def load_tsv(path: Path) -> list[dict[str, str]]:
    """Read a table.

    Parameters
    ----------
    path : Path
        Tab-separated with a line of headings, UTF-8 with or without a mark. Rows may be ragged.

    Returns
    -------
    list of dict
        Column to text.

    Raises
    ------
    OSError
        Where it cannot be read, is no regular file, or is longer than :data:`MOST_TABLE_BYTES`.
    UnicodeDecodeError
        Where it is not UTF-8.
    ValueError
        Where it is no table.
    """
    text = read_small(path, most=MOST_TABLE_BYTES).decode("utf-8-sig")
    reader = csv.DictReader(
        io.StringIO(text, newline=""),
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
        restval="n/a",
        restkey="",
    )
    try:
        return [{key: row[key] for key in row if key} for row in reader]
    except csv.Error as error:
        raise ValueError(str(error)) from error


def format_cell(value: Any) -> str:
    r"""Write one value of a table.

    Parameters
    ----------
    value : object
        Floats get four decimals from 1 upwards and six significant digits below, without trailing
        zeros: enough for mm³, mL and probabilities, and the same on every machine.

    Returns
    -------
    str

    Examples
    --------
    >>> [format_cell(value) for value in (1345.9, 0.1234567, 12.0, 7, True, "a\tb")]
    ['1345.9', '0.123457', '12', '7', 'true', 'a b']
    >>> [format_cell(value) for value in (None, float("nan"), "")]
    ['n/a', 'n/a', 'n/a']
    """
    value = plain(value)
    if value is None or value == "":
        return "n/a"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.6g}"
        return "0" if text == "-0" else text
    return " ".join(str(value).split()) or "n/a"


def plain(value: Any) -> Any:
    r"""Turn a value into what JSON can hold.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"a": np.float32(0.5), "b": (1, float("nan")), "c": np.arange(2)})
    {'a': 0.5, 'b': [1, None], 'c': [0, 1]}
    >>> plain("half a letter: \ud83d")
    'half a letter: ?'
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy arrays and scalars, without importing NumPy
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, PurePath):
        return plain(value.as_posix())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


@contextmanager
def _aside(final: Path) -> Iterator[Path]:
    """Give a hidden name beside ``final``, and move the file there if all went well."""
    temporary = final.with_name(f".{_whose()}.{final.name}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring the content to the disk before its name: else a power cut leaves an empty file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
