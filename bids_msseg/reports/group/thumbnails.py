"""Thumbnails of visits for an overview of the whole cohort."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.visit import Visit
from bids_msseg.reports.images.drawing import read_figures

WIDTH = 300
QUALITY = 72
MAX_EMBEDDED = 500
"""Largest number of visits whose thumbnails are embedded, so that the page opens quickly."""


def thumbnail(out_dir: Path, visit: Visit) -> bytes | None:
    """Return a visit's lesion picture as JPEG of :data:`WIDTH` pixels; None without one."""
    frames = read_figures(out_dir, visit).get("lesions")
    if not frames:
        return None
    with Image.open(io.BytesIO(frames[0].png)) as image:
        height = round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return stream.getvalue()


def picture_file(out_dir: Path, visit: Visit) -> Path | None:
    """Return the path of a visit's lesion picture (PNG); None if it does not exist."""
    path = figure_path(out_dir, visit, "lesions", extension=".png")
    return path if path.is_file() else None
