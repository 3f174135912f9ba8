"""Fusion of simulated raters: time, memory, and accuracy of the estimated performance.

usage: python benchmarks/consensus.py MASK [--keep DIR]

``MASK`` is a real lesion mask, used as the truth. Seven raters are simulated from it: each draws
beyond the border of lesions or stays inside it, misses some lesions and draws some false ones
(mirrored lesions of the same patient). ``msseg-consensus`` fuses the masks in a separate process.
Its time and peak memory are printed, with the known sensitivity and specificity of each rater
(against the truth, inside the union of the raters' masks) beside the estimated ones, the overlap
of each consensus with the truth, and that overlap if the union is dilated before the masks are
fused. Errors of simulated raters are independent of each other; those of real raters are not.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.volume import Volume, load_volume, save_volume
from bids_msseg.lesions.comparison.metrics import voxel_agreement
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.raters.consensus import METHODS, crop_to_union, fuse_masks

Mask = NDArray[np.bool_]
STEM = "sub-01_space-FLAIR_label-L_desc-"


@dataclass(frozen=True, slots=True)
class Habit:
    """How a simulated rater draws.

    Attributes
    ----------
    outer, inner : float
        Shares of the voxels just outside and just inside the border that are drawn too much and
        too little; 1 dilates or erodes by one voxel.
    missed : float
        Share of the lesions that are not drawn, small ones sooner than large ones.
    false : int
        Lesions drawn where there is none.
    """

    outer: float
    inner: float
    missed: float
    false: int

    def __str__(self) -> str:
        return f"{self.outer:.0%}, {self.inner:.0%}, {self.missed:.0%}, {self.false}"


HABITS = (
    Habit(0.1, 0.1, 0.1, 2),
    Habit(0.3, 0.3, 0.2, 5),
    Habit(0.5, 0.1, 0.1, 5),
    Habit(1.0, 0.0, 0.3, 10),
    Habit(0.0, 1.0, 0.2, 0),
    Habit(0.2, 0.2, 0.6, 2),
    Habit(0.2, 0.2, 0.2, 50),
)


def simulate(truth: Mask, habit: Habit, rng: np.random.Generator) -> Mask:
    """Draw lesions as one rater."""
    numbers = label_lesions(truth, voxel_volume=1.0)
    sizes = np.bincount(numbers.ravel())[1:]
    odds = (1 / sizes) / (1 / sizes).sum()
    missed = 1 + rng.choice(len(sizes), round(habit.missed * len(sizes)), replace=False, p=odds)
    mask = truth & ~np.isin(numbers, missed)
    outer = ndimage.binary_dilation(mask) & ~mask
    inner = mask & ~ndimage.binary_erosion(mask)
    noise = rng.random(truth.shape)
    mask = (mask & ~(inner & (noise < habit.inner))) | (outer & (noise < habit.outer))
    mirrored = label_lesions(truth[::-1] & ~truth, voxel_volume=1.0, min_volume=5.0)
    count = min(habit.false, int(mirrored.max()))
    chosen = 1 + rng.choice(int(mirrored.max()), count, replace=False)
    result: Mask = mask | (np.isin(mirrored, chosen) & (mirrored > 0))
    return result


def write_dataset(root: Path, grid: Volume, raters: list[Mask]) -> None:
    folder = root / "derivatives" / "manual" / "sub-01" / "anat"
    folder.mkdir(parents=True)
    about = {"Name": "Simulated raters", "BIDSVersion": "1.10.1", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(about))
    for number, mask in enumerate(raters, 1):
        save_volume(grid.with_data(mask), folder / f"{STEM}rater{number}_mask.nii.gz")


def run(root: Path, out: Path) -> str:
    """Run the command; return its wall time, processor time and peak memory as text."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "bids_msseg.cli.consensus", str(root), str(out)]
    subprocess.run(command, check=True)  # noqa: S603 our own program
    wall = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        f"{wall:.1f} s wall, {usage.ru_utime + usage.ru_stime:.1f} s processor time, "
        f"{usage.ru_maxrss / 1024**2:.2f} GiB peak memory"
    )


def estimates(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (out / "group_raters.tsv").open(newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    return {(row["consensus"], row["rater"]): row for row in rows}


def report_raters(out: Path, truth: Mask, raters: list[Mask]) -> None:
    *masks, union = crop_to_union([truth, *raters, np.logical_or.reduce(raters)])
    estimated = estimates(out)
    print("\n| simulated rater: outer rim drawn, inner rim not, lesions missed, false ones | "
          "sensitivity: known | STAPLE | LOP-STAPLE | specificity: known | STAPLE | LOP-STAPLE |"
          )  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for number, (mask, habit) in enumerate(zip(masks[1:], HABITS, strict=True), 1):
        true_scores = voxel_agreement(mask, masks[0], voxel_volume=1.0, within=union)
        cells = [f"{number}: {habit}"]
        for name, value in (
            ("sensitivity", true_scores.sensitivity),
            ("specificity", true_scores.specificity),
        ):
            estimates_of_rater = [
                estimated[method, f"rater{number}"] for method in ("staple", "lopstaple")
            ]
            cells += [
                f"{value:.3f}",
                *(f"{float(row[f'estimated_{name}']):.3f}" for row in estimates_of_rater),
            ]
        print(f"| {' | '.join(cells)} |")


def report_consensus(out: Path, truth: Mask, raters: list[Mask]) -> None:
    print("\n| mask | Dice with the truth | volume (mL) |")
    print("|---|---|---|")
    masks = {f"rater {number}": mask for number, mask in enumerate(raters, 1)}
    for method in METHODS:
        masks[method] = (
            load_volume(out / "sub-01" / "anat" / f"{STEM}{method}_mask.nii.gz").data > 0
        )
    masks["truth"] = truth
    for name, mask in masks.items():
        score = voxel_agreement(mask, truth, voxel_volume=1.0)
        print(f"| {name} | {score.dice:.3f} | {score.volume_pred_ml:.2f} |")


def report_margins(truth: Mask, raters: list[Mask]) -> None:
    print("\n| union dilated by (voxels) | majority: Dice with the truth | STAPLE | LOP-STAPLE |")
    print("|---|---|---|---|")
    for margin in (0, 1, 2, 4):
        fused = [fuse_masks(raters, method, (1, 1, 1), margin=margin).mask for method in METHODS]
        scores = [voxel_agreement(mask, truth, voxel_volume=1.0).dice for mask in fused]
        print(f"| {margin} | {' | '.join(f'{dice:.3f}' for dice in scores)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuse simulated raters of one real mask.")
    parser.add_argument("mask", type=Path)
    parser.add_argument("--keep", type=Path, help="new folder for the raters and the results")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    grid = load_volume(options.mask)
    truth = grid.data > 0
    rng = np.random.default_rng(options.seed)
    raters = [simulate(truth, habit, rng) for habit in HABITS]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        write_dataset(folder / "raw", grid, raters)
        print(f"{options.mask.name}, {' x '.join(map(str, grid.shape))} voxels, {len(raters)} "
              f"simulated raters: {run(folder / 'raw', folder / 'out')}")  # fmt: skip
        report_raters(folder / "out", truth, raters)
        report_consensus(folder / "out", truth, raters)
        report_margins(truth, raters)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
