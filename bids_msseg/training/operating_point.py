"""Choice of fusion weights and thresholds on held-out visits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.cascade import fuse
from bids_msseg.models.inference import Array
from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.data.visits import LabelledVisit

WEIGHTS = (0.0, 0.2, 0.4)
"""Of CNN-2."""
SLICE_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4)
THRESHOLD = 0.5
"""Of the final probability; one chosen on few sites suits other sites worse."""
DETECTION_WEIGHT = 0.5
"""Weight of lesion F1 relative to Dice."""
MIN_VOLUME_MM3 = 3.0


@dataclass(frozen=True, slots=True)
class HeldOutVisit:
    """Ground truth and network output of a visit that the networks have not seen."""

    name: str
    site: str
    lesion: Array  # probability of CNN-1 at 1 mm (x, y, z), around candidates and lesions
    refined: Array  # probability of CNN-2 for whole candidates
    truth: NDArray[np.bool_]
    slice_mm: float  # slice thickness of the FLAIR
    averaged: bool = False  # thin slices were averaged to thick ones

    @classmethod
    def of(
        cls,
        visit: LabelledVisit,
        lesion: Array,
        refined: Array,
        *,
        averaged: bool = False,
    ) -> HeldOutVisit:
        """Combine a visit with the output of the networks, around candidates and lesions."""
        truth = visit.truth >= 0.5
        inside = ndimage.find_objects((truth | (refined > 0)).astype(np.uint8))
        box = inside[0] if inside else ()
        return cls(
            visit.name, visit.site, lesion[box], refined[box], truth[box], visit.slice_mm, averaged
        )

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


def measure_agreement(
    mask: NDArray[np.bool_], truth: NDArray[np.bool_], lesions: NDArray[np.int32] | None = None
) -> Agreement:
    """Measure Dice, lesion F1 (any overlap) and false components of a mask at 1 mm.

    ``lesions`` are the numbered 26-connected components of ``truth`` of at least 3 mm³.
    """
    if lesions is None:
        lesions = _number_lesions(truth)
    found = _number_lesions(mask)
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    dice = 2 * np.count_nonzero(mask & truth) / total if total else 1.0
    true = np.unique(found[truth & (found > 0)]).size
    detected = np.unique(lesions[mask & (lesions > 0)]).size
    count = int(found.max(initial=0))
    precision, recall = true / max(count, 1), detected / max(int(lesions.max(initial=0)), 1)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Agreement(dice, f1, count - true)


def _number_lesions(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    return label_lesions(mask, voxel_volume=1.0, min_volume=MIN_VOLUME_MM3)


class PointChooser:
    """Choice of the weights with the best Dice and lesion F1 on held-out visits."""

    def __init__(
        self,
        visits: Sequence[HeldOutVisit],
        candidate_threshold: float,
        slice_weights: Sequence[float] = SLICE_WEIGHTS,
    ) -> None:
        self.visits = tuple(visits)
        default = CascadePoint(candidate_threshold=candidate_threshold, threshold=THRESHOLD)
        self._points = [
            replace(default, refinement_weight=weight, slice_weight=slice_weight)
            for weight, slice_weight in product(WEIGHTS, slice_weights)
        ]
        self._lesions = [_number_lesions(visit.truth) for visit in self.visits]
        rows = range(len(self.visits))
        self._values = np.array([[self.measure(r, p).value for p in self._points] for r in rows])

    def choose(self, names: Sequence[str]) -> CascadePoint:
        """Choose the best operating point for the named visits, at least one."""
        rows = [row for row, visit in enumerate(self.visits) if visit.name in names]
        return self._points[int(self._mean_over_sites(rows, self._values[rows]).argmax())]

    def measure(self, row: int, point: CascadePoint) -> Agreement:
        """Measure one visit at one point."""
        visit = self.visits[row]
        fused = fuse(visit.lesion, visit.refined, point, visit.slice_mm)
        return measure_agreement(fused >= point.threshold, visit.truth, self._lesions[row])

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
