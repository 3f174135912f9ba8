"""Markdown helpers of the generated pages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(
    r"(?<![`\w])("
    r"--?[a-z][\w-]*"  # an option
    r"|[\w/.-]*(?:\*[\w/.*-]*|<\w+>[\w/.*-]*)"  # a pattern of names
    r"|[\w/.]*\w_\w[\w/.]*"  # a name with an underscore
    r")(?![`\w])"
)
_SPECIAL = re.compile(r"[*_\[|]")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table.

    Parameters
    ----------
    headings : sequence of str
    rows : iterable of sequence of str
        Markdown of each cell, without bars; see :func:`cell`.

    Returns
    -------
    str
        Ends with an empty line.

    Examples
    --------
    >>> print(table(("a", "b"), [("1", "2")]).strip())
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [_line(headings), "|" + "---|" * len(headings), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    r"""Make plain text safe inside a table: bars, angle brackets, and stars of file names.

    Examples
    --------
    >>> cell("TSV of *_dseg | <label>, see --space")
    'TSV of `*_dseg` \\| `<label>`, see `--space`'
    """
    marked = _CODE.sub(r"`\1`", " ".join(text.split()))
    pieces = marked.split("`")
    pieces[::2] = [
        _SPECIAL.sub(r"\\\g<0>", html.escape(piece, quote=False)) for piece in pieces[::2]
    ]
    return "`".join(pieces)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
