"""Effect of lesion filling on the white matter of real heads with painted lesions.

usage: python benchmarks/filling.py BIDS_DIR [--only SUB ...] [--labels DIR] [--draws N] [--seed N]
[--model NAME|PATH] [--device DEVICE] [--threads N]

The original without lesions is known: lesions are painted, as in ``msseg-check``, into white
matter that neither the networks nor the experts (``BIDS_DIR/derivatives/manual``, if present) call
lesion. They are left in, replaced by the mean of all white matter, or filled as by
``--fill-lesions``. Everything is measured on the 1 mm grid that the networks read, and from FLAIR
and T1w only, which the app fills: T2w is left out, because it would still show the lesions.
Lesions of the patient stay as they are. Numbers are means over ``--draws``.

The filled mask is that of the painted lesions as a rater outlines them on the FLAIR, not that of
the networks: lesions missed by a network are not filled. White matter and volumes are those of the
released CNN-1, which may have seen the visit in its training.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from accuracy_table import Column, Finding, Section, render
from anatomy import percent_changes
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.bids.query import find_visits
from bids_msseg.bids.visit import Visit
from bids_msseg.check.painting import Painted, paint_draw
from bids_msseg.check.visit import Cut, FirstScan, Prepared, Segmenter, first_scan, prepare
from bids_msseg.demo.scan import half_maximum
from bids_msseg.errors import MssegError
from bids_msseg.evaluation.labels import find_truth, read_sites
from bids_msseg.evaluation.scoring import MIN_VOLUME
from bids_msseg.imaging.normalise import CONTRASTS, Stack
from bids_msseg.imaging.resample import mask_onto
from bids_msseg.imaging.volume import Volume, as_ras, load_volume
from bids_msseg.lesions.filling import BORDER_MM, fill_lesions
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.brain_volumes import BrainVolumes, measure_volumes
from bids_msseg.models.weights import find_model, read_header
from bids_msseg.pipeline.brain import brain_device
from bids_msseg.pipeline.filling import WHITE

LOGGER = logging.getLogger("bids_msseg")
FILLED = ("FLAIR", "T1w")
LEFT_IN, CONSTANT, OURS = "left in", "constant", "filled"
STREAM = 3
"""Random numbers of a visit; streams 1 and 2 are those of ``msseg-check``."""
ISOTROPIC = (1.0, 1.0, 1.0)
Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = dict[str, list[dict[str, float]]]
"""For each method, a row of figures a draw."""

INTENSITY = (
    Column("error", "error of voxels"),
    Column("mean_error", "error of lesion means"),
    Column("texture", "SD / original SD", 2),
    Column("border_error", "error at the border"),
    Column("border_changed", "voxels changed at the border", 0),
    Column("far_changed", "voxels changed beyond", 0),
)
VOLUMES = (
    Column("white_matter_ml", "white matter %", 2),
    Column("cortex_ml", "cortex %", 2),
    Column("deep_grey_ml", "deep grey %", 2),
    Column("parenchyma_ml", "parenchyma %", 2),
    Column("painted_ml", "painted mL", 2),
)
INTENSITY_NOTE = (
    "Errors are absolute differences from the original, in standard deviations of the visit's "
    "normal white matter, over the painted voxels that are white matter in the original, and "
    f"over white matter within {BORDER_MM:g} mm of them (border). The error of lesion means "
    "leaves noise out: noise that is independent of the original's raises the error of voxels "
    "although the texture is right. The SD is pooled within lesions. Voxels changed: against the "
    f"painted image, outside lesions, within {BORDER_MM:g} mm and beyond."
)
VOLUME_NOTE = (
    "Difference from the volumes of the original, by CNN-1 on FLAIR and T1w. Volumes of other "
    "programs, which segment by intensity, are not measured here."
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where images are compared; arrays of shape (X, Y, Z), voxels of 1 mm.

    Attributes
    ----------
    labels : ndarray of int32
        Painted lesions 1..n, as a rater outlines them.
    white : ndarray of bool
        White matter of the original.
    normal : ndarray of bool
        Its part that no lesion, own or painted, reaches.
    """

    labels: NDArray[np.int32]
    white: Mask
    normal: Mask


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of a visit: intensities by contrast and method, volumes by method."""

    intensities: Rows
    volumes: Rows


def main() -> int:
    """Print both tables."""
    options = _parse()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        for section in _sections(options):
            print(render(section), flush=True)
    except MssegError as error:
        print(error, file=sys.stderr)
        return int(error.code)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure lesion filling on painted lesions.")
    parser.add_argument("bids_dir", type=Path, help="BIDS dataset of real heads")
    parser.add_argument("--only", nargs="+", metavar="SUB", help="as sub-01 or sub-01_ses-1")
    parser.add_argument("--labels", type=Path, help="default: BIDS_DIR/derivatives/manual")
    parser.add_argument("--model", metavar="NAME|PATH", help="default: the bundled one")
    parser.add_argument("--draws", type=int, default=1, help="sets of lesions for each visit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _sections(options: argparse.Namespace) -> Iterator[Section]:
    import torch

    from bids_msseg.pipeline.segment import segment_stack

    torch.set_num_threads(options.threads)
    path = find_model(options.model)
    cut = Cut(read_header(path).point.threshold, MIN_VOLUME)
    run = partial(segment_stack, model=path, device=options.device)
    labels = options.labels or options.bids_dir / "derivatives" / "manual"
    sites = read_sites(options.bids_dir, "site")
    intensities: list[Finding] = []
    volumes: list[Finding] = []
    for visit in _visits(options, labels):
        LOGGER.info("%s", visit.key)
        prepared = _prepare(visit, options)
        expert_mask = draw_experts(find_truth(labels, visit), prepared.stack)
        measured = measure_visit(
            prepared, expert_mask, run, cut, draws=options.draws, seed=options.seed
        )
        person = (visit.key, visit.participant, sites.get(visit.participant, "one site"))
        intensities += _findings(person, measured.intensities)
        volumes += _findings(person, measured.volumes)
    yield Section("Intensities of filled lesions", INTENSITY_NOTE, INTENSITY, tuple(intensities))
    yield Section("Volumes with filled lesions", VOLUME_NOTE, VOLUMES, tuple(volumes))


def _visits(options: argparse.Namespace, labels: Path) -> list[Visit]:
    masks = {"labels": labels} if labels.is_dir() else None
    visits = find_visits(options.bids_dir, derivatives=masks).visits
    selected = options.only
    return [
        visit
        for visit in visits
        if not selected or {visit.key, f"sub-{visit.participant}"} & set(selected)
    ]


def _prepare(visit: Visit, options: argparse.Namespace) -> Prepared:
    files = {name: path for name, path in visit.contrasts.items() if name in FILLED}
    return prepare(
        visit.key,
        files,
        given_brain=visit.brain_mask,
        device=brain_device(options.device),
        threads=options.threads,
    )


def _findings(person: tuple[str, str, str], rows: Rows) -> list[Finding]:
    findings = [Finding(*person, method, average(draws)) for method, draws in rows.items()]
    for finding in findings:
        values = ", ".join(f"{key} {value:.4g}" for key, value in finding.values.items())
        LOGGER.info("  %s: %s", finding.method, values)
    return findings


def average(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average each figure over draws.

    Examples
    --------
    >>> average([{"error": 1.0}, {"error": 2.0}])
    {'error': 1.5}
    """
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def draw_experts(path: Path | None, stack: Stack) -> Mask:
    """Bring the experts' mask onto the grid of a stack; empty where there is none."""
    x, y, z = stack.brain.shape
    if path is None:
        return np.zeros((x, y, z), bool)
    truth = load_volume(path)
    mask = as_ras(truth.with_data((truth.data > 0).astype(np.uint8)))
    return mask_onto(mask, (x, y, z), stack.affine)


