"""Summary of the visits of a check: rates, volumes and limits of agreement."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from bids_msseg.bids.visit import visit_key
from bids_msseg.check.painting import SIZE_LEVELS, STRENGTHS
from bids_msseg.check.visit import Row
from bids_msseg.lesions.comparison import agreement
from bids_msseg.lesions.comparison.bootstrap import LEVEL, MeanEstimate, estimate_mean
from bids_msseg.lesions.regions import REGION_LABELS

WILSON, BOOTSTRAP = "Wilson", "bootstrap"
UPPER, LOWER, NEITHER, UNKNOWN = "upper", "lower", "neither", "unknown"
"""How the sensitivity to painted lesions bounds that to real lesions, if known."""


@dataclass(frozen=True, slots=True)
class VisitCheck:
    """Measurements of one visit: a row per painted lesion, per draw and per pseudo-rescan."""

    participant: str
    session: str | None
    lesions: tuple[Row, ...]
    draws: tuple[Row, ...]
    rescans: tuple[Row, ...]
    load_ml: float  # of the scan itself
    contrast: tuple[float, ...]  # of the visit's own lesions in FLAIR, T1w and T2w
    noise: tuple[float, ...]  # of FLAIR, T1w and T2w
    flags: tuple[str, ...]
    seconds: float

    @property
    def key(self) -> str:
        """Name of the visit: ``sub-<label>[_ses-<label>]``."""
        return visit_key(self.participant, self.session)

    @property
    def loads(self) -> list[float]:
        """Loads of the scan and of its pseudo-rescans, mL."""
        return [self.load_ml, *(float(row["load_ml"]) for row in self.rescans)]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of lesions with its 95 % interval; NaN without lesions."""

    n: int
    found: int
    share: float
    low: float
    high: float
    interval: str  # BOOTSTRAP over patients, or WILSON over lesions as if they were independent


