"""The model card of trained weights: how they were trained, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bids_msseg import __version__
from bids_msseg.commands.shipping import score_table
from bids_msseg.evaluation.comparison import Pair, comparison_table

if TYPE_CHECKING:
    from bids_msseg.commands.train_cascade import Evaluation
    from bids_msseg.training.protocol import TrainingContext


def model_card(
    context: TrainingContext,
    target: Path,
    digest: str,
    found: Evaluation,
    pairs: Sequence[Pair],
    *,
    chosen: bool,
) -> str:
    """Write the model card of a training, in Markdown.

    Parameters
    ----------
    context : TrainingContext
    target : path
        The weights.
    digest : str
        Their SHA-256.
    found : Evaluation
        Of held-out patients.
    pairs : sequence of Pair
        Before and after; empty where the training started from no whole cascade.
    chosen : bool
        Whether operating points were chosen on held-out visits.
    """
    held_out = (
        "Each visit was segmented by networks that had not seen its patient. "
        "The operating point is that of\nthe starting weights."
    )
    if chosen:
        held_out = (
            "Each visit was segmented by networks that had not seen its patient. Its operating "
            "point was chosen\non the held-out visits of the other folds, whose networks had "
            "seen the patients of its fold."
        )
    elif not any(one.method == "cascade" for one in found.scores):
        held_out = "No patient was held out: there are scores of the starting weights at most."
    start = context.networks()
    folds = enumerate(context.split.folds)
    before = f"\n## Before and after\n\n{comparison_table(pairs)}\n" if pairs else ""
    return f"""# Model card: {target.stem}

- file: `{target.name}`, {target.stat().st_size / 1e6:.1f} MB, SHA-256 `{digest}`
- trained by: `msseg-train`, bids_msseg {__version__}
- started from: {start.name}, SHA-256 `{start.sha256}`
- recipe: {_listed(asdict(context.recipe))}
- operating point: {_listed(asdict(found.points[None]))}
- intended use: white-matter lesions of multiple sclerosis on FLAIR, with T1w and T2w where they
  exist; research use, not for diagnosis

## Folds

{chr(10).join(f"- fold {number}: {', '.join(names)}" for number, names in folds)}

## Agreement with experts on held-out patients

{held_out}
Values are volume-wise, on the grid of the FLAIR as acquired. Lesion F1 counts 26-connected
components of at least 3 mm³, by any overlap and by the rule of Anima with its code's defaults.
Means are over the visits of a participant, then over participants. The released networks were
trained on all patients: nothing below was measured on the released file.

{score_table(found.scores)}
{before}"""


def _listed(values: Mapping[str, Any]) -> str:
    return "; ".join(f"{key}: {value}" for key, value in values.items())
