"""Check of one visit on the 1 mm grid: preparation, painting, pseudo-rescans, segmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.check.measures import Findings, Labels, compare_masks
from bids_msseg.check.painting import (
    Canvas,
    Painted,
    find_terrain,
    paint_draw,
    size_level,
    voxel_blur,
)
from bids_msseg.check.rescan import RescanPlan, map_back, plan_rescans, pseudo_rescan
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.normalise import CONTRASTS, Stack
from bids_msseg.imaging.resample import inverse, mask_onto
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.comparison.metrics import voxel_agreement
from bids_msseg.lesions.delineate import clear_extracerebral
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.regions import Region, assign, region_map
from bids_msseg.pipeline.lesions import Grid, find_anatomy
from bids_msseg.pipeline.preprocess import Preprocessed, preprocess, read_contrasts
from bids_msseg.pipeline.quality import check_images
from bids_msseg.training.data.painting import KEEP_AWAY_VOXELS, SUSPECT, measure_contrast

Row = dict[str, Any]
Mask = NDArray[np.bool_]
Segmenter = Callable[[Stack], Mapping[str, Volume]]
"""Networks on a stack: maps of :func:`bids_msseg.pipeline.segment.segment_stack`."""
MIN_NOISE = 0.01
"""Where less is measured, in standard deviations of the brain, every axis is interpolated."""
_PAINT, _RESCAN = 1, 2
"""Streams of random numbers of a visit."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Threshold and minimum volume (mm³) that turn a probability into lesions."""

    threshold: float
    min_volume: float

    def lesions(self, probability: NDArray[np.floating]) -> Labels:
        """Label the lesions of a probability on a 1 mm grid."""
        over = probability >= self.threshold
        return label_lesions(over, voxel_volume=1.0, min_volume=self.min_volume)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A visit before the networks run; arrays on the grid of the stack."""

    name: str  # visit key, also a seed of random numbers
    stack: Stack
    outside: Mask  # where no lesion can be
    anatomy: NDArray[np.uint8]
    regions: NDArray[np.int8]
    spacing: tuple[float, ...]  # of FLAIR in mm
    blur: NDArray[np.float64]  # (3, 3): voxel_blur of each contrast
    noise: tuple[float, ...]  # of each contrast, in standard deviations of the brain
    flags: tuple[str, ...]

    def rng(self, seed: int, stream: int) -> np.random.Generator:
        """Create the random number generator of this visit."""
        return np.random.default_rng((seed, stream, *self.name.encode()))


def prepare(
    name: str,
    files: Mapping[str, Path],
    *,
    given_brain: Path | None = None,  # on the FLAIR grid
    device: str = "cpu",
    threads: int = 1,
) -> Prepared:
    """Run all steps of the app before the networks; raises an MssegError for unusable images."""
    spacings = {
        contrast: check_header(path, contrast=contrast).spacing for contrast, path in files.items()
    }
    images, _ = read_contrasts(files)
    preprocessed = preprocess(images, given_brain=given_brain, device=device, threads=threads)
    checked = check_images(
        preprocessed.stack, preprocessed.brain, spacings, known_faults=preprocessed.faults
    )
    labels, anatomy_info = find_anatomy(
        preprocessed.images,
        preprocessed.transforms,
        preprocessed.brain.data > 0,
        preprocessed.template_to_flair,
    )
    regions = region_map(labels.data, labels.spacing, own_ventricles=anatomy_info.from_own_fluid)
    grid = Grid(Volume(preprocessed.stack.brain, preprocessed.stack.affine))
    return Prepared(
        name,
        preprocessed.stack,
        _outside(preprocessed, grid.frame),
        grid.take(labels, order=0).astype(np.uint8),
        grid.take(labels.with_data(regions), order=0).astype(np.int8),
        tuple(preprocessed.images["FLAIR"].spacing.tolist()),
        np.array([_blur(preprocessed, contrast) for contrast in CONTRASTS]),
        tuple(_noise(checked.measures, contrast) for contrast in CONTRASTS),
        checked.faults,
    )


def _outside(preprocessed: Preprocessed, grid: Volume) -> Mask:
    if preprocessed.extracerebral is None:
        return np.zeros(grid.shape, bool)
    return mask_onto(preprocessed.extracerebral, grid.shape, grid.affine)


def _blur(preprocessed: Preprocessed, contrast: str) -> NDArray[np.float64]:
    if contrast not in preprocessed.images:
        return np.zeros(3)
    to_flair = np.eye(4)
    if contrast in preprocessed.transforms:
        to_flair = inverse(preprocessed.transforms[contrast])
    return voxel_blur(preprocessed.images[contrast], to_flair, preprocessed.stack.affine)


def _noise(measures: Mapping[str, float], contrast: str) -> float:
    """Return the noise of the worst axis, or the default if all axes are interpolated."""
    noise = max(measures.get(f"{contrast}_noise_{axis}", 0.0) for axis in "xyz")
    return noise if noise >= MIN_NOISE else float(np.mean(RescanPlan().noise))


@dataclass(frozen=True, slots=True)
class FirstScan:
    """Segmentation of a visit as it is, and the canvas to paint lesions into."""

    prepared: Prepared
    lesions: Labels
    canvas: Canvas

    @property
    def load_ml(self) -> float:
        """Volume of all lesions in mL."""
        return int(np.count_nonzero(self.lesions)) / 1000


def first_scan(prepared: Prepared, run: Segmenter, cut: Cut) -> FirstScan:
    """Segment a visit as it is; raises DataError if no white matter is left to paint into."""
    stack = prepared.stack
    maps = run(stack)
    lesions = cut.lesions(_cleared(maps, prepared.outside, cut))
    lesion_like = (
        (lesions > 0) | (maps["candidate"].data >= SUSPECT) | (maps["candidates"].data > 0)
    )
    around = ndimage.binary_dilation(lesion_like, iterations=KEEP_AWAY_VOXELS)
    blocked = around | prepared.outside | ~stack.brain
    terrain = find_terrain(maps["anatomy"].data, prepared.anatomy, blocked)
    contrast = measure_contrast(stack.data, stack.present, stack.brain, lesions > 0)
    canvas = Canvas(stack.data, stack.present, stack.brain, terrain, contrast, prepared.blur)
    return FirstScan(prepared, lesions, canvas)


def _cleared(maps: Mapping[str, Volume], outside: Mask, cut: Cut) -> NDArray[np.floating]:
    return clear_extracerebral(maps["probability"].data, outside, threshold=cut.threshold)


def paint_and_find(
    first: FirstScan, run: Segmenter, cut: Cut, *, draws: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Paint sets of lesions and segment the images; return rows of lesions and of draws."""
    prepared = first.prepared
    rng = prepared.rng(seed, _PAINT)
    lesions: list[Row] = []
    totals: list[Row] = []
    for draw in range(draws):
        painted = paint_draw(first.canvas, draw, rng)
        if not painted.lesions.lesions:
            continue
        maps = run(replace(prepared.stack, data=painted.images))
        probability = _cleared(maps, prepared.outside, cut)
        findings = compare_masks(painted.lesions.labels, first.lesions, cut.lesions(probability))
        rows = _lesion_rows(prepared, painted, findings, probability)
        lesions += [{"draw": draw + 1, **row} for row in rows]
        totals.append(
            {
                "draw": draw + 1,
                "painted_ml": float(painted.lesions.volumes.sum()) / 1000,
                "found_ml": float(findings.volumes.sum()) / 1000,
                "n_false": len(findings.false),
                "false_ml": sum(findings.false) / 1000,
            }
        )
    return lesions, totals


