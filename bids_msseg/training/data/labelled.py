"""Sub-images of labelled visits with random changes of position, contrast and resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.imaging.normalise import zscore
from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.models.inference import BACKGROUND
from bids_msseg.trainer.batches import item_rng
from bids_msseg.training.data.painting import Painting, paint
from bids_msseg.training.data.visits import LabelledVisit, Places, find_places
from bids_msseg.training.synthesis.geometry import nearest_voxels, place_cube, sample_places
from bids_msseg.training.synthesis.intensities import Slab, change_intensities, draw_slab, thicken
from bids_msseg.training.synthesis.plan import CHANNELS, Array, SynthesisPlan

Item = tuple[Tensor, Tensor, Tensor]
FADE = 0.6
"""Largest share of its contrast that a lesion loses; it gains half as much at most."""
RING_VOXELS = 3
HOSTS = (
    Anatomy.WHITE_MATTER,
    Anatomy.DEEP_GREY,
    Anatomy.CEREBELLAR_WHITE,
    Anatomy.BRAINSTEM,
)
"""Classes in which a lesion lies; cortical lesions are too thin for a block of 2 mm."""
MIN_LESION_SHARE = 0.9
AS_ACQUIRED = 0.3
"""Chance that a sub-image shows the visit's own voxels."""
MIN_COVER = 1e-3
THICK_SLICE = 6
THICK_SLAB = (2, THICK_SLICE, THICK_SLICE)
"""Axis, voxels and phase of the slices over which thin ones are averaged."""


def cut_visit(visit: LabelledVisit, at: Array) -> tuple[Array, NDArray[np.bool_], Array]:
    """Interpolate images, brain mask and lesion share at voxel positions ``at`` (3, S, S, S)."""
    # a place beyond the image still takes one voxel of it, which is not seen
    low = [
        min(max(int(np.floor(line.min())) - 1, 0), extent - 1)
        for line, extent in zip(at, visit.brain.shape, strict=True)
    ]
    high = [
        max(min(int(np.ceil(line.max())) + 2, extent), first + 1)
        for line, extent, first in zip(at, visit.brain.shape, low, strict=True)
    ]
    x, y, z = (slice(a, b) for a, b in zip(low, high, strict=True))
    images = visit.images[:, x, y, z].astype(np.float32) - np.float32(BACKGROUND)
    parts = np.concatenate(
        [images, visit.brain[None, x, y, z], visit.truth[None, x, y, z]], dtype=np.float32
    )
    extents = parts.shape[1:]
    lines = [
        (at[axis] - low[axis]) * np.float32(2 / extents[axis]) + np.float32(1 / extents[axis] - 1)
        for axis in (2, 1, 0)
    ]
    grid = torch.from_numpy(np.stack(lines, -1))[None]
    sampled = F.grid_sample(torch.from_numpy(parts)[None], grid, align_corners=False)[0].numpy()
    return sampled[:3] + np.float32(BACKGROUND), sampled[3] > 0.5, np.clip(sampled[4], 0, 1)


def sample_nearest(volume: Array, at: Array) -> Array:
    """Sample a volume at the nearest voxels; zero beyond its edges."""
    flat, out = nearest_voxels(at, volume.shape)
    sampled: Array = np.where(out, np.float32(0), volume.ravel().take(flat))
    return sampled


class HasSite(Protocol):
    """A visit of a participant at a site."""

    @property
    def site(self) -> str:
        """Site of the acquisition."""

    @property
    def participant(self) -> str:
        """``sub-<label>``."""


Visit = TypeVar("Visit", bound=HasSite)


def draw_visit(visits: Sequence[Visit], rng: np.random.Generator) -> Visit:
    """Draw a site, then a participant of it, then a visit, each with the same chance."""
    for name in ("site", "participant"):
        values = sorted({getattr(visit, name) for visit in visits})
        value = values[int(rng.integers(len(values)))]
        visits = [visit for visit in visits if getattr(visit, name) == value]
    return visits[int(rng.integers(len(visits)))]


