"""Write the values of the labelled cohort shown for comparison by ``msseg-check``.

usage: python benchmarks/check_reference.py TRAIN_OUT BIDS_DIR [--labels DIR] [--visits KEY ...]
[--draws N] [--seed N] [--device DEVICE] [--threads N] [--out FILE.json]

``TRAIN_OUT`` is the output folder of ``msseg-train``. Every labelled visit is checked as in
``msseg-check``, by the networks and the operating point of its test fold, which have not seen its
patient. The lesions drawn by experts are counted by the same sizes and regions: the comparison
shows whether the sensitivity for painted lesions is a bound. The default of FILE is
``bids_msseg/data/check_reference.json``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_stored import Bench, Case, open_bench
from numpy.typing import NDArray
from training_output import read_point

from bids_msseg.bids.files import write_json
from bids_msseg.bids.query import find_visits
from bids_msseg.bids.visit import Visit
from bids_msseg.check.files import REFERENCE
from bids_msseg.check.jobs import measure_visit
from bids_msseg.check.painting import size_level
from bids_msseg.check.summary import VisitCheck, sensitivity, summarise
from bids_msseg.check.visit import (
    Cut,
    FirstScan,
    Prepared,
    Row,
    Segmenter,
    prepare,
)
from bids_msseg.cli.check import DRAWS
from bids_msseg.errors import MssegError
from bids_msseg.evaluation.scoring import MIN_VOLUME
from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.resample import mask_onto
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.lesions.comparison.metrics import overlap_table
from bids_msseg.lesions.comparison.rules import ANY_OVERLAP
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.regions import Region, assign
from bids_msseg.models.brain_volumes import label_map
from bids_msseg.models.cascade import fuse
from bids_msseg.models.weights import CascadePoint
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.protocol import run_on_visit

LOGGER = logging.getLogger("bids_msseg")
TARGET = Path(__file__).resolve().parents[1] / "bids_msseg" / "data" / REFERENCE


def main() -> int:
    options = _parse()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        content = _measure_all(options)
    except MssegError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    write_json(options.out, content)
    print(f"wrote {options.out}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check the labelled cohort as msseg-check does.")
    parser.add_argument("train_out", type=Path, help="what msseg-train wrote; only read")
    parser.add_argument("bids_dir", type=Path, help="the dataset it was trained on")
    parser.add_argument("--labels", type=Path, help="default: BIDS_DIR/derivatives/manual")
    parser.add_argument("--visits", nargs="+", metavar="KEY", help="only these, as sub-01_ses-1")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, metavar="FILE.json", default=TARGET)
    return parser.parse_args()


def _measure_all(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(options.threads)
    labels = options.labels or options.bids_dir / "derivatives" / "manual"
    bench = open_bench(
        options.train_out,
        options.bids_dir,
        labels,
        visits=options.visits,
        device=options.device,
    )
    visits = {visit.key: visit for visit in find_visits(options.bids_dir).visits}
    checks: list[VisitCheck] = []
    expert_rows: list[tuple[str, Row]] = []
    for number, case in enumerate(bench.cases, start=1):
        LOGGER.info("%s, %d of %d", case.key, number, len(bench.cases))
        check, rows = _measure(bench, case, visits[case.key], options)
        checks.append(check)
        expert_rows += [(check.participant, row) for row in rows]
    return {
        "Cohort": _describe(checks, options.train_out),
        "Sites": sorted({case.site for case in bench.cases}),
        "Settings": {"draws": options.draws, "seed": options.seed},
        **summarise(checks),
        "ExpertSensitivity": sensitivity(expert_rows),
    }


def _describe(checks: list[VisitCheck], train_out: Path) -> str:
    people = len({check.participant for check in checks})
    weights = sorted(path.stem for path in train_out.glob("*.safetensors"))
    networks = f", networks of {weights[0]} that had not seen the patient" if weights else ""
    return f"{len(checks)} visits of {people} patients{networks}"


def _measure(
    bench: Bench, case: Case, visit: Visit, options: argparse.Namespace
) -> tuple[VisitCheck, list[Row]]:
    prepared = prepare(case.key, visit.contrasts, given_brain=case.brain, threads=options.threads)
    point = read_point(bench.training.folder, case.fold)
    run, cut = _unseen(bench, case, point), Cut(point.threshold, MIN_VOLUME)
    check, first = measure_visit(visit, prepared, run, cut, draws=options.draws, seed=options.seed)
    return check, experts_lesions(first, load_volume(case.truth))


def _unseen(bench: Bench, case: Case, point: CascadePoint) -> Segmenter:
    """Return a segmenter that runs the networks that have not seen the patient.

    It works as ``segment_stack`` does with the released networks.
    """

    def run(stack: Stack) -> Mapping[str, Volume]:
        visit = LabelledVisit(
            case.key,
            case.site,
            stack.data.astype(np.float16),
            stack.present,
            stack.brain,
            np.zeros(stack.brain.shape, np.float16),
            stack.slice_mm,
        )
        output = run_on_visit(bench.training, visit, case.fold)
        brain = Volume(output.brain.mask, stack.affine)
        maps: dict[str, NDArray[Any]] = {
            "probability": fuse(output.prediction.lesion, output.refined, point, stack.slice_mm),
            "candidate": output.prediction.lesion,
            "candidates": (output.refined > 0).astype(np.uint8),
            "anatomy": label_map(output.prediction.anatomy, stack.affine, brain),
        }
        return {name: Volume(data, stack.affine) for name, data in maps.items()}

    return run


def experts_lesions(first: FirstScan, truth: Volume) -> list[Row]:
    """List the lesions that experts drew, and whether the mask of the first scan has them.

    Parameters
    ----------
    first : FirstScan
    truth : Volume
        Their mask on the grid of the FLAIR.

    Returns
    -------
    list of dict
        ``volume_mm3``, ``size``, ``region`` and ``found``, at 1 mm, of at least 3 mm³.
    """
    prepared: Prepared = first.prepared
    stack = prepared.stack
    x, y, z = stack.brain.shape
    mask = as_ras(truth.with_data((truth.data > 0.5).astype(np.uint8)))
    labels = label_lesions(
        mask_onto(mask, (x, y, z), stack.affine), voxel_volume=1.0, min_volume=MIN_VOLUME
    )
    volumes = np.bincount(labels.ravel())[1:]
    regions = assign(labels, prepared.regions).main
    detected = ANY_OVERLAP.found(overlap_table(labels, first.lesions))
    return [
        {
            "volume_mm3": float(volume),
            "size": size_level(float(volume)),
            "region": Region(int(region)).label if region else None,
            "found": bool(is_detected),
        }
        for volume, region, is_detected in zip(volumes, regions, detected, strict=True)
    ]


if __name__ == "__main__":
    raise SystemExit(main())
