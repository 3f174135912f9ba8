"""Tissue classes of a head, sets of lesions in it, and files of prepared label maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.io.atomic import open_alone
from bids_msseg.lesions.regions import Region
from bids_msseg.training.synthesis.choroid import ChoroidTerrain, place_choroid
from bids_msseg.training.synthesis.placing import Terrain, place_lesions, prepare_terrain
from bids_msseg.training.synthesis.statistics import LesionStatistics

FAR = 255
CLOSING_MM = 6.0
HALO_STEPS = 20
"""Steps a mm in which distance to the ventricles is kept."""

BROAD_STATISTICS = LesionStatistics(
    median_volume=30.0,
    volume_sigma=1.6,
    confluent_share=0.04,
    confluent_volume=3000.0,
    confluent_sigma=1.0,
    smallest=3.0,
    largest=40000.0,
    places={
        Region.PERIVENTRICULAR: 0.5,
        Region.DEEP_WHITE_MATTER: 0.2,
        Region.JUXTACORTICAL: 0.2,
        Region.INFRATENTORIAL: 0.1,
    },
    periventricular_from=1500.0,
    edge_mm=(0.6, 1.6),
)
"""Wide ranges that were not measured on any patient, who may thus be a test patient."""

LOAD_ML = (0.3, 60.0)
"""Range of lesion loads that are placed, spread evenly over its logarithm."""


class Tissue(IntEnum):
    """Tissue classes of the voxels of a head."""

    AIR = 0
    WHITE = 1
    CORTEX = 2
    VENTRICLE = 3
    CEREBELLAR_WHITE = 4
    CEREBELLAR_CORTEX = 5
    THALAMUS = 6
    CAUDATE = 7
    PUTAMEN = 8
    PALLIDUM = 9
    BRAINSTEM = 10
    HIPPOCAMPUS = 11
    VENTRAL_DC = 12
    FLUID = 13
    VESSEL = 14
    SEPTUM = 15
    CHOROID = 16
    OUTSIDE = 17


_FREESURFER: Mapping[Tissue, tuple[int, ...]] = {
    Tissue.WHITE: (2, 41, 77, 251, 252, 253, 254, 255),
    Tissue.CORTEX: (3, 42),
    Tissue.VENTRICLE: (4, 5, 14, 15, 43, 44, 72),
    Tissue.CEREBELLAR_WHITE: (7, 46),
    Tissue.CEREBELLAR_CORTEX: (8, 47),
    Tissue.THALAMUS: (10, 49),
    Tissue.CAUDATE: (11, 50),
    Tissue.PUTAMEN: (12, 51),
    Tissue.PALLIDUM: (13, 52),
    Tissue.BRAINSTEM: (16,),
    Tissue.HIPPOCAMPUS: (17, 18, 26, 53, 54, 58, 136, 137, 163, 164),
    Tissue.VENTRAL_DC: (28, 60, 85),
    Tissue.FLUID: (24,),
    Tissue.VESSEL: (30, 62),
}
LATERAL = ((4, 5), (43, 44))
FISSURE = (10, 17, 49, 53)
"""Thalamus and hippocampus, on which the choroid plexus of the lateral ventricles lies."""
LESION_LABELS = (25, 57)
EXTRA_CEREBRAL: tuple[int, ...] = (502, 506, 507, 508, 509, 511, 512, 514, 515, 516, 530)
"""Labels outside the brain. Each becomes a tissue of its own, from ``FIRST_EXTRA`` on."""
FIRST_EXTRA = len(Tissue)
TISSUES = FIRST_EXTRA + len(EXTRA_CEREBRAL)


@dataclass(frozen=True, slots=True)
class LesionDraw:
    """One sparse set of lesions of a label map, as flat indices into (X, Y, Z)."""

    voxels: NDArray[np.int32]
    fraction: NDArray[np.uint8]  # share of lesion, 255 for the whole voxel
    owner: NDArray[np.int16]  # number of the lesion from 1, or 0 in the soft rim
    choroid: NDArray[np.int32]  # voxels of choroid plexus, which is no lesion


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Prepared label map of a head in RAS orientation with 1 mm voxels."""

    name: str
    tissue: NDArray[np.uint8]  # Tissue and, from FIRST_EXTRA on, extra-cerebral labels
    rim: NDArray[np.uint8]  # distance to the brain (sulci included) in units of 0.1 mm
    halo: NDArray[np.uint8]  # distance to the lateral ventricles in units of 0.05 mm
    draws: tuple[LesionDraw, ...]


