"""Choice of fusion weights and thresholds on held-out visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.cascade import Refinement, fuse, require_peak
from bids_msseg.models.inference import Array
from bids_msseg.models.weights import CascadePoint

WEIGHTS = (0.0, 0.2, 0.4)
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)
PEAKS = (0.0, 0.5, 0.7, 0.85)
FINALISTS = 3
"""Weights whose thresholds are compared by lesion F1, too."""
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


def measure(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Agreement:
    """Measure Dice, lesion F1 and false components (26-connected, at least 3 mm³, any overlap)."""
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    both = mask & truth
    dice = 2 * np.count_nonzero(both) / total if total else 1.0
    pred, ref = (
        label_lesions(image, voxel_volume=1.0, min_volume=MIN_VOLUME_MM3)
        for image in (mask, truth)
    )
    matched = len(np.unique(pred[(pred > 0) & truth]))
    detected = len(np.unique(ref[(ref > 0) & mask]))
    precision, recall = matched / max(int(pred.max()), 1), detected / max(int(ref.max()), 1)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Agreement(dice, f1, int(pred.max()) - matched)


class PointChooser:
    """Choice of fusion weights by the best Dice, then of thresholds by Dice and lesion F1."""

    def __init__(self, visits: Sequence[HeldOutVisit], candidate_threshold: float) -> None:
        self.visits = tuple(visits)
        self._default = CascadePoint(candidate_threshold=candidate_threshold)
        self._points = [
            replace(self._default, voxel_weight=voxel, lesion_weight=lesion)
            for voxel, lesion in product(WEIGHTS, WEIGHTS)
        ]
        self._curves = np.array(
            [[_curve(visit, p) for p in self._points] for visit in self.visits]
        )
        self._agreements: dict[tuple[str, CascadePoint], Agreement] = {}

    def choose(self, names: Sequence[str]) -> CascadePoint:
        """Choose the best operating point for the named visits, at least one."""
        rows = [row for row, visit in enumerate(self.visits) if visit.name in names]
        dice = self._mean_over_sites(rows, self._curves[rows])
        best = np.argsort(-dice.max(1), kind="stable")[:FINALISTS]
        cuts: list[CascadePoint] = [
            replace(self._points[number], threshold=low, peak_threshold=max(low, high))
            for number in best.tolist()
            for low, high in product(THRESHOLDS, PEAKS)
            if high == 0 or high > low
        ]
        values = np.array([[self.measure(row, cut).value for cut in cuts] for row in rows])
        return cuts[int(self._mean_over_sites(rows, values).argmax())]

    def measure(self, row: int, point: CascadePoint) -> Agreement:
        """Measure one visit at one point."""
        visit = self.visits[row]
        key = (visit.name, point)
        if key not in self._agreements:
            probability = fuse(visit.lesion, visit.refinement, point)
            filtered = require_peak(probability, point.threshold, point.peak_threshold)
            self._agreements[key] = measure(filtered >= point.threshold, visit.truth)
        return self._agreements[key]

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


def _curve(visit: HeldOutVisit, point: CascadePoint) -> list[float]:
    """Compute the Dice at each of ``THRESHOLDS`` from the candidates alone."""
    probability = fuse(visit.lesion, visit.refinement, point)
    inside = visit.refinement.lesion > 0
    values, true = probability[inside], visit.truth[inside]
    total = np.count_nonzero(visit.truth)
    curve = []
    for threshold in THRESHOLDS:
        predicted = values >= threshold
        size = np.count_nonzero(predicted) + total
        curve.append(2 * np.count_nonzero(predicted & true) / size if size else 1.0)
    return curve
