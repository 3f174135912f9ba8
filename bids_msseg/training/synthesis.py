"""Synthetic sub-images of any contrast with lesions and anatomy as ground truth.

Domain randomisation after Billot et al. 2023 (SynthSeg, doi:10.1016/j.media.2023.102789): every
tissue of every sub-image gets its own brightness and texture. Most sub-images keep the order of
tissues that FLAIR, T1w and T2w have. Mimics of lesions are drawn too: septum, choroid plexus, caps
and a halo around the ventricles, flow in the fluid, bright cortex, and scalp inside the mask.

Brightness is in units of normal white matter until the head is normalised to its brain's mean and
standard deviation, which follow from the number of voxels of each tissue.

The label map is sampled once, at the voxels that the network sees; all else happens on that grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.cascade.augmentation.standard import rotation
from bids_msseg.cascade.generation import (
    USUAL_BRIGHTNESS,
    Appearance,
    brain_scale,
    find_horns,
    smooth_field,
    smooth_fields,
)
from bids_msseg.cascade.heads import HALO_STEPS, Head, LesionDraw, Tissue
from bids_msseg.cascade.patches import stream
from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.training.label_maps import FIRST_EXTRA, MARGIN_MM, TISSUES

Array = NDArray[np.float32]
Codes = NDArray[np.uint8]
Slab = tuple[int, int, int]
"""Axis, thickness in voxels, and voxels of the first slab."""
BACKGROUND = -3.0
SIGNAL = 0.25
"""A z-score has no zero to multiply from: brain tissue varies by about a quarter of its mean."""
FAR = 255
EXTRA_RANGE = (0.02, 2.4)
"""Brightness of tissue outside the brain: bone is dark, fat is bright in FLAIR and T1w."""
BEYOND_MM = 10
"""How far a sub-image may reach beyond the brain's box."""
SLICE_GAIN = 0.05
"""Largest standard deviation of the brightness of slices of one 2-D acquisition."""
CHANNELS = 3

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


@dataclass(frozen=True, slots=True)
class Crop:
    """What a sub-image shows of a label map, each array of shape (S, S, S).

    Attributes
    ----------
    tissue : ndarray of uint8
    rim : ndarray of uint8
        Distance to the brain, tenths of a mm.
    halo : ndarray of uint8
        Distance to the lateral ventricles, twentieths of a mm.
    share : ndarray of float32
        Share of the voxel that is lesion.
    owner : ndarray of int16
        Number of the lesion.
    at : ndarray of float32, shape (3, S, S, S)
        Voxel of the label map.
    """

    tissue: Codes
    rim: Codes
    halo: Codes
    share: Array
    owner: NDArray[np.int16]
    at: Array


def draw_appearance(rng: np.random.Generator, plan: SynthesisPlan, lesions: int) -> Appearance:
    """Draw the brightness of every tissue and lesion."""
    usual = np.array([USUAL_BRIGHTNESS[tissue] for tissue in Tissue])
    mean = np.empty((CHANNELS, TISSUES))
    mean[:, :FIRST_EXTRA] = rng.uniform(usual[..., 0], usual[..., 1]).T
    mean[:, FIRST_EXTRA:] = rng.uniform(*EXTRA_RANGE, (CHANNELS, TISSUES - FIRST_EXTRA))
    if rng.random() < plan.any_contrast:
        mean = rng.uniform(0.2, 1.8, mean.shape)
        mean[:, Tissue.AIR] = 0.0
    elif rng.random() < plan.enhanced:
        mean[1, [Tissue.VESSEL, Tissue.CHOROID]] = rng.uniform(1.0, 2.2, 2)
    texture = rng.uniform(0.2, 1.0, mean.shape) * plan.texture
    own = 1 + plan.one_lesion * rng.standard_normal((CHANNELS, lesions + 1))
    own[:, 0] = 1
    base = np.array(
        [
            rng.uniform(*plan.lesion),
            -rng.uniform(*plan.lesion_t1w),
            rng.uniform(*plan.lesion_t2w),
        ]
    )
    lesion = base[:, None] * np.clip(own, 0.3, 2.0)
    return Appearance(*(part.astype(np.float32) for part in (mean, texture, lesion)))


