"""Small synthetic evaluations for tests of pages: bright boxes in a spherical brain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.reports.evaluation.data import (
    ALL,
    ALL_SITES,
    AUTO,
    COHORT_STATISTICS,
    FALSE,
    FOUND,
    MANUAL,
    METRICS,
    MISSED,
    SITE,
    SIZE,
    TABLES,
    TRUE,
    VISIT,
    Case,
    Evaluation,
)

Box = tuple[int, int, int, int, int, int]
SHAPE = (40, 44, 24)
AFFINE = np.diag([-1.0, 1.0, 2.0, 1.0])
AFFINE[:3, 3] = (20.0, -22.0, -24.0)
TEXT = {"name", "participant_id", "session_id", "site", "side", "state", "size", "region"}


def mask_of(boxes: Sequence[Box]) -> np.ndarray:
    """Fill boxes, given as first voxel and exclusive end along x, y and z."""
    mask = np.zeros(SHAPE, bool)
    for x0, x1, y0, y1, z0, z1 in boxes:
        mask[x0:x1, y0:y1, z0:z1] = True
    return mask


def brain_mask() -> np.ndarray:
    """Return a spherical brain mask of 15 mm radius."""
    grid = np.indices(SHAPE).reshape(3, -1)
    centre = (np.array(SHAPE) - 1) / 2
    away = (np.diag([1.0, 1.0, 2.0]) @ (grid - centre[:, None])) ** 2
    return (away.sum(axis=0) <= 15**2).reshape(SHAPE)


def make_case(
    name: str = "sub-01",
    manual: Sequence[Box] = (),
    auto: Sequence[Box] = (),
    *,
    site: str = "Here",
    brain: bool = True,
    image: bool = True,
    outside: float = 400.0,
    min_volume: float = 3.0,
    **more: Any,
) -> Case:
    """Make a case whose rows hold what the boxes give, and ``more``.

    The image is ``outside`` beyond the brain, 100 in it, 80 more in lesions.
    """
    masks = {MANUAL: mask_of(manual), AUTO: mask_of(auto)}
    labels = {
        side: label_lesions(mask, voxel_volume=2.0, min_volume=min_volume)
        for side, mask in masks.items()
    }
    lesions = [
        *_lesion_rows(name, site, MANUAL, labels[MANUAL], masks[AUTO]),
        *_lesion_rows(name, site, AUTO, labels[AUTO], masks[MANUAL]),
    ]
    count = {state: sum(row["state"] == state for row in lesions) for state in
             (FOUND, MISSED, TRUE, FALSE)}  # fmt: skip
    volumes = {side: 2.0 * float(mask.sum()) / 1000 for side, mask in masks.items()}
    row = dict.fromkeys(TABLES["subjects"], math.nan) | {
        "name": name,
        "participant_id": name,
        "session_id": "n/a",
        "site": site,
        "volume_manual_ml": volumes[MANUAL],
        "volume_auto_ml": volumes[AUTO],
        "volume_mean_ml": (volumes[MANUAL] + volumes[AUTO]) / 2,
        "volume_difference_ml": volumes[AUTO] - volumes[MANUAL],
        "n_manual": count[FOUND] + count[MISSED],
        "n_auto": count[TRUE] + count[FALSE],
        **{f"n_{state}": number for state, number in count.items()},
        "resampled": "no",
        **more,
    }
    inside = brain_mask()
    flair = np.where(inside, 100, outside) + 80.0 * (masks[MANUAL] | masks[AUTO])
    return Case(
        name,
        site,
        flair.astype(np.float32) if image else None,
        masks[AUTO],
        masks[MANUAL],
        labels[AUTO],
        labels[MANUAL],
        AFFINE,
        row,
        lesions,
        inside if brain else None,
    )


def _lesion_rows(
    name: str, site: str, side: str, labels: np.ndarray, other: np.ndarray
) -> list[dict[str, Any]]:
    states = {MANUAL: (MISSED, FOUND), AUTO: (FALSE, TRUE)}[side]
    rows = []
    for index in range(1, int(labels.max()) + 1):
        voxels = labels == index
        row: dict[str, Any] = dict.fromkeys(TABLES["lesions"], math.nan)
        row |= {"name": name, "site": site, "side": side, "index": index}
        row |= {"state": states[bool(other[voxels].any())], "volume_mm3": 2.0 * voxels.sum()}
        row |= {"size": "10-100", "region": "deep_white_matter", "partners": "n/a"}
        rows.append(row)
    return rows


def make_evaluation(*cases: Case, **tables: Sequence[Mapping[str, Any]]) -> Evaluation:
    """Create an evaluation of the cases; the cohort tables contain fixed values."""
    sites = [*dict.fromkeys(case.site for case in cases), ALL_SITES]
    figures = {"low": math.nan, "high": math.nan, "n_patients": len(cases), "n_visits": len(cases)}
    content: dict[str, Sequence[Mapping[str, Any]]] = {
        "subjects": [case.subject_row for case in cases],
        "lesions": [row for case in cases for row in case.lesion_rows],
        "sites": [
            figures | {"site": site, "metric": metric, "mean": 0.25, "n_undefined": 0}
            for site in sites
            for metric in METRICS
        ],
        "cohort": [
            figures | {"scope": scope, "name": name, "statistic": statistic, "value": 0.5}
            for scope, name in (*((SITE, one) for one in sites[:-1]), (ALL, ALL_SITES))
            for statistic in COHORT_STATISTICS
        ],
        "strata": [
            figures | {"scope": scope, "name": name, "stratum": SIZE, "level": "<10"}
            for scope, name in (*((VISIT, case.name) for case in cases), (ALL, ALL_SITES))
        ],
        "reliability": [
            {"scope": ALL, "name": ALL_SITES, "bin_low": p, "bin_high": p + 0.5, "n_voxels": 7,
             "mean_probability": p + 0.2, "share_lesion": p + 0.1}
            for p in (0.0, 0.5)
        ],
        **tables,
    }  # fmt: skip
    words = {stem: {name: f"What {name} means" for name in TABLES[stem]} for stem in TABLES}
    return Evaluation("auto against manual", lambda: iter(cases), content, words, ("A note.",))


FOUND_PAIR: Box = (16, 22, 18, 24, 8, 12)
MISSED_ONE: Box = (26, 29, 22, 25, 12, 14)
FALSE_ONE: Box = (12, 14, 14, 17, 14, 16)


def two_cases() -> tuple[Case, Case]:
    """One case with a found, a missed and a false lesion; one of another site, all found."""
    return (
        make_case("sub-01", (FOUND_PAIR, MISSED_ONE), (FOUND_PAIR, FALSE_ONE)),
        make_case("sub-02_ses-1", (FOUND_PAIR,), (FOUND_PAIR,), site="There"),
    )
