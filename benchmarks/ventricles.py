"""Border of the ventricles from the network alone, and from the fluid on the images as well.

usage: python benchmarks/ventricles.py MS_COHORT [--only tz] [--flair-only]

Prints the Dice of ventricles with their choroid plexus against ``label-ventricle`` masks on the
grid of the FLAIR, both volumes, and the change of the volume in a pseudo-rescan, by the released
CNN-1. It was trained on these patients, but has seen no ventricle mask. Everything starts from
prepared visits with the experts' brain masks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from accuracy_rerun import rescan_plans, second_scan
from accuracy_table import Column, Finding, Section, render
from anatomy import dice
from numpy.typing import NDArray

from bids_msseg.evaluation.labels import LabelledFiles, find_labelled
from bids_msseg.imaging.normalise import CONTRASTS, working_grid
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_volume
from bids_msseg.models.brain_volumes import VENTRICLES, label_map
from bids_msseg.models.cascade import run_first_network
from bids_msseg.models.checkpoint import LesionCascade, load_cascade
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.weights import find_model
from bids_msseg.training.data.cohort import prepare_visit
from bids_msseg.training.data.visits import LabelledVisit

COLUMNS = (
    Column("dice", "Dice"),
    Column("manual_ml", "manual mL", 1),
    Column("ml", "mL", 1),
    Column("same", "rescan, same slices: change of volume, %", 2),
    Column("thick", "1 to 3 mm slices", 2),
)
Mask = NDArray[np.bool_]


def main() -> int:
    options = _parse()
    labels = options.bids_dir / "derivatives" / "manual"
    cascade = load_cascade(find_model(None))
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory() as consensus:
        for item in find_labelled(options.bids_dir, labels, Path(consensus)):
            if item.visit.participant.startswith(options.only):
                findings += measure_visit(item, cascade, flair_only=options.flair_only)
    note = "Change of volume: absolute, second minus first scan, on the 1 mm grid."
    print(render(Section("Ventricles", note, COLUMNS, tuple(findings))))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare two borders of the ventricles.")
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--only", default="", help="participants whose label starts with this")
    parser.add_argument("--flair-only", action="store_true")
    return parser.parse_args()


def measure_visit(
    item: LabelledFiles, cascade: LesionCascade, *, flair_only: bool
) -> list[Finding]:
    """Measure both borders on one visit and its pseudo-rescans."""
    visit = prepare_visit(
        item.visit.key, item.site, item.visit.contrasts, item.brain, item.truth, threads=2
    )
    if flair_only:
        visit = replace(visit, present=(True, False, False))
    brain = as_ras(load_volume(item.brain))
    _, affine = working_grid(brain)
    first = ventricles(visit, cascade)
    scans = {}
    for method, plan in rescan_plans(visit, brain.spacing.tolist()).items():
        second = second_scan(visit, plan)
        moved = replace(visit, images=second.images.astype(np.float16), brain=second.brain)
        scans["thick" if "mm" in method else "same"] = ventricles(moved, cascade)
    print(item.visit.key, file=sys.stderr, flush=True)
    findings = []
    for method, mask in first.items():
        values = {"ml": mask.sum() / 1000, **_agreement(item, mask, affine)}
        for name, scan in scans.items():
            values[name] = 100 * abs(float(scan[method].sum()) / float(mask.sum()) - 1)
        findings.append(Finding(item.visit.key, item.visit.participant, item.site, method, values))
    return findings


def ventricles(visit: LabelledVisit, cascade: LesionCascade) -> dict[str, Mask]:
    """Segment the ventricles at 1 mm, without and with the fluid of the images."""
    images = visit.images.astype(np.float32)
    prediction, inside = run_first_network(
        cascade.candidate, images, visit.present, visit.brain, choose_engine("auto")
    )
    brain = Volume(inside.mask, np.eye(4))
    named = {
        name: image
        for name, image, there in zip(CONTRASTS, images, visit.present, strict=True)
        if there
    }
    return {
        method: np.isin(label_map(prediction.anatomy, np.eye(4), brain, images=given), VENTRICLES)
        for method, given in {"network": None, "network and fluid": named}.items()
    }


def _agreement(item: LabelledFiles, mask: Mask, affine: Affine) -> Mapping[str, float]:
    """Compare with the manual mask on the FLAIR, as the app writes its labels."""
    manual = item.brain.with_name(item.brain.name.replace("desc-brain", "label-ventricle"))
    if not manual.is_file():
        return {}
    truth = as_ras(load_volume(manual))
    moved = resample(Volume(mask, affine), truth.shape, truth.affine, order=0).data
    return {
        "dice": dice(moved > 0, truth.data > 0),
        "manual_ml": np.count_nonzero(truth.data > 0) * truth.voxel_volume / 1000,
    }


if __name__ == "__main__":
    sys.exit(main())
