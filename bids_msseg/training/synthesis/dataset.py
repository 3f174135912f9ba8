"""Synthetic sub-images of any contrast with lesions and anatomy as ground truth.

Domain randomisation after Billot et al. 2023 (SynthSeg, doi:10.1016/j.media.2023.102789), with
mimics of lesions. Brightness is in units of normal white matter until the head is normalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.models.inference import BACKGROUND
from bids_msseg.trainer.batches import item_rng
from bids_msseg.training.synthesis.appearance import brain_scale, draw_appearance
from bids_msseg.training.synthesis.fields import smooth_field
from bids_msseg.training.synthesis.geometry import (
    Codes,
    Crop,
    crop_label_map,
    place_cube,
    sample_places,
)
from bids_msseg.training.synthesis.intensities import (
    Slab,
    change_intensities,
    draw_slab,
    smooth3,
    thicken,
)
from bids_msseg.training.synthesis.label_maps import MARGIN_MM
from bids_msseg.training.synthesis.mimics import add_mimics, find_horns
from bids_msseg.training.synthesis.plan import CHANNELS, Array, SynthesisPlan
from bids_msseg.training.synthesis.tissues import (
    FIRST_EXTRA,
    TISSUES,
    LabelMap,
    LesionDraw,
    Tissue,
)

_CLASS_OF_TISSUE: dict[Tissue, Anatomy] = {
    Tissue.AIR: Anatomy.BACKGROUND,
    Tissue.WHITE: Anatomy.WHITE_MATTER,
    Tissue.CORTEX: Anatomy.CORTEX,
    Tissue.VENTRICLE: Anatomy.VENTRICLE,
    Tissue.CEREBELLAR_WHITE: Anatomy.CEREBELLAR_WHITE,
    Tissue.CEREBELLAR_CORTEX: Anatomy.CEREBELLAR_CORTEX,
    Tissue.THALAMUS: Anatomy.DEEP_GREY,
    Tissue.CAUDATE: Anatomy.DEEP_GREY,
    Tissue.PUTAMEN: Anatomy.DEEP_GREY,
    Tissue.PALLIDUM: Anatomy.DEEP_GREY,
    Tissue.BRAINSTEM: Anatomy.BRAINSTEM,
    Tissue.HIPPOCAMPUS: Anatomy.HIPPOCAMPUS_AMYGDALA,
    Tissue.VENTRAL_DC: Anatomy.BRAINSTEM,
    Tissue.FLUID: Anatomy.SULCAL_FLUID,
    Tissue.VESSEL: Anatomy.EXTRA_CEREBRAL,
    Tissue.SEPTUM: Anatomy.WHITE_MATTER,
    Tissue.CHOROID: Anatomy.CHOROID_PLEXUS,
    Tissue.OUTSIDE: Anatomy.EXTRA_CEREBRAL,
}
CLASS_OF = np.full(TISSUES, Anatomy.EXTRA_CEREBRAL, np.uint8)
for _tissue, _class in _CLASS_OF_TISSUE.items():
    CLASS_OF[_tissue] = _class


@dataclass(frozen=True, slots=True)
class _Source:
    """Label map with the values that are computed once from it."""

    label_map: LabelMap
    within: NDArray[np.float64]
    loads: tuple[float, ...]
    horns: NDArray[np.int64]
    brain: NDArray[np.int32]

    @classmethod
    def of(cls, label_map: LabelMap) -> _Source:
        codes = label_map.rim.ravel().astype(np.int64) * TISSUES + label_map.tissue.ravel()
        table = np.bincount(codes, minlength=256 * TISSUES).reshape(256, TISSUES)
        within = np.cumsum(table, 0).astype(np.float64)
        within[:, [Tissue.AIR, Tissue.OUTSIDE]] = 0
        within[:, FIRST_EXTRA:] = 0
        loads = tuple(float(draw.fraction.sum(dtype=np.float64)) / 255 for draw in label_map.draws)
        brain = np.flatnonzero(label_map.rim == 0).astype(np.int32)
        return cls(label_map, within, loads, find_horns(label_map), brain)


class SyntheticDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Synthetic sub-images for CNN-1; item ``i`` depends only on the seed and ``i``."""

    def __init__(
        self,
        label_maps: Sequence[LabelMap],
        seed: int,
        *,
        size: int = 96,  # edge in voxels of 1 mm, even
        plan: SynthesisPlan | None = None,
    ) -> None:
        self.sources = tuple(_Source.of(label_map) for label_map in label_maps)
        self.seed, self.size, self.plan = seed, size, plan or SynthesisPlan()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return images and presence (6, S, S, S), lesion shares, and anatomy shares at 2 mm."""
        rng = item_rng(self.seed, index)
        source = self.sources[int(rng.integers(len(self.sources)))]
        number = int(rng.integers(len(source.label_map.draws)))
        centre = self._draw_centre(source, source.label_map.draws[number], rng)
        at = sample_places(rng, centre, self.size, self.plan)
        crop = crop_label_map(source.label_map, source.label_map.draws[number], at)
        return synthesize(source, number, crop, self.plan, rng)

    def _draw_centre(
        self, source: _Source, draw: LesionDraw, rng: np.random.Generator
    ) -> list[int]:
        """Draw a lesion (with equal chances) or a brain voxel; return a shifted centre."""
        pool = source.brain
        count = int(draw.owner.max(initial=0))
        if count and rng.random() < self.plan.lesion_share:
            lesion = draw.voxels[draw.owner == int(rng.integers(1, count + 1))]
            pool = lesion if lesion.size else pool
        at = np.unravel_index(int(pool[int(rng.integers(pool.size))]), source.label_map.rim.shape)
        return place_cube(at, source.label_map.rim.shape, self.size, MARGIN_MM, rng)


def synthesize(
    source: _Source, number: int, crop: Crop, plan: SynthesisPlan, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Make images, lesion shares and anatomy shares of a crop."""
    size = crop.tissue.shape[0]
    margin = float(rng.uniform(*plan.margin_mm))
    draw = source.label_map.draws[number]
    appearance = draw_appearance(rng, plan, int(draw.owner.max(initial=0)))
    mean, spread = brain_scale(
        appearance, source.within[min(int(10 * margin), 255)], source.loads[number]
    )
    inside = _brain_mask(crop, margin, plan, rng)
    added = add_mimics(source.horns, crop, plan, rng)
    lesion = crop.share
    if lesion.any():
        lesion = lesion * (1 + np.float32(plan.within_lesion) * smooth_field(rng, size, 4.0))
    slabs = _draw_slabs(rng, plan)
    present = np.array([True, rng.random() >= plan.drop_t1w, rng.random() >= plan.drop_t2w])
    images = np.zeros((2 * CHANNELS, size, size, size), np.float32)
    for channel in np.flatnonzero(present):
        bright = appearance.mean[channel].take(crop.tissue)
        if channel == 0:
            bright += added
        bright += lesion * appearance.lesion[channel].take(crop.owner)
        grain = rng.standard_normal(bright.shape, dtype=np.float32)
        bright += appearance.texture[channel].take(crop.tissue) * grain * np.float32(1.8)
        if channel and rng.random() < plan.misplaced:
            bright = np.roll(bright, rng.integers(-1, 2, 3), (0, 1, 2))
        soft = smooth3(bright, float(rng.uniform(*plan.blur_mm)))
        slab = slabs[channel]
        if slab:
            soft = thicken(soft, *slab, rng)
        score = (soft - mean[channel]) / spread[channel]
        images[channel] = np.where(inside, change_intensities(score, plan, rng), BACKGROUND)
    images[CHANNELS:] = present[:, None, None, None]
    flair = slabs[0]
    truth = np.where(inside, thicken(crop.share, *flair) if flair else crop.share, 0)
    return (
        torch.from_numpy(images),
        torch.from_numpy(truth.astype(np.float32))[None],
        torch.from_numpy(anatomy_shares(crop.tissue, inside)),
    )


