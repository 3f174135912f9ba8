"""Check of the input images for unusual properties; a flag is reported and stops no visit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.brain import brain_notes
from bids_msseg.imaging.normalise import CONTRASTS
from bids_msseg.imaging.quality_measures import PERCENTILES, Measures

APPEARANCE = (*(f"p{percentile}" for percentile in PERCENTILES), "shell", "rise")
"""Measures that differ between contrasts: percentiles, outer grey matter, white matter."""
TEXTURE = ("noise_x", "noise_y", "noise_z", "step_x", "step_y", "step_z")
MIN_SPREAD = {"noise": 0.05, "step": 0.05, "slice_mm": 1.0}
"""Lower limits, because few training visits underestimate the spread."""
MIN_APPEARANCE_SPREAD = 0.1
MIN_VISITS = 4
MIN_TYPICAL_DISTANCE = 0.1
MAX_DISTANCE_RATIO = 0.8
"""Another contrast is named if its distance is below this share of that of the given one."""
MAX_CUT_CM2 = 40.0  # normal up to 27, half a head 100
MIN_SEEN = 0.95
MAX_JUMP = 0.34  # SDs; normal up to 0.25 with 8 mm slices
MAX_RIPPLE = 0.24
MAX_NOISE = 0.45  # SDs, without training visits
MAX_SLICE_MM = 8.5  # without training visits
NOISIER, THICKER = 1.3, 1.15  # times the training's maximum
MAX_DISTANCE = 5.5


@dataclass(frozen=True, slots=True)
class TrainingVisits:
    """Measures of the training visits, with which other visits are compared."""

    measures: tuple[Measures, ...] = ()

    def distance(self, measures: Measures) -> float | None:
        """Return the distance from the nearest training visit; None if too few are comparable."""
        # not from the mean of all visits: several scanners have no common centre
        distances = [
            distance
            for distance in (self._contrast_distance(measures, c) for c in CONTRASTS)
            if distance is not None
        ]
        return max(distances, default=None)

    def _contrast_distance(self, measures: Measures, contrast: str) -> float | None:
        names = [f"{contrast}_{name}" for name in (*APPEARANCE, *TEXTURE, "slice_mm")]
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

    def distances_by_contrast(self, measures: Measures, contrast: str) -> dict[str, float]:
        """Return the distance of an image, given as ``contrast``, from each training contrast."""
        names = [f"{contrast}_{name}" for name in APPEARANCE]
        if not _has_all(measures, names):
            return {}
        tables = {
            c: _table(self.measures, [f"{c}_{name}" for name in APPEARANCE]) for c in CONTRASTS
        }
        tables = {c: table for c, table in tables.items() if len(table) >= MIN_VISITS}
        if not tables:
            return {}
        within = np.sqrt(np.mean([table.var(axis=0) for table in tables.values()], axis=0))
        spread = np.maximum(within, MIN_APPEARANCE_SPREAD)
        values = np.array([measures[name] for name in names])
        return {c: float(_rms((table - values) / spread).min()) for c, table in tables.items()}

    def maximum(self, names: Sequence[str]) -> float | None:
        """Return the largest of some measures over all training visits."""
        values = [visit[name] for visit in self.measures for name in names if name in visit]
        return max(values, default=None)


def find_faults(measures: Measures, training: TrainingVisits | None = None) -> tuple[str, ...]:
    """List what is unusual about a visit; without ``training``, limits are absolute."""
    visits = training or TrainingVisits()
    faults = _whole_faults(measures)
    for contrast in CONTRASTS:
        if f"{contrast}_seen" in measures:
            faults += _appearance_faults(measures, contrast, visits)
            faults += _image_faults(measures, contrast, visits)
    distance = visits.distance(measures)
    if distance is not None and distance > MAX_DISTANCE:
        faults.append(
            f"the distance to the training images is {distance:.1f} times the usual distance "
            "between training images: expect more errors than in held-out patients"
        )
    return tuple(faults)


def _whole_faults(measures: Measures) -> list[str]:
    if measures["brain_ml"] == 0:
        return ["the brain mask is empty"]
    faults = list(brain_notes(np.ones(1, bool), measures["brain_ml"] * 1000))
    if measures["cut_cm2"] > MAX_CUT_CM2:
        faults.append(
            "the field of view cuts off a part of the brain: the brain mask touches the edge over "
            f"{measures['cut_cm2']:.0f} cm²"
        )
    return faults


def _appearance_faults(measures: Measures, contrast: str, training: TrainingVisits) -> list[str]:
    distances = training.distances_by_contrast(measures, contrast)
    if contrast not in distances:
        return []
    nearest = min(distances, key=lambda candidate: distances[candidate])
    if distances[nearest] >= MAX_DISTANCE_RATIO * distances[contrast]:
        return []
    return [f"the {contrast} image looks like a {nearest} image: check the file names"]


def _image_faults(measures: Measures, contrast: str, training: TrainingVisits) -> list[str]:
    seen, ripple, slice_mm = (
        measures[f"{contrast}_{name}"] for name in ("seen", "ripple", "slice_mm")
    )
    faults = []
    if seen < MIN_SEEN:
        faults.append(f"the {contrast} image covers only {100 * seen:.0f} % of the brain")
    names = [f"{contrast}_noise_{axis}" for axis in "xyz"]
    noise = max(measures[name] for name in names)
    highest = training.maximum(names)
    if noise > (MAX_NOISE if highest is None else NOISIER * highest):
        faults.append(
            f"the {contrast} image is noisy: noise of {noise:.2f} standard deviations of the brain"
        )
    thickest = training.maximum([f"{contrast}_slice_mm"])
    if slice_mm > (MAX_SLICE_MM if thickest is None else THICKER * thickest):
        faults.append(f"the {contrast} image has thick slices: {slice_mm:.1f} mm")
    if measures.get(f"{contrast}_jump", 0.0) > MAX_JUMP:
        faults.append(f"the brightness of the {contrast} image differs between slices")
    if ripple > MAX_RIPPLE:
        faults.append(f"the {contrast} image shows repeated edges, as from motion")
    return faults


def _least_spread(name: str) -> float:
    kind = name.partition("_")[2]
    return MIN_SPREAD.get(kind.partition("_")[0], MIN_SPREAD.get(kind, MIN_APPEARANCE_SPREAD))


def _table(visits: Sequence[Measures], names: Sequence[str]) -> NDArray[np.float64]:
    rows = [[visit[name] for name in names] for visit in visits if _has_all(visit, names)]
    return np.array(rows, float).reshape(len(rows), len(names))


def _has_all(measures: Measures, names: Sequence[str]) -> bool:
    return all(name in measures for name in names)


def _rms(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.sqrt(np.mean(np.square(differences), axis=-1))
    return result
