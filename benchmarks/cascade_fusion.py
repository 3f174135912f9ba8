"""Fusion weights and thresholds, chosen on left-out patients.

``python benchmarks/cascade_fusion.py COHORT PREFIX=CNN1:CNN2[:UNSEEN] ...``: each argument names
visits by the prefix of their name and the networks that have not seen them. UNSEEN is the CNN-1
whose anatomy CNN-2 reads; CNN1 where it is left out. For every setting of a grid: mean over the
prefixes of Dice, lesion F1 and false components. Then every visit at the setting that is best on
the other prefixes, and by CNN-1 alone.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from candidate_net import detection, dice, read_net

from bids_msseg.cascade.stages import load_visit
from bids_msseg.models.cascade import Refinement, fuse, refine, require_peak
from bids_msseg.models.crops import prepare_crops
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.inference import Prediction, predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet, read_lesion_anatomy
from bids_msseg.models.lesion_refinement import LesionRefinementNet
from bids_msseg.models.weights import CascadePoint

CANDIDATE = 0.1
VOXELS, LESION = (0.0, 0.2, 0.4), (0.0, 0.2, 0.4)
GROW, SEED = (0.2, 0.3, 0.4, 0.5), (0.0, 0.5, 0.7, 0.85)
Setting = tuple[float, float, float, float]


@dataclass(frozen=True)
class Case:
    """One visit with what both networks say of it."""

    prefix: str
    name: str
    site: str
    truth: np.ndarray
    prediction: Prediction
    refinement: Refinement
    real: np.ndarray


def read_refinement(path: Path) -> LesionRefinementNet:
    kept = torch.load(path, map_location="cpu", weights_only=True)
    net = LesionRefinementNet()
    net.load_state_dict(kept["average"])
    return net.eval()


def run(cohort: Path, argument: str) -> list[Case]:
    prefix, _, files = argument.partition("=")
    paths = [Path(text) for text in files.split(":")]
    engine = choose_engine("auto")
    first, second = read_net(paths[0]), read_refinement(paths[1])
    other = LesionAnatomyNet().eval()
    other.load_state_dict(read_lesion_anatomy(paths[2] if len(paths) > 2 else paths[0]))
    cases = []
    for path in sorted(cohort.glob(f"{prefix}*.npz")):
        visit = load_visit(path)
        images = visit.images.astype(np.float32)
        seen = predict([first], images, visit.present, visit.brain, engine)
        anatomy = seen
        if len(paths) > 2:
            anatomy = predict([other], images, visit.present, visit.brain, engine)
        joined = Prediction(seen.lesion, anatomy.anatomy)
        source = prepare_crops(images, visit.present, visit.brain, joined, CANDIDATE)
        truth = visit.truth >= 0.5
        hit = np.bincount(source.pieces.ravel(), truth.ravel(), minlength=len(source.boxes) + 1)
        size = np.bincount(source.pieces.ravel(), minlength=len(source.boxes) + 1)
        real = hit[1:] >= 0.1 * size[1:]
        found = refine(second, source, engine)
        cases.append(Case(prefix, visit.name, visit.site, truth, joined, found, real))
        rate = np.array(
            [
                found.lesion[box][source.pieces[box] == n + 1].max()
                for n, box in enumerate(source.boxes)
            ]
        )
        removed = np.mean(rate[~real] < 0.5) if (~real).any() else np.nan
        lost = np.mean(rate[real] < 0.5) if real.any() else np.nan
        print(
            f"{visit.name}: {real.sum()} lesions, {(~real).sum()} false candidates; CNN-2 at one "
            f"half removes {removed:.2f} of the false and {lost:.2f} of the real",
            flush=True,
        )
    return cases


def cut(case: Case, setting: Setting) -> np.ndarray:
    voxels, lesion, grow, seed = setting
    if voxels == lesion == 0:
        probability = case.prediction.lesion
    else:
        point = CascadePoint(CANDIDATE, voxels, lesion)
        probability = fuse(case.prediction, case.refinement, point)
    return require_peak(probability, grow, max(seed, grow)) >= grow


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("runs", nargs="+", metavar="PREFIX=CNN1:CNN2[:UNSEEN]")
    options = parser.parse_args()
    cases = [case for argument in options.runs for case in run(options.cohort, argument)]
    prefixes = sorted({case.prefix for case in cases})
    settings = list(product(VOXELS, LESION, GROW, SEED))
    figures = np.zeros((len(settings), len(cases), 3))
    for number, setting in enumerate(settings):
        for which, case in enumerate(cases):
            mask = cut(case, setting)
            figures[number, which] = (dice(mask, case.truth), *detection(mask, case.truth))
    own = {p: [n for n, case in enumerate(cases) if case.prefix == p] for p in prefixes}
    by_prefix = np.stack([figures[:, own[p]].mean(1) for p in prefixes], 1)
    # the sum of Dice and lesion F1: a mask is to be right in volume and in count
    target = by_prefix[..., 0] + 0.5 * by_prefix[..., 1]
    order = target.mean(1).argsort()[::-1]
    print("voxels\tlesion\tgrow\tseed\tDice\tF1\tfalse")
    for number in [*order[:12], *(n for n, s in enumerate(settings) if s == (0, 0, 0.5, 0.0))]:
        row = by_prefix[number].mean(0)
        print(*settings[number], *(f"{value:.3f}" for value in row), sep="\t")
    for p, prefix in enumerate(prefixes):
        others = [n for n in range(len(prefixes)) if n != p] or [p]
        chosen = int(target[:, others].mean(1).argmax())
        print(f"{prefix}: setting chosen on the others {settings[chosen]}")
        for which in own[prefix]:
            value, f1, false = figures[chosen, which]
            alone = figures[settings.index((0.0, 0.0, 0.5, 0.0)), which]
            print(
                f"  {cases[which].name}\tDice {value:.3f} F1 {f1:.2f} false {false:.0f}\t"
                f"CNN-1 alone {alone[0]:.3f} {alone[1]:.2f} {alone[2]:.0f}"
            )
        mean = figures[chosen, own[prefix]].mean(0)
        print(
            f"  mean, n = {len(own[prefix])}: Dice {mean[0]:.3f} F1 {mean[1]:.2f} "
            f"false {mean[2]:.1f}"
        )


if __name__ == "__main__":
    main()