def tissue_classes(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Convert FreeSurfer labels to tissues, with a septum between the lateral ventricles."""
    table = np.full(int(labels.max()) + 1, Tissue.OUTSIDE, np.uint8)
    table[0] = Tissue.AIR
    for tissue, codes in _FREESURFER.items():
        table[[code for code in codes if code < len(table)]] = tissue
    classes: NDArray[np.uint8] = table[labels]
    left, right = (
        ndimage.binary_dilation(np.isin(labels, side), iterations=3) for side in LATERAL
    )
    classes[left & right & (classes == Tissue.WHITE)] = Tissue.SEPTUM
    return classes


def lesion_terrain(tissue: NDArray[np.uint8]) -> Terrain:
    """Find where lesions may begin in an image of :class:`Tissue`."""
    white = (Tissue.WHITE, Tissue.CEREBELLAR_WHITE, Tissue.BRAINSTEM)
    below = (Tissue.CEREBELLAR_WHITE, Tissue.CEREBELLAR_CORTEX, Tissue.BRAINSTEM)
    return prepare_terrain(
        np.isin(tissue, white),
        tissue == Tissue.VENTRICLE,
        tissue == Tissue.CORTEX,
        np.isin(tissue, below),
    )


def draw_lesions(
    rng: np.random.Generator,
    terrain: Terrain,
    plexus: ChoroidTerrain | None,
    statistics: LesionStatistics,
) -> LesionDraw:
    """Place one set of lesions of parametric shape, its load drawn from ``LOAD_ML``."""
    load = float(np.exp(rng.uniform(*np.log(LOAD_ML))))
    placed = place_lesions(rng, terrain, statistics=statistics, load=load)
    return sparse_lesions(placed.labels, placed.soft, place_choroid(rng, plexus))


def sparse_lesions(
    labels: NDArray[np.int32], soft: NDArray[np.float32], choroid: NDArray[np.int32]
) -> LesionDraw:
    """Return the voxels of lesions as a sparse set."""
    share = np.rint(255 * soft.ravel()).astype(np.uint8)
    voxels = np.flatnonzero(share).astype(np.int32)
    owner = labels.ravel()[voxels].astype(np.int16)
    return LesionDraw(voxels, share[voxels], owner, choroid)


def brain_distance(tissue: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Measure the distance to the brain, which includes sulci as in brain masks."""
    outer = (Tissue.AIR, Tissue.FLUID, Tissue.OUTSIDE, Tissue.VESSEL)
    brain = ~np.isin(tissue, outer)
    near = ndimage.distance_transform_edt(~brain) <= CLOSING_MM
    closed = brain | (ndimage.distance_transform_edt(near) > CLOSING_MM)
    distance = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(closed))
    steps: NDArray[np.uint8] = np.minimum(10 * distance, FAR).astype(np.uint8)
    return steps


def ventricle_distance(lateral: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Measure the distance to the lateral ventricles in steps of ``1 / HALO_STEPS`` mm."""
    if not lateral.any():
        return np.full(lateral.shape, FAR, np.uint8)
    distance = ndimage.distance_transform_edt(~lateral)
    steps: NDArray[np.uint8] = np.minimum(HALO_STEPS * distance, FAR).astype(np.uint8)
    return steps


def save_label_map(label_map: LabelMap, path: Path) -> None:
    """Write a prepared label map without pickle, atomically."""
    arrays: dict[str, NDArray[np.generic]] = {
        "name": np.array(label_map.name),
        "tissue": label_map.tissue,
        "rim": label_map.rim,
        "halo": label_map.halo,
    }
    for number, draw in enumerate(label_map.draws):
        for field in ("voxels", "fraction", "owner", "choroid"):
            arrays[f"{field}{number}"] = getattr(draw, field)
    with open_alone(path) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def load_label_map(path: Path) -> LabelMap:
    """Read what :func:`save_label_map` wrote."""
    with np.load(path, allow_pickle=False) as file:
        count = sum(name.startswith("voxels") for name in file.files)
        draws = tuple(
            LesionDraw(*(file[f"{f}{n}"] for f in ("voxels", "fraction", "owner", "choroid")))
            for n in range(count)
        )
        return LabelMap(str(file["name"]), file["tissue"], file["rim"], file["halo"], draws)
