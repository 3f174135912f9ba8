"""Dice of CNN-1's anatomy where masks exist, and volumes of a computed rescan.

``python benchmarks/anatomy.py TRAIN_OUT BIDS_DIR [--tissue-maps FOLDER]``: TRAIN_OUT is what
``msseg-train`` wrote; the anatomy is that of networks which have not seen the patient
(``held-out/``, else ``unseen/`` of the starting network). Ventricles: the classes ventricle and
choroid plexus, at one half, against ``label-ventricle`` masks: on the 1 mm grid, onto which the
masks are interpolated, and on the FLAIR, on which they were drawn and the app writes its labels.
The same for the manual masks averaged over the 2 mm blocks of CNN-1: the best possible agreement.
Tissues:
CSF, grey and white matter against ``<participant without sub->_dseg.nii.gz`` in FOLDER (1 CSF, 2
grey, 3 white, 4 lesion), which is registered to the visit first; voxels of lesions are left out.
The last line counts the visits in which choroid plexus is the most probable class of any voxel.

``python benchmarks/anatomy.py TRAIN_OUT BIDS_DIR --rescan [--visits KEY ...] [--device cpu]
[--threads N]`` prints only the volumes of a computed rescan, by the networks of the visit's test
fold, which run twice or three times on each visit.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from accuracy_rerun import rescan_plans, second_scan
from accuracy_stored import Bench, Case, measure, open_bench
from accuracy_table import Column, Finding, Section, render
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.normalise import working_grid
from bids_msseg.imaging.registration.affine import register_affine
from bids_msseg.imaging.resample import mask_onto, resample
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_volume
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.models.brain_volumes import (
    MEASURES,
    VENTRICLES,
    BrainVolumes,
    label_map,
    measure_volumes,
)
from bids_msseg.models.crops import pool
from bids_msseg.training.context import TrainingContext
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.protocol import read_output, run_on_visit

TISSUES = {
    "CSF": (1, (Anatomy.SULCAL_FLUID, *VENTRICLES)),
    "grey matter": (
        2,
        (
            Anatomy.CORTEX,
            Anatomy.DEEP_GREY,
            Anatomy.HIPPOCAMPUS_AMYGDALA,
            Anatomy.CEREBELLAR_CORTEX,
        ),
    ),
    "white matter": (3, (Anatomy.WHITE_MATTER, Anatomy.CEREBELLAR_WHITE, Anatomy.BRAINSTEM)),
}
LESION = 4
PSEUDO_T1W = np.array([0.0, 0.25, 0.6, 1.0, 0.8], np.float32)
"""Brightness of background, CSF, grey, white matter and lesion, to register a tissue map with."""
RESCANNED = (
    Column("parenchyma_ml", "parenchyma", 2),
    Column("ventricles_ml", "ventricles", 2),
    Column("cortex_ml", "cortex", 2),
    Column("white_matter_ml", "white matter", 2),
    Column("deep_grey_ml", "deep grey", 2),
    Column("cerebellum_ml", "cerebellum", 2),
    Column("brainstem_ml", "brainstem", 2),
    Column("brain_parenchymal_fraction", "brain parenchymal fraction", 2),
)
RESCAN_NOTE = (
    "Difference in percent, second minus first scan, by CNN-1 on the 1 mm grid. The second scan "
    "is computed: 1 mm visits turned by 5° about an oblique axis, shifted by (1.3, -0.7, 2.1) mm, "
    "with Gaussian noise of a tenth of the brain's standard deviation, then also averaged to "
    "3 mm slices; visits with thick slices only shifted in plane, with that noise on their own "
    "slices. It starts from the prepared stack: brain extraction and bias correction are not "
    "repeated, so a real second scan differs more."
)


def read_anatomy(out: Path, visit: str) -> NDArray[np.float32]:
    """Read posteriors of a network that has not seen the visit.

    The shape is (classes, X / 2, Y / 2, Z / 2).
    """
    held_out = out / "held-out" / f"{visit}.npz"
    prediction, _ = read_output(
        held_out if held_out.is_file() else out / "unseen" / f"{visit}.npz"
    )
    return prediction.anatomy.astype(np.float32)


def at_1_mm(coarse: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Interpolate a posterior of 2 mm linearly; its voxels are blocks of 2x2x2 of the grid."""
    axes = [(np.arange(edge) - 0.5) / 2 for edge in shape]
    grid = np.meshgrid(*axes, indexing="ij")
    fine: NDArray[np.float32] = ndimage.map_coordinates(coarse, grid, order=1, mode="nearest")
    return fine


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return 2 * np.count_nonzero(first & second) / max(np.count_nonzero(first) + second.sum(), 1)


