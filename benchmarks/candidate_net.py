"""Accuracy of CNN-1 alone on labelled visits: ``python benchmarks/candidate_net.py COHORT NET``.

COHORT holds visits prepared by ``msseg-train`` (``<output>/cohort/*.npz``), NET is a checkpoint or
float16 weights of ``LesionAnatomyNet``. For each visit: Dice at one half and at the threshold with
the best mean of the sites' mean Dice, lesion F1 (26-connected, at least 3 mm³, any overlap), and
false components. That threshold is chosen on the same visits, so its Dice is an upper bound.
``--thicken N`` averages images and masks of visits with thin slices over N mm along z.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from thick_slices import thicken

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.inference import predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet, read_network_weights
from bids_msseg.training.data.visits import LabelledVisit, load_visit

THRESHOLDS = np.append(np.arange(0.05, 0.96, 0.05), 0.98)


def read_net(path: Path) -> LesionAnatomyNet:
    net = LesionAnatomyNet()
    net.load_state_dict(read_network_weights(path))
    return net.eval()


def thick(visit: LabelledVisit, slices: int) -> LabelledVisit:
    """Return a visit with slices of that thickness in mm, interpolated to 1 mm."""
    images = np.stack([thicken(image, slices, 2) for image in visit.images])
    images = np.where(visit.brain, images, visit.images.min())
    truth = thicken(visit.truth, slices, 2)
    images, truth = images.astype(np.float16), truth.astype(np.float16)
    return replace(visit, images=images, truth=truth, slice_mm=float(slices))


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(mask & truth) / total if total else 1.0


def detection(mask: np.ndarray, truth: np.ndarray) -> tuple[float, int]:
    """Return lesion F1 and the number of false components."""
    pred_labels, truth_labels = (
        label_lesions(m, voxel_volume=1.0, min_volume=3.0) for m in (mask, truth)
    )
    true_labels = np.unique(pred_labels[(truth_labels > 0) & (pred_labels > 0)])
    detected_labels = np.unique(truth_labels[(truth_labels > 0) & (pred_labels > 0)])
    precision = len(true_labels) / max(int(pred_labels.max()), 1)
    recall = len(detected_labels) / max(int(truth_labels.max()), 1)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f1, int(pred_labels.max()) - len(true_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("net", type=Path, nargs="+")
    parser.add_argument("--only", default="", help="visits whose name starts with this")
    parser.add_argument("--flair-only", action="store_true")
    parser.add_argument("--thicken", type=int, default=0, metavar="N")
    parser.add_argument("--mirror", action="store_true")
    parser.add_argument("--tile", type=int, default=96)
    options = parser.parse_args()
    nets = [read_net(path) for path in options.net]
    engine = choose_engine("auto")
    rows, curves = [], []
    for path in sorted(options.cohort.glob(f"{options.only}*.npz")):
        visit = load_visit(path)
        if options.thicken and not visit.thick:
            visit = thick(visit, options.thicken)
        present = (True, False, False) if options.flair_only else visit.present
        start = time.monotonic()
        prediction = predict(
            nets,
            visit.images.astype(np.float32),
            present,
            visit.brain,
            engine,
            mirror=options.mirror,
            tile=options.tile,
            stride=2 * options.tile // 3,
        )
        truth = visit.truth >= 0.5
        curves.append([dice(prediction.lesion >= cut, truth) for cut in THRESHOLDS])
        rows.append((visit, prediction.lesion, truth, time.monotonic() - start))
    site_curves = {
        site: np.mean([c for c, r in zip(curves, rows, strict=True) if r[0].site == site], 0)
        for site in sorted({row[0].site for row in rows})
    }
    for site, curve in site_curves.items():
        print(site, *(f"{t:.2f}: {d:.3f}" for t, d in zip(THRESHOLDS, curve, strict=True)))
    mean = np.mean(list(site_curves.values()), 0)
    best = float(THRESHOLDS[int(mean.argmax())])
    print(f"common threshold {best:.2f} (mean over sites {mean.max():.3f})")
    print("visit\tDice@.5\tDice@common\tbest\tF1\tfalse\tload mL\tfound mL\ts")
    figures: dict[str, list[tuple[float, ...]]] = {}
    for (visit, probability, truth, seconds), curve in zip(rows, curves, strict=True):
        mask = probability >= best
        f1, false = detection(mask, truth)
        overlap = (dice(probability >= 0.5, truth), dice(mask, truth), max(curve))
        figures.setdefault(visit.site, []).append((*overlap, f1, false))
        loads = f"{truth.sum() / 1000:.1f}\t{mask.sum() / 1000:.1f}\t{seconds:.1f}"
        print(
            visit.name,
            *(f"{value:.3f}" for value in overlap),
            f"{f1:.2f}\t{false}\t{loads}",
            sep="\t",
        )
    for site, site_figures in sorted(figures.items()):
        means = np.mean(site_figures, axis=0)
        overlap_means = (f"{value:.3f}" for value in means[:3])
        print(
            f"{site}, n = {len(site_figures)}",
            *overlap_means,
            f"{means[3]:.2f}\t{means[4]:.1f}",
            sep="\t",
        )


if __name__ == "__main__":
    main()