def sample_places(
    rng: np.random.Generator, centre: Sequence[int], size: int, plan: SynthesisPlan
) -> Array:
    """Return where in the label map each voxel lies, shape (3, S, S, S), voxels of 1 mm."""
    angles = np.deg2rad(rng.uniform(-plan.rotate_deg, plan.rotate_deg, 3))
    matrix = rotation(angles) @ np.diag(1.0 + rng.uniform(-plan.scale, plan.scale, 3))
    if rng.random() < plan.flip:
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
    line = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
    at = np.empty((3, size, size, size), np.float32)
    for axis in range(3):
        a, b, c = (line * np.float32(value) for value in matrix[axis])
        plane = (a[:, None] + b) + np.float32(centre[axis])
        np.add(plane[:, :, None], c, out=at[axis])
    if rng.random() < 0.6:
        at += smooth_fields(rng, size, 19.0, 3) * np.float32(rng.uniform(0, plan.warp_mm))
    return at


def nearest_voxels(
    at: Array, shape: tuple[int, ...]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Return flat indices of the voxels nearest to some places, and which lie outside."""
    index = np.rint(at).astype(np.int32)
    out = np.zeros(index.shape[1:], bool)
    for axis, extent in enumerate(shape):
        out |= (index[axis] < 0) | (index[axis] >= extent)
        np.clip(index[axis], 0, extent - 1, out=index[axis])
    return (index[0] * shape[1] + index[1]) * shape[2] + index[2], out


def place_cube(
    at: Sequence[np.integer],
    extents: Sequence[int],
    size: int,
    margin: int,
    rng: np.random.Generator,
) -> list[int]:
    """Move a cube's centre off a place, but keep it on the brain's box.

    Most of a cube that reaches far beyond the brain would be background.

    Parameters
    ----------
    at : sequence of int
        Voxel that the cube shows.
    extents : sequence of int
        Shape of the volume.
    size : int
        Edge of the cube.
    margin : int
        Voxels between the volume's edges and the brain.
    rng : Generator
    """
    shifts = rng.integers(-size // 4, size // 4 + 1, 3)
    reach = margin + size // 2 - BEYOND_MM
    centre: list[int] = []
    for place, shift, extent in zip(at, shifts, extents, strict=True):
        wanted, high = int(place) + int(shift), extent - reach
        centre.append(min(max(wanted, reach), high) if reach < high else extent // 2)
    return centre


def crop_label_map(head: Head, draw: LesionDraw, at: Array) -> Crop:
    """Sample tissue, distances and lesions at the nearest voxels."""
    flat, out = nearest_voxels(at, head.tissue.shape)
    whole = head.tissue.copy()
    whole.ravel()[draw.choroid] = Tissue.CHOROID
    share, owner = np.zeros(whole.size, np.uint8), np.zeros(whole.size, np.int16)
    share[draw.voxels], owner[draw.voxels] = draw.fraction, draw.owner
    tissue, rim, halo = (values.ravel().take(flat) for values in (whole, head.rim, head.halo))
    tissue[out], rim[out], halo[out] = Tissue.AIR, FAR, FAR
    lesion = share.take(flat).astype(np.float32) / np.float32(255)
    lesion[out] = 0
    return Crop(tissue, rim, halo, lesion, owner.take(flat), at)


def smooth3(volume: Array, sigma: float) -> Array:
    """Smooth with a small binomial kernel of this standard deviation in voxels, repeated edges."""
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
    """Average slabs along one axis and interpolate back.

    Parameters
    ----------
    volume : ndarray of float32, shape (X, Y, Z)
    axis, slab, phase : int
        Axis, thickness in voxels, and voxels of the first slab.
    rng : Generator, optional
        Draws another brightness for each slab, as interleaved 2-D acquisitions have.
    """
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


@dataclass(frozen=True, slots=True)
class _Source:
    """A label map with what is computed once of it."""

    head: Head
    within: NDArray[np.float64]
    loads: tuple[float, ...]
    horns: NDArray[np.int64]
    brain: NDArray[np.int32]

    @classmethod
    def of(cls, head: Head) -> _Source:
        codes = head.rim.ravel().astype(np.int64) * TISSUES + head.tissue.ravel()
        table = np.bincount(codes, minlength=256 * TISSUES).reshape(256, TISSUES)
        within = np.cumsum(table, 0).astype(np.float64)
        within[:, [Tissue.AIR, Tissue.OUTSIDE]] = 0
        within[:, FIRST_EXTRA:] = 0
        loads = tuple(float(draw.fraction.sum(dtype=np.float64)) / 255 for draw in head.draws)
        brain = np.flatnonzero(head.rim == 0).astype(np.int32)
        return cls(head, within, loads, find_horns(head), brain)


class SyntheticDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Synthetic sub-images for CNN-1; item ``i`` depends on the seed and ``i`` alone.

    Parameters
    ----------
    heads : sequence of Head
        From :func:`bids_msseg.training.label_maps.prepare_label_map`.
    seed : int
    size : int, default 96
        Edge in voxels of 1 mm, even.
    plan : SynthesisPlan, optional
    """

    def __init__(
        self,
        heads: Sequence[Head],
        seed: int,
        *,
        size: int = 96,
        plan: SynthesisPlan | None = None,
    ) -> None:
        self.sources = tuple(_Source.of(head) for head in heads)
        self.seed, self.size, self.plan = seed, size, plan or SynthesisPlan()

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return one sub-image.

        Returns
        -------
        images : Tensor, shape (6, S, S, S)
            Contrasts in units of the brain's standard deviation, then presence maps.
        lesion : Tensor, shape (1, S, S, S)
            Share of each voxel that is lesion.
        anatomy : Tensor, shape (classes, S / 2, S / 2, S / 2)
            Share of each class.
        """
        rng = stream(self.seed, index)
        source = self.sources[int(rng.integers(len(self.sources)))]
        number = int(rng.integers(len(source.head.draws)))
        centre = self._draw_centre(source, source.head.draws[number], rng)
        at = sample_places(rng, centre, self.size, self.plan)
        crop = crop_label_map(source.head, source.head.draws[number], at)
        return synthesize(source, number, crop, self.plan, rng)

    def _draw_centre(
        self, source: _Source, draw: LesionDraw, rng: np.random.Generator
    ) -> list[int]:
        """Draw a lesion, each with the same chance, or any voxel of the brain; move off it."""
        pool = source.brain
        count = int(draw.owner.max(initial=0))
        if count and rng.random() < self.plan.lesion_share:
            own = draw.voxels[draw.owner == int(rng.integers(1, count + 1))]
            pool = own if own.size else pool
        at = np.unravel_index(int(pool[int(rng.integers(pool.size))]), source.head.rim.shape)
        return place_cube(at, source.head.rim.shape, self.size, MARGIN_MM, rng)


def synthesize(
    source: _Source, number: int, crop: Crop, plan: SynthesisPlan, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Make images, lesion shares and anatomy shares of a crop."""
    size = crop.tissue.shape[0]
    margin = float(rng.uniform(*plan.margin_mm))
    draw = source.head.draws[number]
    appearance = draw_appearance(rng, plan, int(draw.owner.max(initial=0)))
    mean, spread = brain_scale(
        appearance, source.within[min(int(10 * margin), 255)], source.loads[number]
    )
    inside = _brain_mask(crop, margin, plan, rng)
    added = _mimics(source, crop, plan, rng)
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
    """Share of each class in blocks of 2x2x2 voxels; all that the mask hides is background."""
    classes = np.where(inside, CLASS_OF[tissue], np.uint8(Anatomy.BACKGROUND))
    half = tuple(edge // 2 for edge in classes.shape)
    counts = np.zeros((CLASSES, int(np.prod(half))), np.float32)
    where = np.arange(counts.shape[1])
    for x in range(2):
        for y in range(2):
            for z in range(2):
                counts[classes[x::2, y::2, z::2].ravel(), where] += np.float32(0.125)
    return counts.reshape(CLASSES, *half)


def _brain_mask(
    crop: Crop, margin: float, plan: SynthesisPlan, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Draw the brain mask; a faulty one bulges into what is not brain."""
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
    """Draw the slices of each contrast; None where they are thin."""
    flair = draw_slab(rng, plan.thick)
    others = [flair if rng.random() < 0.6 else draw_slab(rng, 0.4) for _ in range(CHANNELS - 1)]
    return [flair, *others]


def draw_slab(rng: np.random.Generator, chance: float) -> Slab | None:
    """Draw axis, thickness in mm and phase of thick slices; None where they stay thin."""
    if rng.random() >= chance:
        return None
    thickness = int(rng.integers(2, 9))
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    return axis, thickness, int(rng.integers(thickness)) + 1


def _mimics(source: _Source, crop: Crop, plan: SynthesisPlan, rng: np.random.Generator) -> Array:
    """Make what is bright in FLAIR and is no lesion."""
    size = crop.tissue.shape[0]
    slow, uneven, stretch = smooth_fields(rng, size, 12.0, 3)
    cortex = (crop.tissue == Tissue.CORTEX) | (crop.tissue == Tissue.HIPPOCAMPUS)
    white = crop.tissue == Tissue.WHITE
    added = np.where(cortex | white, np.float32(rng.uniform(0, plan.patchy)) * slow, 0)
    if rng.random() < 0.5:
        amount = np.float32(rng.uniform(0, plan.bright_cortex))
        added += np.where(cortex, amount * np.clip(stretch - 0.3, 0, 1.5), 0)
    near = np.flatnonzero(white & (crop.halo < 12 * HALO_STEPS))
    distance = crop.halo.ravel()[near].astype(np.float32) / np.float32(HALO_STEPS)
    extra = np.zeros(near.size, np.float32)
    if rng.random() < 0.6:
        reach = np.float32(rng.uniform(0.7, 2.5))
        rough = np.clip(0.6 + 0.6 * uneven.ravel()[near], 0, 1.5)
        extra += np.float32(rng.uniform(0, plan.halo)) * np.exp(-distance / reach) * rough
    if rng.random() < 0.6 and near.size:
        at = crop.at.reshape(3, -1)[:, near]
        extra = np.maximum(extra, _caps(source.horns, at, distance, plan, rng))
    added = added.astype(np.float32)
    added.ravel()[near] += extra
    if rng.random() < 0.4:
        fluid = (crop.tissue == Tissue.FLUID) | (crop.tissue == Tissue.VENTRICLE)
        eddies = np.clip(smooth_field(rng, size, 6.0) - 0.8, 0, 1.5)
        added += np.where(fluid, np.float32(rng.uniform(0, plan.flow)) * eddies, 0)
    return added.astype(np.float32)


def _caps(
    horns: NDArray[np.int64],
    at: Array,
    distance: Array,
    plan: SynthesisPlan,
    rng: np.random.Generator,
) -> Array:
    """Make caps at the tips of the horns, as many people without lesions have them."""
    amount, reach = float(rng.uniform(0.3, 1)) * plan.caps, float(rng.uniform(1.5, 4))
    near = 1 / (1 + np.exp((distance - reach) / 0.5))
    caps = np.zeros(distance.size, np.float32)
    for tip in horns:
        width = float(rng.uniform(5, 9))
        away = ((at - tip[:, None].astype(np.float32)) ** 2).sum(0) / width**2
        caps = np.maximum(caps, amount * float(rng.uniform(0.6, 1)) * near * np.exp(-away))
    return caps.astype(np.float32)


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
