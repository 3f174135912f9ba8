"""The ``.bidsignore`` of a dataset, in the syntax of https://git-scm.com/docs/gitignore."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from bids_msseg.bids.files import read_small

FILE: Final = ".bidsignore"
_PIECE = re.compile(r"\\.|\[!?\]?[^\]]*\]|\*\*/|/\*\*\Z|\*+|\?|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A line: its pattern, whether it matches only folders, and whether it re-includes."""

    pattern: re.Pattern[str]
    folders_only: bool
    negated: bool


@dataclass(frozen=True)
class IgnoreRules:
    """Rules of a ``.bidsignore`` file, in the syntax of ``.gitignore``."""

    lines: tuple[str, ...] = ()

    @cached_property
    def _rules(self) -> tuple[_Rule, ...]:
        return tuple(_parse(self.lines))

    def ignores(self, path: str, *, folder: bool = False) -> bool:
        """Return whether a path in the dataset, or a folder that contains it, is ignored."""
        if not self._rules:
            return False
        parts = path.split("/")
        parents = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return any(self._matches(parent, folder=True) for parent in parents) or self._matches(
            path, folder=folder
        )

    def _matches(self, path: str, *, folder: bool) -> bool:
        """Check the lines from last to first; the first that matches a path decides."""
        for rule in reversed(self._rules):
            if (folder or not rule.folders_only) and rule.pattern.fullmatch(path):
                return not rule.negated
        return False


def read_ignore_rules(bids_dir: Path) -> tuple[IgnoreRules, tuple[str, ...]]:
    """Return the rules of the ``.bidsignore`` of a dataset, if any, and notes on read errors."""
    try:
        text = read_small(bids_dir / FILE).decode("utf-8-sig")
    except FileNotFoundError:
        return IgnoreRules(), ()
    except (OSError, ValueError):
        return IgnoreRules(), (f"{FILE} cannot be read: no file is excluded",)
    return IgnoreRules(tuple(text.splitlines())), ()


def _parse(lines: Iterable[str]) -> Iterator[_Rule]:
    for line in lines:
        text = re.sub(r"(?<!\\)\s+\Z", "", line)
        if not text or text.startswith("#"):
            continue
        negated = text.startswith("!")
        text = text.removeprefix("!")
        folders_only = text.endswith("/")
        text = text.rstrip("/")
        anchored = "/" in text
        body = "".join(map(_translate, _PIECE.findall(text.removeprefix("/"))))
        try:
            pattern = re.compile(("" if anchored else "(?:.*/)?") + body, re.DOTALL)
        except re.error:
            continue
        yield _Rule(pattern, folders_only, negated)


def _translate(piece: str) -> str:
    """Translate a piece of a line to a regular expression."""
    patterns = {"**/": "(?:.*/)?", "/**": "/.+", "?": "[^/]"}
    if piece in patterns:
        return patterns[piece]
    if piece.startswith("*"):
        return "[^/]*"
    if piece.startswith("[") and len(piece) > 1:
        inside = piece[1:-1]
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    return re.escape(piece.removeprefix("\\") if len(piece) > 1 else piece)
