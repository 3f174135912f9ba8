"""Calibration of trained weights from the predictions for held-out patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.calibration import Calibration, read_calibration, write_calibration
from bids_msseg.evaluation.scoring import prediction_stem
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.imaging.quality_measures import Measures, measure_visit
from bids_msseg.imaging.volume import as_ras, load_volume
from bids_msseg.lesions.confidence.fit import (
    MIN_PATIENTS,
    LesionCase,
    LoadCase,
    check_confidence,
    check_load,
    coverage,
    fit_confidence,
    fit_load,
    lesion_cases,
    rank_auc,
)
from bids_msseg.lesions.confidence.uncertainty import sweep_volumes

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles


@dataclass(frozen=True, slots=True)
class HeldOutData:
    """Lesion loads, lesions and image measures of the labelled visits of a training."""

    visits: tuple[str, ...]  # with a prediction of networks that had not seen the patient
    loads: tuple[LoadCase, ...]  # of these visits
    lesions: tuple[LesionCase, ...]
    measures: tuple[Measures, ...]  # of every labelled visit, predicted or not

    def calibration(self) -> Calibration:
        """Fit models on all patients; assess each patient by models fitted without it."""
        load, confidence = fit_load(self.loads), fit_confidence(self.lesions)
        reason = ""
        if load is None or confidence is None:
            patients = len({case.participant for case in self.loads})
            reason = (
                f"these weights were tested on {patients} held-out patients and "
                f"{len(self.lesions)} lesions; {MIN_PATIENTS} patients are needed"
            )
        auc = rank_auc(check_confidence(self.lesions))
        return Calibration(
            load=load,
            confidence=confidence,
            training=TrainingVisits(self.measures),
            coverage=coverage(check_load(self.loads)),
            auc=None if math.isnan(auc) else round(auc, 3),
            reason=reason,
        )


def collect_held_out(folder: Path, files: Sequence[LabelledFiles]) -> HeldOutData:
    """Collect held-out predictions from the output folder of a finished ``msseg-train``."""
    visits, loads, lesions = [], [], []
    for item in files:
        stem = prediction_stem(folder / "predictions", item.visit.key)
        if not Path(f"{stem}_probseg.nii.gz").is_file():
            continue
        truth = load_volume(item.truth)
        probability = load_volume(f"{stem}_probseg.nii.gz").data
        mask = load_volume(f"{stem}_mask.nii.gz").data
        participant, truth_mask = item.visit.participant, truth.data > 0.5
        volume_ml = float(truth_mask.sum()) * truth.voxel_volume / 1000
        sweep = sweep_volumes(probability, truth.voxel_volume)
        visits.append(item.visit.key)
        loads.append(LoadCase(participant, item.site, sweep, volume_ml))
        lesions += lesion_cases(
            mask, probability, truth_mask, participant=participant, site=item.site
        )
    measures = tuple(measure_labelled(folder, item) for item in files)
    return HeldOutData(tuple(visits), tuple(loads), tuple(lesions), measures)


def measure_labelled(folder: Path, item: LabelledFiles) -> dict[str, float]:
    """Measure the images of a visit as the check of the input images does."""
    from bids_msseg.training.data.visits import load_visit

    visit = load_visit(folder / "cohort" / f"{item.visit.key}.npz")
    return measure_visit(
        visit.images,
        visit.present,
        visit.brain,
        mask=as_ras(load_volume(item.brain)),
        spacings={c: check_header(path).spacing for c, path in item.visit.contrasts.items()},
    )


def calibrate(
    folder: Path,
    files: Sequence[LabelledFiles],
    weights: Path,
    *,
    start: Path | None = None,
) -> Calibration:
    """Write ``<name>.calibration.json`` beside the weights of a finished training."""
    from bids_msseg.models.weights import read_header

    header = read_header(weights)
    calibration = collect_held_out(folder, files).calibration()
    if start is not None:
        # the networks have also seen the training visits of the starting weights
        before = read_calibration(start, read_header(start).sha256).training or TrainingVisits()
        new = calibration.training or TrainingVisits()
        calibration = replace(calibration, training=TrainingVisits(before.measures + new.measures))
    write_calibration(weights, calibration, name=header.name, sha256=header.sha256)
    return calibration


def describe(calibration: Calibration) -> str:
    """Return the section of a model card on uncertainty, in Markdown."""
    lines = ["## Uncertainty", ""]
    if calibration.reason:
        lines.append(f"None: {calibration.reason}.")
    if calibration.load:
        factor = math.exp(calibration.load.half_width)
        lines.append(
            "90 % intervals of the lesion load, each fitted without the patient, held the load "
            f"that the experts drew: {_coverage_text(calibration)}. They reach from "
            f"1/{factor:.1f} to {factor:.1f} times the expected load."
        )
    if calibration.confidence and calibration.auc is not None:
        lines.append(
            f"A lesion's confidence, fitted without the patient, separates lesions that touch one "
            "of the experts' from others with an area under the ROC curve of "
            f"{calibration.auc:.2f} ({calibration.confidence.lesions} lesions)."
        )
    return "\n".join(lines) + "\n"


def _coverage_text(calibration: Calibration) -> str:
    sites = sorted(calibration.coverage.items(), key=lambda item: item[0] == "all")
    return ", ".join(f"{site} {inside} of {count}" for site, (inside, count) in sites)
