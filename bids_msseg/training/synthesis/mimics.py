"""Mimics of lesions in FLAIR: halo, caps, tracts, midline, bright cortex, flow in fluid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.training.synthesis.fields import smooth_field, smooth_fields
from bids_msseg.training.synthesis.geometry import Crop
from bids_msseg.training.synthesis.plan import Array, SynthesisPlan
from bids_msseg.training.synthesis.tissues import HALO_STEPS, LabelMap, Tissue

HORNS_BELOW_MM = 12
MIDLINE_TISSUES = (
    Tissue.WHITE,
    Tissue.THALAMUS,
    Tissue.VENTRAL_DC,
    Tissue.BRAINSTEM,
    Tissue.SEPTUM,
)
OFF_LATERAL_MM = 4
"""Fluid of the ventricles that is farther from the lateral ones is the third or the fourth."""
RADIATION_MM = 28.0
"""How far the optic radiation reaches behind the occipital horn."""


def find_horns(label_map: LabelMap) -> NDArray[np.int64]:
    """Find the front and back tips of both lateral ventricles as voxels (at most 4, 3)."""
    lateral = np.argwhere(label_map.halo == 0)
    if not len(lateral):
        return np.zeros((0, 3), np.int64)
    x, z = lateral[:, 0], lateral[:, 2]
    middle = (x.min() + x.max()) / 2
    # without the temporal horns, which lie lower than the body and point forwards, too
    low = np.median(z) - HORNS_BELOW_MM
    tips: list[NDArray[np.int64]] = []
    for side in (x < middle, x > middle):
        half = lateral[side & (z >= low)]
        for end in (half[:, 1].max(), half[:, 1].min()) if len(half) else ():
            tips.append(np.rint(half[half[:, 1] == end].mean(0)).astype(np.int64))
    return np.array(tips, np.int64).reshape(-1, 3)


def add_mimics(
    horns: NDArray[np.int64], crop: Crop, plan: SynthesisPlan, rng: np.random.Generator
) -> Array:
    """Draw the brightness that mimics of lesions add to FLAIR."""
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
        extra = np.maximum(extra, _caps(horns, at, distance, plan, rng))
    added = added.astype(np.float32)
    added.ravel()[near] += extra
    if rng.random() < 0.7 and len(horns) == 4:
        inside = np.flatnonzero(white)
        added.ravel()[inside] += _tracts(horns, crop, inside, uneven, plan, rng)
    if rng.random() < 0.6:
        added += _midline(crop, uneven, plan, rng)
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
    """Return caps at the tips of the horns, as in many people without lesions."""
    amount, reach = float(rng.uniform(0.3, 1)) * plan.caps, float(rng.uniform(1.5, 4))
    near = 1 / (1 + np.exp((distance - reach) / 0.5))
    caps = np.zeros(distance.size, np.float32)
    for tip in horns:
        width = float(rng.uniform(5, 9))
        squared_distance = ((at - tip[:, None].astype(np.float32)) ** 2).sum(0) / width**2
        caps = np.maximum(
            caps, amount * float(rng.uniform(0.6, 1)) * near * np.exp(-squared_distance)
        )
    return caps.astype(np.float32)


def _tracts(
    horns: NDArray[np.int64],
    crop: Crop,
    inside: NDArray[np.int64],
    uneven: Array,
    plan: SynthesisPlan,
    rng: np.random.Generator,
) -> Array:
    """Brighten the optic radiations and the white matter beside the ventricles, on both sides."""
    at = crop.at.reshape(3, -1)[:, inside]
    distance = crop.halo.ravel()[inside].astype(np.float32) / np.float32(HALO_STEPS)
    offset, width = rng.uniform(1, 7), rng.uniform(1.5, 4)
    # normal white matter is brighter some millimetres off the ventricle, most behind its middle
    band = np.exp(-(((distance - np.float32(offset)) / np.float32(width)) ** 2))
    band[distance >= 12] = 0
    front_share, amount = rng.uniform(0, 0.8), rng.uniform(0, plan.tracts)
    radius, drift = rng.uniform(2.5, 5), rng.normal(0, 3, 2)
    middle_x = np.float32(horns[:, 0].mean())
    brightness = np.zeros(inside.size, np.float32)
    for front, back in (horns[:2], horns[2:]):
        outwards = np.sign(back[0] - middle_x)
        same_side = (at[0] - middle_x) * outwards > 0
        middle_y = back[1] + 0.45 * (front[1] - back[1])
        behind = 1 / (1 + np.exp((at[1, same_side] - np.float32(middle_y)) / 5))
        side = band[same_side] * (behind + np.float32(front_share) * (1 - behind))
        start = back + np.array([4 * outwards, 10, 0])
        end = back + np.array([outwards * drift[0], -RADIATION_MM, drift[1]])
        axis_distance = _distance_to_line(at[:, same_side], start, end)
        side = np.maximum(side, np.exp(-((axis_distance / np.float32(radius)) ** 2)))
        brightness[same_side] = side * np.float32(amount * rng.uniform(0.8, 1.1))
    rough = np.clip(1 + np.float32(0.35) * uneven.ravel()[inside], 0.2, 1.6)
    brighter: Array = (brightness * rough).astype(np.float32)
    return brighter


def _midline(crop: Crop, uneven: Array, plan: SynthesisPlan, rng: np.random.Generator) -> Array:
    """Brighten the rim of the third and fourth ventricle: hypothalamus, fornix, septum."""
    amount, width = np.float32(rng.uniform(0, plan.midline)), float(rng.uniform(0.8, 1.8))
    fluid = (crop.tissue == Tissue.VENTRICLE) & (crop.halo > OFF_LATERAL_MM * HALO_STEPS)
    if not fluid.any():
        return np.zeros(crop.tissue.shape, np.float32)
    near = ndimage.gaussian_filter(fluid.astype(np.float32), width)
    rough = np.clip(0.6 + 0.6 * uneven, 0, 1.5)
    tissue = np.isin(crop.tissue, MIDLINE_TISSUES)
    rim: Array = (tissue * amount * rough * np.clip(3 * near, 0, 1)).astype(np.float32)
    return rim


def _distance_to_line(
    points: Array, start: NDArray[np.floating], end: NDArray[np.floating]
) -> Array:
    """Return the distance of points, shape (3, n), to the line from start to end."""
    line = (end - start).astype(np.float32)
    rest = points - start.astype(np.float32)[:, None]
    along = np.clip(line @ rest / (line @ line), 0, 1)
    gap = rest - line[:, None] * along
    distance: Array = np.sqrt((gap**2).sum(0))
    return distance
