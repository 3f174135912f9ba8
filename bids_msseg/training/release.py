"""Writing of the weights of a finished training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bids_msseg import __version__
from bids_msseg.models.checkpoint import save_cascade
from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.context import TrainingContext
from bids_msseg.training.protocol import candidate_net, refinement_net


def write_cascade(
    context: TrainingContext,
    test: int | None,
    target: Path,
    point: CascadePoint,
    notes: Mapping[str, Any],
) -> str:
    """Write the networks that have not seen a test fold (None: release); return the SHA-256."""
    return save_cascade(
        target,
        [candidate_net(context, test)],
        refinement_net(context, test),
        # a later training needs it to hold out patients of this one
        unseen=context.networks().pretrained,
        name=target.stem,
        version=__version__,
        point=point,
        notes=notes,
    )
