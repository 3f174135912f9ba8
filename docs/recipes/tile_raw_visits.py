"""Tile the lesion pictures of all visits of a run: docs/figures/raw_visits.png.

OUT is the output folder of ``msseg RAW OUT participant`` on the longitudinal patients of Ljubljana
(Lesjak et al. 2016, CC-BY). Each tile shows the second and third row of axial slices.

usage: python docs/recipes/tile_raw_visits.py OUT
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

TARGET = Path(__file__).resolve().parents[1] / "figures" / "raw_visits.png"
COLUMNS, WIDTH = 3, 560
ROWS_SHOWN = (0.215, 0.635)
"""Part of the height of a picture with these slices."""


def tile(path: Path) -> Image.Image:
    """Cut the slices from one picture and write the name of the visit above them."""
    picture = Image.open(path).convert("RGB")
    top, bottom = (round(share * picture.height) for share in ROWS_SHOWN)
    rows = picture.crop((0, top, picture.width, bottom))
    rows = rows.resize((WIDTH, round(rows.height * WIDTH / rows.width)), Image.Resampling.LANCZOS)
    framed = Image.new("RGB", (WIDTH, rows.height + 16))
    framed.paste(rows, (0, 16))
    ImageDraw.Draw(framed).text((4, 2), path.name.partition("_desc")[0], fill="white")
    return framed


def main() -> None:
    """Write the picture of all visits."""
    pictures = sorted(Path(sys.argv[1]).glob("sub-*/figures/*desc-lesions_*"))
    tiles = [tile(path) for path in pictures]
    height = max(part.height for part in tiles)
    page = Image.new("RGB", (COLUMNS * WIDTH, -(-len(tiles) // COLUMNS) * height))
    for number, part in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        page.paste(part, (column * WIDTH, row * height))
    page.quantize(128).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
