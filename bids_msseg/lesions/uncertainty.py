"""How far a lesion load and a lesion may be trusted, learnt from patients that no net had seen.

Both are read off the final probability, so they cost no further pass through a net. The load: the
volume above one cut of a threshold sweep predicts, on a logarithmic scale, what the experts drew;
its interval is Student's for the errors that each patient showed when left out. The lesion: its
mean probability, mapped to the share of such lesions that touch one of the experts' (Platt 1999).

Public names: :func:`sweep_volumes`, :func:`fit_load`, :func:`check_load`, :class:`LoadModel`,
:func:`fit_confidence`, :func:`check_confidence`, :class:`ConfidenceModel`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from bids_msseg.lesions.instances import label_lesions

SWEEP = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
LEVEL = 0.9
OFFSET_ML = 0.1
"""Added before the logarithm, so that an empty mask has one."""
FEWEST_PATIENTS = 8
FEWEST_LESIONS = 20
LEAST_P = 1e-3
LEAST_HALF_WIDTH = 0.01
"""On the logarithmic scale: no load is known better than to one percent."""
_Case = TypeVar("_Case", "LoadCase", "LesionCase")


@dataclass(frozen=True, slots=True)
class LoadCase:
    """One visit whose true load is known, segmented by nets that had not seen its patient.

    Attributes
    ----------
    participant, site : str
    sweep_ml : tuple of float
        From :func:`sweep_volumes`.
    truth_ml : float
        What the experts drew, mL.
    """

    participant: str
    site: str
    sweep_ml: tuple[float, ...]
    truth_ml: float


@dataclass(frozen=True, slots=True)
class LesionCase:
    """One found lesion of such a visit.

    Attributes
    ----------
    participant, site : str
    p : float
        Mean final probability inside.
    found : bool
        Whether it shares a voxel with what the experts drew.
    """

    participant: str
    site: str
    p: float
    found: bool


@dataclass(frozen=True, slots=True)
class LoadInterval:
    """What the experts would probably have drawn, mL: best guess and 90 % interval.

    Attributes
    ----------
    expected_ml, low_ml, high_ml : float
    learnt : bool
        Whether it was learnt from loads like this one; else it is an extrapolation.
    """

    expected_ml: float
    low_ml: float
    high_ml: float
    learnt: bool = True

    def holds(self, load_ml: float) -> bool:
        """Say whether a load lies inside."""
        return self.low_ml <= load_ml <= self.high_ml

    def contradiction(self, load_ml: float) -> str:
        """Say which to believe where the load of the mask lies outside; else nothing.

        Examples
        --------
        >>> LoadInterval(4.0, 2.0, 8.0).contradiction(3.0)
        ''
        >>> LoadInterval(4.0, 2.0, 8.0).contradiction(9.0)
        "the mask's 9.00 mL lie above the interval of 2.00-8.00 mL: believe the interval, the mask
        is probably too large"
        """
        if self.holds(load_ml):
            return ""
        side, size = ("above", "large") if load_ml > self.high_ml else ("below", "small")
        bounds = f"{self.low_ml:.2f}-{self.high_ml:.2f} mL"
        said = f"the mask's {load_ml:.2f} mL lie {side} the interval of {bounds}: believe the "
        if self.learnt:
            return f"{said}interval, the mask is probably too {size}"
        return f"{said}mask, the interval was not learnt from loads like this one"


@dataclass(frozen=True, slots=True)
class LoadModel:
    """From the volume above a cut to the experts' load.

    Attributes
    ----------
    cut : float
        One of :data:`SWEEP`.
    slope, intercept : float
        Of log(truth + 0.1 mL) against log(volume above the cut + 0.1 mL).
    half_width : float
        Of the interval on the logarithmic scale.
    patients : int
        From how many.
    range_ml : (float, float), optional
        Smallest and largest volume above the cut that it was learnt from; None where that was
        not noted.
    """

    cut: float
    slope: float
    intercept: float
    half_width: float
    patients: int
    range_ml: tuple[float, float] | None = None

    def interval(self, sweep_ml: Sequence[float]) -> LoadInterval:
        """Estimate the load that the experts would have drawn.

        No load is less than nothing, which the line says of volumes below those of the training:
        the interval then begins at zero, and has a width all the same.

        Parameters
        ----------
        sweep_ml : sequence of float
            From :func:`sweep_volumes`.

        Examples
        --------
        >>> model = LoadModel(0.5, 1.0, 0.0, np.log(2), 9)
        >>> found = model.interval([9.9] * 7)
        >>> round(found.low_ml, 2), round(found.expected_ml, 2), round(found.high_ml, 2)
        (4.9, 9.9, 19.9)
        """
        volume = sweep_ml[SWEEP.index(self.cut)]
        line, nothing = self.slope * _log(volume) + self.intercept, _log(0.0)
        half = max(self.half_width, LEAST_HALF_WIDTH)
        low, middle, high = (
            max(math.exp(max(line, nothing) + side * half) - OFFSET_ML, 0.0) for side in (-1, 0, 1)
        )
        least, most = self.range_ml or (0.0, math.inf)
        return LoadInterval(middle, low, high, line >= nothing and least <= volume <= most)


@dataclass(frozen=True, slots=True)
class ConfidenceModel:
    """From a lesion's mean probability to the share of such lesions that the experts drew.

    Attributes
    ----------
    slope, intercept : float
        Of the logit; the slope is not negative.
    lesions, patients : int
        From how many.
    """

    slope: float
    intercept: float
    lesions: int
    patients: int

    def confidence(self, p: float) -> float:
        """Return the confidence of a lesion, 0 to 1.

        Examples
        --------
        >>> ConfidenceModel(1.0, 0.0, 100, 9).confidence(0.75)
        0.75
        """
        return float(special.expit(self.slope * _logit(p) + self.intercept))


@dataclass(frozen=True, slots=True)
class Checked:
    """A visit's interval by a model that had not met its participant, beside the truth."""

    case: LoadCase
    interval: LoadInterval

    @property
    def inside(self) -> bool:
        """Whether the interval holds the true load."""
        return self.interval.holds(self.case.truth_ml)


