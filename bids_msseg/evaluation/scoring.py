"""Scores of out-of-fold predictions, on the grid on which the experts drew."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bids_msseg.bids.files import write_tsv
from bids_msseg.imaging.normalise import working_grid
from bids_msseg.imaging.resample import resample
from bids_msseg.imaging.volume import Volume, as_ras, load_volume, save_volume
from bids_msseg.lesions.delineate import delineate
from bids_msseg.lesions.metrics import lesion_agreement, voxel_agreement
from bids_msseg.lesions.metrics_rules import AnimaRule

if TYPE_CHECKING:
    from bids_msseg.cascade.checkpoint import Cascade
    from bids_msseg.cascade.stages import Workshop
    from bids_msseg.evaluation.labels import LabelledFiles

MIN_VOLUME = 3.0
COLUMNS = (
    "visit",
    "site",
    "method",
    "dice",
    "ppv",
    "sensitivity",
    "lesion_f1",
    "lesion_sensitivity",
    "lesion_ppv",
    "lesion_f1_anima",
    "false_components",
    "load_ml",
    "truth_ml",
)


@dataclass(frozen=True, slots=True)
class Score:
    """How one prediction agrees with the experts; see :data:`COLUMNS`."""

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


def score(mask: NDArray[np.bool_], truth: Volume, *, visit: str, site: str, method: str) -> Score:
    """Compare a mask with the experts' on the same grid.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
    truth : Volume
        Manual mask.
    visit, site, method : str
        Say what is compared.

    Returns
    -------
    Score
        Lesion-wise figures count 26-connected components of at least 3 mm³; any overlap counts
        as found, and by the rule of Anima with its code's defaults beside it.
    """
    lesions = truth.data > 0.5
    size = truth.voxel_volume
    voxels = voxel_agreement(mask, lesions, voxel_volume=size)
    any_rule = lesion_agreement(mask, lesions, voxel_volume=size, min_volume=MIN_VOLUME)
    anima = lesion_agreement(
        mask,
        lesions,
        voxel_volume=size,
        min_volume=MIN_VOLUME,
        rule=AnimaRule.code_defaults(),
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
    """Average per site and method, over the visits of a participant first.

    Undefined values are left out.

    Returns
    -------
    list of (site, method, participants, mean by column)
    """
    groups: dict[tuple[str, str], dict[str, list[Score]]] = {}
    for one in scores:
        people = groups.setdefault((one.site, one.method), {})
        people.setdefault(one.visit.partition("_")[0], []).append(one)
    means = []
    for (site, method), people in sorted(groups.items()):
        values = {}
        for name in COLUMNS[3:11]:
            own = [_mean([getattr(one, name) for one in visits]) for visits in people.values()]
            values[name] = _mean(own)
        means.append((site, method, len(people), values))
    return means


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def cross_validate(
    workshop: Workshop, files: Sequence[LabelledFiles], tests: Sequence[int] | None = None
) -> list[Score]:
    """Segment every visit of the outer folds with nets that have not seen its patient, and score.

    Two rows a visit: ``candidate net`` alone at one half, and the ``cascade``. Masks and
    probabilities go to ``predictions/``, the table to ``scores.tsv``.
    """
    by_name = {item.visit.key: item for item in files}
    (workshop.folder / "predictions").mkdir(exist_ok=True)
    scores: list[Score] = []
    for fold in workshop.split.everything if tests is None else tests:
        names = workshop.split.folds[fold]
        scores += _score_fold(workshop, fold, [by_name[name] for name in names])
    rows = [{name: getattr(one, name) for name in COLUMNS} for one in scores]
    write_tsv(workshop.folder / "scores.tsv", COLUMNS, rows)
    return scores


def read_scores(path: Path) -> list[Score]:
    """Read what :func:`cross_validate` wrote; figures have the digits of the file.

    Parameters
    ----------
    path : path
        ``scores.tsv``.

    Returns
    -------
    list of Score
        Empty where the columns are not those of :data:`COLUMNS`.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            return []
        return [_read_score(row) for row in reader]


