"""Contrast of lesions and of false lesions in FLAIR: ``lesion_contrast.py COHORT [NET]``.

COHORT holds visits prepared by ``msseg-train`` (``<output>/cohort/*.npz``), NET is CNN-1. Contrast
is the median difference from a rim 3 to 4 voxels off the manual lesions, in units of the rim's
brightness; one standard deviation of the brain counts as ``SIGNAL`` of its mean brightness, as in
the synthesis. The core of lesions is what an erosion by one voxel leaves. False lesions are voxels
with a probability of at least ``--threshold`` that do not touch manual lesions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from candidate_net import read_net
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.models.engine import choose_engine
from bids_msseg.models.inference import predict
from bids_msseg.training.data.visits import LabelledVisit, load_visit
from bids_msseg.training.synthesis.intensities import SIGNAL

Mask = NDArray[np.bool_]


def contrasts(visit: LabelledVisit, parts: dict[str, Mask]) -> dict[str, float]:
    """Return the contrast of each part; NaN if it is empty."""
    truth = visit.truth >= 0.5
    near, far = (ndimage.binary_dilation(truth, iterations=steps) for steps in (2, 4))
    flair = visit.images[0].astype(np.float32)
    level = float(np.median(flair[far & ~near & visit.brain]))
    return {
        name: (float(np.median(flair[part])) - level) * SIGNAL / (1 + SIGNAL * level)
        if part.any()
        else float("nan")
        for name, part in parts.items()
    }


def main() -> None:
    """Print one row per visit."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cohort", type=Path)
    parser.add_argument("net", type=Path, nargs="?")
    parser.add_argument("--only", default="", help="visits whose name starts with this")
    parser.add_argument("--threshold", type=float, default=0.9)
    options = parser.parse_args()
    net = read_net(options.net) if options.net else None
    for path in sorted(options.cohort.glob(f"{options.only}*.npz")):
        visit = load_visit(path)
        truth = visit.truth >= 0.5
        parts = {"lesions": truth, "core": ndimage.binary_erosion(truth)}
        if net is not None:
            images = visit.images.astype(np.float32)
            prediction = predict([net], images, visit.present, visit.brain, choose_engine("auto"))
            mask = prediction.lesion >= options.threshold
            parts["false"] = mask & ~ndimage.binary_dilation(truth)
        figures = contrasts(visit, parts).items()
        sizes = {name: np.count_nonzero(part) / 1000 for name, part in parts.items()}
        row = (f"{name} {value:.2f} ({sizes[name]:.1f} mL)" for name, value in figures)
        print(visit.name, *row, sep="\t", flush=True)


if __name__ == "__main__":
    main()
