"""Brightness of tissues and lesions, and the resulting mean and SD of the whole brain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_msseg.training.synthesis.plan import CHANNELS, Array, SynthesisPlan
from bids_msseg.training.synthesis.tissues import FIRST_EXTRA, TISSUES, Tissue

# lowest and highest brightness of FLAIR, T1w and T2w, white matter of the cerebrum being 1
BRIGHTNESS_RANGES: dict[
    Tissue, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
] = {
    Tissue.AIR: ((0.0, 0.1), (0.0, 0.1), (0.0, 0.1)),
    Tissue.WHITE: ((1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
    Tissue.CORTEX: ((1.05, 1.45), (0.5, 0.8), (1.15, 1.8)),
    Tissue.VENTRICLE: ((0.1, 0.55), (0.1, 0.45), (1.8, 4.0)),
    Tissue.CEREBELLAR_WHITE: ((0.9, 1.15), (0.9, 1.05), (0.9, 1.2)),
    Tissue.CEREBELLAR_CORTEX: ((1.0, 1.4), (0.55, 0.85), (1.1, 1.7)),
    Tissue.THALAMUS: ((0.95, 1.25), (0.75, 0.95), (0.95, 1.3)),
    Tissue.CAUDATE: ((1.05, 1.4), (0.6, 0.85), (1.1, 1.6)),
    Tissue.PUTAMEN: ((1.0, 1.35), (0.65, 0.9), (1.0, 1.4)),
    Tissue.PALLIDUM: ((0.75, 1.1), (0.85, 1.0), (0.65, 1.0)),
    Tissue.BRAINSTEM: ((0.95, 1.25), (0.8, 1.0), (0.95, 1.35)),
    Tissue.HIPPOCAMPUS: ((1.1, 1.55), (0.55, 0.8), (1.2, 1.8)),
    Tissue.VENTRAL_DC: ((0.9, 1.2), (0.8, 1.0), (0.85, 1.2)),
    Tissue.FLUID: ((0.1, 0.7), (0.1, 0.5), (1.5, 4.0)),
    Tissue.VESSEL: ((0.3, 1.3), (0.3, 1.3), (0.2, 1.5)),
    Tissue.SEPTUM: ((1.0, 1.7), (0.6, 1.0), (1.0, 2.0)),
    Tissue.CHOROID: ((0.9, 1.8), (0.5, 0.9), (1.2, 2.2)),
    Tissue.OUTSIDE: ((0.3, 1.6), (0.2, 1.6), (0.2, 1.8)),
}
EXTRA_RANGE = (0.02, 2.4)
"""Brightness of tissue outside the brain: bone is dark, fat is bright in FLAIR and T1w."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """Brightness of tissues and lesions of one synthetic head, in units of white matter's."""

    mean: Array  # (3, tissues)
    texture: Array  # (3, tissues), an SD
    lesion: Array  # (3, lesions + 1): what each lesion adds; entry 0 is for the soft rim


def draw_appearance(rng: np.random.Generator, plan: SynthesisPlan, lesions: int) -> Appearance:
    """Draw the brightness of every tissue and lesion."""
    ranges = np.array([BRIGHTNESS_RANGES[tissue] for tissue in Tissue])
    mean = np.empty((CHANNELS, TISSUES))
    mean[:, :FIRST_EXTRA] = rng.uniform(ranges[..., 0], ranges[..., 1]).T
    mean[:, FIRST_EXTRA:] = rng.uniform(*EXTRA_RANGE, (CHANNELS, TISSUES - FIRST_EXTRA))
    if rng.random() < plan.any_contrast:
        mean = rng.uniform(0.2, 1.8, mean.shape)
        mean[:, Tissue.AIR] = 0.0
    elif rng.random() < plan.enhanced:
        mean[1, [Tissue.VESSEL, Tissue.CHOROID]] = rng.uniform(1.0, 2.2, 2)
    texture = rng.uniform(0.2, 1.0, mean.shape) * plan.texture
    variation = 1 + plan.one_lesion * rng.standard_normal((CHANNELS, lesions + 1))
    variation[:, 0] = 1
    base = np.array(
        [
            rng.uniform(*plan.lesion),
            -rng.uniform(*plan.lesion_t1w),
            rng.uniform(*plan.lesion_t2w),
        ]
    )
    lesion = base[:, None] * np.clip(variation, 0.6, 2.0)
    return Appearance(*(part.astype(np.float32) for part in (mean, texture, lesion)))


def brain_scale(
    appearance: Appearance, tissue: NDArray[np.float64], lesions: float
) -> tuple[Array, Array]:
    """Compute mean and SD (3,) of the whole brain from the voxel counts of tissues and lesions."""
    share = tissue / tissue.sum()
    lesion = lesions / tissue.sum()
    added = appearance.lesion[:, 1:].mean(1) if appearance.lesion.shape[1] > 1 else np.zeros(3)
    mean = appearance.mean @ share + lesion * added
    spread = (appearance.mean - mean[:, None]) ** 2 @ share
    spread += (appearance.texture**2) @ share + lesion * added**2
    return mean.astype(np.float32), np.sqrt(spread + 1e-6).astype(np.float32)