def _read_score(row: Mapping[str, str]) -> Score:
    figures = {name: math.nan if row[name] == "n/a" else float(row[name]) for name in COLUMNS[3:]}
    false = int(figures.pop("false_components"))
    return Score(row["visit"], row["site"], row["method"], false_components=false, **figures)


def fold_cascade(workshop: Workshop, fold: int) -> Cascade:
    """Put together the nets and the operating point that have not seen an outer fold.

    Parameters
    ----------
    workshop : Workshop
        Of a finished training.
    fold : int
        Outer test fold.

    Returns
    -------
    Cascade
        For this fold's visits only: it has seen all others.
    """
    from bids_msseg.cascade.checkpoint import Cascade
    from bids_msseg.cascade.judging import judges_of
    from bids_msseg.cascade.stages import candidate_nets, operating_point, refinement_net

    return Cascade(
        f"fold {fold}",
        "",
        candidate_nets(workshop, workshop.split.without(fold)),
        (refinement_net(workshop, fold),),
        operating_point(workshop, fold),
        "",
        judges_of(workshop, fold),
    )


def _score_fold(workshop: Workshop, fold: int, files: Sequence[LabelledFiles]) -> list[Score]:
    from bids_msseg.cascade.inference import segment

    cascade = fold_cascade(workshop, fold)
    scores: list[Score] = []
    for item in files:
        visit = workshop.visit(item.visit.key)
        found = segment(
            cascade, visit.images.astype(np.float32), visit.present, visit.brain, workshop.engine
        )
        truth = load_volume(item.truth)
        for method, data, threshold in (
            ("candidate net", found.candidate, 0.5),
            ("cascade", found.probability, cascade.point.threshold),
        ):
            native = onto_flair(data, item.brain, truth)
            mask = cut_mask(native, threshold)
            scores.append(score(mask, truth, visit=visit.name, site=visit.site, method=method))
            keep_prediction(workshop.folder / "predictions", visit.name, method, native, mask)
    return scores


def onto_flair(data: NDArray[np.floating], brain: Path, flair: Volume) -> Volume:
    """Bring an array of the working grid onto the grid of the FLAIR as acquired.

    Parameters
    ----------
    data : ndarray, shape (X, Y, Z)
        On the grid that :func:`working_grid` lays around the brain.
    brain : path
        The brain mask that the grid was laid around.
    flair : Volume
        Anything on the FLAIR's grid.

    Returns
    -------
    Volume
    """
    _, affine = working_grid(as_ras(load_volume(brain)))
    return resample(Volume(data, affine), flair.shape, flair.affine)


def cut_mask(probability: Volume, threshold: float) -> NDArray[np.bool_]:
    """Cut a probability into a mask without components below 3 mm³, as the app does."""
    found = delineate(
        probability.data,
        np.zeros(probability.shape, bool),
        voxel_volume=probability.voxel_volume,
        threshold=threshold,
        min_volume=MIN_VOLUME,
    )
    inside: NDArray[np.bool_] = found.lesions > 0
    return inside


def keep_prediction(
    folder: Path, visit: str, method: str, probability: Volume, mask: NDArray[np.bool_]
) -> None:
    """Write a prediction in BIDS-Derivatives names; of the candidate nets the probability only."""
    participant, _, session = visit.partition("_")
    place = folder / participant / session / "anat"
    place.mkdir(parents=True, exist_ok=True)
    stem = f"{visit}_space-FLAIR_label-L"
    if method == "candidate net":
        save_volume(probability, place / f"{stem}_desc-candidate_probseg.nii.gz", dtype=np.float32)
    if method != "cascade":
        return
    save_volume(probability, place / f"{stem}_probseg.nii.gz", dtype=np.float32)
    save_volume(probability.with_data(mask), place / f"{stem}_mask.nii.gz")