def wilson(found: int, n: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Return the Wilson interval of a share (1927, doi:10.1080/01621459.1927.10502953)."""
    if not n:
        return math.nan, math.nan
    ends = binomtest(found, n).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def rate(hits: Sequence[bool], patients: Sequence[str]) -> Rate:
    """Estimate the share of detected lesions, with ``hits`` and ``patients`` per lesion."""
    found, n = sum(hits), len(hits)
    estimate = estimate_mean([float(hit) for hit in hits], patients)
    if estimate.has_interval and 0 < found < n:
        return Rate(n, found, estimate.mean, estimate.low, estimate.high, BOOTSTRAP)
    low, high = wilson(found, n)
    return Rate(n, found, estimate.mean, low, high, WILSON)


def sensitivity(lesions: Iterable[tuple[str, Row]]) -> list[Row]:
    """Estimate the share of (patient, row) lesions found, by size, region and strength."""
    lesion_rows = list(lesions)
    strengths = tuple(f"{strength:g}" for strength in STRENGTHS)
    levels = {
        "all": ("all",),
        "size": SIZE_LEVELS,
        "region": REGION_LABELS,
        "strength": strengths,
        "size, region": _crossed(REGION_LABELS),
        "size, strength": _crossed(strengths),
    }
    return [row for by in levels for row in _rates(by, levels[by], lesion_rows)]


def _crossed(levels: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{size}, {level}" for level in levels for size in SIZE_LEVELS)


def _level(row: Row, name: str) -> str:
    """Return the level of a lesion; empty without a strength, as of lesions that experts drew."""
    if name == "strength":
        return f"{row['strength']:g}" if "strength" in row else ""
    return "all" if name == "all" else str(row[name])


def _rates(by: str, levels: Iterable[str], lesions: Sequence[tuple[str, Row]]) -> list[Row]:
    members: dict[str, list[tuple[str, bool]]] = {level: [] for level in levels}
    for patient, row in lesions:
        level = ", ".join(_level(row, name) for name in by.split(", "))
        members.get(level, []).append((patient, bool(row["found"])))
    return [
        {
            "by": by,
            "level": level,
            **asdict(rate([hit for _, hit in group], [patient for patient, _ in group])),
        }
        for level, group in members.items()
        if group or ", " not in by
    ]


def summarise(visits: Sequence[VisitCheck]) -> dict[str, Any]:
    """Summarise the visits of a check (at least one) as in ``check.json``."""
    lesions = [(visit.participant, row) for visit in visits for row in visit.lesions]
    return {
        "Participants": len({visit.participant for visit in visits}),
        "Visits": len(visits),
        "Sensitivity": sensitivity(lesions),
        "FalsePositives": _false_positives(visits),
        "Volumes": _volumes(lesions),
        "Load": load_agreement(visits),
    }


def _mean(values: Sequence[float], patients: Sequence[str]) -> Row:
    estimate = estimate_mean(values, patients)
    return _estimate(estimate.mean, estimate)


def _estimate(value: float, estimate: MeanEstimate | agreement.Estimate) -> Row:
    return {
        "value": value,
        "low": estimate.low,
        "high": estimate.high,
        "n_patients": estimate.n_patients,
        "n": estimate.n_visits,
    }


def _false_positives(visits: Sequence[VisitCheck]) -> dict[str, Row]:
    rows = [(visit.participant, row) for visit in visits for row in visit.draws]
    patients = [patient for patient, _ in rows]
    return {
        name: _mean([float(row[name]) for _, row in rows], patients)
        for name in ("n_false", "false_ml")
    }


def _volumes(lesions: Sequence[tuple[str, Row]]) -> list[Row]:
    """Average (found - painted) / painted over found lesions."""
    result = []
    for level in ("all", *SIZE_LEVELS):
        found = [
            (patient, float(row["found_mm3"]) / float(row["volume_mm3"]) - 1)
            for patient, row in lesions
            if row["found"] and level in ("all", row["size"])
        ]
        errors, patients = [error for _, error in found], [patient for patient, _ in found]
        result.append({"size": level, **_mean(errors, patients)})
    return result


def load_agreement(visits: Sequence[VisitCheck]) -> dict[str, Row]:
    """Compare loads (mL, rescan minus scan) and masks (Dice) of scans and pseudo-rescans."""
    repeated = [visit for visit in visits if visit.rescans]
    patients = [visit.participant for visit in repeated]
    loads = np.array([_repeats(visit) for visit in repeated]).reshape(-1, 4)
    statistics: Mapping[str, agreement.Statistic] = {
        "bias_ml": agreement.bias,
        "lower_limit_ml": agreement.lower_limit_of_repeats,
        "upper_limit_ml": agreement.upper_limit_of_repeats,
    }
    spreads = np.array([_spread(visit.loads) for visit in repeated]).reshape(-1, 2)
    estimates = {
        **{
            name: agreement.estimate(loads, patients, statistic)
            for name, statistic in statistics.items()
        },
        "smallest_change_ml": agreement.estimate(
            spreads, patients, agreement.smallest_change, fewest=1
        ),
    }
    owners = [visit.participant for visit in visits for _ in visit.rescans]
    dice = [row["dice"] for visit in visits for row in visit.rescans]  # None: undefined
    return {
        **{name: _estimate(estimate.value, estimate) for name, estimate in estimates.items()},
        "dice": _mean([math.nan if value is None else value for value in dice], owners),
    }


def _repeats(visit: VisitCheck) -> tuple[float, float, float, float]:
    """Return mean load of the rescans, load of the scan, sum of squares and number of rescans."""
    first, *again = visit.loads
    return float(np.mean(again)), first, float(np.var(again) * len(again)), float(len(again))


def _spread(loads: Sequence[float]) -> tuple[float, float]:
    """Return the sum of squares about the mean, and its degrees of freedom."""
    return float(np.var(loads) * len(loads)), float(len(loads) - 1)


def bound(reference: Mapping[str, Any] | None) -> str:
    """Return UPPER (LOWER) if painted lesions of all sizes are found more (less) often than real.

    Sizes are compared by the intervals of the labelled cohort.
    """
    if not reference or "ExpertSensitivity" not in reference:
        return UNKNOWN
    painted, expert = (
        {row["level"]: row for row in reference[name] if row["by"] == "size" and row["n"]}
        for name in ("Sensitivity", "ExpertSensitivity")
    )
    shared = painted.keys() & expert.keys()
    if not shared:
        return UNKNOWN
    if all(painted[level]["low"] > expert[level]["high"] for level in shared):
        return UPPER
    if all(painted[level]["high"] < expert[level]["low"] for level in shared):
        return LOWER
    return NEITHER
