"""Errors of pydantic as one line of text."""

from __future__ import annotations

import reprlib

from pydantic import ValidationError


def first_error(error: ValidationError, *parents: str) -> str:
    """Describe the first error: the field within its parents, the reason and the value."""
    first = error.errors(include_url=False)[0]
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return reason
    field = ".".join(str(part) for part in (*parents, *first["loc"]))
    if first["type"] == "unexpected_keyword_argument":
        return f"unknown key {field}"
    if first["type"] == "missing":
        return f"{field}: {reason}"
    return f"{field or 'content'}: {reason}, not {reprlib.repr(first['input'])}"
