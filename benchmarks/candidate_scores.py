"""How well CNN-1 and CNN-2 separate lesions from false candidates of held-out visits.

usage: python benchmarks/candidate_scores.py TRAIN_OUT

``TRAIN_OUT`` is the output folder of ``msseg-train``. A candidate is a 26-connected component of
at least 3 mm³ in which CNN-1 reaches the threshold; it is a lesion if experts marked any voxel of
it. Scores are CNN-1's mean logit over the candidate and CNN-2's highest probability in it. The
value is the area under the ROC curve over all candidates of a site's visits as acquired.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import logit
from scipy.stats import mannwhitneyu
from training_output import open_training

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.cascade import EPSILON
from bids_msseg.training.operating_point import MIN_VOLUME_MM3, HeldOutVisit
from bids_msseg.training.validation import read_held_out

THRESHOLDS = (0.1, 0.5)


def score_candidates(visit: HeldOutVisit, threshold: float) -> NDArray[np.float64]:
    """Return, per candidate, whether it is a lesion, CNN-1's score and CNN-2's, shape (n, 3)."""
    labels = label_lesions(visit.lesion >= threshold, voxel_volume=1.0, min_volume=MIN_VOLUME_MM3)
    index = np.arange(1, labels.max(initial=0) + 1)
    logits = logit(np.clip(visit.lesion, EPSILON, 1 - EPSILON))
    columns = (
        ndimage.maximum(visit.truth, labels, index),
        ndimage.mean(logits, labels, index),
        ndimage.maximum(visit.refined, labels, index),
    )
    return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)


def area_under_curve(scores: NDArray[np.float64], lesion: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: the U statistic over the number of pairs."""
    pairs = np.count_nonzero(lesion) * np.count_nonzero(~lesion)
    statistic = mannwhitneyu(scores[lesion], scores[~lesion]).statistic if pairs else np.nan
    return float(statistic / max(pairs, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train_out", type=Path)
    training = open_training(parser.parse_args().train_out)
    visits = [v for v in read_held_out(training, training.split.everything) if not v.averaged]
    print("| site | threshold | candidates | false | AUC of CNN-1 | AUC of CNN-2 |")
    print(f"|{'---|' * 6}")
    for site in sorted({visit.site for visit in visits}):
        for threshold in THRESHOLDS:
            parts = [score_candidates(v, threshold) for v in visits if v.site == site]
            lesion, first, second = np.concatenate(parts).T
            areas = [area_under_curve(scores, lesion > 0) for scores in (first, second)]
            counts = f"{lesion.size} | {np.count_nonzero(lesion == 0)}"
            print(f"| {site} | {threshold} | {counts} | {areas[0]:.3f} | {areas[1]:.3f} |")


if __name__ == "__main__":
    main()
