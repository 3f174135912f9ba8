"""Measure skull stripping, registration and regions on real heads.

usage: python benchmarks/imaging.py {stripped,brain,rigid,affine,regions} [--data FOLDER]

FOLDER holds ``ms-cohort``, ``raw-heads`` and ``label-maps``; the default is ``../shared/data``
beside the repository. Each part prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging import brain as brain_module
from bids_msseg.imaging.brain import (
    brain_volume_ml,
    extract_brain,
    is_skull_stripped,
    mask_from_stripped,
    support,
)
from bids_msseg.imaging.conform import canonical
from bids_msseg.imaging.registration.affine import mask_overlap, register_affine, register_rigid
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Volume, load_volume

THREADS = 2
# FreeSurfer's numbers for the four regions
REGIONS = {
    1: (4, 5, 14, 31, 43, 44, 63, 72),
    2: (3, 17, 18, 42, 53, 54, 136, 137),
    3: (7, 8, 15, 16, 46, 47),
    4: (2, 10, 11, 12, 13, 25, 26, 28, 30, 41, 49, 50, 51, 52, 57, 58, 60, 62, 77, 85, 163, 164),
}
OUTER_FLUID = 24
FIRST_EXTRACEREBRAL = 500
# a synthetic T1w of the labels: white matter, grey matter, deep grey, all else fluid
BRIGHTNESS = {110: (2, 41, 7, 46, 28, 60, 16, 77), 75: (3, 42, 8, 47, 17, 18, 53, 54)}
BRIGHTNESS |= {88: (10, 49, 11, 50, 12, 51, 13, 52, 26, 58, 25, 57, 85, 136, 137, 163, 164)}


def main() -> None:
    parts: dict[str, Callable[[Path], None]] = {
        "stripped": stripped, "brain": brain, "rigid": rigid, "affine": affine, "regions": regions,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    arguments = parser.parse_args()
    parts[arguments.part](arguments.data)


def stripped(data: Path) -> None:
    """Print the margin between stripped images and heads, whole and upper half."""
    for name, cut in (("whole", False), ("upper half", True)):
        for cohort in ("ms-cohort", "raw-heads"):
            supports = [support(_upper_half(v) if cut else v) for _, v in _images(data / cohort)]
            sizes = [item.volume_ml for item in supports]
            dark = [item.dark_share for item in supports]
            print(
                f"{name:10} {cohort:9} n {len(supports)}  {min(sizes):.0f}-{max(sizes):.0f} mL  "
                f"dark {min(dark):.3f}-{max(dark):.3f}"
            )
    wrong = [n for n, v in _images(data / "ms-cohort") if not is_skull_stripped(v)]
    wrong += [n for n, v in _images(data / "raw-heads") if is_skull_stripped(v)]
    print("misclassified:", ", ".join(wrong) or "none")


def brain(data: Path) -> None:
    """Print the brain extraction of every raw head, and the voxels changed by two threads."""
    for name, volume in _images(data / "raw-heads"):
        start = time.perf_counter()
        mask = extract_brain(volume)
        seconds = time.perf_counter() - start
        with mock.patch.object(brain_module, "TORCH_THREADS", 2):
            two_threads = extract_brain(volume)
        size = brain_volume_ml(mask, volume.voxel_volume)
        changed = np.count_nonzero(mask != two_threads)
        print(f"{name:24} {size:5.0f} mL  {seconds:4.1f} s  two threads change {changed} voxels")


def rigid(data: Path) -> None:
    """Print the registration of every T1w and T2w to its FLAIR.

    The Dice of the masks is of separately extracted brains.
    """
    for path in sorted((data / "raw-heads").glob("sub-*/**/*_T[12]w.nii.gz")):
        fixed = canonical(load_volume(path.with_name(_flair(path))))
        moving = canonical(load_volume(path))
        fixed_brain, moving_brain = (extract_brain(v) for v in (fixed, moving))
        start = time.perf_counter()
        registration = register_rigid(moving, fixed, fixed_mask=fixed_brain, threads=THREADS)
        seconds = time.perf_counter() - start
        single_thread = register_rigid(moving, fixed, fixed_mask=fixed_brain, threads=1)
        masks = moving.with_data(moving_brain), fixed.with_data(fixed_brain)
        print(
            f"{_name(path):24} MI {registration.metric_before:.3f} -> "
            f"{registration.metric_after:.3f}  Dice "
            f"{mask_overlap(*masks, np.eye(4)):.3f} -> "
            f"{mask_overlap(*masks, registration.affine):.3f}  "
            f"moved {_shift(fixed, fixed_brain, registration.affine):.1f} mm  {seconds:.1f} s  "
            f"same with 1 thread: {_same(registration.affine, single_thread.affine)}"
        )


def affine(data: Path) -> None:
    """Print the registration of every FLAIR to the template, compared with that of T1w."""
    template = load_template()
    target = template.volume.with_data(template.mask)
    for cohort in ("ms-cohort", "raw-heads"):
        for path in sorted((data / cohort).glob("sub-*/**/*_FLAIR.nii.gz")):
            volume = canonical(load_volume(path))
            mask = _brain_mask(volume)
            start = time.perf_counter()
            registration = register_affine(
                volume,
                template.volume,
                moving_mask=mask,
                fixed_mask=template.mask,
                threads=THREADS,
            )
            seconds = time.perf_counter() - start
            overlap = mask_overlap(volume.with_data(mask), target, registration.affine)
            difference = _difference_via_t1w(path, volume, mask, registration.affine)
            print(
                f"{_name(path):24} Dice {overlap:.3f}  T1w's differs by {difference}  "
                f"{seconds:.1f} s"
            )


def regions(data: Path) -> None:
    """Print the agreement of the template's regions with FreeSurfer labels of heads.

    The heads are registered by an affine.
    """
    template = load_template()
    labels = np.asarray(template.regions)
    paths = sorted((data / "label-maps" / "anatomy").glob("*_dseg.nii.gz"))
    heads = np.stack([_labelled(path, template.volume, template.mask) for path in paths])
    votes = np.stack([(heads == region).sum(0) for region in range(5)])
    majority = votes.argmax(0)
    inside = majority > 0
    for region in REGIONS:
        head_dice = [_dice(head == region, majority == region) for head in heads]
        map_dice = _dice((labels == region) & inside, majority == region)
        print(
            f"region {region}: template against the majority of {len(heads)} heads "
            f"{map_dice:.3f}; single heads against it {np.mean(head_dice):.3f}"
        )


def _labelled(path: Path, target: Volume, target_mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the regions of one labelled head on the template's grid."""
    head = canonical(load_volume(path, np.int32))
    picture = np.where((head.data > 0) & (head.data < FIRST_EXTRACEREBRAL), 25.0, 0.0)
    for value, numbers in BRIGHTNESS.items():
        picture[np.isin(head.data, numbers)] = value
    mask = (head.data > 0) & (head.data < FIRST_EXTRACEREBRAL) & (head.data != OUTER_FLUID)
    registration = register_affine(
        head.with_data(picture.astype(np.float32)),
        target,
        moving_mask=mask,
        fixed_mask=target_mask,
        threads=THREADS,
    )
    moved = resample(
        head, target.shape, target.affine, transform=registration.affine, order=0
    ).data
    named = np.zeros(target.shape, np.uint8)
    for region, numbers in REGIONS.items():
        named[np.isin(moved, numbers)] = region
    return named


