"""Accuracy of the networks of a finished training on patients that they have not seen.

Everything here reads the output folder of ``msseg-train`` and never writes into it. Masks and
probabilities of the cascade are read again from disk and compared with the experts' masks on the
grid of the FLAIR as acquired, so that nothing depends on figures reported by the training.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from accuracy_table import Column, Finding, Section
from numpy.typing import NDArray
from thresholds import SOURCE_TEXT_PPV, choose_threshold
from training_output import open_training

from bids_msseg.errors import NoInputError
from bids_msseg.evaluation.figures import Masks, figures
from bids_msseg.evaluation.scoring import MIN_VOLUME, cut_mask, onto_flair
from bids_msseg.imaging.volume import Volume, load_volume
from bids_msseg.lesions.comparison.metrics import lesion_agreement, voxel_agreement

if TYPE_CHECKING:
    from bids_msseg.training.context import TrainingContext

LOGGER = logging.getLogger("bids_msseg")
ONE_HALF = 0.5
MIN_FOLDS = 2
CANDIDATE, CASCADE = "candidate net", "cascade"
Mask = NDArray[np.bool_]
Measure = Callable[["Bench", "Case"], list[Finding]]


@dataclass(frozen=True, slots=True)
class Case:
    """One labelled visit with its prediction by networks that have not seen its patient.

    Attributes
    ----------
    key, participant, site : str
    fold : int
        The outer fold that holds it.
    brain, truth : path
        Masks on the FLAIR grid.
    mask, probability : path
        The cascade's, on the FLAIR grid.
    """

    key: str
    participant: str
    site: str
    fold: int
    brain: Path
    truth: Path
    mask: Path
    probability: Path

    def finding(self, method: str, values: Mapping[str, float]) -> Finding:
        """Return the values measured on this visit as a finding."""
        return Finding(self.key, self.participant, self.site, method, values)


@dataclass(frozen=True, slots=True)
class Bench:
    """A finished training with the visits to measure on.

    Attributes
    ----------
    training : TrainingContext
    cases : tuple of Case
    """

    training: TrainingContext
    cases: tuple[Case, ...]


def open_bench(
    folder: Path,
    bids_dir: Path,
    labels: Path,
    *,
    visits: Iterable[str] | None = None,
    device: str = "cpu",
) -> Bench:
    """Pair the predictions of a training with the experts' masks.

    Parameters
    ----------
    folder : path
        What ``msseg-train`` wrote.
    bids_dir, labels : path
        The dataset it was trained on, and its manual masks.
    visits : iterable of str, optional
        Only these; all where not given.
    device : str, default "cpu"

    Returns
    -------
    Bench
        Visits of which anything is missing are left out and named in the log.

    Raises
    ------
    NoInputError
        If nothing is left.
    """
    from bids_msseg.bids.query import find_visits
    from bids_msseg.evaluation.labels import find_truth, read_sites, require_labels

    training = open_training(folder, device=device)
    folds = {name: fold for fold, names in enumerate(training.split.folds) for name in names}
    sites = read_sites(bids_dir, "site")
    selected = None if visits is None else set(visits)
    cases = []
    for visit in find_visits(bids_dir, derivatives={"labels": require_labels(labels)}).visits:
        if selected is not None and visit.key not in selected:
            continue
        truth, mask = find_truth(labels, visit), find_truth(folder / "predictions", visit)
        if truth is None or mask is None or visit.brain_mask is None or visit.key not in folds:
            LOGGER.warning("%s: no manual mask, brain mask or prediction, left out", visit.key)
            continue
        probability = mask.with_name(mask.name.replace("_mask.nii", "_probseg.nii"))
        site = sites.get(visit.participant, "one site")
        paths = (visit.brain_mask, truth, mask, probability)
        cases.append(Case(visit.key, visit.participant, site, folds[visit.key], *paths))
    if not cases:
        raise NoInputError(
            f"no visit of {bids_dir} has a manual mask and a prediction in {folder}",
            hint="let msseg-train finish first; visits are named as in its splits.tsv",
        )
    return Bench(training, tuple(cases))


def measure(bench: Bench, title: str, measure_case: Measure) -> tuple[Finding, ...]:
    """Measure every visit and return the findings.

    The log shows the progress, and keeps the findings of a run that is stopped.
    """
    findings: list[Finding] = []
    for number, case in enumerate(bench.cases, 1):
        LOGGER.info("%s: %s, %d of %d", title, case.key, number, len(bench.cases))
        case_findings = measure_case(bench, case)
        for finding in case_findings:
            values = ", ".join(f"{key} {value:.4g}" for key, value in finding.values.items())
            LOGGER.info("  %s: %s", finding.method, values)
        findings += case_findings
    return tuple(findings)


def candidate_on_flair(bench: Bench, case: Case) -> Volume:
    """Return the held-out probability of CNN-1 for a visit, on the FLAIR grid."""
    from bids_msseg.training.protocol import read_output

    stored = case.mask.with_name(
        case.mask.name.replace("_label-L_mask", "_label-L_desc-candidate_probseg")
    )
    if stored != case.mask and stored.is_file():
        return load_volume(stored)
    prediction, _ = read_output(bench.training.folder / "held-out" / f"{case.key}.npz")
    return onto_flair(prediction.lesion, case.brain, load_volume(case.truth))


def both_masks(bench: Bench, case: Case) -> tuple[tuple[str, Mask], ...]:
    """Return the mask of the candidate net alone, thresholded at one half, and of the cascade."""
    candidate = cut_mask(candidate_on_flair(bench, case), ONE_HALF)
    return ((CANDIDATE, candidate), (CASCADE, load_volume(case.mask).data > 0))


AGREEMENT = (
    Column("dice", "Dice"),
    Column("ppv", "PPV"),
    Column("sensitivity", "sensitivity"),
    Column("lesion_f1", "lesion F1, any overlap"),
    Column("anima_default_f1", "lesion F1, Anima's program"),
    Column("anima_paper_f1", "lesion F1, MSSEG paper"),
    Column("isbi_score", "ISBI score"),
    Column("surface_dice_1mm", "surface Dice at 1 mm"),
    Column("hd95_mm", "HD95 mm", 1),
    Column("n_false", "false components", 1),
    Column("volume_auto_ml", "load mL", 2),
    Column("volume_manual_ml", "experts' mL", 2),
)


def agreement(bench: Bench) -> Section:
    """Measure agreement with the masks of experts, as ``msseg-evaluate`` does."""

    def measure_case(bench: Bench, case: Case) -> list[Finding]:
        truth = load_volume(case.truth)
        manual = truth.data > 0.5
        return [
            case.finding(method, figures(Masks.of(mask, manual, truth.affine)))
            for method, mask in both_masks(bench, case)
        ]

    note = (
        "On the grid of the FLAIR as acquired. PPV is the positive predictive value, HD95 the 95 "
        "% Hausdorff distance. Lesions are 26-connected components of at least 3 mm³; those of "
        "both Anima columns are face-connected and larger than 3 mm³, those of ISBI 26-connected "
        "of any size. False components share no voxel with the manual mask. *Candidate net* is "
        "CNN-1 alone, thresholded at one half; *cascade* is what `msseg` computes."
    )
    return Section(
        "Agreement with experts", note, AGREEMENT, measure(bench, "agreement", measure_case)
    )


def normal(bench: Bench) -> Section:
    """Measure the share of normal periventricular hyperintensity segmented as lesion."""

    def measure_case(bench: Bench, case: Case) -> list[Finding]:
        name = re.sub(r"_label-[A-Za-z0-9]+_", "_label-normalWMH_", case.truth.name)
        path = case.truth.with_name(name)
        if not path.is_file():
            return []
        volume = load_volume(path)
        bright = volume.data > 0
        size = float(bright.sum()) * volume.voxel_volume / 1000
        return [
            case.finding(method, {"share": share_called(mask, bright), "volume_ml": size})
            for method, mask in both_masks(bench, case)
        ]

    note = (
        "Share of the normal periventricular hyperintensity that the rater of some visits marked."
    )
    columns = (
        Column("share", "share segmented as lesion"),
        Column("volume_ml", "volume of the hyperintensity mL", 2),
    )
    return Section("Normal hyperintensity", note, columns, measure(bench, "normal", measure_case))


def share_called(mask: NDArray[Any], region: NDArray[Any]) -> float:
    """Return the share of a region that a mask covers.

    Examples
    --------
    >>> share_called(np.array([1, 1, 0, 0]), np.array([0, 1, 1, 1]))
    0.3333333333333333
    >>> share_called(np.array([1]), np.array([0]))
    nan
    """
    size = int(np.count_nonzero(region))
    return int(np.count_nonzero((mask != 0) & (region != 0))) / size if size else math.nan


def refinement(bench: Bench) -> Section:
    """Measure the false components that the refinement net removes, and lost recall."""

    def measure_case(bench: Bench, case: Case) -> list[Finding]:
        truth = load_volume(case.truth)
        candidate = candidate_on_flair(bench, case)
        threshold = bench.training.recipe.candidate_threshold
        masks = {
            "candidates": cut_mask(candidate, threshold),
            "half": cut_mask(candidate, ONE_HALF),
            "after": load_volume(case.mask).data > 0,
        }
        values = removal(masks, truth.data > 0.5, voxel_volume=truth.voxel_volume)
        return [case.finding(CASCADE, {"candidate_threshold": threshold, **values})]

    columns = (
        Column("candidate_threshold", "candidate threshold", 2),
        Column("false_candidates", "false: candidate threshold", 1),
        Column("false_half", "false: one half", 1),
        Column("false_after", "false: cascade", 1),
        Column("removed_candidates", "removed from candidate threshold"),
        Column("removed_half", "removed from one half"),
        Column("recall_candidates", "recall: candidate threshold"),
        Column("recall_half", "recall: one half"),
        Column("recall_after", "recall: cascade"),
        Column("lost_candidates", "recall lost from candidate threshold"),
        Column("lost_half", "recall lost from one half"),
    )
    note = (
        "False components (at least 3 mm³, without any overlap) of CNN-1 alone, thresholded at "
        "the candidate threshold and at one half, and of the cascade. Recall is the share of "
        "manual lesions of at least 3 mm³ with any overlap. *Removed* is the share of false "
        "components that the cascade does not have, *recall lost* a difference."
    )
    return Section("Effect of CNN-2", note, columns, measure(bench, "refinement", measure_case))


def removal(
    masks: Mapping[str, NDArray[Any]], truth: NDArray[Any], *, voxel_volume: float
) -> dict[str, float]:
    """Compare false components and lesion recall before and after the refinement net.

    Parameters
    ----------
    masks : mapping
        ``candidates`` and ``half`` (before), ``after``; ndarrays of shape (X, Y, Z).
    truth : ndarray, shape (X, Y, Z)
    voxel_volume : float
        In mm³.

    Returns
    -------
    dict of str to float
        ``false_*`` and ``recall_*`` of each mask; ``removed_*``, the share of false components
        that is gone (NaN where there were none, negative where there are more), and ``lost_*``,
        recall before minus recall after.
    """
    values: dict[str, float] = {}
    for name, mask in masks.items():
        lesions = lesion_agreement(mask, truth, voxel_volume=voxel_volume, min_volume=MIN_VOLUME)
        values[f"false_{name}"] = float(lesions.n_pred - lesions.tp_pred)
        values[f"recall_{name}"] = lesions.sensitivity
    for name in ("candidates", "half"):
        before = values[f"false_{name}"]
        values[f"removed_{name}"] = 1 - values["false_after"] / before if before else math.nan
        values[f"lost_{name}"] = values[f"recall_{name}"] - values["recall_after"]
    return values


def point(bench: Bench) -> Section:
    """Measure held-out visits at the threshold for the source text's precision.

    The threshold of a test fold is chosen on the visits of the other folds, as segmented by
    networks that had not seen them.
    """
    title = f"Threshold for a PPV of {SOURCE_TEXT_PPV}"
    folds = {case.fold for case in bench.cases}
    if len(folds) < MIN_FOLDS:
        return Section(title, "There are no other folds to choose a threshold on.")
    chosen = {fold: _threshold_without(bench, fold) for fold in sorted(folds)}

    def measure_case(_: Bench, case: Case) -> list[Finding]:
        probability, truth = load_volume(case.probability), load_volume(case.truth)
        threshold = chosen[case.fold]
        overlap = voxel_agreement(
            cut_mask(probability, threshold), truth.data > 0.5, voxel_volume=truth.voxel_volume
        )
        values = {"ppv": overlap.ppv, "sensitivity": overlap.sensitivity, "dice": overlap.dice}
        return [case.finding(CASCADE, {"threshold": threshold, **values})]

    columns = (
        Column("threshold", "threshold", 2),
        Column("ppv", "PPV"),
        Column("sensitivity", "sensitivity"),
        Column("dice", "Dice"),
    )
    note = (
        "The PPV of Valverde et al. 2017. The threshold of each test fold was chosen on the "
        "visits of the other folds."
    )
    return Section(title, note, columns, measure(bench, "point", measure_case))


def _threshold_without(bench: Bench, fold: int) -> float:
    other_cases = [case for case in bench.cases if case.fold != fold]
    return choose_threshold(
        [load_volume(case.probability).data for case in other_cases],
        [load_volume(case.truth).data > 0.5 for case in other_cases],
    )
