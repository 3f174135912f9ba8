"""Tables of an evaluation: summaries of the metrics of visits by site and cohort."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bids_msseg.evaluation.case import Outcome
from bids_msseg.evaluation.figures import Row
from bids_msseg.lesions.comparison import agreement
from bids_msseg.lesions.comparison.bootstrap import estimate_mean
from bids_msseg.lesions.comparison.strata import SIZE_LEVELS, AssessedLesion, Stratum, stratify
from bids_msseg.lesions.confidence.calibration import Reliability, pool
from bids_msseg.lesions.regions import REGION_LABELS
from bids_msseg.reports.evaluation import data as schema

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Outcomes that are summarised together; ``scope`` is ``visit``, ``site`` or ``all``."""

    scope: str
    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def patients(self) -> list[str]:
        """Participant of each visit."""
        return [outcome.subject["participant_id"] for outcome in self.outcomes]

    def column(self, name: str) -> list[float]:
        """Return one metric of every visit."""
        return [float(outcome.subject[name]) for outcome in self.outcomes]


def all_tables(
    outcomes: Sequence[Outcome],
    without_auto: Mapping[str, str],
    without_manual: Mapping[str, str],
) -> dict[str, list[Row]]:
    """Build every table of an evaluation, as rows by file stem."""
    by_site: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_site.setdefault(outcome.subject["site"], []).append(outcome)
    groups = [Group(schema.SITE, name, tuple(by_site[name])) for name in sorted(by_site)]
    groups.append(Group(schema.ALL, schema.ALL_SITES, tuple(outcomes)))
    visits = [Group(schema.VISIT, outcome.subject["name"], (outcome,)) for outcome in outcomes]
    return {
        "subjects": [outcome.subject for outcome in outcomes],
        "lesions": [row for outcome in outcomes for row in outcome.lesions],
        "sites": [row for group in groups for row in site_rows(group)],
        "cohort": [
            row for group in groups for row in cohort_rows(group, without_auto, without_manual)
        ],
        "strata": [row for group in [*visits, *groups] for row in strata_rows(group)],
        "reliability": [row for group in [*visits, *groups] for row in reliability_rows(group)],
    }


def site_rows(group: Group) -> Iterator[Row]:
    """Average every metric over the visits of a site, and count undefined values."""
    for metric in schema.METRICS:
        values = group.column(metric)
        defined = [value for value in values if not math.isnan(value)]
        yield {
            "site": group.name,
            "metric": metric,
            **asdict(estimate_mean(values, group.patients)),
            "n_undefined": len(values) - len(defined),
            "median": float(np.median(defined)) if defined else math.nan,
            "minimum": min(defined, default=math.nan),
            "maximum": max(defined, default=math.nan),
        }


def cohort_rows(
    group: Group, without_auto: Mapping[str, str], without_manual: Mapping[str, str]
) -> Iterator[Row]:
    """Compute the agreement of volumes in a group, and count empty and missing masks."""
    volumes = np.array([group.column("volume_auto_ml"), group.column("volume_manual_ml")]).T
    scored = np.column_stack([volumes, group.column("isbi_score")])
    start = {"scope": group.scope, "name": group.name}
    statistics: tuple[tuple[str, Array, agreement.Statistic], ...] = (
        ("pearson_r", volumes, agreement.pearson),
        ("icc_2_1", volumes, agreement.icc_2_1),
        ("bland_altman_bias_ml", volumes, agreement.bias),
        ("bland_altman_lower_ml", volumes, agreement.lower_limit),
        ("bland_altman_upper_ml", volumes, agreement.upper_limit),
        ("isbi_score", scored, _isbi_with_correlation),
    )
    for name, values, statistic in statistics:
        estimate = agreement.estimate(values, group.patients, statistic)
        yield start | {"statistic": name} | asdict(estimate)
    people = {"n_patients": len(set(group.patients)), "n_visits": len(group.outcomes)}
    empty = volumes == 0
    counts = {
        "n_both_empty": int(empty.all(1).sum()),
        "n_manual_empty": int((empty[:, 1] & ~empty[:, 0]).sum()),
        "n_auto_empty": int((empty[:, 0] & ~empty[:, 1]).sum()),
        "n_without_auto": _count(group, without_auto),
        "n_without_manual": _count(group, without_manual),
    }
    for name, count in counts.items():
        yield start | {"statistic": name, "value": count} | people


