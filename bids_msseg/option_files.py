"""Files named by options: text, JSON, file patterns and query filters."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bids_msseg.errors import UsageError

ABSENT: Final = "Query.NONE"
CONTRASTS: Final = ("flair", "t1w", "t2w")
FILTER_FORM: Final = '{"flair": {"acquisition": "3d"}}'
MAX_BYTES: Final = 16 * 2**20
"""No file that an option names is longer."""


def filters(value: object) -> dict[str, Any]:
    """Read entity filters by contrast, with None for an absent entity; may raise ValueError."""
    # apps share such files: keys that are not a contrast are kept
    expected = f"a table of entities for each contrast, as in {FILTER_FORM}"
    if not isinstance(value, Mapping):
        raise ValueError(expected)
    parsed = {str(key).lower(): _filter(item, expected) for key, item in value.items()}
    if len(parsed) != len(value):
        raise ValueError(f"each contrast once: {expected}")
    if not all(isinstance(parsed.get(contrast, {}), dict) for contrast in CONTRASTS):
        raise ValueError(expected)
    return parsed


def _filter(value: object, expected: str) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _filter(item, expected) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_filter(item, expected) for item in value]
    if value is None or value == ABSENT:
        return None
    if isinstance(value, str | int | float):
        return value
    raise ValueError(expected)


def pattern_root(source: Path) -> Path:
    """Return the folder that holds all files of a pattern; a folder stays as it is."""
    return Path(*itertools.takewhile(lambda part: "{" not in part, source.parts))


def roots_by_name(*sources: Mapping[str, Path]) -> dict[str, Path]:
    """Merge the folders of several options; UsageError if one name stands for two folders."""
    roots: dict[str, Path] = {}
    for paths in sources:
        for name, source in paths.items():
            root = pattern_root(source)
            if roots.setdefault(name, root) != root:
                raise UsageError(
                    f"the name {name} is used for two folders: {roots[name]} and {root}",
                    hint="give each folder its own name: NAME=PATH",
                )
    return roots


def check_mask_sources(output_dir: Path, *sources: Mapping[str, Path]) -> None:
    """Raise UsageError if masks would be read from the run's own output folder."""
    for name, source in (item for paths in sources for item in paths.items()):
        if pattern_root(source) == output_dir:
            raise UsageError(
                f"the masks {name} are in the output folder, where this run writes its own masks",
                hint="use another output folder, or copy the masks to another folder",
            )


def read_file(file: Path, *, what: str) -> str:
    """Read a UTF-8 text file of at most 16 MiB that an option names; may raise UsageError."""
    try:
        # pipes are allowed, and /dev/zero has no end
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(
                f"{what} {file} is larger than {MAX_BYTES // 2**20} MB",
                hint="check the path: this option reads a small text file",
            )
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8").read()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} {file} is not UTF-8 text", hint="save it as UTF-8") from error
    except OSError as error:
        raise UsageError(
            f"{what} {file} cannot be read: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from error


def read_json(file: Path, *, what: str) -> object:
    """Read a small JSON file that an option names; UsageError if it is unreadable."""
    try:
        return json.loads(read_file(file, what=what))
    except json.JSONDecodeError as error:
        reason = f"{error.msg} in line {error.lineno}"
    except (ValueError, RecursionError) as error:
        # numbers of thousands of digits, lists nested too deeply
        reason = str(error)
    raise UsageError(
        f"{what} {file} is not valid JSON: {reason}", hint=f"write it as {FILTER_FORM}"
    )
