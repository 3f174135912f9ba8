"""Augmentation of sub-images: what samplers call, and the names that others use.

The steps and the language that composes them stand in :mod:`bids_msseg.cascade.augmentation`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bids_msseg.cascade.augmentation.language import Program, Split
from bids_msseg.cascade.augmentation.sample import BACKGROUND, SubImage
from bids_msseg.cascade.augmentation.standard import (
    AugmentPlan,
    apply_plan,
    blur,
    drop_contrasts,
    fade_lesions,
    move,
    recolour,
    thicken,
)

__all__ = [
    "BACKGROUND",
    "AugmentPlan",
    "Augmentation",
    "Program",
    "Split",
    "SubImage",
    "augment",
    "blur",
    "drop_contrasts",
    "fade_lesions",
    "move",
    "recolour",
    "thicken",
]

Augmentation = AugmentPlan | Program
"""What a recipe may ask for: the plan of fixed form, or a program in the language."""


def augment(
    sample: SubImage,
    plan: Augmentation,
    rng: np.random.Generator,
    *,
    size: int,
    thin: bool,
    split: Split = "training",
) -> SubImage:
    """Augment one sub-image.

    Parameters
    ----------
    sample : SubImage
        Cut somewhat larger than needed, so that rotation does not bring in empty corners.
    plan : AugmentPlan or Program
    rng : numpy Generator
        The sub-image's own random stream.
    size : int
        Edge of the result in voxels.
    thin : bool
        The visit has thin slices, so that thick ones may be simulated.
    split : str, default "training"
        Which of a program's parts to run; a plan is the same for all.

    Returns
    -------
    SubImage
        All edges ``size`` long.
    """
    known = replace(sample, size=size, thin=thin)
    if isinstance(plan, Program):
        return plan(known, rng, split)
    return apply_plan(known, plan, rng)