def sweep_volumes(probability: NDArray[np.floating], voxel_volume: float) -> tuple[float, ...]:
    """Measure the volume at and above every cut of :data:`SWEEP`.

    Parameters
    ----------
    probability : ndarray, shape (X, Y, Z)
        Final probability.
    voxel_volume : float
        mm³.

    Returns
    -------
    tuple of float
        mL.

    Examples
    --------
    >>> sweep_volumes(np.array([0.1, 0.3, 0.55, 0.9]), 1000.0)
    (3.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.0)
    """
    # float32 holds 0.3 as a little more: the same rounding on both sides
    cuts = np.asarray(SWEEP, probability.dtype)
    values = np.sort(probability[probability >= cuts[0]], axis=None)
    above = values.size - np.searchsorted(values, cuts)
    return tuple((above * voxel_volume / 1000).tolist())


def lesion_cases(
    mask: NDArray[Any],
    probability: NDArray[np.floating],
    truth: NDArray[np.bool_],
    *,
    participant: str,
    site: str,
) -> list[LesionCase]:
    """List the lesions of a mask, each with its mean probability and whether it is a true one.

    Parameters
    ----------
    mask, probability, truth : ndarray, shape (X, Y, Z)
    participant, site : str

    Returns
    -------
    list of LesionCase
        One for each 26-connected component of the mask.
    """
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
    """Learn the load model: the cut with the smallest left-out error, and the interval's width.

    Parameters
    ----------
    cases : sequence of LoadCase
        Visits of one participant are left out together.

    Returns
    -------
    LoadModel or None
        None for fewer than eight participants.
    """
    patients = len({case.participant for case in cases})
    if patients < FEWEST_PATIENTS:
        return None
    # the next patient may be of any site, so that each site counts the same
    share = _site_shares(cases)
    squared = {cut: float(share @ np.square(_left_out_errors(cases, cut))) for cut in SWEEP}
    best = min(SWEEP, key=lambda cut: squared[cut])
    slope, intercept = _line(cases, best)
    spread = math.sqrt(squared[best])
    reach = float(stats.t.ppf((1 + LEVEL) / 2, patients - 2))
    volumes = [case.sweep_ml[SWEEP.index(best)] for case in cases]
    seen = (min(volumes), max(volumes))
    return LoadModel(best, slope, intercept, reach * spread, patients, seen)


def check_load(cases: Sequence[LoadCase]) -> tuple[Checked, ...]:
    """Measure coverage: each visit's interval comes from the other participants alone.

    Cut, line and width are all found without the participant.

    Parameters
    ----------
    cases : sequence of LoadCase

    Returns
    -------
    tuple of Checked
        In the order of the cases; empty where too few participants remain.
    """
    checked: dict[int, Checked] = {}
    for held, others in _leave_out(cases):
        model = fit_load([cases[i] for i in others])
        if model is not None:
            checked |= {i: Checked(cases[i], model.interval(cases[i].sweep_ml)) for i in held}
    return tuple(checked[i] for i in sorted(checked))


