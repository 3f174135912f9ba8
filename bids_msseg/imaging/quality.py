"""Check of the input images for unusual properties, before segmentation.

Nearly everything is measured on the normalised stack (1 mm, standard deviations of the brain), so
that the training visits are measured in the same way and other visits can be compared with them. A
flag never stops a visit; it is reported in every table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.brain import brain_notes
from bids_msseg.imaging.normalise import CONTRASTS
from bids_msseg.imaging.quality_measures import PERCENTILES, Measures

LOOK = (*(f"p{percentile}" for percentile in PERCENTILES), "shell", "rise")
"""What tells contrasts apart: percentiles; grey matter below the rim; how white matter differs."""
TEXTURE = ("noise_x", "noise_y", "noise_z", "step_x", "step_y", "step_z")
MIN_SPREAD = {"noise": 0.05, "step": 0.05, "slice_mm": 1.0}
"""A training of few visits must not take its own narrowness for the world's."""
MIN_SPREAD_OF_LOOK = 0.1
MIN_VISITS = 4
MIN_TYPICAL_DISTANCE = 0.1
MAX_DISTANCE_RATIO = 0.8
"""Another contrast must be this much nearer than the own one before it is named."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits beyond which a measure is a fault; ``seen`` is a lower limit.

    ``noise`` (standard deviations) and ``slice_mm`` apply without training visits; otherwise
    ``noisier`` and ``thicker`` multiply the training's maximum. Normal values: ``cut_cm2`` up to
    27 (half a head: 100), ``jump`` up to 0.25 standard deviations with 8 mm slices.
    """

    cut_cm2: float = 40.0
    seen: float = 0.95
    jump: float = 0.34
    ripple: float = 0.24
    noise: float = 0.45
    slice_mm: float = 8.5
    noisier: float = 1.3
    thicker: float = 1.15
    distance: float = 5.5


@dataclass(frozen=True, slots=True)
class TrainingVisits:
    """Measures of the training visits, with which other visits are compared.

    There is one result of :func:`~bids_msseg.imaging.quality_measures.measure_visit` per visit.
    """

    measures: tuple[Measures, ...] = field(default=())

    def distance(self, measures: Measures) -> float | None:
        """Return the distance of a visit from the nearest training visit.

        It is the root mean square of standardised differences of the farthest contrast; 1 is the
        median distance between nearest training visits. The mean of all visits is not used,
        because several scanners have no common centre. Returns None if too few training visits
        have the same contrasts.
        """
        distances = [
            distance
            for distance in (self._contrast_distance(measures, c) for c in CONTRASTS)
            if distance is not None
        ]
        return max(distances, default=None)

    def _contrast_distance(self, measures: Measures, contrast: str) -> float | None:
        names = [f"{contrast}_{name}" for name in (*LOOK, *TEXTURE, "slice_mm")]
        reference = _table(self.measures, names)
        if len(reference) < MIN_VISITS or not _has_all(measures, names):
            return None
        spread = np.maximum(reference.std(axis=0), [_least_spread(name) for name in names])
        scaled_reference = reference / spread
        scaled_measures = np.array([measures[name] for name in names]) / spread
        distances = _rms(scaled_reference[:, None] - scaled_reference[None])
        np.fill_diagonal(distances, np.inf)
        typical = max(float(np.median(distances.min(axis=1))), MIN_TYPICAL_DISTANCE)
        return float(_rms(scaled_reference - scaled_measures).min()) / typical

    def likeness(self, measures: Measures, contrast: str) -> dict[str, float]:
        """Return the distance of an image from each contrast of the training.

        ``contrast`` is the contrast as which the image was given. The distance is the root mean
        square difference from the nearest training image, in standard deviations within contrasts.
        Contrasts with too few visits are left out.
        """
        names = [f"{contrast}_{name}" for name in LOOK]
        if not _has_all(measures, names):
            return {}
        tables = {c: _table(self.measures, [f"{c}_{name}" for name in LOOK]) for c in CONTRASTS}
        tables = {c: table for c, table in tables.items() if len(table) >= MIN_VISITS}
        if not tables:
            return {}
        within = np.sqrt(np.mean([table.var(axis=0) for table in tables.values()], axis=0))
        spread = np.maximum(within, MIN_SPREAD_OF_LOOK)
        values = np.array([measures[name] for name in names])
        return {c: float(_rms((table - values) / spread).min()) for c, table in tables.items()}

    def maximum(self, names: Sequence[str]) -> float | None:
        """Return the largest of some measures over all training visits."""
        values = [visit[name] for visit in self.measures for name in names if name in visit]
        return max(values, default=None)


