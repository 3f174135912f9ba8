"""Sub-images of any contrast, made from heads while a net is trained.

Domain randomisation after Billot et al. 2023 (SynthSeg, doi:10.1016/j.media.2023.102789): each
tissue of each sub-image gets brightness and texture of its own. Most keep the order of tissues
that FLAIR, T1w and T2w have, some have any. What is bright in FLAIR and no lesion is made too:
septum, choroid plexus, a halo around the ventricles, flow in the fluid, a brighter cortex here
and there.

Brightness is in units of normal white matter's until the whole head is brought to its brain's mean
and standard deviation, which follow from the number of voxels of each tissue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from bids_msseg.cascade.augment import Augmentation, AugmentPlan, SubImage, augment, blur
from bids_msseg.cascade.heads import HALO_STEPS, Head, LesionDraw, Tissue
from bids_msseg.cascade.patches import cut, stream

Array = NDArray[np.float32]
TISSUES = len(Tissue)
HORNS_BELOW_MM = 12
CAPS_SHARE = 0.6
"""How often caps are made where a plan asks for them."""

# lowest and highest brightness of FLAIR, T1w and T2w, white matter of the cerebrum being 1
USUAL_BRIGHTNESS: dict[
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


@dataclass(frozen=True, slots=True)
class MakePlan:
    """How widely made sub-images vary; amounts in units of white matter's brightness.

    Attributes
    ----------
    any_contrast
        Chance that tissues are ordered as in no known contrast.
    lesion
        Range of how much brighter in FLAIR the lesions of a head are, on average.
    lesion_t1w, lesion_t2w
        The same in T1w (darker) and T2w (brighter).
    one_lesion
        Relative spread of single lesions about that average.
    texture
        Largest standard deviation of the fine texture of a tissue.
    halo, flow, patchy
        Largest amounts of: brightness around the ventricles, flow in fluid, slow change of
        brightness within cortex and white matter.
    caps
        Largest brightness of caps on the frontal and occipital horns; 0 for none, and for the
        sub-images that there were before there were caps.
    margin_mm
        Range of the distance from the brain at which its mask ends.
    mask_fault
        Chance that the mask holds what lies outside the brain.
    misplaced
        Chance that T1w or T2w lies one voxel off.
    blur_mm
        Range of the sharpness.
    lesion_share
        Share of sub-images centred on a lesion.
    """

    any_contrast: float = 0.15
    lesion: tuple[float, float] = (0.15, 0.8)
    lesion_t1w: tuple[float, float] = (0.0, 0.45)
    lesion_t2w: tuple[float, float] = (0.15, 1.5)
    one_lesion: float = 0.3
    texture: float = 0.09
    halo: float = 0.4
    flow: float = 0.9
    patchy: float = 0.12
    caps: float = 0.0
    margin_mm: tuple[float, float] = (0.0, 2.5)
    mask_fault: float = 0.2
    misplaced: float = 0.25
    blur_mm: tuple[float, float] = (0.4, 0.9)
    lesion_share: float = 0.6


@dataclass(frozen=True, slots=True)
class Appearance:
    """Brightness of one made head.

    Attributes
    ----------
    mean, texture : ndarray of float32, shape (3, tissues)
    lesion : ndarray of float32, shape (3, lesions + 1)
        What a lesion adds; entry 0 is the rim's.
    """

    mean: Array
    texture: Array
    lesion: Array


def draw_appearance(rng: np.random.Generator, plan: MakePlan, lesions: int) -> Appearance:
    """Draw the brightness of every tissue and lesion.

    Parameters
    ----------
    rng : Generator
    plan : MakePlan
    lesions : int
        How many the head has.

    Returns
    -------
    Appearance
    """
    ranges = np.array([USUAL_BRIGHTNESS[tissue] for tissue in Tissue])
    mean = rng.uniform(ranges[..., 0], ranges[..., 1]).T
    if rng.random() < plan.any_contrast:
        mean = rng.uniform(0.2, 1.8, mean.shape)
        mean[:, Tissue.AIR] = 0.0
    texture = rng.uniform(0.2, 1.0, mean.shape) * plan.texture
    own = 1 + plan.one_lesion * rng.standard_normal((3, lesions + 1))
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


@dataclass(frozen=True, slots=True)
class Census:
    """How many voxels of each tissue and of lesion a head has.

    Attributes
    ----------
    within : ndarray of float64, shape (256, tissues)
        Entry ``i``: brain and fluid at most ``i`` tenths of a mm from the brain.
    lesions : tuple of float
        Of each of the head's draws.
    horns : ndarray of int64, shape (n, 3)
        Tips of the frontal and occipital horns of the lateral ventricles; none where ventricles
        are not known.
    """

    within: NDArray[np.float64]
    lesions: tuple[float, ...]
    horns: NDArray[np.int64]


def take_census(head: Head) -> Census:
    """Count the voxels whose brightness makes the brain's mean and deviation."""
    codes = head.rim.ravel().astype(np.int64) * TISSUES + head.tissue.ravel()
    table = np.bincount(codes, minlength=256 * TISSUES).reshape(256, TISSUES)
    within = np.cumsum(table, 0).astype(np.float64)
    within[:, [Tissue.AIR, Tissue.OUTSIDE]] = 0
    lesions = tuple(float(draw.fraction.sum(dtype=np.float64)) / 255 for draw in head.draws)
    return Census(within, lesions, find_horns(head))


