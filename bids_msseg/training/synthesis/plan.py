"""Ranges and probabilities for the random variation of synthetic sub-images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
CHANNELS = 3
"""FLAIR, T1w, T2w."""


@dataclass(frozen=True, slots=True)
class SynthesisPlan:
    """Ranges, largest changes or spreads; brightness is in units of white matter's."""

    rotate_deg: float = 15.0
    scale: float = 0.15
    flip: float = 0.5  # probability
    warp_mm: float = 2.5
    any_contrast: float = 0.1  # probability of tissues in random order
    enhanced: float = 0.15  # probability of contrast agent in T1w
    lesion: tuple[float, float] = (0.25, 0.9)
    lesion_t1w: tuple[float, float] = (0.0, 0.45)
    lesion_t2w: tuple[float, float] = (0.15, 1.5)
    one_lesion: float = 0.3
    within_lesion: float = 0.2
    texture: float = 0.09
    halo: float = 0.4
    caps: float = 0.5
    tracts: float = 0.3
    midline: float = 0.6
    flow: float = 0.9
    patchy: float = 0.12
    bright_cortex: float = 0.5
    margin_mm: tuple[float, float] = (0.0, 2.5)
    mask_fault: float = 0.35  # probability
    fault_mm: float = 9.0
    misplaced: float = 0.25  # probability of a shift by one voxel
    blur_mm: tuple[float, float] = (0.4, 1.1)
    thick: float = 0.55  # probability of slices of 2-8 mm
    bias: float = 0.25
    gain: float = 0.25
    shift: float = 0.4
    gamma: float = 0.35
    noise: float = 0.3
    drop_t1w: float = 0.3  # probability
    drop_t2w: float = 0.4  # probability
    lesion_share: float = 0.55  # probability of a sub-image around a lesion