def _isbi_with_correlation(values: Array, weights: Array) -> Array:
    """Combine the mean ISBI score of visits (0.75) with the volume correlation (0.25)."""
    mean = (weights * values[:, 2]).sum(-1) / weights.sum(-1)
    score: Array = 0.75 * mean + 0.25 * agreement.pearson(values[:, :2], weights)
    return score


def _count(group: Group, unpaired: Mapping[str, str]) -> int:
    return sum(group.scope == schema.ALL or site == group.name for site in unpaired.values())


def strata_rows(group: Group) -> Iterator[Row]:
    """Count lesions of a group by size and, if regions are known, by region."""
    for stratum, levels in ((schema.SIZE, SIZE_LEVELS), (schema.REGION, REGION_LABELS)):
        lesions = list(_assessed(group, stratum))
        if stratum == schema.REGION and not any(lesion.level in levels for lesion in lesions):
            continue
        for counts in stratify(lesions, levels):
            yield _stratum_row(group, stratum, counts, lesions)


def _assessed(group: Group, stratum: str) -> Iterator[AssessedLesion]:
    for outcome in group.outcomes:
        for row in outcome.lesions:
            yield AssessedLesion(
                outcome.subject["participant_id"],
                row["side"] == schema.MANUAL,
                str(row[stratum]),
                row["state"] in (schema.FOUND, schema.TRUE),
            )


def _stratum_row(
    group: Group, stratum: str, counts: Stratum, lesions: Sequence[AssessedLesion]
) -> dict[str, Any]:
    return {
        "scope": group.scope,
        "name": group.name,
        "stratum": stratum,
        "level": counts.level,
        "n_patients": len({lesion.patient for lesion in lesions if lesion.level == counts.level}),
        "n_manual": counts.n_manual,
        "n_found": counts.n_found,
        "sensitivity": counts.sensitivity.mean,
        "sensitivity_low": counts.sensitivity.low,
        "sensitivity_high": counts.sensitivity.high,
        "n_auto": counts.n_auto,
        "n_true": counts.n_true,
        "ppv": counts.ppv.mean,
        "ppv_low": counts.ppv.low,
        "ppv_high": counts.ppv.high,
        "f1": counts.f1,
    }


def reliability_rows(group: Group) -> Iterator[Row]:
    """List the reliability bins of a group; no rows without probability maps."""
    charts = [outcome.reliability for outcome in group.outcomes if outcome.reliability is not None]
    if not charts:
        return
    chart: Reliability = pool(charts)
    for number, count in enumerate(chart.count.tolist()):
        yield {
            "scope": group.scope,
            "name": group.name,
            "bin_low": float(chart.edges[number]),
            "bin_high": float(chart.edges[number + 1]),
            "n_voxels": count,
            "mean_probability": float(chart.mean_probability[number]),
            "share_lesion": float(chart.share_lesion[number]),
        }


def segmenter_rows(scores: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Compare segmenters (rows of ``subjects``) with the first one on their common visits."""
    by_visit = {name: {str(row["name"]): row for row in rows} for name, rows in scores.items()}
    first = next(iter(by_visit))
    shared = [name for name in by_visit[first] if all(name in rows for rows in by_visit.values())]
    patients = [str(by_visit[first][visit]["participant_id"]) for visit in shared]
    compared: list[Row] = []
    for segmenter, metric in itertools.product(by_visit, schema.METRICS):
        values, reference = (
            [float(by_visit[name][visit][metric]) for visit in shared]
            for name in (segmenter, first)
        )
        gains = [value - base for value, base in zip(values, reference, strict=True)]
        gain = estimate_mean([math.nan] * len(gains) if segmenter == first else gains, patients)
        compared.append(
            {
                "segmenter": segmenter,
                "metric": metric,
                **asdict(estimate_mean(values, patients)),
                "difference": gain.mean,
                "difference_low": gain.low,
                "difference_high": gain.high,
                "n_paired": gain.n_visits,
            }
        )
    return compared