def find_horns(head: Head) -> NDArray[np.int64]:
    """Find the foremost and the hindmost voxels of the left and the right lateral ventricle.

    Parameters
    ----------
    head : Head

    Returns
    -------
    ndarray of int64, shape (n, 3)
        Of each side: middle of the foremost slice, middle of the hindmost; n is 4, or less where
        ventricles are missing.
    """
    lateral = np.argwhere(head.halo == 0)
    if not len(lateral):
        return np.zeros((0, 3), np.int64)
    x, z = lateral[:, 0], lateral[:, 2]
    middle = (x.min() + x.max()) / 2
    # temporal horns lie lower than the body and point forwards, too
    low = np.median(z) - HORNS_BELOW_MM
    tips: list[NDArray[np.int64]] = []
    for side in (x < middle, x > middle):
        half = lateral[side & (z >= low)]
        for end in (half[:, 1].max(), half[:, 1].min()) if len(half) else ():
            tips.append(np.rint(half[half[:, 1] == end].mean(0)).astype(np.int64))
    return np.array(tips, np.int64).reshape(-1, 3)


def brain_scale(
    look: Appearance, tissue: NDArray[np.float64], lesions: float
) -> tuple[Array, Array]:
    """Work out mean and standard deviation of the whole brain in each contrast.

    Parameters
    ----------
    look : Appearance
    tissue : ndarray, shape (tissues,)
        Voxels of each tissue inside the mask.
    lesions : float
        Voxels of lesion.

    Returns
    -------
    mean, deviation : ndarray of float32, shape (3,)
    """
    share = tissue / tissue.sum()
    lesion = lesions / tissue.sum()
    added = look.lesion[:, 1:].mean(1) if look.lesion.shape[1] > 1 else np.zeros(3)
    mean = look.mean @ share + lesion * added
    spread = (look.mean - mean[:, None]) ** 2 @ share
    spread += (look.texture**2) @ share + lesion * added**2
    return mean.astype(np.float32), np.sqrt(spread + 1e-6).astype(np.float32)


def make(
    head: Head,
    census: Census,
    number: int,
    centre: Sequence[int],
    edge: int,
    plan: MakePlan,
    rng: np.random.Generator,
) -> SubImage:
    """Make one sub-image.

    Parameters
    ----------
    head : Head
    census : Census
        Of the head.
    number : int
        Which of its sets of lesions.
    centre : sequence of int
        Voxel in its middle.
    edge : int
        Voxels a side.
    plan : MakePlan
    rng : Generator

    Returns
    -------
    SubImage
        Three contrasts in units of the brain's SD, all present; ``maps`` holds the truth.
    """
    draw = head.draws[number]
    margin = float(rng.uniform(*plan.margin_mm))
    look = draw_appearance(rng, plan, int(draw.owner.max(initial=0)))
    inside = census.within[min(int(10 * margin), 255)]
    mean, spread = brain_scale(look, inside, census.lesions[number])
    tissue, fraction, owner = _cut_head(head, draw, centre, edge)
    added = _extras(head, tissue, centre, edge, plan, rng)
    if plan.caps > 0:
        added += _caps(head, census.horns, tissue, centre, plan, rng)
    images = []
    for channel in range(3):
        off = _misplacement(rng, plan) if channel else (0, 0, 0)
        bright = look.mean[channel][tissue]
        if channel == 0:
            bright = bright + added
        bright = bright + fraction * look.lesion[channel][owner]
        grain = rng.standard_normal(tissue.shape, dtype=np.float32)
        bright = bright + look.texture[channel][tissue] * grain * np.float32(1.8)
        soft = blur(torch.from_numpy(np.roll(bright, off, (0, 1, 2))), rng.uniform(*plan.blur_mm))
        images.append((soft - float(mean[channel])) / float(spread[channel]))
    stack = torch.stack(images).clamp(-5, 5)
    brain = _mask(head, tissue, centre, edge, margin, rng.random() < plan.mask_fault)
    return SubImage(stack, torch.ones(3), brain, torch.from_numpy(fraction)[None])


