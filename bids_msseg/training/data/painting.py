"""Lesions of the MS-MIST bank painted into white matter of labelled visits.

A lesion changes each contrast as the visit's own lesions do; compare LesionSCynth (Salem et al.
2019, doi:10.1109/ACCESS.2019.2900198). CNN-1's anatomy locates the white matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.volume import Volume
from bids_msseg.io.atomic import open_alone
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.inference import Prediction
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis.fields import smooth_field
from bids_msseg.training.synthesis.label_maps import (
    LesionBank,
    place_bank_lesions,
    register_to_template,
)
from bids_msseg.training.synthesis.plan import CHANNELS, Array, SynthesisPlan
from bids_msseg.training.synthesis.tissues import LesionDraw, Tissue

RING_VOXELS = 3
KEEP_AWAY_VOXELS = 3
"""Smallest distance of painted lesions from the visit's own."""
SUSPECT = 0.1
"""Lesion probability from which a voxel is not called free of lesion."""
DEFAULT_CONTRAST = (1.5, -0.6, 1.2)
"""What lesions add in units of the brain's SD where a visit has too few to measure."""
MIN_VOXELS = 100
DRAW_FIELDS = tuple(field.name for field in fields(LesionDraw))

_TISSUE_OF: Mapping[Anatomy, Tissue] = {
    Anatomy.BACKGROUND: Tissue.AIR,
    Anatomy.EXTRA_CEREBRAL: Tissue.OUTSIDE,
    Anatomy.SULCAL_FLUID: Tissue.FLUID,
    Anatomy.VENTRICLE: Tissue.VENTRICLE,
    Anatomy.CORTEX: Tissue.CORTEX,
    Anatomy.WHITE_MATTER: Tissue.WHITE,
    Anatomy.DEEP_GREY: Tissue.THALAMUS,
    Anatomy.HIPPOCAMPUS_AMYGDALA: Tissue.HIPPOCAMPUS,
    Anatomy.CEREBELLAR_CORTEX: Tissue.CEREBELLAR_CORTEX,
    Anatomy.CEREBELLAR_WHITE: Tissue.CEREBELLAR_WHITE,
    Anatomy.BRAINSTEM: Tissue.BRAINSTEM,
    Anatomy.CHOROID_PLEXUS: Tissue.CHOROID,
}
CODES = np.array([_TISSUE_OF[anatomy] for anatomy in Anatomy], np.uint8)


@dataclass(frozen=True, slots=True)
class Painting:
    """Sets of lesions that may be painted into a visit."""

    draws: tuple[LesionDraw, ...]
    contrast: Array  # (3,): own lesions minus the tissue around them, in SD of the brain


def measure_contrast(
    images: NDArray[np.floating],
    present: Sequence[bool],
    brain: NDArray[np.bool_],
    share: NDArray[np.floating] | NDArray[np.bool_],
) -> Array:
    """Measure the mean difference (3,) between lesions and the 3 mm around them, in brain SD."""
    lesion = share >= 0.5
    default = np.asarray(DEFAULT_CONTRAST, np.float32)
    if np.count_nonzero(lesion) < MIN_VOXELS:
        return default
    ring = ndimage.binary_dilation(lesion, iterations=RING_VOXELS) & ~(share > 0) & brain
    inside, around = (images[:, mask].astype(np.float32).mean(1) for mask in (lesion, ring))
    return np.where(present, inside - around, default).astype(np.float32)


def prepare_painting(
    visit: LabelledVisit,
    prediction: Prediction,
    bank: LesionBank,
    rng: np.random.Generator,
    sets: int,
) -> Painting:
    """Place ``sets`` of bank lesions in lesion-free tissue that unseen networks predicted."""
    tissue = tissue_map(prediction, visit.brain)
    affine = np.eye(4)
    to_visit = register_to_template(Volume(tissue, affine))
    lesion_like = (visit.truth > 0) | (prediction.lesion >= SUSPECT)
    host = tissue.copy()
    host[ndimage.binary_dilation(lesion_like, iterations=KEEP_AWAY_VOXELS)] = Tissue.OUTSIDE
    draws = tuple(place_bank_lesions(rng, bank, host, affine, to_visit, None) for _ in range(sets))
    contrast = measure_contrast(visit.images, visit.present, visit.brain, visit.truth)
    return Painting(draws, contrast)


def save_painting(painting: Painting, path: Path) -> None:
    """Write the lesions to paint into a visit atomically."""
    arrays = {
        f"{name}{number}": getattr(draw, name)
        for number, draw in enumerate(painting.draws)
        for name in DRAW_FIELDS
    }
    with open_alone(path) as stream:
        np.savez_compressed(stream, contrast=painting.contrast, **arrays)


def load_painting(path: Path) -> Painting:
    """Read what :func:`save_painting` wrote."""
    with np.load(path, allow_pickle=False) as file:
        count = sum(name.startswith("voxels") for name in file.files)
        draws = (LesionDraw(*(file[f"{name}{n}"] for name in DRAW_FIELDS)) for n in range(count))
        return Painting(tuple(draws), file["contrast"])


def tissue_map(prediction: Prediction, brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Turn anatomy at 2 mm into tissue codes at 1 mm."""
    codes = CODES[prediction.anatomy.argmax(0)]
    for axis in range(3):
        codes = codes.repeat(2, axis)
    x, y, z = (slice(0, edge) for edge in brain.shape)
    return np.where(brain, codes[x, y, z], np.uint8(Tissue.AIR))


def paint(
    images: Array,
    share: Array,
    painted: Array,
    contrast: Sequence[float] | Array,
    plan: SynthesisPlan,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Add ``painted`` lesions to images (3, S, S, S); return images and lesion share (S, S, S)."""
    size = share.shape[0]
    strength = float(rng.uniform(0.4, 1.3))
    uneven = 1 + np.float32(plan.within_lesion) * smooth_field(rng, size, 4.0)
    result = images.copy()
    for channel in range(CHANNELS):
        amount = np.float32(contrast[channel] * strength * rng.uniform(0.7, 1.3))
        result[channel] += painted * uneven * amount
    return result, np.maximum(share, painted)
