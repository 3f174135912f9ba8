"""JSON, tables and other small files of a dataset: read with a limit, written atomically."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Final

from bids_msseg.io.atomic import publish as publish
from bids_msseg.io.atomic import write_atomic as write_atomic

MAX_BYTES: Final = 16 * 2**20
"""No sidecar, description or record is longer."""
MAX_TABLE_BYTES: Final = 256 * 2**20
"""No table is longer."""


def is_newer(targets: Iterable[Path], sources: Iterable[Path]) -> bool:
    """Say whether all targets exist and none is older than any source.

    Parameters
    ----------
    targets, sources : iterable of path
        Sources exist.
    """
    made = list(targets)
    if not made or not all(path.is_file() for path in made):
        return False
    oldest = min(path.stat().st_mtime_ns for path in made)
    return all(path.stat().st_mtime_ns <= oldest for path in sources)


def read_small(path: Path, *, most: int = MAX_BYTES) -> bytes:
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
        Where it cannot be read, is no regular file, or is longer than :data:`MAX_TABLE_BYTES`.
    UnicodeDecodeError
        Where it is not UTF-8.
    ValueError
        Where it is no table.
    """
    text = read_small(path, most=MAX_TABLE_BYTES).decode("utf-8-sig")
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
