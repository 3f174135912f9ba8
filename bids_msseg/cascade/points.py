"""Thresholds, chosen on patients that neither the nets nor the reported numbers have seen.

For an outer test fold, each inner fold is segmented by a candidate net and a refinement net that
were trained on the patients of neither; what serves best there is then used on the outer fold.
With three folds, the candidates from which the inner refinement net learnt were found by a net
that knows the inner fold: thresholds may come out a little optimistic there, but nothing of the
outer fold has a part in them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.cascade.inference import correction, fuse, judge_voxels, refine
from bids_msseg.cascade.judging import judges_of
from bids_msseg.cascade.stages import (
    JUDGE,
    SECOND,
    VERDICT,
    Workshop,
    gate_of,
    out_of_fold,
    refinement_net,
)
from bids_msseg.io.atomic import open_alone
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.thresholds import (
    best_dice_threshold,
    cautious_threshold,
    choose_threshold,
)
from bids_msseg.models.weights import OperatingPoint

SHARES = (0.25, 0.5)
"""Weights of CNN-2's voxel probability to choose from. CNN-1 keeps half a say: on an unseen
scanner it loses fewer lesions."""
KEEPS = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25)
"""Lesion probabilities to keep candidates from, to choose from; strictest first."""
JUDGES = (0.3, JUDGE)
"""Weights of the judge to choose from, where there is one. The others have their usual ones."""
MAY_LOSE = 0.05
"""Share of the lesions among the candidates that CNN-2 may take away."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """What nets say of a visit that they have not seen; arrays have shape (X, Y, Z).

    Attributes
    ----------
    candidate, voxels, lesion : ndarray of float16
        CNN-1's probability, CNN-2's of voxels and of whole candidates.
    truth : ndarray of bool
    images : ndarray of float16, shape (3, X, Y, Z), optional
        What the nets saw, where it corrects them.
    present : tuple of bool
    judged : ndarray of float16, optional
        The judge's probability of voxels.
    """

    candidate: NDArray[np.float16]
    voxels: NDArray[np.float16]
    lesion: NDArray[np.float16]
    truth: NDArray[np.bool_]
    images: NDArray[np.float16] | None = None
    present: tuple[bool, bool, bool] = (True, True, True)
    judged: NDArray[np.float16] | None = None

    def probability(self, point: OperatingPoint) -> NDArray[np.float32]:
        """Fuse both nets' opinions."""
        candidate = self.candidate.astype(np.float32)
        correct = None
        if self.images is not None:
            images = self.images.astype(np.float32)
            correct = correction(images, self.present, candidate, point)
        voxels, lesion = self.voxels.astype(np.float32), self.lesion.astype(np.float32)
        judged = None if self.judged is None else self.judged.astype(np.float32)
        return fuse(candidate, voxels, lesion, point, correct, judged)


def choose_points(workshop: Workshop, tests: tuple[int | None, ...]) -> None:
    """Choose the weights and thresholds of outer folds and write them to ``points.json``.

    Parameters
    ----------
    workshop : Workshop
        All nets are trained.
    tests : tuple of int or None
        Outer folds; None stands for what ships, which is chosen on the outer predictions of
        everybody.
    """
    trust = workshop.recipe.trust
    chosen = {
        "ship" if test is None else str(test): choose_point(predict_unseen(workshop, test), trust)
        for test in tests
    }
    _write(workshop.folder / "points.json", chosen)


def choose_point(opinions: Sequence[Opinion], trust: float = 0.0) -> dict[str, float]:
    """Choose what serves best on some visits.

    Parameters
    ----------
    opinions : sequence of Opinion
    trust : float, default 0
        How far a visit's own intensities correct the nets.

    Returns
    -------
    dict
        ``keep``: see :func:`choose_keep`; ``second``: CNN-2's weight; ``judge`` and ``verdict``:
        weights in the pool of opinions where there is a judge; ``balanced``: the threshold with
        the highest mean Dice, chosen together with the weights, or, of a pool, the
        :func:`~bids_msseg.lesions.thresholds.cautious_threshold`; ``precise``: the lowest
        threshold at which the mean PPV reaches that of the source text.
    """
    truths = [opinion.truth for opinion in opinions]
    best: tuple[float, dict[str, float]] | None = None
    keep = choose_keep(opinions)
    for point in _weights(opinions, keep, trust):
        probabilities = [opinion.probability(point) for opinion in opinions]
        threshold = best_dice_threshold(probabilities, truths)
        if point.verdict > 0:
            threshold = cautious_threshold(probabilities, truths)
        dice = mean_dice(probabilities, truths, threshold)
        if best is None or dice > best[0]:
            precise = choose_threshold(probabilities, truths)
            shares = {"second": point.second, "judge": point.judge, "verdict": point.verdict}
            best = dice, {"keep": keep, **shares, "balanced": threshold, "precise": precise}
    return best[1] if best else {}