def tissue_map(path: Path, t1w: Volume, shape: tuple[int, int, int], affine: Affine) -> NDArray:
    """Register a tissue map to the visit's T1w and bring it onto the working grid."""
    labels = as_ras(load_volume(path))
    codes = np.clip(np.rint(labels.data), 0, LESION).astype(np.int64)
    registration = register_affine(
        labels.with_data(PSEUDO_T1W[codes]),
        t1w,
        moving_mask=codes > 0,
        fixed_mask=t1w.data > 0,
        threads=2,
    )
    print(
        f"{path.name}: mutual information {registration.metric_after:.2f} "
        f"{registration.failure_reason}"
    )
    shares = [
        resample(
            labels.with_data((codes == code).astype(np.float32)),
            shape,
            affine,
            transform=registration.affine,
        ).data
        for code in range(LESION + 1)
    ]
    return np.argmax(shares, 0)


def percent_changes(before: BrainVolumes, after: BrainVolumes) -> dict[str, float]:
    """Compare all measures of two segmentations.

    Parameters
    ----------
    before, after : BrainVolumes

    Returns
    -------
    dict of str to float
        By the name of the measure, difference in percent of ``before``; NaN where that is 0.

    Examples
    --------
    >>> before = BrainVolumes({label: 100.0 for label in Anatomy})
    >>> after = BrainVolumes({**before.ml, Anatomy.CORTEX: 98.0})
    >>> changes = percent_changes(before, after)
    >>> round(changes["cortex_ml"], 6), changes["ventricles_ml"]
    (-2.0, 0.0)
    """
    first, second = (
        {volume_measure.name: volume_measure.value(volumes) for volume_measure in MEASURES}
        for volumes in (before, after)
    )
    return {
        name: 100 * (second[name] - value) / value if value else math.nan
        for name, value in first.items()
    }


def predicted_volumes(training: TrainingContext, visit: LabelledVisit, fold: int) -> BrainVolumes:
    """Measure volumes of the anatomy predicted by networks of a test fold, at 1 mm."""
    output = run_on_visit(training, visit, fold)
    brain = Volume(output.brain.mask, np.eye(4))
    return measure_volumes(label_map(output.prediction.anatomy, np.eye(4), brain), 1.0)


def rescan(bench: Bench) -> tuple[Section, Section]:
    """Compare volumes of two scans of one brain: signed and absolute differences."""
    title = "Volumes of a computed rescan"
    signed = measure(bench, title, _rescan_changes)
    sizes = tuple(
        replace(finding, values={name: abs(value) for name, value in finding.values.items()})
        for finding in signed
    )
    return (
        Section(f"{title}: differences in percent", RESCAN_NOTE, RESCANNED, signed),
        Section(f"{title}: absolute differences in percent", "", RESCANNED, sizes),
    )