def _images(folder: Path) -> Iterator[tuple[str, Volume]]:
    for path in sorted(folder.glob("sub-*/**/*.nii.gz")):
        yield _name(path), canonical(load_volume(path))


def _name(path: Path) -> str:
    return path.name.removesuffix(".nii.gz")


def _flair(path: Path) -> str:
    return path.name.rsplit("_", 1)[0] + "_FLAIR.nii.gz"


def _upper_half(volume: Volume) -> Volume:
    return volume.with_data(volume.data[:, :, volume.shape[2] // 2 :])


def _brain_mask(volume: Volume) -> NDArray[np.bool_]:
    if is_skull_stripped(volume):
        return mask_from_stripped(volume)
    return extract_brain(volume)


def _difference_via_t1w(
    path: Path, flair: Volume, mask: NDArray[np.bool_], through_flair: NDArray[np.float64]
) -> str:
    """Return the mean distance in mm between affines found via FLAIR and via T1w."""
    t1w_path = path.with_name(path.name.replace("_FLAIR", "_T1w"))
    if not t1w_path.exists():
        return "-"
    template = load_template()
    t1w = canonical(load_volume(t1w_path))
    direct = register_affine(
        t1w, template.volume, moving_mask=_brain_mask(t1w), fixed_mask=template.mask
    )
    to_t1w = register_rigid(t1w, flair, fixed_mask=mask).affine
    difference = to_t1w @ through_flair - direct.affine
    points = _points(template.volume, template.mask)
    distance = np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1)
    return f"{distance.mean():.1f} mm"


def _points(volume: Volume, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    index = np.argwhere(mask)[::500].astype(float)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _shift(volume: Volume, mask: NDArray[np.bool_], transform: NDArray[np.float64]) -> float:
    points = _points(volume, mask)
    moved = points @ transform[:3, :3].T + transform[:3, 3]
    return float(np.linalg.norm(moved - points, axis=1).mean())


def _same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    return hashlib.sha256(first.tobytes()).digest() == hashlib.sha256(second.tobytes()).digest()


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(first & second) / (first.sum() + second.sum()))


if __name__ == "__main__":
    main()