def find_faults(
    measures: Measures,
    training: TrainingVisits | None = None,
    limits: Limits | None = None,
) -> tuple[str, ...]:
    """List what is unusual about a visit, one sentence each.

    Without ``training``, contrasts are not compared, and noise and slice thickness have absolute
    limits.
    """
    visits, bounds = training or TrainingVisits(), limits or Limits()
    faults = [*_whole_faults(measures, bounds)]
    for contrast in CONTRASTS:
        if f"{contrast}_seen" in measures:
            faults += _look_faults(measures, contrast, visits)
            faults += _image_faults(measures, contrast, visits, bounds)
    distance = visits.distance(measures)
    if distance is not None and distance > bounds.distance:
        faults.append(
            f"the distance to the training images is {distance:.1f} times the usual distance "
            "between training images: expect more errors than in held-out patients"
        )
    return tuple(faults)


def _whole_faults(measures: Measures, limits: Limits) -> list[str]:
    if measures["brain_ml"] == 0:
        return ["the brain mask is empty"]
    # the sentence of the brain's own check, which knows the usual volumes
    faults = list(brain_notes(np.ones(1, bool), measures["brain_ml"] * 1000))
    if measures["cut_cm2"] > limits.cut_cm2:
        faults.append(
            "the field of view cuts off a part of the brain: the brain mask touches the edge over "
            f"{measures['cut_cm2']:.0f} cm²"
        )
    return faults


def _look_faults(measures: Measures, contrast: str, training: TrainingVisits) -> list[str]:
    distances = training.likeness(measures, contrast)
    if contrast not in distances:
        return []
    nearest = min(distances, key=lambda candidate: distances[candidate])
    if distances[nearest] >= MAX_DISTANCE_RATIO * distances[contrast]:
        return []
    return [f"the {contrast} image looks like a {nearest} image: check the file names"]


def _image_faults(
    measures: Measures, contrast: str, training: TrainingVisits, limits: Limits
) -> list[str]:
    values = {name: measures[f"{contrast}_{name}"] for name in ("seen", "ripple", "slice_mm")}
    faults = []
    if values["seen"] < limits.seen:
        share = 100 * values["seen"]
        faults.append(f"the {contrast} image covers only {share:.0f} % of the brain")
    names = [f"{contrast}_noise_{axis}" for axis in "xyz"]
    noise = max(measures[name] for name in names)
    highest = training.maximum(names)
    if noise > (limits.noise if highest is None else limits.noisier * highest):
        faults.append(
            f"the {contrast} image is noisy: noise of {noise:.2f} standard deviations of the brain"
        )
    thickest = training.maximum([f"{contrast}_slice_mm"])
    if values["slice_mm"] > (limits.slice_mm if thickest is None else limits.thicker * thickest):
        faults.append(f"the {contrast} image has thick slices: {values['slice_mm']:.1f} mm")
    if measures.get(f"{contrast}_jump", 0.0) > limits.jump:
        faults.append(f"the brightness of the {contrast} image differs between slices")
    if values["ripple"] > limits.ripple:
        faults.append(f"the {contrast} image shows repeated edges, as from motion")
    return faults


def _least_spread(name: str) -> float:
    kind = name.partition("_")[2]
    return MIN_SPREAD.get(kind.partition("_")[0], MIN_SPREAD.get(kind, MIN_SPREAD_OF_LOOK))


def _table(visits: Sequence[Measures], names: Sequence[str]) -> NDArray[np.float64]:
    rows = [[visit[name] for name in names] for visit in visits if _has_all(visit, names)]
    return np.array(rows, float).reshape(len(rows), len(names))


def _has_all(measures: Measures, names: Sequence[str]) -> bool:
    return all(name in measures for name in names)


def _rms(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.sqrt(np.mean(np.square(differences), axis=-1))
    return result
