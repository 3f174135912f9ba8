"""Label image, volumes and fractions of the brain from the anatomy that CNN-1 predicts.

Parenchymal fraction: Rudick et al., Neurology 1999, 53:1698. Ventricular fraction: Kalkers et al.,
Neurology 2001, 57:1253. Both depend on the method (Vågberg 2016, 10.1016/j.neurad.2016.08.002).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.lesions.instances import bounding_box
from bids_msseg.models.anatomy import CLASSES, LABELS, Anatomy

CEREBRUM = (Anatomy.CORTEX, Anatomy.WHITE_MATTER)
CEREBELLUM = (Anatomy.CEREBELLAR_CORTEX, Anatomy.CEREBELLAR_WHITE)
PARENCHYMA = (
    *CEREBRUM,
    *CEREBELLUM,
    Anatomy.DEEP_GREY,
    Anatomy.HIPPOCAMPUS_AMYGDALA,
    Anatomy.BRAINSTEM,
)
VENTRICLES = (Anatomy.VENTRICLE, Anatomy.CHOROID_PLEXUS)
"""The choroid plexus lies inside the ventricles and counts as part of their volume."""
SIDE_RATIO = (0.8, 1.25)
"""Assumed: hemispheres differ by a few percent; a half that failed differs by much more."""


def label_map(
    posterior: NDArray[np.floating],
    working_affine: Affine,
    brain: Volume,
    *,
    transform: Affine | None = None,
) -> NDArray[np.uint8]:
    """Label a brain mask by the most probable class; ``transform``: its mm to working mm."""
    if len(posterior) != CLASSES:
        raise ValueError(f"{len(posterior)} classes of anatomy, not {CLASSES}")
    labels = np.zeros(brain.shape, np.uint8)
    box = bounding_box(brain.data)
    inside = brain.data[box] != 0
    if inside.size:
        corner = brain.affine @ _translation([side.start for side in box])
        classes = _most_probable(posterior, working_affine, Volume(inside, corner), transform)
        labels[box] = np.where(inside, classes, 0)
    return labels


def _most_probable(
    posterior: NDArray[np.floating], affine: Affine, grid: Volume, transform: Affine | None
) -> NDArray[np.uint8]:
    # voxel 0 of 2 mm lies between voxels 0 and 1 of 1 mm; a rim repeats the voxels at the border
    coarse = affine @ _translation([-1.5, -1.5, -1.5]) @ np.diag([2.0, 2.0, 2.0, 1.0])

    def share(*classes: Anatomy) -> NDArray[np.floating]:
        summed = posterior[list(classes)].sum(0, dtype=np.float32)
        soft = Volume(np.pad(summed, 1, mode="edge"), coarse)
        found: NDArray[np.floating] = resample(
            soft, grid.shape, grid.affine, transform=transform
        ).data
        return found

    plexus = share(Anatomy.CHOROID_PLEXUS)
    best_share = share(*VENTRICLES)
    # ventricle and plexus compete with the other classes together, then with each other
    best_label = np.where(2 * plexus > best_share, Anatomy.CHOROID_PLEXUS, Anatomy.VENTRICLE)
    best_label = np.where(best_share > 0, best_label, 0).astype(np.uint8)
    for label in (label for label in LABELS if label not in VENTRICLES):
        candidate = share(label)
        better = candidate > best_share
        best_share[better] = candidate[better]
        best_label[better] = label
    return best_label


def _translation(voxels: list[float] | list[int]) -> Affine:
    shift = np.eye(4)
    shift[:3, 3] = voxels
    return shift


@dataclass(frozen=True, slots=True)
class BrainVolumes:
    """Volume in mL of each label of one brain; 0 for labels without voxels."""

    ml: Mapping[Anatomy, float]

    def total(self, *labels: Anatomy) -> float:
        """Return the volume of the given labels in mL, or of all labels if none is given."""
        return math.fsum(self.ml[label] for label in labels or self.ml)

    @property
    def parenchymal_fraction(self) -> float:
        """Parenchyma over the volume inside the brain mask; NaN if the mask is empty."""
        return _ratio(self.total(*PARENCHYMA), self.total())

    @property
    def ventricular_fraction(self) -> float:
        """Ventricles over parenchyma; NaN without parenchyma."""
        return _ratio(self.total(*VENTRICLES), self.total(*PARENCHYMA))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def measure_volumes(labels: NDArray[np.integer], voxel_volume: float) -> BrainVolumes:
    """Measure the volume of each label of a :func:`label_map`; ``voxel_volume`` in mm³."""
    counts = np.bincount(labels.reshape(-1), minlength=CLASSES)
    return BrainVolumes({label: int(counts[label]) * voxel_volume / 1000 for label in LABELS})


def side_ratio(labels: NDArray[np.integer], right: NDArray[np.bool_]) -> float:
    """Return the volume of the right over the left cerebrum; NaN if there is no left one."""
    cerebrum = np.isin(labels, CEREBRUM)
    return _ratio(float((cerebrum & right).sum()), float((cerebrum & ~right).sum()))


@dataclass(frozen=True, slots=True)
class Measure:
    """Definition of a brain measure: table column, formula and plausible range in adults."""

    name: str
    description: str
    value: Callable[[BrainVolumes], float]
    plausible: tuple[float, float]
    units: str = "mL"


def _volume(
    name: str, description: str, plausible: tuple[float, float], *labels: Anatomy
) -> Measure:
    return Measure(
        f"{name}_ml", f"Volume of {description}", lambda volumes: volumes.total(*labels), plausible
    )


# Limits are assumed, wide, for adults: they find a segmentation that failed, not a disease. One
# has a source: ventricular fraction, median .013 in controls and .029 in MS (Kalkers et al. 2001).
MEASURES: tuple[Measure, ...] = (
    _volume("parenchyma", "the brain's parenchyma, lesions included", (700, 1900), *PARENCHYMA),
    _volume("ventricles", "all ventricles with their choroid plexus", (3, 250), *VENTRICLES),
    _volume("choroid_plexus", "the choroid plexus", (0, 30), Anatomy.CHOROID_PLEXUS),
    _volume("cortex", "the cerebral cortex", (250, 900), Anatomy.CORTEX),
    _volume(
        "white_matter",
        "the cerebral white matter, lesions included",
        (200, 800),
        Anatomy.WHITE_MATTER,
    ),
    _volume("deep_grey", "thalamus and basal ganglia", (12, 80), Anatomy.DEEP_GREY),
    _volume(
        "hippocampus_amygdala",
        "hippocampus, amygdala and nucleus accumbens",
        (4, 25),
        Anatomy.HIPPOCAMPUS_AMYGDALA,
    ),
    _volume("cerebellum", "the cerebellum", (60, 220), *CEREBELLUM),
    _volume("brainstem", "brainstem and ventral diencephalon", (12, 60), Anatomy.BRAINSTEM),
    Measure(
        "brain_parenchymal_fraction",
        "Parenchyma divided by the volume inside the brain mask, which includes fluid",
        lambda volumes: volumes.parenchymal_fraction,
        (0.6, 0.99),
        "",
    ),
    Measure(
        "ventricular_fraction",
        "Ventricles divided by parenchyma",
        lambda volumes: volumes.ventricular_fraction,
        (0.003, 0.25),
        "",
    ),
)


def implausible(volumes: BrainVolumes, ratio: float | None = None) -> tuple[str, ...]:
    """List the measures and the side ratio outside the plausible range of adults."""
    values = [(measure.name, measure.value(volumes), measure.plausible) for measure in MEASURES]
    if ratio is not None:
        values.append(("right_left_ratio", ratio, SIDE_RATIO))
    # NaN lies within no limits
    return tuple(
        f"{name} {value:.3g} is not within {low:g}-{high:g}"
        for name, value, (low, high) in values
        if not low <= value <= high
    )


LABEL_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "index": {"Description": "Value in the label image"},
    "name": {"Description": "Name of the structure"},
    "abbreviation": {"Description": "Short name"},
    "color": {"Description": "Colour for display, #rrggbb"},
    "mapping": {"Description": "Value among the common image-derived labels of BIDS"},
    "volume_ml": {"Description": "Volume", "Units": "mL"},
}
"""Columns of the table beside the label image, and their description."""


def label_rows(volumes: BrainVolumes) -> list[dict[str, Any]]:
    """List the labels with their volumes, in the columns of :data:`LABEL_COLUMNS`."""
    return [
        {
            "index": int(value),
            "name": label.name,
            "abbreviation": label.abbreviation,
            "color": label.colour,
            "mapping": label.mapping,
            "volume_ml": volumes.ml[value],
        }
        for value, label in LABELS.items()
    ]
