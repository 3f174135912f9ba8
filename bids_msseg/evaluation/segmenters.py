"""Several segmenters on the same labelled visits: their means, and differences within visits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from bids_msseg.evaluation.figures import Row
from bids_msseg.lesions.comparison.bootstrap import estimate_mean
from bids_msseg.reports.evaluation import data as schema


def segmenter_rows(scores: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Compare segmenters (rows of ``subjects``) with the first one on their common visits."""
    by_visit = {name: {str(row["name"]): row for row in rows} for name, rows in scores.items()}
    first, *_ = by_visit.values()
    shared = [
        visit for visit in first if all(visit in visit_rows for visit_rows in by_visit.values())
    ]
    patients = [str(first[visit]["participant_id"]) for visit in shared]
    return [
        row
        for name, visit_rows in by_visit.items()
        for row in _rows(
            name, [visit_rows[v] for v in shared], [first[v] for v in shared], patients
        )
    ]


def _rows(
    name: str, rows: Sequence[Row], reference: Sequence[Row], patients: Sequence[str]
) -> Iterator[Row]:
    is_reference = all(
        row is reference_row for row, reference_row in zip(rows, reference, strict=True)
    )
    for metric in schema.METRICS:
        values = [float(row[metric]) for row in rows]
        gains = [value - float(row[metric]) for value, row in zip(values, reference, strict=True)]
        mean = estimate_mean(values, patients)
        gain = estimate_mean([math.nan] * len(gains) if is_reference else gains, patients)
        yield {
            "segmenter": name,
            "metric": metric,
            "n_patients": mean.n_patients,
            "n_visits": mean.n_visits,
            "mean": mean.mean,
            "low": mean.low,
            "high": mean.high,
            "difference": gain.mean,
            "difference_low": gain.low,
            "difference_high": gain.high,
            "n_paired": gain.n_visits,
        }