def _lesion_rows(
    prepared: Prepared, painted: Painted, findings: Findings, probability: NDArray[np.floating]
) -> list[Row]:
    labels, volumes = painted.lesions.labels, painted.lesions.volumes
    numbers = np.arange(1, len(volumes) + 1)
    regions = assign(labels, prepared.regions).main
    centres = np.array(ndimage.center_of_mass(labels > 0, labels, numbers))
    world = centres @ prepared.stack.affine[:3, :3].T + prepared.stack.affine[:3, 3]
    peaks = ndimage.maximum(probability, labels, numbers)
    return [
        {
            "index": at + 1,
            "volume_mm3": float(volumes[at]),
            "size": size_level(float(volumes[at])),
            # none beyond the field of view of the FLAIR
            "region": Region(regions[at]).label if regions[at] else None,
            "strength": painted.strengths[at],
            "flair_contrast": painted.added[at],
            "x": float(world[at, 0]),
            "y": float(world[at, 1]),
            "z": float(world[at, 2]),
            "found": bool(findings.found[at]),
            "found_mm3": float(findings.volumes[at]),
            "max_probability": float(peaks[at]),
        }
        for at in range(len(volumes))
    ]


def scan_again(
    first: FirstScan, run: Segmenter, cut: Cut, *, rescans: int, seed: int
) -> list[Row]:
    """Simulate second scans and compare their masks with the first, one row per rescan."""
    prepared = first.prepared
    plans = plan_rescans(prepared.spacing, prepared.noise, prepared.rng(seed, _RESCAN), rescans)
    return [
        {"rescan": number, **_again(first, run, cut, plan)}
        for number, plan in enumerate(plans, start=1)
    ]


def _again(first: FirstScan, run: Segmenter, cut: Cut, plan: RescanPlan) -> Row:
    prepared = first.prepared
    stack = prepared.stack
    again = pseudo_rescan(stack.data, stack.present, stack.brain, plan)
    moved = stack.affine @ again.motion
    maps = run(Stack(again.images, stack.present, again.brain, moved, stack.slice_mm))
    before = Volume(prepared.outside, np.eye(4))
    outside = mask_onto(before, maps["probability"].shape, again.motion)
    probability = _cleared(maps, outside, cut).astype(np.float32)
    back = cut.lesions(map_back(probability, again, before.shape))
    agreed = voxel_agreement(back, first.lesions, voxel_volume=1.0)
    load = int(np.count_nonzero(cut.lesions(probability))) / 1000
    return {"load_ml": load, "dice": agreed.dice}
