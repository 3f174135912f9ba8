"""Fitting and checking of the uncertainty models on held-out patients."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from bids_msseg.lesions.confidence.uncertainty import (
    LEVEL,
    SWEEP,
    ConfidenceModel,
    LoadInterval,
    LoadModel,
    log_load,
    logit,
)
from bids_msseg.lesions.instances import label_lesions

MIN_PATIENTS = 8
MIN_LESIONS = 20
_Case = TypeVar("_Case", "LoadCase", "LesionCase")


@dataclass(frozen=True, slots=True)
class LoadCase:
    """One visit with known true load, predicted by networks not trained on its patient."""

    participant: str
    site: str
    sweep_ml: tuple[float, ...]  # from sweep_volumes
    truth_ml: float


@dataclass(frozen=True, slots=True)
class LesionCase:
    """One predicted lesion of a held-out visit."""

    participant: str
    site: str
    p: float  # mean final probability inside
    found: bool  # whether an expert mask shares a voxel with it


@dataclass(frozen=True, slots=True)
class Checked:
    """Interval of a visit from a model fitted without its participant, and its true load."""

    case: LoadCase
    interval: LoadInterval

    @property
    def inside(self) -> bool:
        """Whether the interval contains the true load."""
        return self.interval.holds(self.case.truth_ml)


def lesion_cases(
    mask: NDArray[Any],
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    *,
    participant: str,
    site: str,
) -> list[LesionCase]:
    """List the 26-connected lesions of a mask with mean probability and truth."""
    labels = label_lesions(mask > 0, voxel_volume=1.0)
    count = int(labels.max(initial=0)) + 1
    sizes = np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    means = np.bincount(labels.ravel(), probability.ravel(), minlength=count) / sizes
    touched = np.bincount(labels[truth].ravel(), minlength=count) > 0
    return [
        LesionCase(participant, site, float(means[label]), bool(touched[label]))
        for label in range(1, count)
    ]


def fit_load(cases: Sequence[LoadCase]) -> LoadModel | None:
    """Fit the load model with the smallest held-out error; None for fewer than 8 participants."""
    patients = len({case.participant for case in cases})
    if patients < MIN_PATIENTS:
        return None
    # the next patient may be of any site, so that each site counts the same
    share = _site_shares(cases)
    squared = {cut: float(share @ np.square(_left_out_errors(cases, cut))) for cut in SWEEP}
    best = min(SWEEP, key=lambda cut: squared[cut])
    slope, intercept = _line(cases, best)
    spread = math.sqrt(squared[best])
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, patients - 2))
    volumes = [case.sweep_ml[SWEEP.index(best)] for case in cases]
    volume_range = (min(volumes), max(volumes))
    return LoadModel(best, slope, intercept, quantile * spread, patients, volume_range)


def check_load(cases: Sequence[LoadCase]) -> tuple[Checked, ...]:
    """Compute the interval of each visit from the other participants; () if these are too few."""
    checked: dict[int, Checked] = {}
    for held_out, training in _leave_out(cases):
        model = fit_load([cases[i] for i in training])
        if model is not None:
            checked |= {i: Checked(cases[i], model.interval(cases[i].sweep_ml)) for i in held_out}
    return tuple(checked[i] for i in sorted(checked))


def coverage(checked: Sequence[Checked]) -> dict[str, tuple[int, int]]:
    """Count the intervals that contain the truth, and all intervals, per site and ``all``."""
    sites = sorted({check.case.site for check in checked})
    groups = {site: [check for check in checked if check.case.site == site] for site in sites}
    if checked:
        groups["all"] = list(checked)
    return {
        name: (sum(check.inside for check in group), len(group)) for name, group in groups.items()
    }


def fit_confidence(cases: Sequence[LesionCase]) -> ConfidenceModel | None:
    """Fit the share of true lesions to their mean probability; None if there are too few data."""
    patients = len({case.participant for case in cases})
    is_true = np.array([case.found for case in cases], float)
    if patients < MIN_PATIENTS or len(cases) < MIN_LESIONS or len(set(is_true)) < 2:
        return None
    score = np.array([logit(case.p) for case in cases])
    # Platt's targets keep the slope finite where the two kinds do not overlap
    n_true, n_false = is_true.sum(), len(is_true) - is_true.sum()
    target = np.where(is_true > 0, (n_true + 1) / (n_true + 2), 1 / (n_false + 2))

    def loss(line: NDArray[np.float64]) -> float:
        z = line[0] * score + line[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    best = optimize.minimize(loss, [1.0, 0.0], bounds=[(0, None), (None, None)])
    slope, intercept = (float(value) for value in best.x)
    return ConfidenceModel(slope, intercept, len(cases), patients)


def check_confidence(cases: Sequence[LesionCase]) -> tuple[tuple[LesionCase, float], ...]:
    """Pair each lesion with its confidence from a model fitted without its participant."""
    checked: dict[int, tuple[LesionCase, float]] = {}
    for held_out, training in _leave_out(cases):
        model = fit_confidence([cases[i] for i in training])
        if model is not None:
            checked |= {i: (cases[i], model.confidence(cases[i].p)) for i in held_out}
    return tuple(checked[i] for i in sorted(checked))


def rank_auc(pairs: Sequence[tuple[LesionCase, float]]) -> float:
    """Compute the area under the ROC curve of confidence; NaN if all lesions are of one kind."""
    is_true = np.array([case.found for case, _ in pairs], bool)
    n_true, n_false = int(is_true.sum()), int((~is_true).sum())
    if not n_true or not n_false:
        return math.nan
    ranks = stats.rankdata([value for _, value in pairs])
    return float((ranks[is_true].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def _leave_out(cases: Sequence[_Case]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the indices of each participant's cases and those of all other cases."""
    for participant in dict.fromkeys(case.participant for case in cases):
        held_out = [i for i, case in enumerate(cases) if case.participant == participant]
        yield held_out, [i for i, case in enumerate(cases) if case.participant != participant]


def _left_out_errors(cases: Sequence[LoadCase], cut: float) -> NDArray[np.float64]:
    index = SWEEP.index(cut)
    errors = np.zeros(len(cases))
    for held_out, training in _leave_out(cases):
        slope, intercept = _line([cases[i] for i in training], cut)
        for i in held_out:
            predicted = slope * log_load(cases[i].sweep_ml[index]) + intercept
            errors[i] = log_load(cases[i].truth_ml) - predicted
    return errors


def _site_shares(cases: Sequence[LoadCase]) -> NDArray[np.float64]:
    """Return weights of visits such that each site counts the same; their sum is one."""
    counts = Counter(case.site for case in cases)
    return np.array([1 / (len(counts) * counts[case.site]) for case in cases])


def _line(cases: Sequence[LoadCase], cut: float) -> tuple[float, float]:
    """Fit slope and intercept by least squares on the log scale; slope 0 for equal volumes."""
    index = SWEEP.index(cut)
    x = np.array([log_load(case.sweep_ml[index]) for case in cases])
    y = np.array([log_load(case.truth_ml) for case in cases])
    spread = float(np.sum(np.square(x - x.mean())))
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / spread) if spread > 1e-9 else 0.0
    return slope, float(y.mean() - slope * x.mean())
