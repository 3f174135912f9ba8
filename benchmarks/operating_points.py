"""Choice of operating points with and without a slice weight.

usage: python benchmarks/operating_points.py TRAIN_OUT

``TRAIN_OUT`` is the output folder of ``msseg-train``. The operating point of a site is chosen on
the other sites, as in the training. Means over participants at 1 mm, of visits as acquired and of
visits with thin slices that were averaged over 6 mm.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
from training_output import open_training

from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.operating_point import SLICE_WEIGHTS, PointChooser
from bids_msseg.training.validation import read_held_out

VARIANTS = {"without": (0.0,), "with": SLICE_WEIGHTS}


def mean_row(chooser: PointChooser, rows: list[int], point: CascadePoint) -> str:
    """Format the means over participants of Dice, lesion F1 and false components."""
    people: dict[str, list[tuple[float, float, float]]] = {}
    for number in rows:
        found = chooser.measure(number, point)
        values = people.setdefault(chooser.visits[number].participant, [])
        values.append((found.dice, found.lesion_f1, found.false))
    dice, f1, false = np.mean([np.mean(values, axis=0) for values in people.values()], axis=0)
    return f"{len(people)} | {dice:.3f} | {f1:.3f} | {false:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train_out", type=Path)
    training = open_training(parser.parse_args().train_out)
    folds = training.split.everything
    visits = read_held_out(training, folds)
    print("| slice weight | site | slices | n | Dice | lesion F1 | false components |")
    print(f"|{'---|' * 7}")
    points: list[tuple[str, str, CascadePoint]] = []
    for variant, slice_weights in VARIANTS.items():
        chooser = PointChooser(visits, training.recipe.candidate_threshold, slice_weights)
        for fold in folds:
            others = training.split.members(training.split.without(fold))
            point = chooser.choose(others)
            points.append((variant, str(fold), point))
            for averaged, slices in ((False, "as acquired"), (True, "averaged")):
                rows = [
                    number
                    for number, visit in enumerate(visits)
                    if visit.name in training.split.folds[fold] and visit.averaged == averaged
                ]
                if rows:
                    site, means = visits[rows[0]].site, mean_row(chooser, rows, point)
                    print(f"| {variant} | {site} | {slices} | {means} |", flush=True)
        points.append((variant, "release", chooser.choose(training.split.members(folds))))
    for variant, fold_name, point in points:
        print(variant, fold_name, asdict(point))


if __name__ == "__main__":
    main()