def anatomy_shares(tissue: Codes, inside: NDArray[np.bool_]) -> Array:
    """Return the share of each class in blocks of 2x2x2 voxels; background outside the mask."""
    classes = np.where(inside, CLASS_OF[tissue], np.uint8(Anatomy.BACKGROUND))
    half = tuple(edge // 2 for edge in classes.shape)
    counts = np.zeros((CLASSES, int(np.prod(half))), np.float32)
    block = np.arange(counts.shape[1])
    for x in range(2):
        for y in range(2):
            for z in range(2):
                counts[classes[x::2, y::2, z::2].ravel(), block] += np.float32(0.125)
    return counts.reshape(CLASSES, *half)


def _brain_mask(
    crop: Crop, margin: float, plan: SynthesisPlan, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw the brain mask; a faulty one bulges into other tissue."""
    if rng.random() >= plan.mask_fault:
        outer = (crop.tissue == Tissue.AIR) | (crop.tissue == Tissue.OUTSIDE)
        outer |= crop.tissue >= FIRST_EXTRA
        tight: NDArray[np.bool_] = (crop.rim <= 10 * margin) & ((crop.rim == 0) | ~outer)
        return tight
    bulge = np.clip(smooth_field(rng, crop.tissue.shape[0], 24.0) - 0.4, 0, 1.5)
    limit = 10 * (margin + bulge * np.float32(rng.uniform(0, plan.fault_mm)))
    wide: NDArray[np.bool_] = (crop.rim <= limit) & (crop.tissue != Tissue.AIR)
    return wide


def _draw_slabs(rng: np.random.Generator, plan: SynthesisPlan) -> list[Slab | None]:
    """Draw the thick slices of each contrast; None for thin slices."""
    flair = draw_slab(rng, plan.thick)
    other_slabs = [
        flair if rng.random() < 0.6 else draw_slab(rng, 0.4) for _ in range(CHANNELS - 1)
    ]
    return [flair, *other_slabs]
