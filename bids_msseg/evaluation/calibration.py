"""What a training learns of its own errors, from the predictions for patients it had not seen.

Public names: :func:`learn`, :func:`describe`, :class:`Experience`.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bids_msseg.calibration import Calibration, read_calibration, write_calibration
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.quality import TrainingVisits
from bids_msseg.imaging.quality_measures import Measures, measure_visit
from bids_msseg.imaging.volume import as_ras, load_volume
from bids_msseg.lesions.uncertainty import sweep_volumes
from bids_msseg.lesions.uncertainty_fit import (
    FEWEST_PATIENTS,
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

if TYPE_CHECKING:
    from bids_msseg.evaluation.labels import LabelledFiles


@dataclass(frozen=True, slots=True)
class Experience:
    """What was measured on the labelled visits of a training.

    Attributes
    ----------
    visits : tuple of str
        Those with a prediction by nets that had not seen the patient, in the order of ``loads``.
    loads : tuple of LoadCase
    lesions : tuple of LesionCase
    measures : tuple of mapping
        How the images of every labelled visit look, predicted or not.
    """

    visits: tuple[str, ...]
    loads: tuple[LoadCase, ...]
    lesions: tuple[LesionCase, ...]
    measures: tuple[Measures, ...]

    def calibration(self) -> Calibration:
        """Learn from all, and measure on each patient without itself."""
        load, confidence = fit_load(self.loads), fit_confidence(self.lesions)
        reason = ""
        if load is None or confidence is None:
            patients = len({case.participant for case in self.loads})
            reason = (
                f"these weights were tested on {patients} unseen patients and "
                f"{len(self.lesions)} lesions; {FEWEST_PATIENTS} patients are needed"
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


def learn(
    folder: Path, files: Sequence[LabelledFiles], *, unseen: Container[str] | None = None
) -> Experience:
    """Gather what a finished training shows of its errors.

    Parameters
    ----------
    folder : path
        Output folder of ``msseg-train``: ``cohort/`` and ``predictions/`` are read.
    files : sequence of LabelledFiles
    unseen : container of str, optional
        Visits whose predictions come from nets that had not seen the patient; all by default.

    Returns
    -------
    Experience
    """
    visits, loads, lesions = [], [], []
    for item in files:
        stem = _prediction(folder, item)
        if unseen is not None and item.visit.key not in unseen:
            continue
        if not Path(f"{stem}_probseg.nii.gz").is_file():
            continue
        truth = load_volume(item.truth)
        probability = load_volume(f"{stem}_probseg.nii.gz").data
        mask = load_volume(f"{stem}_mask.nii.gz").data
        who, true = item.visit.participant, truth.data > 0.5
        volume_ml = float(true.sum()) * truth.voxel_volume / 1000
        sweep = sweep_volumes(probability, truth.voxel_volume)
        visits.append(item.visit.key)
        loads.append(LoadCase(who, item.site, sweep, volume_ml))
        lesions += lesion_cases(mask, probability, true, participant=who, site=item.site)
    measures = tuple(measure_labelled(folder, item) for item in files)
    return Experience(tuple(visits), tuple(loads), tuple(lesions), measures)


def measure_labelled(folder: Path, item: LabelledFiles) -> dict[str, float]:
    """Measure the images of a visit as the input gate does.

    Parameters
    ----------
    folder : path
        Output folder of ``msseg-train``.
    item : LabelledFiles
    """
    from bids_msseg.cascade.stages import load_visit

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
    given: Path | None = None,
    unseen: Container[str] | None = None,
) -> Calibration:
    """Write ``<name>.calibration.json`` beside the weights of a finished training.

    Parameters
    ----------
    folder : path
    files : sequence of LabelledFiles
    weights : path
    given : path, optional
        Weights that the training went on from: it has seen their visits too.
    unseen : container of str, optional
        As for :func:`learn`.

    Returns
    -------
    Calibration
        What was written.
    """
    from bids_msseg.models.weights import read_header

    header = read_header(weights)
    learnt = learn(folder, files, unseen=unseen).calibration()
    if given is not None:
        before = read_calibration(given, read_header(given).sha256).training or TrainingVisits()
        own = learnt.training or TrainingVisits()
        learnt = replace(learnt, training=TrainingVisits(before.measures + own.measures))
    write_calibration(weights, learnt, name=header.name, sha256=header.sha256)
    return learnt


def describe(learnt: Calibration) -> str:
    """Write a section of a model card: what was learnt and how well it holds, in Markdown."""
    lines = ["## Uncertainty", ""]
    if learnt.reason:
        lines.append(f"None: {learnt.reason}.")
    if learnt.load:
        times = math.exp(learnt.load.half_width)
        lines.append(
            "90 % intervals of the lesion load, each made without the patient, held the load that "
            f"the experts drew: {_counts(learnt)}. They reach from 1/{times:.1f} to {times:.1f} "
            "times the expected load."
        )
    if learnt.confidence and learnt.auc is not None:
        lines.append(
            f"A lesion's confidence, made without the patient, tells lesions that touch one of "
            f"the experts' from others with an area under the ROC curve of {learnt.auc:.2f} "
            f"({learnt.confidence.lesions} lesions)."
        )
    return "\n".join(lines) + "\n"


def _counts(learnt: Calibration) -> str:
    sites = sorted(learnt.coverage.items(), key=lambda item: item[0] == "all")
    return ", ".join(f"{site} {inside} of {count}" for site, (inside, count) in sites)


def _prediction(folder: Path, item: LabelledFiles) -> Path:
    participant, _, session = item.visit.key.partition("_")
    name = f"{item.visit.key}_space-FLAIR_label-L"
    return folder / "predictions" / participant / session / "anat" / name
