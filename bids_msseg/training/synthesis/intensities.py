"""Sharpness, slice thickness and intensities of one contrast of a sub-image."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from bids_msseg.training.synthesis.plan import Array, SynthesisPlan

Slab = tuple[int, int, int]
"""Axis, thickness in voxels, and voxels of the first slab."""
SIGNAL = 0.25
"""SD of brain tissue as a share of its mean, to convert z-scores into signal."""
SLICE_GAIN = 0.05
"""Largest standard deviation of the brightness of slices of one 2-D acquisition."""


def smooth3(volume: Array, sigma: float) -> Array:
    """Smooth with a small binomial kernel of SD ``sigma`` voxels; edges are repeated."""
    passes = max(1, int(np.ceil(sigma**2 / 0.5)))
    side = np.float32(sigma**2 / passes / 2)
    for _ in range(passes):
        for axis in range(3):
            moved = np.moveaxis(volume, axis, 0)
            result = moved * (1 - 2 * side)
            result[1:] += side * moved[:-1]
            result[:1] += side * moved[:1]
            result[:-1] += side * moved[1:]
            result[-1:] += side * moved[-1:]
            volume = np.moveaxis(result, 0, axis)
    return volume


def thicken(
    volume: Array, axis: int, slab: int, phase: int, rng: np.random.Generator | None = None
) -> Array:
    """Average a :data:`Slab` (with random gains by ``rng``) and interpolate to the same shape."""
    moved = np.moveaxis(volume, axis, 0)
    extent = len(moved)
    starts = np.unique(np.clip(np.arange(phase - slab, extent, slab), 0, extent))
    starts = starts[starts < extent]
    counts = np.diff(np.append(starts, extent)).astype(np.float32)
    slabs = np.add.reduceat(moved, starts, axis=0) / counts[:, None, None]
    if rng is not None:
        gains = 1 + rng.uniform(0, SLICE_GAIN) * rng.standard_normal(len(starts))
        slabs = slabs * gains[:, None, None].astype(np.float32)
    middles = starts + (counts - 1) / 2
    place = np.interp(np.arange(extent), middles, np.arange(len(starts)))
    low = np.minimum(place.astype(int), max(len(starts) - 2, 0))
    high = np.minimum(low + 1, len(starts) - 1)
    weight = (place - low).astype(np.float32)[:, None, None]
    grown: Array = slabs[low] * (1 - weight) + slabs[high] * weight
    return np.ascontiguousarray(np.moveaxis(grown, 0, axis), np.float32)


def draw_slab(rng: np.random.Generator, chance: float) -> Slab | None:
    """Draw axis, thickness in mm and phase of thick slices; None for thin slices."""
    if rng.random() >= chance:
        return None
    thickness = int(rng.integers(2, 9))
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    return axis, thickness, int(rng.integers(thickness)) + 1


def change_intensities(image: Array, plan: SynthesisPlan, rng: np.random.Generator) -> Array:
    """Apply bias field, gamma, gain, shift and noise to one contrast in z-scores."""
    edge = image.shape[0]
    coarse = np.exp(rng.normal(0, plan.bias / 2, (1, 1, 3, 3, 3))).astype(np.float32)
    field = F.interpolate(
        torch.from_numpy(coarse), size=(edge, edge, edge), mode="trilinear", align_corners=True
    )[0, 0].numpy()
    relative = np.maximum(image * np.float32(SIGNAL) + 1, np.float32(1e-4)) * field
    gamma = 1.0
    if rng.random() < 0.7:
        gamma = float(np.exp(rng.uniform(-plan.gamma, plan.gamma)))
        relative = torch.from_numpy(relative).pow_(gamma).numpy()
    gain = float(1 + rng.uniform(-plan.gain, plan.gain)) / (SIGNAL * gamma)
    result = (relative - 1) * np.float32(gain) + np.float32(rng.uniform(-plan.shift, plan.shift))
    if rng.random() < 0.5:
        grain = rng.standard_normal(image.shape, dtype=np.float32)
        result += np.float32(rng.uniform(0, plan.noise)) * grain
    clipped: Array = np.clip(result, -5, 5)
    return clipped