def _rescan_changes(bench: Bench, case: Case) -> list[Finding]:
    visit = bench.training.visit(case.key)
    first = predicted_volumes(bench.training, visit, case.fold)
    spacing = as_ras(load_volume(case.truth)).spacing
    findings = []
    for method, plan in rescan_plans(visit, spacing.tolist()).items():
        second = second_scan(visit, plan)
        moved = replace(visit, images=second.images.astype(np.float16), brain=second.brain)
        volumes = predicted_volumes(bench.training, moved, case.fold)
        findings.append(case.finding(method, percent_changes(first, volumes)))
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("train_out", type=Path)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("--tissue-maps", type=Path)
    parser.add_argument("--rescan", action="store_true", help="only volumes of a computed rescan")
    parser.add_argument("--visits", nargs="+", metavar="KEY", help="only these, with --rescan")
    parser.add_argument("--device", default="cpu", help="with --rescan (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.rescan:
        print_rescan(options)
    else:
        print_dice(options)


def print_rescan(options: argparse.Namespace) -> None:
    import torch

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    torch.set_num_threads(options.threads)
    labels = options.bids_dir / "derivatives" / "manual"
    bench = open_bench(
        options.train_out, options.bids_dir, labels, visits=options.visits, device=options.device
    )
    for section in rescan(bench):
        print(render(section), flush=True)


def ventricle_dice(
    posterior: NDArray[np.float32], drawn: Volume, shape: tuple[int, int, int], affine: Affine
) -> dict[str, float]:
    """Compare a posterior of 2 mm with a manual mask on the 1 mm grid and on that of the FLAIR."""
    found = at_1_mm(posterior, shape) >= 0.5
    moved = resample(Volume(found, affine), drawn.shape, drawn.affine, order=0)
    return {
        "1 mm": dice(found, mask_onto(drawn, shape, affine)),
        "FLAIR": dice(moved.data > 0, drawn.data > 0),
    }


def print_dice(options: argparse.Namespace) -> None:
    manual = options.bids_dir / "derivatives" / "manual"
    figures: dict[str, list[float]] = {}
    plexus: list[bool] = []
    for mask in sorted(manual.glob("sub-*/**/*_space-FLAIR_desc-brain_mask.nii.gz")):
        visit = mask.name.partition("_space-")[0]
        shape, affine = working_grid(as_ras(load_volume(mask)))
        anatomy = read_anatomy(options.train_out, visit)
        plexus.append(bool((anatomy.argmax(0) == Anatomy.CHOROID_PLEXUS).any()))
        ventricle = mask.with_name(f"{visit}_space-FLAIR_label-ventricle_mask.nii.gz")
        if ventricle.is_file():
            drawn = as_ras(load_volume(ventricle))
            share = resample(drawn, shape, affine).data
            for what, posterior in (
                ("ventricles", anatomy[list(VENTRICLES)].sum(0)),
                ("manual ventricles in 2 mm blocks", pool(share[None], 2)[0]),
            ):
                for grid, value in ventricle_dice(posterior, drawn, shape, affine).items():
                    figures.setdefault(f"{what}, {grid}", []).append(value)
                    print(f"{visit}: {what}, {grid} {value:.3f}", flush=True)
        name = visit.removeprefix("sub-").partition("_")[0]
        path = options.tissue_maps and options.tissue_maps / f"{name}_dseg.nii.gz"
        if path and path.is_file():
            t1w = as_ras(load_volume(next(options.bids_dir.glob(f"sub-{name}/**/*_T1w.nii.gz"))))
            truth = tissue_map(path, t1w, shape, affine)
            classes = np.stack([at_1_mm(posterior, shape) for posterior in anatomy]).argmax(0)
            inside = (truth > 0) & (truth < LESION)
            for tissue, (code, kinds) in TISSUES.items():
                value = dice(np.isin(classes, kinds) & inside, truth == code)
                figures.setdefault(tissue, []).append(value)
                print(f"{visit}: {tissue} {value:.3f}", flush=True)
    for structure, values in figures.items():
        print(f"{structure}: mean {np.mean(values):.3f}, n = {len(values)}")
    print(f"choroid plexus: found in {sum(plexus)} of {len(plexus)} visits")


if __name__ == "__main__":
    main()
