"""The networks on a stack; torch is loaded when they run, not before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume

if TYPE_CHECKING:
    from bids_msseg.cascade.inference import Segmentation
    from bids_msseg.models.cascade import CascadeResult
    from bids_msseg.models.engine import Engine


def segment_stack(
    stack: Stack, model: Path, *, device: str = "auto", fast: bool = False
) -> dict[str, Volume]:
    """Run both networks on a stack.

    Parameters
    ----------
    stack : Stack
    model : path
        Weights of the cascade.
    device : str, default "auto"
    fast : bool, default False

    Returns
    -------
    dict of str to Volume
        On the working grid: ``probability``, the final one; ``candidate``, CNN-1's;
        ``lesion``, CNN-2's lesion probability of each candidate; ``candidates``, the voxels that
        passed the gate; ``anatomy``, the classes of :class:`~bids_msseg.models.anatomy.Anatomy`
        that CNN-1 sees in the brain (uint8).

    Raises
    ------
    DataError
        If the weights cannot be used.
    UsageError
        If the device is not there.
    """
    from bids_msseg.models.brain_volumes import label_map
    from bids_msseg.models.cascade import CascadeResult
    from bids_msseg.models.engine import choose_engine

    found = _segment(model, stack, choose_engine(device), fast=fast)
    maps: dict[str, NDArray[Any]] = {
        "probability": found.probability,
        "candidate": found.candidate,
        "lesion": found.lesion,
        "candidates": found.candidates.astype(np.uint8),
    }
    if isinstance(found, CascadeResult):
        brain = Volume(found.brain.mask, stack.affine)
        maps["anatomy"] = label_map(found.anatomy, stack.affine, brain)
    return {name: Volume(data, stack.affine) for name, data in maps.items()}


def _segment(
    model: Path, stack: Stack, engine: Engine, *, fast: bool
) -> Segmentation | CascadeResult:
    """Run the kind of cascade that the weights hold."""
    from bids_msseg.models.weights import ANATOMY_FORMAT, read_header

    if read_header(model).format != ANATOMY_FORMAT:
        from bids_msseg.cascade.checkpoint import load_cascade
        from bids_msseg.cascade.inference import segment

        cascade = load_cascade(model)
        return segment(cascade, stack.data, stack.present, stack.brain, engine, fast=fast)
    from bids_msseg.models import cascade as networks
    from bids_msseg.models import checkpoint

    kept = checkpoint.load_cascade(model)
    return networks.segment(
        kept.candidate,
        kept.refinement,
        kept.point,
        stack.data,
        stack.present,
        stack.brain,
        engine,
        fast=fast,
    )
