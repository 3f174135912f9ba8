"""Small pictures of visits, to look over a whole cohort at once."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from bids_msseg.bids.paths import figure_path
from bids_msseg.bids.visit import Visit
from bids_msseg.reports.images.drawing import read_figures

WIDTH = 300
QUALITY = 72
MOST = 500
"""Visits whose small pictures a group page holds: with more it would not open quickly."""


def thumbnail(out_dir: Path, visit: Visit) -> bytes | None:
    """Shrink the picture of a visit's lesions.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    visit : Visit
        Names the file.

    Returns
    -------
    bytes or None
        A JPEG :data:`WIDTH` pixels wide; None where there is no picture.
    """
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
    """Name the picture of a visit's lesions.

    Parameters
    ----------
    out_dir : Path
        Top folder of the outputs.
    visit : Visit
        Names the file.

    Returns
    -------
    Path or None
        A PNG; None where it is not there.
    """
    path = figure_path(out_dir, visit, "lesions", extension=".png")
    return path if path.is_file() else None
