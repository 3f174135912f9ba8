"""What a training leaves for others: weights, a model card, loss curves."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.commands.cohort_cache import read_images
from bids_msseg.evaluation.scoring import Score, site_means
from bids_msseg.io.atomic import write_atomic

if TYPE_CHECKING:
    from bids_msseg.cascade.folds import FoldSet
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.evaluation.labels import LabelledFiles

LOGGER = logging.getLogger("bids_msseg")
SHOWN = ("dice", "ppv", "sensitivity", "lesion_f1", "lesion_f1_anima", "false_components")
SOFTWARE = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "safetensors")
"""What a training's result depends on beside this package."""


def ship(
    workshop: Workshop,
    *,
    name: str,
    scores: Sequence[Score],
    recipe: Mapping[str, Any],
    data: str = "",
) -> Path:
    """Write ``<name>.safetensors``, ``<name>.md`` and the loss curves.

    The header of the weights names the visits that they were trained on, with the SHA-256 of
    each FLAIR, so that a later fine-tuning can tell whom they have seen. A candidate net of
    everybody ships where the recipe trains one, else those of all outer folds as an ensemble; the
    net of made images stands beside where the recipe keeps it. The refinement net was trained on
    the candidates that the net of each outer fold found in the patients it had not seen.

    Parameters
    ----------
    workshop : Workshop
        Of a finished training.
    name : str
    scores : sequence of Score
        Of unseen patients, for the model card.
    recipe : mapping
        As it was given.
    data : str
        Markdown: what was trained on.

    Returns
    -------
    path
        The weights.
    """
    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.cascade.judging import judges_of
    from bids_msseg.cascade.stages import candidate_nets, operating_point, refinement_net

    split = workshop.split
    target = workshop.folder / f"{name}.safetensors"
    members = [split.without(fold) for fold in split.everything]
    if workshop.recipe.everyone is not None:
        members = [split.everything]
    nets = [candidate_nets(workshop, folds) for folds in members]
    digest = save_cascade(
        target,
        [*(one[0] for one in nets), *nets[0][1:]],
        [refinement_net(workshop, None)],
        judges=judges_of(workshop, None),
        name=name,
        version=__version__,
        point=operating_point(workshop, None),
        notes=_notes(workshop, split.everything, recipe),
    )
    card = model_card(name, digest, target.stat().st_size, scores, workshop, recipe, data)
    write_atomic(workshop.folder / f"{name}.md", card)
    draw_losses(workshop.folder / "logs", workshop.folder / "losses.png")
    return target


def ship_fold(workshop: Workshop, fold: int, *, name: str, recipe: Mapping[str, Any]) -> Path:
    """Write the nets that have not seen an outer fold as weights of their own.

    With them the fold's visits can be segmented, or gone on from, by somebody who has not met
    them, as where the fold is a site.

    Parameters
    ----------
    workshop : Workshop
        Of a finished training.
    fold : int
    name : str
    recipe : mapping
        As it was given.

    Returns
    -------
    path
        ``<name>-without-<fold>.safetensors``.
    """
    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.evaluation.scoring import fold_cascade

    cascade = fold_cascade(workshop, fold)
    target = workshop.folder / f"{name}-without-{fold}.safetensors"
    save_cascade(
        target,
        cascade.candidate,
        cascade.refinement,
        judges=cascade.judges,
        name=target.stem,
        version=__version__,
        point=cascade.point,
        notes=_notes(workshop, workshop.split.without(fold), recipe),
    )
    return target


def _notes(workshop: Workshop, folds: FoldSet, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Say whom nets have seen, and how they were made."""
    seen = workshop.split.members(folds)
    images = read_images(workshop.folder / "cohort", seen)
    return {"recipe": dict(recipe), "visits": list(seen), "images": images}


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
    data: str = "",
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
        members = "one of everybody"
    if workshop.recipe.keep_made:
        members += ", and the net of made images"
    return (
        f"""# Model card: {name}

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

{data}""".rstrip()
        + "\n"
    )


def describe_data(bids_dir: Path, files: Sequence[LabelledFiles]) -> str:
    """Say what was trained on: patients by site, what the dataset says of itself, software.

    Parameters
    ----------
    bids_dir : path
        Name, licence, authors and DOI are those of its ``dataset_description.json``.
    files : sequence of LabelledFiles

    Returns
    -------
    str
        Two sections of Markdown.
    """
    people: dict[str, set[str]] = {}
    for item in files:
        people.setdefault(item.site, set()).add(item.visit.participant)
    rows = []
    for site, members in sorted(people.items()):
        visits = [item for item in files if item.site == site]
        fused = sum(item.share is not None for item in visits)
        raters = f"{fused} of {len(visits)}" if fused else "none"
        rows.append(f"| {site} | {len(members)} | {len(visits)} | {raters} |")
    about = "\n".join(f"- {line}" for line in _say_of_dataset(bids_dir))
    return f"""## Data and licence

{about}

| site | participants | visits | consensus of several raters |
| --- | --- | --- | --- |
{chr(10).join(rows)}

Who passes the weights on has to keep to the licence of these data.

## Software

{_software()}
"""


def _say_of_dataset(bids_dir: Path) -> list[str]:
    path = bids_dir / "dataset_description.json"
    about = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    authors = about.get("Authors")
    known = {
        "dataset": about.get("Name"),
        "licence": about.get("License"),
        "authors": ", ".join(map(str, authors)) if isinstance(authors, list) else authors,
        "DOI": about.get("DatasetDOI"),
    }
    return [f"{key}: {value or 'not stated'}" for key, value in known.items()]


def _software() -> str:
    found = [f"bids_msseg {__version__}", f"Python {platform.python_version()}"]
    for name in SOFTWARE:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return ", ".join(found)


def draw_losses(logs: Path, target: Path) -> None:
    """Draw the loss of every stage over its steps, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        LOGGER.warning("%s is not drawn: pip install 'bids_msseg[train]'", target.name)
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