def measure_visit(
    prepared: Prepared, expert_mask: Mask, run: Segmenter, cut: Cut, *, draws: int, seed: int
) -> Measured:
    """Paint lesions into a visit, treat them in each way, and compare with the original.

    Parameters
    ----------
    prepared : Prepared
    expert_mask : ndarray of bool, shape (X, Y, Z)
        What experts call lesion: nothing is painted there.
    run : Segmenter
    cut : Cut
    draws, seed : int

    Returns
    -------
    Measured
        Empty where there is room for no lesion.

    Raises
    ------
    DataError
        If there is no white matter to paint lesions into.
    """
    maps = dict(run(prepared.stack))
    candidates = (maps["candidates"].data > 0) | expert_mask
    maps["candidates"] = maps["candidates"].with_data(candidates.astype(np.uint8))
    first = first_scan(prepared, lambda _: maps, cut)
    own_lesions = around((first.lesions > 0) | expert_mask)
    rng = prepared.rng(seed, STREAM)
    measured = Measured({}, {})
    for draw in range(draws):
        painted = paint_draw(first.canvas, draw, rng)
        white = np.isin(maps["anatomy"].data, WHITE) & ~own_lesions
        labels = outline(painted, prepared)
        place = Place(labels, white, white & ~painted.support)
        if ((labels > 0) & white).any() and place.normal.any():
            _measure_draw(first, painted, place, own_lesions, maps["anatomy"], run, seed, measured)
    return measured


