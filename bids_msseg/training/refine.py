"""Training of CNN-2 on candidates that CNN-1 found in patients that it had not seen.

``python -m bids_msseg.training.refine COHORT OUT --name N --init NET --hold-out sub-lj`` runs the
CNN-1 in NET over every visit that is not held out. NET must not have seen these patients: the
network that was trained on synthetic images only serves every fold.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bids_msseg.cascade.log_watch import log_line
from bids_msseg.cascade.training import FitPlan, fit
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.inference import predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet, read_lesion_anatomy
from bids_msseg.models.lesion_refinement import LesionRefinementNet
from bids_msseg.training.candidates import CandidateCrops, label_candidates
from bids_msseg.training.finetune import read_seen
from bids_msseg.training.losses import refinement_step

LOGGER = logging.getLogger("bids_msseg")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="refine", description=str(__doc__).partition("\n")[0])
    parser.add_argument("cohort", type=Path, help="folder of prepared visits (*.npz)")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--name", required=True, help="of the checkpoint and the log")
    parser.add_argument("--init", type=Path, required=True, help="CNN-1 that saw none of them")
    parser.add_argument(
        "--hold-out", nargs="*", default=[], metavar="PREFIX", help="visits that stay unseen"
    )
    parser.add_argument("--candidate-threshold", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--ema", type=float, default=0.99)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--device", default="auto")
    return parser


def main() -> int:
    """Find candidates, train, and leave ``checkpoints/<name>.pt``."""
    options = build_parser().parse_args()
    out: Path = options.output_dir
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    engine = choose_engine(options.device)
    first = LesionAnatomyNet().eval()
    first.load_state_dict(read_lesion_anatomy(options.init))
    found = []
    for visit in read_seen(options.cohort, options.hold_out):
        images = visit.images.astype(np.float32)
        prediction = predict([first], images, visit.present, visit.brain, engine)
        found.append(label_candidates(visit, prediction, options.candidate_threshold))
        real = found[-1].real
        LOGGER.info("%s: %d lesions, %d false", visit.name, real.sum(), (~real).sum())
    plan = FitPlan(
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        ema=options.ema,
        seed=options.seed,
    )
    fit(
        LesionRefinementNet(),
        CandidateCrops(found, options.seed),
        plan,
        engine,
        out / "checkpoints" / f"{options.name}.pt",
        report=partial(log_line, out / "logs", options.name),
        step_loss=refinement_step,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
