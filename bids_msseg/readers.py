"""Readers that convert command-line text or typed TOML values to the type of an option.

A reader raises ValueError with a text that completes "use ...".
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from bids_msseg.option_files import pattern_root, read_file

RESERVED_NAMES: Final = ("raw", "templateflow")
"""Names that the outputs give to datasets themselves."""
_T = TypeVar("_T")


def flag(value: object) -> bool:
    """Read a boolean."""
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def integer(low: int, high: int | None = None) -> Callable[[object], int]:
    """Make a reader of integers from ``low`` to ``high``; None means no upper limit."""
    expected = f"a whole number of at least {low}" + ("" if high is None else f", at most {high}")

    def read(value: object) -> int:
        if isinstance(value, float):
            raise ValueError(expected)
        parsed = _parsed(value, int, expected)
        if parsed < low or (high is not None and parsed > high):
            raise ValueError(expected)
        return parsed

    return read


def number(expected: str, accept: Callable[[float], bool]) -> Callable[[object], float]:
    """Make a reader of finite numbers that ``accept`` allows; ``expected`` is for errors."""

    def read(value: object) -> float:
        parsed = _parsed(value, float, expected)
        if not (math.isfinite(parsed) and accept(parsed)):
            raise ValueError(expected)
        return parsed

    return read


def _parsed(value: object, kind: Callable[[Any], _T], expected: str) -> _T:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(expected)
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(expected) from error


def text(value: object) -> str:
    """Read a string that is not empty."""
    if isinstance(value, str) and value:
        return value
    raise ValueError("a string that is not empty")


def path(value: object) -> Path:
    """Read a path and make it absolute, because nodes run in folders of their own."""
    if "\0" in str(value):
        raise ValueError("a path without NUL characters")
    return (value if isinstance(value, Path) else Path(text(value))).absolute()


def choice(*choices: str) -> Callable[[object], str]:
    """Make a reader that accepts only the given words, at least two."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(alternatives(choices))

    return read


def labels(prefix: str) -> Callable[[object], tuple[str, ...]]:
    """Make a reader of labels, with or without prefix, or of files whose lines start with one."""
    expected = (
        f"labels of letters and digits ({prefix}01 or 01), or a file with one label per line"
    )

    def read(value: object) -> tuple[str, ...]:
        parsed = []
        for item in items(value):
            entries = [item] if _is_label(item.removeprefix(prefix)) else _first_column(item)
            parsed += [entry.removeprefix(prefix) for entry in entries]
        if not all(_is_label(label) for label in parsed):
            raise ValueError(expected)
        return tuple(dict.fromkeys(parsed))

    def _first_column(name: str) -> list[str]:
        if not Path(name).is_file():
            raise ValueError(expected)
        lines = read_file(Path(name), what="the list of labels").splitlines()
        column = [line.split()[0] for line in lines if line.strip()]
        return [entry for entry in column if entry not in ("participant_id", "session_id")]

    return read


def _is_label(label: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9+]+", label) is not None


def memory(value: object) -> float:
    """Read memory as for fMRIPrep, in MB unless it ends with G; return GB."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([GM]B?)?", str(value).strip(), re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ValueError("a number in MB, or with the suffix G or M: 16000, 16000M or 16G")
    gigabytes = (match[2] or "M").upper().startswith("G")
    return float(match[1]) / (1 if gigabytes else 1000)


def named_paths(value: object) -> dict[str, Path]:
    """Read paths with or without ``NAME=``, or a table; ValueError for two equal names."""
    if isinstance(value, Mapping):
        return {str(name): path(item) for name, item in value.items()}
    paths: dict[str, Path] = {}
    for item in items(value):
        name, equals, target = item.partition("=")
        if not equals or os.sep in name:
            folder = path(item)
            paths[_name_of(pattern_root(folder), (*paths, *RESERVED_NAMES))] = folder
        elif name and target:
            folder = path(target)
            if name in paths:
                raise ValueError(f"each name once: {name} is both {paths[name]} and {folder}")
            paths[name] = folder
        else:
            raise ValueError("PATH or NAME=PATH, for example brains=/data/derivatives/brains")
    return paths


def _name_of(folder: Path, used_names: Container[str]) -> str:
    """Name a dataset after its folder, with a number if that name is taken."""
    name = re.sub(r"[^0-9A-Za-z_-]+", "-", folder.name).strip("-") or "derivatives"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(
        candidate for candidate in itertools.chain([name], numbered) if candidate not in used_names
    )


def items(value: object) -> list[str]:
    """Read a text or a list of texts; return a list."""
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list | tuple) and all(isinstance(item, str) for item in values):
        return list(values)
    raise ValueError("a list of strings")


def alternatives(choices: Iterable[str]) -> str:
    """Join at least two words with commas and ``or``."""
    *rest, last = choices
    return f"{', '.join(rest)} or {last}"


def nearest(word: str, candidates: Iterable[str]) -> str:
    """Return ``; did you mean X?`` for a mistyped word; empty if no candidate is near."""
    matches = difflib.get_close_matches(word, sorted(candidates), n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
