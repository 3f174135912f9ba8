"""What a training leaves for others: weights, a model card, loss curves."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.bids.files import write_atomic
from bids_msseg.commands.scoring import Score, site_means

if TYPE_CHECKING:
    from bids_msseg.cascade.stages import Workshop

SHOWN = ("dice", "ppv", "sensitivity", "lesion_f1", "lesion_f1_anima", "false_components")


def ship(
    workshop: Workshop, *, name: str, scores: Sequence[Score], recipe: Mapping[str, Any]
) -> Path:
    """Write ``<name>.safetensors``, ``<name>.md`` and the loss curves.

    A candidate net of everybody, where the recipe trains one, ships first; those of all outer
    folds stand beside it as an ensemble, with one refinement net trained on the candidates that
    each of them found in the fold it had not seen.
    """
    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.cascade.stages import candidate_net, operating_point, refinement_net

    split = workshop.split
    target = workshop.folder / f"{name}.safetensors"
    members = [split.without(fold) for fold in split.everything]
    if workshop.recipe.everyone is not None:
        members.insert(0, split.everything)
    digest = save_cascade(
        target,
        [candidate_net(workshop, folds) for folds in members],
        [refinement_net(workshop, None)],
        name=name,
        version=__version__,
        point=operating_point(workshop, None),
        notes={"recipe": dict(recipe), "visits": sum(len(fold) for fold in split.folds)},
    )
    card = model_card(name, digest, target.stat().st_size, scores, workshop, recipe)
    write_atomic(workshop.folder / f"{name}.md", card)
    draw_losses(workshop.folder / "logs", workshop.folder / "losses.png")
    return target


def score_table(scores: Sequence[Score]) -> str:
    """Write scores as a Markdown table: every visit, then the mean of each site with its n."""
    head = ("visit", "site", "method", *SHOWN)
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for one in sorted(scores, key=lambda s: (s.site, s.visit, s.method)):
        cells = [_number(getattr(one, name)) for name in SHOWN]
        lines.append(" | ".join((one.visit, one.site, one.method, *cells)))
    for site, method, count, means in site_means(scores):
        cells = [_number(means[name]) for name in SHOWN]
        lines.append(" | ".join((f"**mean, n = {count}**", site, method, *cells)))
    return "\n".join(f"| {line} |" for line in lines)


def _number(value: float) -> str:
    if value != value:
        return "n/a"
    return f"{value:.0f}" if value >= 2 or isinstance(value, int) else f"{value:.3f}"


def model_card(
    name: str,
    digest: str,
    size: int,
    scores: Sequence[Score],
    workshop: Workshop,
    recipe: Mapping[str, Any],
) -> str:
    """Say what a model is, what it was trained on and how good it was on unseen patients."""
    folds = "\n".join(
        f"- fold {number}: {', '.join(names)}" for number, names in enumerate(workshop.split.folds)
    )
    point = "; ".join(f"{key}: {value}" for key, value in recipe.items())
    thresholds = "thresholds are one half by definition and were not tuned"
    if workshop.recipe.inner is not None:
        thresholds = "thresholds were chosen on its inner folds"
    members = "the ensemble of all folds"
    if workshop.recipe.everyone is not None:
        members = f"one of everybody and {members}"
    return f"""# Model card: {name}

- file: `{name}.safetensors`, {size / 1e6:.1f} MB, SHA-256 `{digest}`
- made by: `msseg-train`, bids_msseg {__version__}
- recipe: {point}
- for: white-matter lesions of multiple sclerosis on FLAIR, with T1w and T2w where there are any;
  research use, no diagnosis

## Folds

{folds}

## Agreement with the experts on unseen patients

Each visit was segmented by nets, a gate and candidates that had not seen its patient (nested
folds); {thresholds}. Volume-wise, on the grid of the
FLAIR as acquired; components of at least 3 mm³, 26-connected; lesion F1 by any overlap, and by
the rule of Anima with its code's defaults. What ships is trained on all patients, so nothing
below was measured on the shipped file itself: its candidate nets are {members}.

{score_table(scores)}
"""


def draw_losses(logs: Path, target: Path) -> None:
    """Draw the loss of every stage over its steps."""
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
    for panel, title in zip(axes, ("candidate nets", "refinement nets"), strict=True):
        panel.set(title=title, xlabel="step", ylabel="loss")
        if panel.lines:
            panel.legend(fontsize="small")
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    write_atomic(target, content.getvalue())


def _read_losses(path: Path) -> dict[int, float]:
    """Read loss by step; a step done twice counts once, half a line not at all."""
    losses: dict[int, float] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.reader(stream):
            with contextlib.suppress(ValueError, IndexError):
                losses[int(row[0])] = float(row[2])
    return dict(sorted(losses.items()))
