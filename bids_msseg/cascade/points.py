"""Thresholds, chosen on patients that neither the nets nor the reported numbers have seen.

For an outer test fold, each inner fold is segmented by a candidate net and a refinement net that
have learnt from neither; what serves best there is then used on the outer fold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.cascade.inference import decide
from bids_msseg.cascade.stages import (
    Workshop,
    gate_of,
    out_of_fold,
    refinement_net,
)
from bids_msseg.cascade.weights import OperatingPoint
from bids_msseg.lesions.thresholds import best_dice_threshold, choose_threshold

Pairs = tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]


def choose_points(workshop: Workshop, tests: tuple[int | None, ...]) -> None:
    """Choose the thresholds of outer folds and write them to ``points.json``.

    Parameters
    ----------
    workshop : Workshop
        All nets are trained.
    tests : tuple of int or None
        Outer folds; None stands for what ships, whose thresholds are chosen on the outer
        predictions of everybody.
    """
    chosen: dict[str, Mapping[str, float]] = {}
    for test in tests:
        probabilities, truths = predict_unseen(workshop, test)
        chosen["ship" if test is None else str(test)] = {
            "balanced": best_dice_threshold(probabilities, truths),
            "precise": choose_threshold(probabilities, truths),
        }
    _write(workshop.folder / "points.json", chosen)


def predict_unseen(workshop: Workshop, test: int | None) -> Pairs:
    """Segment each fold but the test fold by nets that have learnt from neither.

    Returns
    -------
    probabilities : list of ndarray of float32, shape (X, Y, Z)
    truths : list of ndarray of bool, shape (X, Y, Z)
    """
    probabilities: list[NDArray[np.float32]] = []
    truths: list[NDArray[np.bool_]] = []
    for fold, seen in workshop.split.sources(test):
        outer, inner = (fold, None) if test is None else (test, fold)
        net = refinement_net(workshop, outer, inner)
        point = OperatingPoint(gate=gate_of(workshop, outer, inner))
        for name in workshop.split.folds[fold]:
            visit = workshop.visit(name)
            found = decide(
                [net],
                visit.images.astype(np.float32),
                visit.present,
                out_of_fold(workshop, name, seen),
                point,
                workshop.engine,
            )
            probabilities.append(found.probability)
            truths.append(visit.truth >= 0.5)
    return probabilities, truths


def _write(path: Path, chosen: Mapping[str, Mapping[str, float]]) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