def _cut_head(
    head: Head, draw: LesionDraw, centre: Sequence[int], edge: int
) -> tuple[NDArray[np.uint8], Array, NDArray[np.int16]]:
    """Cut tissue, lesion fraction and lesion number."""
    cube = (edge, edge, edge)
    tissue = cut(head.tissue, centre, cube)
    fraction, owner = np.zeros(cube, np.float32), np.zeros(cube, np.int16)
    start = np.asarray(centre) - edge // 2
    for voxels, write in ((draw.choroid, False), (draw.voxels, True)):
        at = np.stack(np.unravel_index(voxels, head.tissue.shape)) - start[:, None]
        seen = ((at >= 0) & (at < edge)).all(0)
        x, y, z = at[:, seen]
        if write:
            fraction[x, y, z] = draw.fraction[seen] / np.float32(255)
            owner[x, y, z] = draw.owner[seen]
        else:
            tissue[x, y, z] = Tissue.CHOROID
    return tissue, fraction, owner


def smooth_fields(rng: np.random.Generator, edge: int, width: float, count: int) -> Array:
    """Draw smooth random fields (count, edge, edge, edge) of unit variance at their knots.

    Knots lie ``width`` mm apart.
    """
    knots = max(2, round(edge / width) + 1)
    drawn = rng.standard_normal((1, count, knots, knots, knots), dtype=np.float32)
    coarse = torch.from_numpy(drawn)
    field = F.interpolate(coarse, size=(edge, edge, edge), mode="trilinear", align_corners=True)
    values: Array = field[0].numpy()
    return values


def smooth_field(rng: np.random.Generator, edge: int, width: float) -> Array:
    """Draw one of :func:`smooth_fields`."""
    values: Array = smooth_fields(rng, edge, width, 1)[0]
    return values


def _extras(
    head: Head,
    tissue: NDArray[np.uint8],
    centre: Sequence[int],
    edge: int,
    plan: MakePlan,
    rng: np.random.Generator,
) -> Array:
    """Make what is bright in FLAIR and no lesion."""
    slow = smooth_field(rng, edge, 12.0)
    grey_or_white = np.isin(tissue, (Tissue.CORTEX, Tissue.WHITE, Tissue.HIPPOCAMPUS))
    added = np.where(grey_or_white, rng.uniform(0, plan.patchy) * slow, 0).astype(np.float32)
    if rng.random() < 0.6:
        away = cut(head.halo, centre, (edge, edge, edge), fill=255).astype(np.float32)
        near = np.exp(-away / (HALO_STEPS * rng.uniform(0.7, 2.0)))
        near[(away >= 255) | (tissue != Tissue.WHITE)] = 0
        uneven = np.clip(0.6 + 0.6 * smooth_field(rng, edge, 9.0), 0, 1.5)
        added += float(rng.uniform(0, plan.halo)) * near * uneven
    if rng.random() < 0.4:
        fluid = (tissue == Tissue.FLUID) | (tissue == Tissue.VENTRICLE)
        eddies = np.clip(smooth_field(rng, edge, 6.0) - 0.8, 0, 1.5)
        added += np.where(fluid, float(rng.uniform(0, plan.flow)) * eddies, 0)
    return added.astype(np.float32)


def _caps(
    head: Head,
    horns: NDArray[np.int64],
    tissue: NDArray[np.uint8],
    centre: Sequence[int],
    plan: MakePlan,
    rng: np.random.Generator,
) -> Array:
    """Make what is bright around the tips of the horns in many people without lesions."""
    edge = tissue.shape[0]
    added = np.zeros(tissue.shape, np.float32)
    if rng.random() >= CAPS_SHARE:
        return added
    amount, reach = float(rng.uniform(0.3, 1)) * plan.caps, float(rng.uniform(1.5, 4))
    away = cut(head.halo, centre, (edge, edge, edge), fill=255).astype(np.float32) / HALO_STEPS
    rough = 1 + 0.5 * smooth_field(rng, edge, 7.0)
    near = 1 / (1 + np.exp((away - reach * np.clip(rough, 0.4, 1.6)) / 0.5))
    near[tissue != Tissue.WHITE] = 0
    start = np.asarray(centre) - edge // 2
    for tip in horns:
        wide = float(rng.uniform(5, 9))
        line = [
            np.exp(-(((np.arange(edge) + a - b) / wide) ** 2))
            for a, b in zip(start, tip, strict=True)
        ]
        around = line[0][:, None, None] * line[1][:, None] * line[2]
        added = np.maximum(added, (amount * rng.uniform(0.6, 1)) * near * around)
    return added.astype(np.float32)


