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
    """Return whether all targets (at least one) exist and none is older than any source."""
    paths = list(targets)
    if not paths or not all(path.is_file() for path in paths):
        return False
    oldest = min(path.stat().st_mtime_ns for path in paths)
    return all(path.stat().st_mtime_ns <= oldest for path in sources)


def read_small(path: Path, *, most: int = MAX_BYTES) -> bytes:
    """Read a file of unknown origin; OSError if it is not regular or has over ``most`` bytes."""
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if it is missing, unreadable or another JSON value."""
    try:
        content = json.loads(read_small(path).decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def lists_to_tuples(content: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the lists of a JSON object to tuples, because JSON has no tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, converted by :func:`plain`, atomically and in the given order."""
    text = json.dumps(plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text + "\n")


def write_tsv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a BIDS table: tab-separated, ``n/a`` for absent, None, NaN and empty values."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(format_cell(row.get(name)) for name in columns) for row in rows]
    write_atomic(path, "\n".join(lines) + "\n")


def load_tsv(path: Path) -> list[dict[str, str]]:
    """Read a tab-separated UTF-8 table with a header line; all values are strings.

    Raises OSError if it cannot be read, UnicodeDecodeError if not UTF-8, ValueError if no table.
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
    """Format one table value; None, NaN and empty values become ``n/a``."""
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
    """Convert a value to JSON types; NaN and infinities become None, lone surrogates ``?``."""
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
