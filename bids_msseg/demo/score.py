"""Agreement of lesion masks with the demo's ground truth, as a table marked as synthetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.demo.files import TRUTH, is_demo
from bids_msseg.errors import DataError, NoInputError
from bids_msseg.imaging.volume import load_volume
from bids_msseg.lesions.comparison.metrics import lesion_agreement, voxel_agreement

TITLE: Final = (
    "SYNTHETIC DATA: painted lesions; shows that the program works, not how well on patients"
)
COLUMNS: Final = ("visit", "Dice", "PPV", "sensitivity", "lesion F1", "truth mL", "found mL")
TRUTH_MASKS: Final = "sub-*_space-FLAIR_label-L_mask.nii.gz"


@dataclass(frozen=True, slots=True)
class VisitScore:
    """Agreement of one visit's mask with the truth: :data:`COLUMNS`, or None without a mask."""

    visit: str
    figures: tuple[float, ...] | None


def score(demo: Path, derivative: Path) -> tuple[str, bool]:
    """Return a table of the agreement of each visit, and whether every visit has a mask.

    Raises NoInputError if there is no truth or no mask, DataError if a mask is on another grid.
    """
    truths = sorted((demo / TRUTH).rglob(TRUTH_MASKS))
    if not truths or not is_demo(demo):
        raise NoInputError(
            f"no synthetic ground truth found in {demo}", hint="create it with msseg-demo FOLDER"
        )
    scores = [_score_visit(path, derivative / path.relative_to(demo / TRUTH)) for path in truths]
    if all(visit.figures is None for visit in scores):
        raise NoInputError(
            f"no mask of any visit of {demo} found in {derivative}",
            hint=f"segment the visits first: msseg {demo} {derivative} participant",
        )
    return _table(scores), all(visit.figures is not None for visit in scores)


def _score_visit(truth_path: Path, mask_path: Path) -> VisitScore:
    name = truth_path.name.partition("_space-")[0]
    if not mask_path.is_file():
        return VisitScore(name, None)
    truth, mask = load_volume(truth_path), load_volume(mask_path)
    if truth.shape != mask.shape or not np.allclose(truth.affine, mask.affine, atol=1e-2):
        raise DataError(
            f"{mask_path} is not on the grid of the FLAIR", hint="use masks in FLAIR space"
        )
    volume = truth.voxel_volume
    masks: tuple[NDArray[np.bool_], ...] = (mask.data > 0.5, truth.data > 0.5)
    voxels = voxel_agreement(*masks, voxel_volume=volume)
    lesions = lesion_agreement(*masks, voxel_volume=volume)
    figures = (voxels.dice, voxels.ppv, voxels.sensitivity, lesions.f1)
    return VisitScore(name, (*figures, voxels.volume_truth_ml, voxels.volume_pred_ml))


def _table(scores: Sequence[VisitScore]) -> str:
    scored = [visit.figures for visit in scores if visit.figures is not None]
    # undefined values, such as the PPV of an empty mask, are left out of the mean
    columns = [
        [value for value in column if np.isfinite(value)] for column in zip(*scored, strict=True)
    ]
    mean = tuple(float(np.mean(column)) if column else float("nan") for column in columns)
    width = max(len(visit.visit) for visit in scores)
    lines = [TITLE, _line(width, COLUMNS)]
    lines += [_line(width, (visit.visit, *_cells(visit.figures))) for visit in scores]
    lines.append(_line(width, (f"mean of {len(scored)}", *_cells(mean))))
    return "\n".join(lines)


def _cells(figures: Sequence[float] | None) -> list[str]:
    if figures is None:
        return ["n/a"] * (len(COLUMNS) - 1)
    return [f"{value:.2f}" if np.isfinite(value) else "n/a" for value in figures]


def _line(width: int, cells: Sequence[str]) -> str:
    rest = (
        cell.rjust(max(len(title), 5)) for cell, title in zip(cells[1:], COLUMNS[1:], strict=True)
    )
    return "  ".join([cells[0].ljust(max(width, 9)), *rest])