def _misplacement(rng: np.random.Generator, plan: MakePlan) -> tuple[int, int, int]:
    if rng.random() >= plan.misplaced:
        return 0, 0, 0
    x, y, z = (int(step) for step in rng.integers(-1, 2, 3))
    return x, y, z


def _mask(
    head: Head,
    tissue: NDArray[np.uint8],
    centre: Sequence[int],
    edge: int,
    margin: float,
    faulty: bool,
) -> Tensor:
    rim = cut(head.rim, centre, (edge, edge, edge), fill=255)
    inside = rim <= 10 * margin
    if not faulty:
        inside &= (rim == 0) | ((tissue != Tissue.OUTSIDE) & (tissue != Tissue.AIR))
    return torch.from_numpy(inside.astype(np.float32))


class MadeSampler(Dataset[tuple[Tensor, Tensor]]):
    """Made sub-images for CNN-1; item ``i`` depends on the seed and ``i`` alone.

    Parameters
    ----------
    heads : sequence of Head
    seed : int
    size : int, default 64
        Edge in voxels of 1 mm.
    plan : MakePlan, optional
    augment_plan : AugmentPlan or Program, optional
    margin : float, default 1.2
        Sub-images are made this much larger, so that rotation finds image in the corners.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        seed: int,
        *,
        size: int = 64,
        plan: MakePlan | None = None,
        augment_plan: Augmentation | None = None,
        margin: float = 1.2,
    ) -> None:
        self.heads, self.seed, self.size = tuple(heads), seed, size
        self.plan, self.augment_plan = plan or MakePlan(), augment_plan or AugmentPlan()
        wanted = round(size * margin)
        self.edge = wanted + (wanted - size) % 2
        self.censuses = tuple(take_census(head) for head in heads)
        self.brains = tuple(np.flatnonzero(head.rim == 0).astype(np.int32) for head in heads)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return input (6, S, S, S) and truth (1, S, S, S)."""
        rng = stream(self.seed, index)
        which = int(rng.integers(len(self.heads)))
        head = self.heads[which]
        number = int(rng.integers(len(head.draws)))
        centre = self._draw_centre(which, head.draws[number], rng)
        census = self.censuses[which]
        sample = make(head, census, number, centre, self.edge, self.plan, rng)
        done = augment(sample, self.augment_plan, rng, size=self.size, thin=True)
        return done.as_input(), done.maps

    def _draw_centre(self, which: int, draw: LesionDraw, rng: np.random.Generator) -> list[int]:
        """Draw a lesion, each with the same chance, or any voxel of the brain; move off it."""
        pool = self.brains[which]
        count = int(draw.owner.max(initial=0))
        if count and rng.random() < self.plan.lesion_share:
            own = draw.voxels[draw.owner == int(rng.integers(1, count + 1))]
            pool = own if own.size else pool
        at = np.unravel_index(int(pool[int(rng.integers(pool.size))]), self.heads[which].rim.shape)
        shifts = rng.integers(-self.size // 4, self.size // 4 + 1, 3)
        return [int(where) + int(shift) for where, shift in zip(at, shifts, strict=True)]


class MixedSampler(Dataset[tuple[Tensor, ...]]):
    """Sub-images of several sources in given shares; item ``i`` depends on seed and ``i`` alone.

    Parameters
    ----------
    sources : sequence of Dataset
    shares : sequence of float
        In any unit.
    seed : int
    """

    def __init__(
        self,
        sources: Sequence[Dataset[Any]],
        shares: Sequence[float],
        seed: int,
    ) -> None:
        self.sources, self.seed = tuple(sources), seed
        self.shares = np.asarray(shares, float) / float(np.sum(shares))

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        """Return item ``index`` of the source that is drawn for it."""
        rng = stream(self.seed + 1, index)
        item: tuple[Tensor, ...] = self.sources[int(rng.choice(len(self.sources), p=self.shares))][
            index
        ]
        return item
