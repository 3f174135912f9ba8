"""Tile the lesion pictures of all visits of two runs: docs/figures/raw_visits.png.

EARLIER and OUT are output folders of ``msseg RAW OUT participant`` with two models, on the
longitudinal patients of Ljubljana (Lesjak et al. 2016, CC-BY). Each tile shows the second and
third row of axial slices; visits are rows, and the models are columns.

usage: python docs/recipes/tile_raw_visits.py EARLIER OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw

TARGET = Path(__file__).resolve().parents[1] / "figures" / "raw_visits.png"
WIDTH = 480
ROWS_SHOWN = (0.215, 0.635)
"""Part of the height of a picture with these slices."""


def tile(path: Path, model: str) -> Image.Image:
    """Cut the slices from one picture and write visit and model above them."""
    picture = Image.open(path).convert("RGB")
    top, bottom = (round(share * picture.height) for share in ROWS_SHOWN)
    rows = picture.crop((0, top, picture.width, bottom))
    rows = rows.resize((WIDTH, round(rows.height * WIDTH / rows.width)), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (WIDTH, rows.height + 16))
    framed.paste(rows, (0, 16))
    visit = path.name.partition("_desc")[0]
    ImageDraw.Draw(framed).text((4, 2), f"{visit}, {model}", fill="white")
    return framed


def model_of(out: Path) -> str:
    """Return the name of the model that segmented the first visit."""
    record = next((out / "logs" / "visits").glob("*.json"))
    return str(json.loads(record.read_text(encoding="utf-8"))["model"]["name"])


def main() -> None:
    """Write the picture of all visits."""
    outs = [Path(word) for word in sys.argv[1:]]
    columns = [
        [tile(path, model_of(out)) for path in sorted(out.glob("sub-*/figures/*desc-lesions_*"))]
        for out in outs
    ]
    rows = list(zip(*columns, strict=True))
    height = max(part.height for row in rows for part in row)
    page = Image.new("RGB", (len(columns) * WIDTH, len(rows) * height))
    for number, row in enumerate(rows):
        for column, part in enumerate(row):
            page.paste(part, (column * WIDTH, number * height))
    page.quantize(64).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
