"""Inference of the networks on a stack; torch is loaded only when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume

__all__ = ["segment_stack"]

CANDIDATE_STEPS = 1024
"""Steps to which the candidate probability is rounded, which saves space on disk."""


def segment_stack(
    stack: Stack,
    model: Path,
    *,
    device: str = "auto",
    fast: bool = False,
    anatomy_only: bool = False,
) -> dict[str, Volume]:
    """Run both networks on a stack, or for the anatomy the first one.

    Parameters
    ----------
    stack : Stack
    model : path
        Weights of the cascade.
    device : str, default "auto"
    fast : bool, default False
    anatomy_only : bool, default False
        Leave all maps but ``anatomy`` out.

    Returns
    -------
    dict of str to Volume
        On the working grid: ``probability``, the final one; ``candidate``, CNN-1's in
        :data:`CANDIDATE_STEPS`, for means over lesions; ``lesion``, CNN-2's lesion probability of
        each candidate; ``candidates``, the voxels that reached the candidate threshold;
        ``anatomy``, uint8 values of :class:`bids_msseg.models.anatomy.Anatomy`, 0 outside the
        brain that CNN-1 sees.

    Raises
    ------
    DataError
        If the weights cannot be used.
    UsageError
        If the device is not there.
    """
    from bids_msseg.models.brain_volumes import label_map
    from bids_msseg.models.cascade import run_first_network, segment
    from bids_msseg.models.checkpoint import load_cascade
    from bids_msseg.models.engine import choose_engine

    engine, cascade = choose_engine(device), load_cascade(model)
    inputs = stack.data, stack.present, stack.brain, engine
    if anatomy_only:
        prediction, inside = run_first_network(cascade.candidate, *inputs, fast=fast)
        labels = label_map(prediction.anatomy, stack.affine, Volume(inside.mask, stack.affine))
        return {"anatomy": Volume(labels, stack.affine)}
    result = segment(cascade, *inputs, slice_mm=stack.slice_mm, fast=fast)
    brain = Volume(result.brain.mask, stack.affine)
    maps: dict[str, NDArray[Any]] = {
        "probability": result.probability,
        "candidate": np.rint(result.candidate * CANDIDATE_STEPS) / np.float32(CANDIDATE_STEPS),
        "lesion": result.lesion,
        "candidates": result.candidates.astype(np.uint8),
        "anatomy": label_map(result.anatomy, stack.affine, brain),
    }
    return {name: Volume(data, stack.affine) for name, data in maps.items()}
