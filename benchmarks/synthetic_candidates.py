"""Trial: CNN-2 learns from candidates of synthetic heads, too.

usage: python benchmarks/synthetic_candidates.py TRAIN_OUT PRETRAINED.pt OUT --test-fold 0

``TRAIN_OUT`` is the output folder of ``msseg-train`` from PRETRAINED.pt. Whole heads are
synthesised from its label maps; the pretrained CNN-1 finds their candidates. OUT becomes a copy of
TRAIN_OUT with the CNN-2 of this fold trained anew and its held-out results;
``benchmarks/candidate_scores.py`` compares both.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from training_output import open_training

from bids_msseg.models.cascade import refine
from bids_msseg.models.crops import prepare_crops
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.inference import BACKGROUND, predict
from bids_msseg.models.lesion_refinement import LesionRefinementNet
from bids_msseg.trainer.fit import fit
from bids_msseg.trainer.plan import FitPlan
from bids_msseg.training.data.candidates import (
    CandidateCrops,
    LabelledCandidates,
    label_candidates,
)
from bids_msseg.training.data.labelled import with_thick_slices
from bids_msseg.training.data.mixed import MixedDataset
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.losses import refinement_step
from bids_msseg.training.protocol import (
    HELD_OUT,
    THICKENED,
    network_name,
    read_output,
    read_unseen,
    write_output,
)
from bids_msseg.training.start import read_start
from bids_msseg.training.synthesis.dataset import SyntheticDataset
from bids_msseg.training.synthesis.label_maps import read_label_maps

EDGE, SEED = 208, 9000


def synthesize_head(label_maps: list, number: int) -> LabelledVisit:
    head = label_maps[number % len(label_maps)]
    item = SyntheticDataset([head], SEED + number, size=EDGE)[number]
    channels = item[0].numpy()
    flair, t1w, t2w = (bool(flag) for flag in channels[3:, 0, 0, 0] > 0)
    return LabelledVisit(
        f"sub-synthetic{number:03d}",
        "synthetic",
        channels[:3].astype(np.float16),
        (flair, t1w, t2w),
        channels[0] != BACKGROUND,
        item[1][0].numpy().astype(np.float16),
        1.0,
    )


def find_synthetic(
    train_out: Path, start: Path, heads: int, threshold: float
) -> list[LabelledCandidates]:
    net, engine = read_start(start).unseen, choose_engine("cpu")
    label_maps = list(read_label_maps(train_out / "label-maps"))
    found = []
    for number in range(heads):
        visit = synthesize_head(label_maps, number)
        images = visit.images.astype(np.float32)
        seen = predict([net], images, visit.present, visit.brain, engine)
        found.append(label_candidates(visit, seen, threshold))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("train_out", type=Path)
    parser.add_argument("pretrained", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--test-fold", type=int, default=0)
    parser.add_argument("--heads", type=int, default=40)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--share", type=float, default=0.6, help="of crops of synthetic heads")
    options = parser.parse_args()
    if not options.out.is_dir():
        shutil.copytree(options.train_out, options.out)
    training, fold = open_training(options.out), options.test_fold
    threshold = training.recipe.candidate_threshold
    real = [
        label_candidates(visit, read_unseen(training, visit.name), threshold)
        for visit in training.training_visits(fold)
    ]
    made = find_synthetic(options.train_out, options.pretrained, options.heads, threshold)
    seed = 507 + 1000 * (1 + fold)
    torch.manual_seed(seed)
    checkpoint = training.checkpoint(network_name("refinement", fold))
    checkpoint.unlink(missing_ok=True)
    net = fit(
        LesionRefinementNet(),
        MixedDataset(
            (CandidateCrops(real, seed), CandidateCrops(made, seed + 1)),
            (1 - options.share, options.share),
            seed + 2,
        ),
        FitPlan(steps=options.steps, batch=16, learning_rate=1.5e-3, seed=seed),
        choose_engine("cpu"),
        checkpoint,
        step_loss=refinement_step,
    )
    for name in training.split.folds[fold]:
        for folder in (HELD_OUT, THICKENED):
            path = options.out / folder / f"{name}.npz"
            if not path.is_file():
                continue
            visit = training.visit(name)
            visit = visit if folder == HELD_OUT else with_thick_slices(visit)
            prediction, _ = read_output(path)
            source = prepare_crops(visit.images, visit.present, visit.brain, prediction, threshold)
            write_output(path, prediction, refine(net, source, choose_engine("cpu")))


if __name__ == "__main__":
    main()