def whole_voxels(
    rng: np.random.Generator, centre: Sequence[int], size: int, plan: SynthesisPlan
) -> Array:
    """Return whole voxel positions (3, S, S, S) of a cube, which may be mirrored in x."""
    line = np.arange(size, dtype=np.float32) - size // 2
    first = -line if rng.random() < plan.flip else line
    lines = [side + np.float32(at) for side, at in zip((first, line, line), centre, strict=True)]
    return np.stack(np.meshgrid(*lines, indexing="ij"))


class LabelledDataset(Dataset[Item]):
    """Sub-images of labelled visits for CNN-1; item ``i`` depends only on seed and ``i``."""

    def __init__(
        self,
        visits: Sequence[LabelledVisit],
        seed: int,
        *,
        size: int = 96,
        plan: SynthesisPlan | None = None,
        paintings: Sequence[Painting] = (),  # one per visit
        paint_chance: float = 0.5,
    ) -> None:
        self.visits, self.seed, self.size = tuple(visits), seed, size
        self.paintings, self.paint_chance = tuple(paintings), paint_chance
        self.places: tuple[Places, ...] = tuple(find_places(visit) for visit in visits)
        self.plan = plan or SynthesisPlan()

    def __getitem__(self, index: int) -> Item:
        """Return images (6, S, S, S), lesion share (1, S, S, S) and partial anatomy."""
        rng = item_rng(self.seed, index)
        visit = draw_visit(self.visits, rng)
        number = next(n for n, candidate in enumerate(self.visits) if candidate is visit)
        centre = self._draw_centre(self.places[number], visit, rng)
        sampler = whole_voxels if rng.random() < AS_ACQUIRED else sample_places
        at = sampler(rng, centre, self.size, self.plan)
        images, brain, share = cut_visit(visit, at)
        if self.paintings and rng.random() < self.paint_chance:
            images, share = self._paint(self.paintings[number], visit, images, share, at, rng)
        return augment_visit(visit, images, brain, share, self.plan, rng)

    def _paint(
        self,
        painting: Painting,
        visit: LabelledVisit,
        images: Array,
        share: Array,
        at: Array,
        rng: np.random.Generator,
    ) -> tuple[Array, Array]:
        draw = painting.draws[int(rng.integers(len(painting.draws)))]
        whole = np.zeros(visit.brain.size, np.float32)
        whole[draw.voxels] = draw.fraction / np.float32(255)
        painted = sample_nearest(whole.reshape(visit.brain.shape), at)
        if visit.thick:
            painted = thicken(painted, 2, THICK_SLICE, int(rng.integers(THICK_SLICE)) + 1)
        if not painted.any():
            return images, share
        return paint(images, share, painted, painting.contrast, self.plan, rng)

    def _draw_centre(
        self, places: Places, visit: LabelledVisit, rng: np.random.Generator
    ) -> list[int]:
        pool = places.brain
        if places.lesions and rng.random() < self.plan.lesion_share:
            pool = places.lesions[int(rng.integers(len(places.lesions)))]
        at = np.unravel_index(int(pool[int(rng.integers(pool.size))]), visit.brain.shape)
        return place_cube(at, visit.brain.shape, self.size, 0, rng)


def thicken_images(images: Array, brain: NDArray[np.bool_], slab: Slab) -> Array:
    """Average images (3, X, Y, Z) over thicker slices."""
    # outside the brain there is nothing to average
    cover = np.maximum(thicken(brain.astype(np.float32), *slab), np.float32(MIN_COVER))
    shown = (images - np.float32(BACKGROUND)) * brain
    averaged: Array = np.stack([thicken(image, *slab) / cover for image in shown])
    averaged += np.float32(BACKGROUND)
    return averaged


