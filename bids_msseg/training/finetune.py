"""Fine-tuning of CNN-1 on labelled visits and synthetic images, with some patients held out.

``python -m bids_msseg.training.finetune COHORT LABEL_MAPS OUT --init NET --hold-out sub-lj``
trains on every prepared visit whose name does not start with a held-out prefix. The same command
resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bids_msseg.cascade.log_watch import log_line
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.stages import load_visit
from bids_msseg.cascade.training import FitPlan, fit
from bids_msseg.errors import NoInputError
from bids_msseg.models.engine import Engine, choose_engine
from bids_msseg.models.inference import predict
from bids_msseg.models.lesion_anatomy import LesionAnatomyNet, read_lesion_anatomy
from bids_msseg.training.label_maps import read_label_maps, read_lesion_bank
from bids_msseg.training.labelled import LabelledDataset, MixedDataset
from bids_msseg.training.losses import lesion_anatomy_step
from bids_msseg.training.painting import Painting, prepare_painting
from bids_msseg.training.synthesis import SyntheticDataset

PAINTED_SETS = 12


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(prog="finetune", description=str(__doc__).partition("\n")[0])
    parser.add_argument("cohort", type=Path, help="folder of prepared visits (*.npz)")
    parser.add_argument("label_maps", type=Path, help="folder of prepared label maps (*.npz)")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--name", required=True, help="of the checkpoint and the log")
    parser.add_argument("--init", type=Path, required=True, help="checkpoint to start from")
    parser.add_argument(
        "--hold-out", nargs="*", default=[], metavar="PREFIX", help="visits that stay unseen"
    )
    parser.add_argument("--lesion-bank", type=Path, help="paint its lesions into the visits")
    parser.add_argument("--real-share", type=float, default=0.6)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--device", default="auto")
    return parser


def read_seen(cohort: Path, hold_out: Sequence[str]) -> list[LabelledVisit]:
    """Read the prepared visits that are not held out.

    Raises
    ------
    NoInputError
        If none is left.
    """
    paths = [
        path
        for path in sorted(cohort.glob("*.npz"))
        if not any(path.name.startswith(prefix) for prefix in hold_out)
    ]
    if not paths:
        raise NoInputError(f"no visit in {cohort} is left to train on", cure="hold out fewer")
    return [load_visit(path) for path in paths]


def prepare_paintings(
    net: LesionAnatomyNet,
    visits: Sequence[LabelledVisit],
    bank_path: Path,
    engine: Engine,
    seed: int,
) -> list[Painting]:
    """Place lesions of a bank in every visit, by the anatomy of a net that has not seen it."""
    bank = read_lesion_bank(bank_path)
    paintings = []
    for number, visit in enumerate(visits):
        images = visit.images.astype(np.float32)
        prediction = predict([net.eval()], images, visit.present, visit.brain, engine)
        rng = np.random.default_rng((seed, number))
        paintings.append(prepare_painting(visit, prediction, bank, rng, PAINTED_SETS))
    return paintings


def main() -> int:
    """Train, and leave ``checkpoints/<name>.pt``."""
    options = build_parser().parse_args()
    out: Path = options.output_dir
    for folder in ("checkpoints", "logs"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    visits = read_seen(options.cohort, options.hold_out)
    net = LesionAnatomyNet()
    net.load_state_dict(read_lesion_anatomy(options.init))
    engine = choose_engine(options.device)
    paintings = (
        prepare_paintings(net, visits, options.lesion_bank, engine, options.seed)
        if options.lesion_bank
        else []
    )
    sources = (
        LabelledDataset(visits, options.seed, paintings=paintings),
        SyntheticDataset(read_label_maps(options.label_maps), options.seed + 1),
    )
    shares = (options.real_share, 1 - options.real_share)
    plan = FitPlan(
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.learning_rate,
        ema=options.ema,
        seed=options.seed,
    )
    fit(
        net,
        MixedDataset(sources, shares, options.seed + 2),
        plan,
        engine,
        out / "checkpoints" / f"{options.name}.pt",
        report=partial(log_line, out / "logs", options.name),
        step_loss=lesion_anatomy_step,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
