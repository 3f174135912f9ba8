"""Figure of the losses of a training."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import logging
from pathlib import Path

from bids_msseg.io.atomic import write_atomic

LOGGER = logging.getLogger("bids_msseg")


def draw_losses(logs: Path, target: Path) -> None:
    """Draw the loss of every stage over its steps, if matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        LOGGER.warning("%s not drawn, no matplotlib: pip install 'bids_msseg[train]'", target.name)
        return
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for path in sorted(logs.glob("*.csv")):
        losses = _read_losses(path)
        panel = axes[int(path.stem.startswith("refinement"))]
        panel.plot(list(losses), list(losses.values()), label=path.stem)
    for panel, title in zip(axes, ("CNN-1", "CNN-2"), strict=True):
        panel.set(title=title, xlabel="step", ylabel="loss")
        if panel.lines:
            panel.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomic(target, content.getvalue())


def _read_losses(path: Path) -> dict[int, float]:
    """Read the loss of each step; repeated steps count once, incomplete lines are skipped."""
    losses: dict[int, float] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream):
            with contextlib.suppress(ValueError, IndexError):
                losses[int(row[0])] = float(row[2])
    return dict(sorted(losses.items()))
