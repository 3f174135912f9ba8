"""The weights that a training leaves."""

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
    """Write the trained networks as one weights file, and return its SHA-256.

    The pretrained CNN-1 that the training started from is in it, where there was one: a later
    training may start from it even if it holds out a patient of this one.

    Parameters
    ----------
    context : TrainingContext
        All stages are done.
    test : int or None
        The fold that the networks have not seen; None for the release.
    target : path
        Its stem is the name of the weights.
    point : CascadePoint
    notes : mapping
        How they were trained.
    """
    return save_cascade(
        target,
        [candidate_net(context, test)],
        refinement_net(context, test),
        unseen=context.networks().pretrained,
        name=target.stem,
        version=__version__,
        point=point,
        notes=notes,
    )
