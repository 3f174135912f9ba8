"""How widely synthetic sub-images vary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
CHANNELS = 3
"""FLAIR, T1w, T2w."""


@dataclass(frozen=True, slots=True)
class SynthesisPlan:
    """How widely synthetic sub-images vary; amounts in units of white matter's brightness.

    Attributes
    ----------
    rotate_deg, scale, flip, warp_mm
        Largest rotation, largest relative change of size, chance of a left-right mirror, largest
        standard deviation of a smooth displacement.
    any_contrast
        Chance that tissues are ordered as in no known contrast.
    enhanced
        Chance that vessels and choroid plexus are bright in T1w, as after contrast agent.
    lesion, lesion_t1w, lesion_t2w
        Range of how much brighter (FLAIR, T2w) or darker (T1w) the lesions of a head are.
    one_lesion, within_lesion
        Relative spread between and inside lesions.
    texture
        Largest standard deviation of the fine texture of a tissue.
    halo, caps, flow, patchy, bright_cortex
        Largest brightness around the ventricles, at the horns, of flow in fluid, of slow change
        within cortex and white matter, and of bright stretches of cortex.
    margin_mm, mask_fault, fault_mm
        Range of the distance from the brain at which its mask ends; chance that the mask bulges
        into scalp; largest bulge.
    misplaced
        Chance that T1w or T2w lies one voxel off.
    blur_mm, thick
        Range of the sharpness; chance of slices of 2-8 mm.
    bias, gain, shift, gamma, noise
        Largest changes of the intensities of each contrast.
    drop_t1w, drop_t2w
        Chance that a contrast is missing.
    lesion_share
        Share of sub-images centred on a lesion.
    """

    rotate_deg: float = 15.0
    scale: float = 0.15
    flip: float = 0.5
    warp_mm: float = 2.5
    any_contrast: float = 0.1
    enhanced: float = 0.15
    lesion: tuple[float, float] = (0.15, 0.8)
    lesion_t1w: tuple[float, float] = (0.0, 0.45)
    lesion_t2w: tuple[float, float] = (0.15, 1.5)
    one_lesion: float = 0.3
    within_lesion: float = 0.2
    texture: float = 0.09
    halo: float = 0.6
    caps: float = 0.5
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
