"""Scores of predictions on the grid of the manual masks."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.normalise import working_grid
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.volume import Volume, as_ras, load_volume, save_volume
from bids_msseg.lesions.comparison.metrics import lesion_agreement, voxel_agreement
from bids_msseg.lesions.comparison.rules import AnimaRule
from bids_msseg.lesions.delineate import delineate

MIN_VOLUME = 3.0


@dataclass(frozen=True, slots=True)
class Score:
    """Agreement of one prediction with the manual mask; the fields are :data:`COLUMNS`."""

    visit: str
    site: str
    method: str
    dice: float
    ppv: float
    sensitivity: float
    lesion_f1: float
    lesion_sensitivity: float
    lesion_ppv: float
    lesion_f1_anima: float
    false_components: int
    load_ml: float
    truth_ml: float


COLUMNS = tuple(item.name for item in fields(Score))
"""Columns of ``scores.tsv``."""


def score(mask: NDArray[np.bool_], truth: Volume, *, visit: str, site: str, method: str) -> Score:
    """Compare a mask with a manual mask on the same grid; lesions count from 3 mm³ on."""
    lesions = truth.data > 0.5
    size = truth.voxel_volume
    voxels = voxel_agreement(mask, lesions, voxel_volume=size)
    any_rule = lesion_agreement(mask, lesions, voxel_volume=size, min_volume=MIN_VOLUME)
    anima = lesion_agreement(
        mask, lesions, voxel_volume=size, min_volume=MIN_VOLUME, rule=AnimaRule.code_defaults()
    )
    return Score(
        visit,
        site,
        method,
        voxels.dice,
        voxels.ppv,
        voxels.sensitivity,
        any_rule.f1,
        any_rule.sensitivity,
        any_rule.ppv,
        anima.f1,
        any_rule.n_pred - any_rule.tp_pred,
        voxels.volume_pred_ml,
        voxels.volume_truth_ml,
    )


def site_means(scores: Iterable[Score]) -> list[tuple[str, str, int, dict[str, float]]]:
    """Return site, method, n and means over participants' means, without undefined values."""
    groups: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for visit_score in scores:
        people = groups.setdefault((visit_score.site, visit_score.method), {})
        people.setdefault(visit_score.visit.partition("_")[0], []).append(visit_score)
    means = []
    for (site, method), people in sorted(groups.items()):
        values = {
            name: _mean(
                _mean(getattr(visit_score, name) for visit_score in visits)
                for visits in people.values()
            )
            for name in COLUMNS[3:11]
        }
        means.append((site, method, len(people), values))
    return means


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def read_scores(path: Path) -> list[Score]:
    """Read ``scores.tsv`` of an earlier run; empty if its columns are not :data:`COLUMNS`."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            return []
        return [_read_score(row) for row in reader]


def _read_score(row: Mapping[str, str]) -> Score:
    figures = {name: math.nan if row[name] == "n/a" else float(row[name]) for name in COLUMNS[3:]}
    false = int(figures.pop("false_components"))
    return Score(row["visit"], row["site"], row["method"], false_components=false, **figures)


def onto_flair(data: NDArray[np.floating], brain: Path, flair: Volume) -> Volume:
    """Resample an array from the working grid of a brain mask to the grid of the FLAIR."""
    _, affine = working_grid(as_ras(load_volume(brain)))
    return resample(Volume(data, affine), flair.shape, flair.affine)


def cut_mask(probability: Volume, threshold: float) -> NDArray[np.bool_]:
    """Threshold a probability map and remove components below 3 mm³, as the app does."""
    delineation = delineate(
        probability.data,
        np.zeros(probability.shape, bool),
        voxel_volume=probability.voxel_volume,
        threshold=threshold,
        min_volume=MIN_VOLUME,
    )
    inside: NDArray[np.bool_] = delineation.lesions > 0
    return inside


def keep_prediction(
    folder: Path, visit: str, method: str, probability: Volume, mask: NDArray[np.bool_]
) -> None:
    """Write a prediction of ``candidate net`` (probability map) or ``cascade`` (also mask)."""
    stem = prediction_stem(folder, visit)
    stem.parent.mkdir(parents=True, exist_ok=True)
    if method == "candidate net":
        save_volume(probability, f"{stem}_desc-candidate_probseg.nii.gz", dtype=np.float32)
    if method != "cascade":
        return
    save_volume(probability, f"{stem}_probseg.nii.gz", dtype=np.float32)
    save_volume(probability.with_data(mask), f"{stem}_mask.nii.gz")


def prediction_stem(folder: Path, visit: str) -> Path:
    """Return the path of the predictions of a visit, without the end of the file names."""
    participant, _, session = visit.partition("_")
    return folder / participant / session / "anat" / f"{visit}_space-FLAIR_label-L"
