"""Figure of one visit for a paper or a README: FLAIR, manual and automatic lesions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from bids_msseg.errors import DataError
from bids_msseg.reports.evaluation.comparison import Scene, Tile
from bids_msseg.reports.evaluation.data import (
    AUTO,
    FALSE,
    FOUND,
    MANUAL,
    MISSED,
    TRUE,
    Case,
)

BLUE, ORANGE, YELLOW = "#56b4e9", "#ff7a1a", "#f7e84a"
LOOKS: dict[str, tuple[str, object]] = {
    FOUND: (BLUE, "solid"),
    TRUE: (BLUE, "solid"),
    MISSED: (ORANGE, (0, (3, 1.2))),
    FALSE: (YELLOW, (0, (0.8, 1.2))),
}
"""Colour and dashes of a line."""
ROWS = (("", "FLAIR"), (MANUAL, "by hand"), (AUTO, "automatic"))
LEGEND = ((FOUND, "found"), (MISSED, "missed"), (FALSE, "false"))
INCHES = 2.4
"""Width of a slice."""
DOTS = 120


def comparison_figure(case: Case, *, columns: int = 4) -> bytes:
    """Draw the axial slices with the most disagreement, with either mask's lesions outlined.

    Parameters
    ----------
    case : Case
    columns : int, default 4
        Most slices.

    Returns
    -------
    bytes
        PNG; the same for the same input.

    Raises
    ------
    DataError
        If neither mask holds a lesion.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tiles = Scene(case).slices({"axial": columns})
    if not tiles:
        raise DataError(f"{case.name} has no lesion in either mask", hint="choose another visit")
    height = INCHES / tiles[0].width * tiles[0].height * len(ROWS)
    figure = Figure(figsize=(INCHES * len(tiles), height + 0.3), facecolor="black")
    FigureCanvasAgg(figure)
    bottom = 0.3 / (height + 0.3)
    grid = figure.add_gridspec(
        len(ROWS), len(tiles), left=0, right=1, bottom=bottom, top=1, wspace=0, hspace=0
    )
    for row, (side, label) in enumerate(ROWS):
        for column, tile in enumerate(tiles):
            axes = figure.add_subplot(grid[row, column])
            _draw(axes, tile, side)
            if column == 0:
                axes.text(2, 8, label, color="white", fontsize=10)
            if row == 0:
                axes.text(tile.width - 2, 8, tile.position, color="0.7", fontsize=7, ha="right")
    _legend(figure)
    return _encode(figure)


def _encode(figure: Any) -> bytes:
    """Encode as PNG with 256 colours, nearly enough for grey images with a few lines."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DOTS, facecolor="black")
    small = io.BytesIO()
    quantized = Image.open(content).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
    quantized.save(small, "PNG", optimize=True)
    return small.getvalue()


def _draw(axes: Any, tile: Tile, side: str) -> None:
    extent = (0, tile.width, tile.height, 0)
    axes.imshow(tile.pixels, extent=extent, interpolation="bilinear", aspect="equal")
    axes.set_axis_off()
    for line in tile.lines:
        if line.side == side and line.kind in LOOKS:
            _stroke(axes, line.borders, tile.edges, *LOOKS[line.kind])


def _stroke(
    axes: Any, borders: Sequence[Any], edges: tuple[float, float], colour: str, dashes: object
) -> None:
    for border in borders:
        x, y = border[:, 0] * edges[0], border[:, 1] * edges[1]
        axes.plot(x, y, color="black", linewidth=1.7, alpha=0.55)
        axes.plot(x, y, color=colour, linestyle=dashes, linewidth=1.1)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=LOOKS[kind][0], linestyle=LOOKS[kind][1], linewidth=1.6, label=text)  # type: ignore[arg-type]
        for kind, text in LEGEND
    ]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        frameon=False,
        labelcolor="white",
        fontsize=9,
        borderpad=0.1,
    )
    figure.text(0.995, 0.008, "the patient's left is on the right", color="0.7", fontsize=7,
                ha="right")  # fmt: skip
