"""Choice of fusion weights and thresholds on held-out visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.cascade import Refinement, fuse
from bids_msseg.models.inference import Array
from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.data.visits import LabelledVisit

WEIGHTS = (0.0, 0.2, 0.4)
SLICE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4)
THRESHOLD = 0.5
"""Of the final probability; one chosen on few sites suits other sites worse."""
PEAKS = (0.5, 0.7, 0.85)
FINALISTS = 3
"""Weights whose peak thresholds are compared by lesion F1, too."""
DETECTION_WEIGHT = 0.5
"""Weight of lesion F1 relative to Dice."""
MIN_VOLUME_MM3 = 3.0


@dataclass(frozen=True, slots=True)
class HeldOutVisit:
    """Ground truth and network output of a visit that the networks have not seen."""

    name: str
    site: str
    lesion: Array  # probability of CNN-1 at 1 mm (X, Y, Z)
    refinement: Refinement
    truth: NDArray[np.bool_]
    slice_mm: float  # slice thickness of the FLAIR
    averaged: bool = False  # thin slices were averaged to thick ones

    @classmethod
    def of(
        cls,
        visit: LabelledVisit,
        lesion: Array,
        refinement: Refinement,
        *,
        averaged: bool = False,
    ) -> HeldOutVisit:
        """Combine a visit with the output of the networks."""
        truth = visit.truth >= 0.5
        return cls(visit.name, visit.site, lesion, refinement, truth, visit.slice_mm, averaged)

    @property
    def participant(self) -> str:
        """``sub-<label>``."""
        return self.name.partition("_")[0]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of a mask with the ground truth at 1 mm."""

    dice: float
    lesion_f1: float
    false: int  # components that touch no lesion

    @property
    def value(self) -> float:
        """Score that the choice of an operating point maximises."""
        return self.dice + DETECTION_WEIGHT * self.lesion_f1


@dataclass(frozen=True, slots=True)
class Components:
    """Components above a threshold and their overlap with the ground truth, at 1 mm."""

    size: NDArray[np.int64]  # voxels of each component; 0 for the background, which is the first
    peak: Array  # highest probability of each
    overlap: NDArray[np.int64]  # voxels of each in the ground truth
    touching: NDArray[np.int64]  # (2, N): components and the lesions that they touch
    lesion_count: int  # in the ground truth
    truth_size: int

    @classmethod
    def find(cls, probability: Array, threshold: float, truth: NDArray[np.bool_]) -> Components:
        """Label 26-connected components; lesions have at least 3 mm³."""
        labels = label_lesions(probability >= threshold, voxel_volume=1.0)
        lesions = label_lesions(truth, voxel_volume=1.0, min_volume=MIN_VOLUME_MM3)
        inside, found = labels > 0, int(lesions.max(initial=0))
        numbers, touched = labels[inside], lesions[inside]
        size = np.bincount(numbers, minlength=1)
        peak = np.zeros(size.size, np.float32)
        np.maximum.at(peak, numbers, probability[inside])
        overlap = np.bincount(numbers[truth[inside]], minlength=size.size)
        both = np.unique(
            numbers[touched > 0].astype(np.int64) * (found + 1) + touched[touched > 0]
        )
        pairs = np.stack(np.divmod(both, found + 1))
        return cls(size, peak, overlap, pairs, found, int(np.count_nonzero(truth)))

    def agreement(self, peak_threshold: float) -> Agreement:
        """Measure Dice, lesion F1 (any overlap) and false components of those with that peak."""
        kept = self.peak >= peak_threshold
        total = int(self.size[kept].sum()) + self.truth_size
        dice = 2 * int(self.overlap[kept].sum()) / total if total else 1.0
        large = kept & (self.size >= MIN_VOLUME_MM3)
        count, true = (int(mask.sum()) for mask in (large, large & (self.overlap > 0)))
        detected = len(np.unique(self.touching[1, kept[self.touching[0]]]))
        precision, recall = true / max(count, 1), detected / max(self.lesion_count, 1)
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        return Agreement(dice, f1, count - true)


class PointChooser:
    """Choice of weights by the best Dice, then of the peak threshold by Dice and lesion F1."""

    def __init__(
        self,
        visits: Sequence[HeldOutVisit],
        candidate_threshold: float,
        slice_weights: Sequence[float] = SLICE_WEIGHTS,
    ) -> None:
        self.visits = tuple(visits)
        default = CascadePoint(candidate_threshold=candidate_threshold, threshold=THRESHOLD)
        self._points = [
            replace(default, voxel_weight=voxel, lesion_weight=lesion, slice_weight=slice_weight)
            for voxel, lesion, slice_weight in product(WEIGHTS, WEIGHTS, slice_weights)
        ]
        self._dice = np.array([[_dice(visit, p) for p in self._points] for visit in self.visits])
        self._components: dict[tuple[int, CascadePoint], Components] = {}

    def choose(self, names: Sequence[str]) -> CascadePoint:
        """Choose the best operating point for the named visits, at least one."""
        rows = [row for row, visit in enumerate(self.visits) if visit.name in names]
        dice = self._mean_over_sites(rows, self._dice[rows])
        # the best slice weight of each pair of weights of CNN-2
        pairs = dice.reshape(len(WEIGHTS) ** 2, -1)
        numbers = np.arange(dice.size).reshape(pairs.shape)[range(len(pairs)), pairs.argmax(1)]
        best = numbers[np.argsort(-pairs.max(1), kind="stable")][:FINALISTS]
        cuts: list[CascadePoint] = [
            replace(self._points[number], peak_threshold=peak)
            for number in best.tolist()
            for peak in PEAKS
        ]
        values = np.array([[self.measure(row, cut).value for cut in cuts] for row in rows])
        return cuts[int(self._mean_over_sites(rows, values).argmax())]

    def measure(self, row: int, point: CascadePoint) -> Agreement:
        """Measure one visit at one point."""
        visit, key = self.visits[row], (row, replace(point, peak_threshold=0.0))
        if key not in self._components:
            probability = np.zeros(visit.truth.shape, np.float32)
            probability[visit.refinement.lesion > 0] = _fuse_candidates(visit, point)
            found = Components.find(probability, point.threshold, visit.truth)
            self._components[key] = found
        return self._components[key].agreement(point.peak_threshold)

    def _mean_over_sites(self, rows: Sequence[int], values: Array) -> Array:
        participants: dict[str, dict[str, list[Array]]] = {}
        for row, value in zip(rows, values, strict=True):
            visit = self.visits[row]
            participants.setdefault(visit.site, {}).setdefault(visit.participant, []).append(value)
        sites = [
            [np.mean(scores, 0) for scores in members.values()]
            for members in participants.values()
        ]
        means: Array = np.mean([np.mean(site, 0) for site in sites], 0)
        return means


def _fuse_candidates(visit: HeldOutVisit, point: CascadePoint) -> Array:
    """Return the final probability of the voxels of candidates."""
    inside = visit.refinement.lesion > 0
    refinement = Refinement(visit.refinement.voxels[inside], visit.refinement.lesion[inside])
    return fuse(visit.lesion[inside], refinement, point, visit.slice_mm)


def _dice(visit: HeldOutVisit, point: CascadePoint) -> float:
    """Compute the Dice from the candidates alone."""
    predicted = _fuse_candidates(visit, point) >= point.threshold
    true = visit.truth[visit.refinement.lesion > 0]
    size = np.count_nonzero(predicted) + np.count_nonzero(visit.truth)
    return 2 * np.count_nonzero(predicted & true) / size if size else 1.0