def with_thick_truth(visit: LabelledVisit) -> LabelledVisit:
    """Return a visit whose truth is averaged over thick axial slices; images stay as they are."""
    truth = thicken(visit.truth.astype(np.float32), *THICK_SLAB).astype(np.float16)
    return replace(visit, truth=truth, slice_mm=float(THICK_SLICE))


def with_thick_slices(visit: LabelledVisit) -> LabelledVisit:
    """Return a visit whose images and truth are averaged over thick axial slices."""
    images = thicken_images(visit.images.astype(np.float32), visit.brain, THICK_SLAB)
    for channel in np.flatnonzero(visit.present):
        scaled = zscore(images[channel], visit.brain)
        images[channel] = np.where(visit.brain, scaled, np.float32(BACKGROUND))
    return replace(with_thick_truth(visit), images=images.astype(np.float16))


def augment_visit(
    visit: LabelledVisit,
    images: Array,
    brain: NDArray[np.bool_],
    share: Array,
    plan: SynthesisPlan,
    rng: np.random.Generator,
) -> Item:
    """Change lesion contrast, slice thickness and intensities, and drop contrasts."""
    present = np.array(visit.present)
    images = fade_lesions(
        torch.from_numpy(images),
        torch.from_numpy(brain.astype(np.float32)),
        torch.from_numpy(share),
        rng,
    ).numpy()
    slab = None if visit.thick else draw_slab(rng, plan.thick)
    if slab:
        images, share = thicken_images(images, brain, slab), thicken(share, *slab)
    present = present & np.array(
        [True, rng.random() >= plan.drop_t1w, rng.random() >= plan.drop_t2w]
    )
    shown = np.zeros((2 * CHANNELS, *brain.shape), np.float32)
    for channel in np.flatnonzero(present):
        changed = change_intensities(images[channel], plan, rng)
        shown[channel] = np.where(brain, changed, np.float32(BACKGROUND))
    shown[CHANNELS:] = present[:, None, None, None]
    share = np.where(brain, share, np.float32(0)).astype(np.float32)
    return (
        torch.from_numpy(shown),
        torch.from_numpy(share)[None],
        partial_anatomy(torch.from_numpy(brain.astype(np.float32)), torch.from_numpy(share)),
    )


def fade_lesions(images: Tensor, brain: Tensor, share: Tensor, rng: np.random.Generator) -> Tensor:
    """Scale the contrast of lesions to the 3 mm around them, in half of the sub-images."""
    lesion = share.clamp(0, 1)
    if rng.random() < 0.5 or not float(lesion.sum()) > 1.0:
        return images
    change = float(rng.uniform(-FADE, FADE / 2))
    grown = lesion[None, None]
    for axis in range(3):
        window, padding = [1, 1, 1], [0, 0, 0]
        window[axis], padding[axis] = 2 * RING_VOXELS + 1, RING_VOXELS
        grown = F.max_pool3d(grown, window, 1, padding)
    ring = (grown[0, 0] - lesion) * (brain > 0.5)
    dims = (1, 2, 3)
    inside = (images * lesion).sum(dims) / lesion.sum()
    around = (images * ring).sum(dims) / ring.sum().clamp_min(1.0)
    return images + (change * (inside - around)).view(3, 1, 1, 1) * lesion


def partial_anatomy(brain: Tensor, share: Tensor) -> Tensor:
    """Return 1 for each possible anatomy class of 2 mm blocks, 0 in blocks partly outside."""
    inside = F.avg_pool3d(brain[None], 2)[0]
    lesion = F.avg_pool3d(share[None], 2)[0] > MIN_LESION_SHARE
    possible = torch.zeros((CLASSES, *inside.shape))
    possible[Anatomy.BACKGROUND] = (inside == 0).float()
    within = (inside == 1).float()
    for kind in Anatomy:
        if kind != Anatomy.BACKGROUND:
            possible[kind] = within if kind in HOSTS else within * ~lesion
    return possible
