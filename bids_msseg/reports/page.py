"""Self-contained HTML pages: templates, inlined style, escaped text, no network access."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

import jinja2
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from bids_msseg import __version__
from bids_msseg.bids.files import format_cell
from bids_msseg.errors import convert_os_error
from bids_msseg.io.atomic import Content, write_atomic
from bids_msseg.reports import text


def render(template: str, **content: object) -> str:
    """Render a template below ``reports/templates``; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bids_msseg.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ml=text.millilitres,
        decimal=text.decimal,
        counted=text.counted,
        voxel=text.voxel_size,
        duration=text.duration,
        words=text.readable,
        safe_paths=text.without_folders,
        script_hash=script_hash,
    )
    return environment.get_template(template).render(
        style=asset("templates/style.css"), version=__version__, **content
    )


def asset(name: str) -> Markup:
    """Read a style sheet or script below ``reports`` for verbatim inclusion in a page."""
    file = resources.files("bids_msseg.reports").joinpath(name)
    return Markup(file.read_text(encoding="utf-8"))  # noqa: S704 # nosec B704 (our own)


def script_hash(script: str) -> Markup:
    """Hash an inlined script for the content security policy (CSP level 3, 8.1)."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return Markup(f"sha256-{base64.b64encode(digest).decode('ascii')}")  # noqa: S704 # nosec B704 (base64)


def json_block(content: object) -> Markup:
    """Write data as compact JSON that is safe inside an HTML script element."""
    return htmlsafe_json_dumps(content, separators=(",", ":"))


def data_uri(image: bytes, kind: str = "png") -> Markup:
    """Encode an image, by default a PNG, as a data URI (RFC 2397)."""
    return Markup(f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}")  # noqa: S704 # nosec B704


def save(path: Path, content: Content) -> Path:
    """Write a file atomically and return its path; raise CannotCreateError on failure."""
    hint = "make the folder writable and leave enough free space"
    with convert_os_error(f"cannot write {path}", hint=hint):
        write_atomic(path, content)
    return path


def save_json(path: Path, content: Mapping[str, object]) -> Path:
    """Write indented JSON in one step, as :func:`save` does."""
    return save(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def save_table(
    path: Path, columns: Mapping[str, object], rows: Iterable[Mapping[str, object]]
) -> Path:
    """Write a TSV table, and before it the data dictionary beside it; return the table's path."""
    lines = ["\t".join(columns)]
    lines += ["\t".join(format_cell(row[name]) for name in columns) for row in rows]
    save_json(path.with_suffix(".json"), columns)
    return save(path, "\n".join(lines) + "\n")
