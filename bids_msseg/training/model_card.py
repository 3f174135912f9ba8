"""Model card of trained weights: their training, and scores of held-out patients."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.evaluation.comparison import Pair, comparison_table
from bids_msseg.evaluation.scoring import Score, site_means

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.training.context import TrainingContext
    from bids_msseg.training.validation import Validation

SHOWN_METRICS = ("dice", "ppv", "sensitivity", "lesion_f1", "lesion_f1_anima", "false_components")
SOFTWARE = ("torch", "numpy", "scipy", "SimpleITK", "nibabel", "safetensors")
"""Packages that the result of a training depends on, besides this one."""


def model_card(
    context: TrainingContext,
    target: Path,
    digest: str,
    validation: Validation,
    pairs: Sequence[Pair],  # empty if the training did not start from a whole cascade
    *,
    points_chosen: bool,
) -> str:
    """Return the model card of trained weights in Markdown; ``digest`` is their SHA-256."""
    held_out = (
        "Each visit was segmented by networks that had not seen its patient. "
        "The operating point is that of\nthe starting weights."
    )
    if points_chosen:
        held_out = (
            "Each visit was segmented by networks that had not seen its patient. Its operating "
            "point was chosen\non the held-out visits of the other folds, whose networks had "
            "seen the patients of its fold."
        )
    elif not any(score.method == "cascade" for score in validation.scores):
        held_out = "No patient was held out: at most the starting weights were scored."
    start = context.networks()
    folds = enumerate(context.split.folds)
    before = f"\n## Before and after\n\n{comparison_table(pairs)}\n" if pairs else ""
    return f"""# Model card: {target.stem}

- file: `{target.name}`, {target.stat().st_size / 1e6:.1f} MB, SHA-256 `{digest}`
- trained by: `msseg-train`, bids_msseg {__version__}
- started from: {start.name}, SHA-256 `{start.sha256}`
- recipe: {_settings_text(asdict(context.recipe))}
- operating point: {_settings_text(asdict(validation.points[None]))}
- intended use: white-matter lesions of multiple sclerosis on FLAIR, with T1w and T2w where they
  exist; for research use only, not for diagnostic use

## Folds

{chr(10).join(f"- fold {number}: {', '.join(names)}" for number, names in folds)}

## Agreement with experts on held-out patients

{held_out}
Values are volume-wise, on the grid of the FLAIR as acquired. Lesion F1 counts 26-connected
components of at least 3 mm³, by any overlap and by the rule of Anima with its code's defaults.
Means are over the visits of a participant, then over participants. The released networks were
trained on all patients: nothing below was measured on the released file.

{score_table(validation.scores)}
{before}"""


def _settings_text(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items())


def score_table(scores: Sequence[Score]) -> str:
    """Write scores as a Markdown table: every visit, then the mean of each site with its n."""
    head = ("visit", "site", "method", *SHOWN_METRICS)
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    for score in sorted(scores, key=lambda s: (s.site, s.visit, s.method)):
        cells = [_format_number(getattr(score, name)) for name in SHOWN_METRICS]
        lines.append(" | ".join((score.visit, score.site, score.method, *cells)))
    for site, method, count, means in site_means(scores):
        cells = [_format_number(means[name]) for name in SHOWN_METRICS]
        lines.append(" | ".join((f"**mean, n = {count}**", site, method, *cells)))
    return "\n".join(f"| {line} |" for line in lines)


def _format_number(value: float) -> str:
    if value != value:
        return "n/a"
    return f"{value:.0f}" if value >= 2 or isinstance(value, int) else f"{value:.3f}"


def describe_data(bids_dir: Path, files: Sequence[LabelledFiles]) -> str:
    """Return Markdown on the training data: patients by site, dataset and software."""
    participants: dict[str, set[str]] = {}
    for item in files:
        participants.setdefault(item.site, set()).add(item.visit.participant)
    rows = []
    for site, members in sorted(participants.items()):
        visits = [item for item in files if item.site == site]
        fused = sum(item.share is not None for item in visits)
        raters = f"{fused} of {len(visits)}" if fused else "none"
        rows.append(f"| {site} | {len(members)} | {len(visits)} | {raters} |")
    facts = "\n".join(f"- {line}" for line in _dataset_facts(bids_dir))
    return f"""## Data and licence

{facts}

| site | participants | visits | consensus of several raters |
| --- | --- | --- | --- |
{chr(10).join(rows)}

Whoever distributes the weights must comply with the licence of these data.

## Software

{_software()}
"""


def _dataset_facts(bids_dir: Path) -> list[str]:
    path = bids_dir / "dataset_description.json"
    description = json.loads(path.read_text(encoding="utf-8-sig")) if path.is_file() else {}
    authors = description.get("Authors")
    facts = {
        "dataset": description.get("Name"),
        "licence": description.get("License"),
        "authors": ", ".join(map(str, authors)) if isinstance(authors, list) else authors,
        "DOI": description.get("DatasetDOI"),
    }
    return [f"{key}: {value or 'not stated'}" for key, value in facts.items()]


def _software() -> str:
    versions = [f"bids_msseg {__version__}", f"Python {platform.python_version()}"]
    for name in SOFTWARE:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    return ", ".join(versions)
