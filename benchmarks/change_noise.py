"""False changes between a visit and its pseudo-rescan, where nothing has changed.

usage: python benchmarks/change_noise.py COHORT [--visits KEY ...] [--fast]

``COHORT`` holds visits prepared by ``msseg-train`` (``.npz``). Each is segmented by the bundled
model, moved, given different noise, segmented again, registered and compared. Every row that is
not "stable" or "unclear" is a false change. The model has seen these patients, and a pseudo-rescan
has no scanner drift: the printed values are a lower bound of the noise.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from thick_slices import in_plane

from bids_msseg.check.rescan import RescanPlan, pseudo_rescan
from bids_msseg.imaging.registration.visit_alignment import (
    CommonGrid,
    align_visits,
    build_common_grid,
)
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.longitudinal.change import compare_lesions
from bids_msseg.lesions.longitudinal.flair_change import VisitMaps
from bids_msseg.lesions.longitudinal.match import carry_labels, match_lesions, surface_mm2
from bids_msseg.lesions.longitudinal.rows import CHANGES
from bids_msseg.models.cascade import segment
from bids_msseg.models.checkpoint import load_cascade
from bids_msseg.models.engine import choose_engine
from bids_msseg.models.weights import find_model
from bids_msseg.training.data.visits import load_visit

MIN_MM3 = 3.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare visits with pseudo-rescans.")
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--visits", nargs="*")
    parser.add_argument("--fast", action="store_true")
    options = parser.parse_args()
    cascade, engine = load_cascade(find_model(None)), choose_engine("cpu")
    headings = (
        "visit", "slices", "load (mL)", "load again (mL)", "lesions", "lesions again",
        "registration error (mm)", "border SD (mm)", "border moved, robust SD (mm)", *CHANGES,
    )  # fmt: skip
    print(f"| {' | '.join(headings)} |\n" + "|---" * len(headings) + "|")
    for path in sorted(options.cohort.glob("*.npz")):
        if options.visits and path.stem not in options.visits:
            continue
        visit = load_visit(path)
        images = visit.images.astype(np.float32)
        plan = in_plane(6.0, 2) if visit.thick else RescanPlan()
        rescan = pseudo_rescan(images, visit.present, visit.brain, plan)
        scans = []
        for data, brain in ((images, visit.brain), (rescan.images, rescan.brain)):
            inputs = data, visit.present, brain, engine
            output = segment(cascade, *inputs, slice_mm=visit.slice_mm, fast=options.fast)
            probability = Volume(output.probability, np.eye(4))
            scans.append((Volume(data[0], np.eye(4)), brain, probability))
        row = _comparison_cells(scans, rescan.motion, cascade.point.threshold)
        print(
            f"| {path.stem} | {'thick' if visit.thick else '1 mm'} | {' | '.join(row)} |",
            flush=True,
        )
    return 0


def _comparison_cells(
    scans: list[tuple[Volume, NDArray[np.bool_], Volume]],
    motion: NDArray[np.float64],
    threshold: float,
) -> list[str]:
    (first, first_brain, _), (second, second_brain, _) = scans
    alignment = align_visits(first, second, earlier_brain=first_brain, later_brain=second_brain)
    index = np.argwhere(second_brain)[::97].astype(float)
    gap = (alignment.affine - motion)[:3]
    error = np.sqrt(((index @ gap[:, :3].T + gap[:, 3]) ** 2).sum(axis=1).mean())
    meeting = build_common_grid(
        alignment, first.with_data(first_brain), second.with_data(second_brain)
    )
    maps = [
        _maps(scan, meeting, threshold, later=later)
        for scan, later in zip(scans, (False, True), strict=True)
    ]
    result = compare_lesions(
        maps[0], maps[1], meeting.inside, disagreement_mm=alignment.disagreement_mm
    )
    counts = Counter(row.change for row in result.rows)
    loads = [f"{sum(visit.volumes_mm3.values()) / 1000:.2f}" for visit in maps]
    numbers = [str(len(visit.volumes_mm3)) for visit in maps]
    return [
        *loads,
        *numbers,
        f"{error:.2f}",
        f"{result.border_sd_mm:.2f}",
        f"{_border_sd(maps):.2f}",
        *(str(counts[change]) for change in CHANGES),
    ]


def _maps(
    scan: tuple[Volume, NDArray[np.bool_], Volume],
    meeting: CommonGrid,
    threshold: float,
    *,
    later: bool,
) -> VisitMaps:
    flair, _, probability = scan
    labels = label_lesions(probability.data >= threshold, voxel_volume=1, min_volume=MIN_MM3)
    sizes = np.bincount(labels.ravel())
    stepped = meeting.take(flair.with_data(labels), later=later, order=0).astype(np.int32)
    soft = meeting.take(probability, later=later)
    return VisitMaps(
        meeting.flair(flair, later=later),
        soft,
        carry_labels(stepped, soft, threshold, {}),
        {label: float(sizes[label]) for label in range(1, len(sizes))},
        threshold,
    )


def _border_sd(maps: list[VisitMaps]) -> float:
    """Return the robust standard deviation of the border displacement, in mm."""
    areas = [surface_mm2(visit.labels) for visit in maps]
    shifts = []
    for group in match_lesions(maps[0].labels, maps[1].labels):
        if group.before and group.after:
            volumes = [
                sum(visit.volumes_mm3[label] for label in labels)
                for visit, labels in zip(maps, (group.before, group.after), strict=True)
            ]
            area = sum(areas[0][label] for label in group.before)
            area += sum(areas[1][label] for label in group.after)
            shifts.append(abs(volumes[1] - volumes[0]) / (area / 2))
    return 1.4826 * float(np.median(shifts)) if shifts else float("nan")


if __name__ == "__main__":
    raise SystemExit(main())