def _weights(opinions: Sequence[Opinion], keep: float, trust: float) -> list[OperatingPoint]:
    """List the weights to choose from."""
    if opinions and all(opinion.judged is not None for opinion in opinions):
        usual = OperatingPoint(second=SECOND, keep=keep, trust=trust, verdict=VERDICT)
        return [replace(usual, judge=judge) for judge in JUDGES]
    return [OperatingPoint(second=share, keep=keep, trust=trust) for share in SHARES]


def choose_keep(opinions: Sequence[Opinion]) -> float:
    """Choose the highest ``keep`` at which CNN-2 takes few lesions away.

    Returns
    -------
    float
        The highest of :data:`KEEPS` at which the mean recall of lesions of at least 3 mm³ falls by
        at most :data:`MAY_LOSE` from that of all candidates; the lowest where none is so.
    """
    counts = [_reached(opinion) for opinion in opinions]
    found = [count for count in counts if count[0] and count[1].size]
    if not found:
        return KEEPS[0]
    for keep in KEEPS:
        lost = [float((peaks < keep).sum()) / lesions for lesions, peaks in found]
        if np.mean(lost) <= MAY_LOSE:
            return keep
    return KEEPS[-1]


def _reached(opinion: Opinion) -> tuple[int, NDArray[np.float32]]:
    """Count the lesions; give the highest lesion probability in each that has a candidate."""
    labels = label_lesions(opinion.truth, voxel_volume=1.0, min_volume=3.0)
    count = int(labels.max())
    highest = np.zeros(count + 1, np.float32)
    np.maximum.at(highest, labels.ravel(), opinion.lesion.ravel().astype(np.float32))
    peaks = highest[1:]
    return count, peaks[peaks > 0]


def mean_dice(
    probabilities: Sequence[NDArray[np.floating]],
    truths: Sequence[NDArray[np.bool_]],
    threshold: float,
) -> float:
    """Average the Dice over visits; one without lesion in truth and mask is left out."""
    found: list[float] = []
    for probability, truth in zip(probabilities, truths, strict=True):
        mask = probability >= threshold
        both = int(mask.sum() + truth.sum())
        if both:
            found.append(2 * int((mask & truth).sum()) / both)
    return float(np.mean(found)) if found else 0.0


def predict_unseen(workshop: Workshop, test: int | None) -> list[Opinion]:
    """Let each fold but the test fold be judged by nets that have learnt from neither.

    Parameters
    ----------
    workshop : Workshop
    test : int or None
        Outer fold; None for what ships.

    Returns
    -------
    list of Opinion
        One a visit.
    """
    opinions: list[Opinion] = []
    for fold, seen in workshop.split.sources(test):
        outer, inner = (fold, None) if test is None else (test, fold)
        net = refinement_net(workshop, outer, inner).to(workshop.engine.device)
        judges = judges_of(workshop, outer, inner)
        gate = gate_of(workshop, outer, inner)
        for name in workshop.split.folds[fold]:
            visit = workshop.visit(name)
            candidate = out_of_fold(workshop, name, seen)
            images = visit.images.astype(np.float32)
            voxels, lesion = refine([net], images, visit.present, candidate, gate, workshop.engine)
            opinion = _keep(candidate, voxels, lesion, visit.truth >= 0.5)
            judged = judge_voxels(
                judges, images, visit.present, candidate > 0, lesion > 0, workshop.engine
            )
            if judged is not None:
                opinion = replace(opinion, judged=judged.astype(np.float16))
            if workshop.recipe.trust > 0:
                opinion = replace(opinion, images=visit.images, present=visit.present)
            opinions.append(opinion)
    return opinions


def _keep(
    candidate: NDArray[np.float32],
    voxels: NDArray[np.float32],
    lesion: NDArray[np.float32],
    truth: NDArray[np.bool_],
) -> Opinion:
    """Halve the memory; a verdict too small for half precision still marks its candidate."""
    smallest = np.finfo(np.float16).smallest_subnormal
    verdict = np.where(lesion > 0, np.maximum(lesion, smallest), 0)
    half = np.float16
    return Opinion(candidate.astype(half), voxels.astype(half), verdict.astype(half), truth)


def _write(path: Path, chosen: Mapping[str, Mapping[str, float]]) -> None:
    with open_alone(path) as stream:
        stream.write((json.dumps(chosen, indent=1) + "\n").encode())
