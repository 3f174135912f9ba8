"""Pretraining of CNN-1 on synthetic images only, without any patient.

``python -m bids_msseg.training.pretrain LABEL_MAPS OUT --steps N`` prepares the label maps once
and trains; the same command resumes. The learning rate is constant, so a training can be extended
by more steps; ``--cooldown`` lets it fall to zero at the end. ``--export FILE.pt`` only writes the
running mean of the weights in half precision, from which ``msseg-train --init FILE.pt`` starts.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import torch

from bids_msseg.models.engine import choose_engine
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet, read_network_weights
from bids_msseg.trainer.fit import fit
from bids_msseg.trainer.log_watch import log_line
from bids_msseg.trainer.plan import FitPlan
from bids_msseg.training.losses import lesion_anatomy_step
from bids_msseg.training.start import write_pretrained
from bids_msseg.training.synthesis.dataset import SyntheticDataset
from bids_msseg.training.synthesis.label_maps import prepare_label_maps, read_label_maps

STAGE = "pretraining"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="pretrain", description=str(__doc__).partition("\n")[0])
    parser.add_argument("label_maps", type=Path, help="folder of *_dseg.nii.gz without lesions")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--lesion-bank", type=Path, help="lesions.npz of the MS-MIST bank")
    parser.add_argument("--init", type=Path, help="float16 weights to start from (.pt)")
    parser.add_argument("--steps", type=int, default=25000)
    parser.add_argument("--cooldown", type=int, default=0)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--export", type=Path, metavar="FILE.pt", help="write weights, then stop")
    return parser


def main() -> int:
    """Prepare label maps and train to ``checkpoints/pretraining.pt``, or export weights."""
    options = build_parser().parse_args()
    out: Path = options.output_dir
    if options.export:
        write_pretrained(out / "checkpoints" / f"{STAGE}.pt", options.export)
        return 0
    prepared = out / "label-maps"
    prepare_label_maps(options.label_maps, options.lesion_bank, prepared)
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    net = LesionAnatomyNet()
    if options.init:
        net.load_state_dict(read_network_weights(options.init))
    plan = FitPlan(
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        schedule="constant",
        cooldown=options.cooldown,
        ema=options.ema,
        seed=options.seed,
        workers=options.workers,
    )
    source = SyntheticDataset(read_label_maps(prepared), options.seed, size=options.size)
    fit(
        net,
        source,
        plan,
        choose_engine(options.device),
        out / "checkpoints" / f"{STAGE}.pt",
        report=partial(log_line, out / "logs", STAGE),
        step_loss=lesion_anatomy_step,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