def coverage(checked: Sequence[Checked]) -> dict[str, tuple[int, int]]:
    """Count, for each site and for ``all``, how many intervals hold the truth, of how many."""
    sites = sorted({one.case.site for one in checked})
    groups = {site: [one for one in checked if one.case.site == site] for site in sites}
    if checked:
        groups["all"] = list(checked)
    return {name: (sum(one.inside for one in group), len(group)) for name, group in groups.items()}


def fit_confidence(cases: Sequence[LesionCase]) -> ConfidenceModel | None:
    """Learn how a lesion's mean probability tells true lesions from false ones.

    Parameters
    ----------
    cases : sequence of LesionCase

    Returns
    -------
    ConfidenceModel or None
        None for fewer than eight participants or twenty lesions, and where all are of one kind.
    """
    patients = len({case.participant for case in cases})
    found = np.array([case.found for case in cases], float)
    if patients < FEWEST_PATIENTS or len(cases) < FEWEST_LESIONS or len(set(found)) < 2:
        return None
    score = np.array([_logit(case.p) for case in cases])
    # Platt's targets keep the slope finite where the two kinds do not overlap
    yes, no = found.sum(), len(found) - found.sum()
    target = np.where(found > 0, (yes + 1) / (yes + 2), 1 / (no + 2))

    def loss(line: NDArray[np.float64]) -> float:
        z = line[0] * score + line[1]
        return float(np.sum(np.logaddexp(0, z) - target * z))

    best = optimize.minimize(loss, [1.0, 0.0], bounds=[(0, None), (None, None)])
    slope, intercept = (float(value) for value in best.x)
    return ConfidenceModel(slope, intercept, len(cases), patients)


def check_confidence(cases: Sequence[LesionCase]) -> tuple[tuple[LesionCase, float], ...]:
    """Give each lesion the confidence that a model without its participant gives it.

    Returns
    -------
    tuple of (case, confidence)
        In the order of the cases; empty where too little remains to learn from.
    """
    checked: dict[int, tuple[LesionCase, float]] = {}
    for held, others in _leave_out(cases):
        model = fit_confidence([cases[i] for i in others])
        if model is not None:
            checked |= {i: (cases[i], model.confidence(cases[i].p)) for i in held}
    return tuple(checked[i] for i in sorted(checked))


def rank_auc(pairs: Sequence[tuple[LesionCase, float]]) -> float:
    """Area under the ROC curve: how often a true lesion has more confidence than a false one.

    NaN where all are of one kind.

    Examples
    --------
    >>> cases = [LesionCase("1", "A", 0.5, found) for found in (True, False, True)]
    >>> rank_auc(list(zip(cases, (0.9, 0.5, 0.5), strict=True)))
    0.75
    """
    found = np.array([case.found for case, _ in pairs], bool)
    yes, no = int(found.sum()), int((~found).sum())
    if not yes or not no:
        return math.nan
    ranks = stats.rankdata([value for _, value in pairs])
    return float((ranks[found].sum() - yes * (yes + 1) / 2) / (yes * no))


def _leave_out(cases: Sequence[_Case]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair the places of each participant's cases with those of all others."""
    for participant in dict.fromkeys(case.participant for case in cases):
        held = [i for i, case in enumerate(cases) if case.participant == participant]
        yield held, [i for i, case in enumerate(cases) if case.participant != participant]


def _left_out_errors(cases: Sequence[LoadCase], cut: float) -> NDArray[np.float64]:
    place = SWEEP.index(cut)
    errors = np.zeros(len(cases))
    for held, others in _leave_out(cases):
        slope, intercept = _line([cases[i] for i in others], cut)
        for i in held:
            guess = slope * _log(cases[i].sweep_ml[place]) + intercept
            errors[i] = _log(cases[i].truth_ml) - guess
    return errors


def _site_shares(cases: Sequence[LoadCase]) -> NDArray[np.float64]:
    """Weigh visits so that each site counts the same; the sum is one."""
    counts = Counter(case.site for case in cases)
    return np.array([1 / (len(counts) * counts[case.site]) for case in cases])


def _line(cases: Sequence[LoadCase], cut: float) -> tuple[float, float]:
    """Least squares on the logarithmic scale; a level where all volumes are the same."""
    place = SWEEP.index(cut)
    x = np.array([_log(case.sweep_ml[place]) for case in cases])
    y = np.array([_log(case.truth_ml) for case in cases])
    spread = float(np.sum(np.square(x - x.mean())))
    slope = float(np.sum((x - x.mean()) * (y - y.mean())) / spread) if spread > 1e-9 else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _log(volume_ml: float) -> float:
    return math.log(volume_ml + OFFSET_ML)


def _logit(p: float) -> float:
    return float(special.logit(min(max(p, LEAST_P), 1 - LEAST_P)))
