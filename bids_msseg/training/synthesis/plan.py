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
    """Variation of synthetic sub-images; brightness in units of white matter's.

    Pairs are ranges, other values largest changes or spreads, except for these probabilities:
    ``flip``, ``any_contrast`` (tissues in random order), ``enhanced`` (contrast agent in T1w),
    ``mask_fault``, ``misplaced`` (by one voxel), ``thick`` (2-8 mm), ``drop_*``, ``lesion_share``.
    """

    rotate_deg: float = 15.0
    scale: float = 0.15
    flip: float = 0.5
    warp_mm: float = 2.5
    any_contrast: float = 0.1
    enhanced: float = 0.15
    lesion: tuple[float, float] = (0.25, 0.9)
    lesion_t1w: tuple[float, float] = (0.0, 0.45)
    lesion_t2w: tuple[float, float] = (0.15, 1.5)
    one_lesion: float = 0.3
    within_lesion: float = 0.2
    texture: float = 0.09
    halo: float = 0.6
    caps: float = 0.5
    tracts: float = 0.3
    midline: float = 0.6
    flow: float = 0.9
    patchy: float = 0.12
    bright_cortex: float = 0.5
    margin_mm: tuple[float, float] = (0.0, 2.5)
    mask_fault: float = 0.35
    fault_mm: float = 9.0
    misplaced: float = 0.25
    blur_mm: tuple[float, float] = (0.4, 1.1)
    thick: float = 0.55
    bias: float = 0.25
    gain: float = 0.25
    shift: float = 0.4
    gamma: float = 0.35
    noise: float = 0.3
    drop_t1w: float = 0.3
    drop_t2w: float = 0.4
    lesion_share: float = 0.55