def _measure_draw(
    first: FirstScan,
    painted: Painted,
    place: Place,
    own_lesions: Mask,
    anatomy: Volume,
    run: Segmenter,
    seed: int,
    measured: Measured,
) -> None:
    """Add the figures of a set of painted lesions."""
    stack = first.prepared.stack
    before = measure_volumes(anatomy.data, 1.0)
    left_in = run(replace(stack, data=painted.images))["anatomy"]
    # the app, too, finds white matter with the lesions in
    white = np.isin(left_in.data, WHITE) & ~own_lesions
    images = treat(painted.images, stack.present, place, white, seed)
    volumes = {LEFT_IN: measure_volumes(left_in.data, 1.0)}
    for method in (CONSTANT, OURS):
        volumes[method] = _volumes(run, replace(stack, data=images[method]))
    painted_ml = int(np.count_nonzero(place.labels)) / 1000
    for method, after in volumes.items():
        row = {**percent_changes(before, after), "painted_ml": painted_ml}
        measured.volumes.setdefault(method, []).append(row)
    for channel in np.flatnonzero(stack.present):
        for method, treated in images.items():
            row = compare(treated[channel], painted.images[channel], stack.data[channel], place)
            name = f"{CONTRASTS[channel]}, {method}"
            measured.intensities.setdefault(name, []).append(row)


def _volumes(run: Segmenter, stack: Stack) -> BrainVolumes:
    return measure_volumes(run(stack)["anatomy"].data, 1.0)


def around(lesions: Mask) -> Mask:
    """Widen a mask by the border within which voxels may hold a part of a lesion."""
    wide: Mask = ndimage.binary_dilation(lesions, iterations=int(np.ceil(BORDER_MM)))
    return wide


def outline(painted: Painted, prepared: Prepared) -> NDArray[np.int32]:
    """Outline painted lesions where they can be seen on FLAIR, and give them numbers."""
    share = ndimage.gaussian_filter(painted.lesions.soft, prepared.blur[0])
    visible = half_maximum(share) & prepared.stack.brain
    return label_lesions(visible, voxel_volume=1.0, min_volume=MIN_VOLUME)


def treat(
    images: Array, present: Sequence[bool], place: Place, white: Mask, seed: int
) -> dict[str, Array]:
    """Leave painted lesions in, give them the mean of white matter, and fill them as the app does.

    Parameters
    ----------
    images : ndarray of float32, shape (3, X, Y, Z)
    present : sequence of bool
    place : Place
    white : ndarray of bool, shape (X, Y, Z)
        White matter, without own lesions and what is around them, that filling may use.
    seed : int
        Of the texture.

    Returns
    -------
    dict of str to ndarray of float32, shape (3, X, Y, Z)
    """
    inside = place.labels > 0
    constant, filled = images.copy(), images.copy()
    for channel in np.flatnonzero(present):
        image = images[channel]
        constant[channel][inside] = image[place.normal].mean(dtype=np.float64)
        filled[channel] = fill_lesions(image, place.labels, white, ISOTROPIC, rng=seed)
    return {LEFT_IN: images, CONSTANT: constant, OURS: filled}


def compare(treated: Array, painted: Array, original: Array, place: Place) -> dict[str, float]:
    """Compare an image with the original, inside painted lesions and at their border.

    Parameters
    ----------
    treated, painted, original : ndarray of float32, shape (X, Y, Z)
        After treatment, with the lesions left in, and without them.
    place : Place

    Returns
    -------
    dict of str to float
        Keys of :data:`INTENSITY`; errors in standard deviations of normal white matter.
    """
    lesion = place.labels > 0
    near = ~lesion & (ndimage.distance_transform_edt(~lesion) <= BORDER_MM)
    spread = float(original[place.normal].std(dtype=np.float64))
    error = np.abs(treated.astype(np.float64) - original) / spread
    border = near & place.white
    changed = (treated != painted) & ~lesion
    means, deviation = _of_lesions(treated, place)
    true_means, true_deviation = _of_lesions(original, place)
    return {
        "error": float(error[lesion & place.white].mean()),
        "mean_error": float(np.abs(means - true_means).mean()) / spread,
        "texture": deviation / true_deviation if true_deviation else float("nan"),
        "border_error": float(error[border].mean()) if border.any() else float("nan"),
        "border_changed": float(np.count_nonzero(changed & near)),
        "far_changed": float(np.count_nonzero(changed & ~near)),
    }


def _of_lesions(image: Array, place: Place) -> tuple[NDArray[np.float64], float]:
    """Return the white matter mean of each lesion and the pooled SD within lesions."""
    labels = np.where(place.white, place.labels, 0)
    numbers, sizes = np.unique(labels[labels > 0], return_counts=True)
    values = image.astype(np.float64)
    means = np.asarray(ndimage.mean(values, labels, numbers))
    variances = np.asarray(ndimage.variance(values, labels, numbers))
    return means, float(np.sqrt(np.average(variances, weights=sizes)))


if __name__ == "__main__":
    raise SystemExit(main())
