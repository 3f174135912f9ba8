"""Scores of held-out patients, and choice of operating points on them.

The operating point of a test fold is chosen on the visits of the other test folds, whose networks
had not seen the visit's own patient, but had seen the patients of the test fold.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bids_msseg.bids.files import write_json, write_tsv
from bids_msseg.evaluation.comparison import Pair
from bids_msseg.evaluation.scoring import (
    COLUMNS,
    Score,
    cut_mask,
    keep_prediction,
    onto_flair,
    read_scores,
    score,
)
from bids_msseg.imaging.volume import load_volume
from bids_msseg.training.data.folds import MIN_FOLDS

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles
    from bids_msseg.models.weights import CascadePoint
    from bids_msseg.training.context import TrainingContext
    from bids_msseg.training.operating_point import HeldOutVisit

LOGGER = logging.getLogger("bids_msseg")
CANDIDATE, CASCADE, BEFORE = "candidate net", "cascade", "before"


@dataclass(frozen=True, slots=True)
class Validation:
    """Scores of held-out patients, and the operating point of each test fold (None: release)."""

    scores: tuple[Score, ...]
    points: Mapping[int | None, CascadePoint]

    def pairs(self, in_initial_training: Mapping[str, str]) -> list[Pair]:
        """Pair the scores of every visit before and after training, if there are any before."""
        by_key = {(record.visit, record.method): record for record in self.scores}
        return [
            Pair(by_key[visit, BEFORE], by_key.get((visit, CASCADE)), in_initial_training[visit])
            for visit, method in by_key
            if method == BEFORE
        ]


def validate(
    context: TrainingContext, files: Sequence[LabelledFiles], tests: Sequence[int]
) -> Validation:
    """Choose operating points and score every visit of the test folds on its own grid."""
    from bids_msseg.models.cascade import fuse
    from bids_msseg.training.protocol import HELD_OUT, read_refined

    points = choose_points(context, tests)
    start = context.networks()
    by_name = {item.visit.key: item for item in files}
    (context.folder / "predictions").mkdir(exist_ok=True)
    scores: list[Score] = []
    for test in tests:
        for name in context.split.folds[test]:
            lesion, refined = read_refined(context.folder / HELD_OUT, name)
            item, point = by_name[name], points[test]
            probability = fuse(lesion, refined, point, context.visit(name).slice_mm)
            scores.append(_score(context, item, CANDIDATE, lesion, 0.5))
            scores.append(_score(context, item, CASCADE, probability, point.threshold))
            LOGGER.info("scored %s", name)
    if start.refinement is not None:
        for item in files:
            name = item.visit.key
            lesion, refined = read_refined(context.folder / "unseen", name)
            probability = fuse(lesion, refined, start.point, context.visit(name).slice_mm)
            scores.append(_score(context, item, BEFORE, probability, start.point.threshold))
    path = context.folder / "scores.tsv"
    new_keys = {(record.visit, record.method) for record in scores}
    earlier = read_scores(path) if path.is_file() else []
    unchanged = [record for record in earlier if (record.visit, record.method) not in new_keys]
    rows = [{name: getattr(record, name) for name in COLUMNS} for record in (*unchanged, *scores)]
    write_tsv(path, COLUMNS, rows)
    return Validation(tuple(scores), points)


def _score(
    context: TrainingContext,
    item: LabelledFiles,
    method: str,
    probability: np.ndarray[Any, Any],
    threshold: float,
) -> Score:
    truth, visit = load_volume(item.truth), item.visit.key
    native = onto_flair(probability, item.brain, truth)
    mask = cut_mask(native, threshold)
    if method != BEFORE:
        keep_prediction(context.folder / "predictions", visit, method, native, mask)
    return score(mask, truth, visit=visit, site=item.site, method=method)


def read_held_out(context: TrainingContext, tests: Sequence[int]) -> list[HeldOutVisit]:
    """Read the held-out results of test folds, also those with thick slices."""
    from bids_msseg.training.data.labelled import with_thick_truth
    from bids_msseg.training.operating_point import HeldOutVisit
    from bids_msseg.training.protocol import HELD_OUT, THICKENED, read_refined

    found = []
    for name in context.split.members(tuple(tests)):
        visit = context.visit(name)
        output = read_refined(context.folder / HELD_OUT, name)
        found.append(HeldOutVisit.of(visit, *output))
        if not visit.thick:
            output = read_refined(context.folder / THICKENED, name)
            found.append(HeldOutVisit.of(with_thick_truth(visit), *output, averaged=True))
    return found


def choose_points(
    context: TrainingContext, tests: Sequence[int]
) -> dict[int | None, CascadePoint]:
    """Choose the operating point of each test fold on the others, and of the release on all."""
    from bids_msseg.training.operating_point import PointChooser

    threshold = context.recipe.candidate_threshold
    if len(tests) < MIN_FOLDS:
        default_point = replace(context.networks().point, candidate_threshold=threshold)
        return _store_points(context, {**dict.fromkeys(tests, default_point), None: default_point})
    chooser = PointChooser(read_held_out(context, tests), threshold)
    points: dict[int | None, CascadePoint] = {}
    for test in (None, *tests):
        other_folds = tuple(fold for fold in tests if fold != test)
        points[test] = chooser.choose(context.split.members(other_folds))
    return _store_points(context, points)


def _store_points(
    context: TrainingContext, points: dict[int | None, CascadePoint]
) -> dict[int | None, CascadePoint]:
    path = context.folder / "points.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    stored |= {"release" if t is None else str(t): asdict(point) for t, point in points.items()}
    write_json(path, stored)
    return points
