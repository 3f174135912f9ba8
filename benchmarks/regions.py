"""Compare two methods for ventricles and periventricular lesions with manual masks.

usage: python benchmarks/regions.py MS_COHORT [--cache FOLDER]

Before: the template's ventricles, transformed to the patient by an affine, with the band of 5 mm
that suits them. After: ventricles grown from the fluid of the patient's brain, with the narrower
band, from all contrasts and from FLAIR alone. The reference: a lesion is periventricular if it
shares a face, an edge or a corner of a voxel with the manual ventricles, unless half of it is in
the posterior fossa. The manual masks include the fourth ventricle; the app assigns it to the
posterior fossa, so the Dice cannot reach 1. Means have 95 % bootstrap intervals over patients. The
few parameters of the method were examined on the same patients.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.bias import correct_bias
from bids_msseg.imaging.registration.affine import register_affine
from bids_msseg.imaging.resample import inverse, mask_onto, resample
from bids_msseg.imaging.template import load_template, template_regions
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.lesions.anatomy import own_anatomy
from bids_msseg.lesions.comparison.bootstrap import estimate_mean
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.regions import (
    Region,
    RegionAnatomy,
    RegionAssignment,
    assign,
    region_map,
)

CONTRASTS = ("FLAIR", "T1w", "T2w")
METHODS = ("template", "own, FLAIR alone", "own, all contrasts")
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Patient:
    """Bias-corrected images, manual masks and template regions on the FLAIR grid."""

    name: str
    images: dict[str, NDArray[np.float32]]
    brain: Mask
    ventricle: Mask
    lesions: Mask
    prior: NDArray[np.uint8]
    spacing: NDArray[np.float64]


@dataclass(slots=True)
class Tally:
    """Reference and assigned regions, collected over lesions."""

    truth: list[Mask] = field(default_factory=list)
    touching: list[Mask] = field(default_factory=list)
    main: list[Mask] = field(default_factory=list)


def main() -> int:
    """Print one row per patient, then agreement over all lesions."""
    parser = argparse.ArgumentParser(description="Measure regions against masks by hand.")
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--cache", type=Path, help="keep what is prepared here")
    options = parser.parse_args()
    pattern = "sub-*/anat/*_label-ventricle_mask.nii.gz"
    names = sorted({path.parts[-3] for path in _manual(options.cohort).glob(pattern)})
    dice: dict[str, list[float]] = {method: [] for method in METHODS}
    tallies = {method: Tally() for method in METHODS}
    print("| patient | contrasts |", " | ".join(METHODS), "| seconds (all contrasts) |")
    print("|---|---|" + "---|" * (len(METHODS) + 1))
    for name in names:
        patient = _patient(options.cohort, name, options.cache)
        seconds = 0.0
        for method in METHODS:
            start = time.process_time()
            anatomy, own_ventricles = _anatomy(patient, method)
            seconds = time.process_time() - start
            dice[method].append(_dice(anatomy == RegionAnatomy.VENTRICLE, patient.ventricle))
            _count(patient, anatomy, own_ventricles, tallies[method])
        cells = [f"{dice[method][-1]:.3f}" for method in METHODS]
        used = "+".join(patient.images)
        print(f"| {name} | {used} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)
    means = [estimate_mean(dice[method]) for method in METHODS]
    cells = [f"{estimate.mean:.3f} ({estimate.low:.3f}-{estimate.high:.3f})" for estimate in means]
    print(f"| mean (95 %) | | {' | '.join(cells)} | |\n")
    _print_agreement(tallies)
    return 0


def _manual(cohort: Path) -> Path:
    return cohort / "derivatives" / "manual"


def _patient(cohort: Path, name: str, cache: Path | None) -> Patient:
    """Prepare a patient as the app does, or read it from the cache."""
    cache_file = None if cache is None else cache / f"{name.removeprefix('sub-')}.npz"
    if cache_file is None or not cache_file.is_file():
        arrays = _prepare(cohort, name)
        if cache_file is not None:
            cache_file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(cache_file, allow_pickle=False, **arrays)
    else:
        arrays = dict(np.load(cache_file))
    prior = resample(
        template_regions(),
        arrays["brain"].shape,
        arrays["affine"],
        transform=inverse(arrays["xfm"]),
        order=0,
    ).data
    return Patient(
        name,
        {contrast: arrays[contrast] for contrast in CONTRASTS if contrast in arrays},
        arrays["brain"],
        arrays["ventricle"],
        arrays["lesion"],
        prior,
        np.linalg.norm(arrays["affine"][:3, :3], axis=0),
    )


def _prepare(cohort: Path, name: str) -> dict[str, NDArray[Any]]:
    flair = as_ras(load_volume(cohort / name / "anat" / f"{name}_FLAIR.nii.gz"))
    masks = {
        key: as_ras(load_volume(_mask_file(cohort, name, label))).data > 0.5
        for key, label in (
            ("brain", "desc-brain"),
            ("ventricle", "label-ventricle"),
            ("lesion", "label-L"),
        )
    }
    template = load_template()
    arrays: dict[str, NDArray[Any]] = {"affine": flair.affine, **masks}
    corrected: dict[str, Volume] = {}
    for contrast in CONTRASTS:
        path = cohort / name / "anat" / f"{name}_{contrast}.nii.gz"
        if path.is_file():
            image = as_ras(load_volume(path))
            inside = mask_onto(flair.with_data(masks["brain"]), image.shape, image.affine)
            corrected[contrast] = correct_bias(image, inside)
            arrays[contrast] = resample(corrected[contrast], flair.shape, flair.affine).data
    arrays["xfm"] = register_affine(
        corrected["FLAIR"],
        template.volume,
        moving_mask=masks["brain"],
        fixed_mask=template.mask,
    ).affine
    return arrays


def _mask_file(cohort: Path, name: str, label: str) -> Path:
    return _manual(cohort) / name / "anat" / f"{name}_space-FLAIR_{label}_mask.nii.gz"


def _anatomy(patient: Patient, method: str) -> tuple[NDArray[np.uint8], bool]:
    if method == "template":
        return patient.prior, False
    names = ["FLAIR"] if method == "own, FLAIR alone" else list(patient.images)
    images = {name: patient.images[name] for name in names}
    refined = own_anatomy(images, patient.brain, patient.prior, patient.spacing)
    return refined.labels, refined.from_own_fluid


def _count(
    patient: Patient, anatomy: NDArray[np.uint8], own_ventricles: bool, tally: Tally
) -> None:
    """Add assigned regions of manual lesions and their contact with manual ventricles."""
    labels = label_lesions(patient.lesions, voxel_volume=float(np.prod(patient.spacing)))
    regions = region_map(anatomy, patient.spacing, own_ventricles=own_ventricles)
    assigned = assign(labels, regions)
    posterior = _posterior(assigned)
    around = ndimage.binary_dilation(patient.ventricle, np.ones((3, 3, 3), bool))
    touched = np.isin(np.arange(1, labels.max() + 1), labels[around])
    band = assigned.voxels[:, Region.PERIVENTRICULAR - 1] > 0
    tally.truth.append(touched & ~posterior)
    tally.touching.append(band & ~posterior)
    tally.main.append(assigned.main == Region.PERIVENTRICULAR)


def _posterior(assigned: RegionAssignment) -> Mask:
    posterior: Mask = assigned.main == Region.INFRATENTORIAL
    return posterior


def _print_agreement(tallies: dict[str, Tally]) -> None:
    print("| ventricles | lesions | periventricular by hand | touches the band: sensitivity | "
          "specificity | main region: sensitivity | specificity |")  # fmt: skip
    print("|---|---|---|---|---|---|---|")
    for method, tally in tallies.items():
        truth = np.concatenate(tally.truth)
        figures = []
        for assigned in (np.concatenate(tally.touching), np.concatenate(tally.main)):
            figures += [assigned[truth].mean(), 1 - assigned[~truth].mean()]
        cells = " | ".join(f"{figure:.2f}" for figure in figures)
        print(f"| {method} | {len(truth)} | {truth.sum()} | {cells} |")


def _dice(first: Mask, second: Mask) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


if __name__ == "__main__":
    raise SystemExit(main())
