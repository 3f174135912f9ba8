"""Rows and data dictionary of the group table, and differences that limit comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from bids_msseg.bids.files import format_cell
from bids_msseg.bids.record import VisitRecord
from bids_msseg.reports.check import LoadLimits
from bids_msseg.reports.group.columns import (
    Column,
    Read,
    brain_columns,
    change_columns,
    circumstance_columns,
    identity_columns,
    measure_columns,
    min_volume_of,
    region_columns,
    reliability_columns,
    result_column,
)
from bids_msseg.reports.qc import Review


def columns(
    reviews: Mapping[str, Review] | None = None, limits: LoadLimits | None = None
) -> tuple[Column, ...]:
    """List the columns of the group table in file order."""
    qc = () if reviews is None else _review_columns(reviews)
    reliability = (*reliability_columns(), *_limits(limits))
    measures = (*identity_columns(), *measure_columns(), *reliability, *qc)
    brain = (*region_columns(), *brain_columns())
    return (*measures, *brain, *change_columns(), *circumstance_columns())


def group_rows(
    records: Iterable[VisitRecord],
    reviews: Mapping[str, Review] | None = None,
    limits: LoadLimits | None = None,
) -> list[dict[str, str]]:
    """Convert records into rows of the group table; unknown values are ``n/a``."""
    defined = columns(reviews, limits)
    return [
        {column.name: format_cell(column.value(record)) for column in defined}
        for record in records
    ]


def data_dictionary(
    reviews: Mapping[str, Review] | None = None,
    limits: LoadLimits | None = None,
) -> dict[str, dict[str, object]]:
    """Build the BIDS data dictionary of the group table, as for :func:`columns`."""
    content: dict[str, dict[str, object]] = {}
    for column in columns(reviews, limits):
        content[column.name] = {"Description": column.description}
        if column.units:
            content[column.name]["Units"] = column.units
        if column.levels:
            content[column.name]["Levels"] = dict(column.levels)
    return content


def mixtures(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Describe differences between visits that limit comparisons of their loads."""
    compared = {
        "model_sha256": "different models",
        "threshold": "different thresholds",
        "min_lesion_volume_mm3": "different minimum lesion volumes in mm³",
        "contrasts": "different contrasts",
    }
    sentences = []
    for name, difference in compared.items():
        counts = Counter(row[name] for row in rows if row["status"] == "ok")
        if len(counts) > 1:
            counts_text = ", ".join(
                f"{value} ({number} visit{'s' if number > 1 else ''})"
                for value, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            )
            sentences.append(f"{difference}: {counts_text}")
    return sentences


def _limits(limits: LoadLimits | None) -> tuple[Column, ...]:
    """List the columns of the limits of agreement; empty if they were not measured."""
    if limits is None:
        return ()
    meaning = (
        "limit of agreement: 95 % of pseudo-rescans have a load that differs from that of their "
        "scan by a value between both limits, over the visits that msseg-check has measured. The "
        "same in every row; n/a if model, threshold or minimum lesion volume differ"
    )
    return tuple(
        result_column(
            f"lesion_load_{end}_limit_ml",
            f"{end.capitalize()} {meaning}",
            _if_same_settings(value, limits),
        )
        for end, value in (("lower", limits.lower_ml), ("upper", limits.upper_ml))
    )


def _if_same_settings(value: float, limits: LoadLimits) -> Read:
    measured_by = (limits.model_sha256, limits.threshold, limits.min_lesion_volume)

    def read(record: VisitRecord) -> float | None:
        digest = record.model and record.model.sha256
        used = (digest, record.options.get("threshold"), min_volume_of(record))
        return value if used == measured_by and not record.options.get("fast") else None

    return read


def _review_columns(reviews: Mapping[str, Review]) -> tuple[Column, ...]:
    def of(value: Callable[[Review], object]) -> Read:
        return lambda record: value(reviews[record.key]) if record.key in reviews else None

    def load(record: VisitRecord) -> object:
        review = reviews.get(record.key)
        return review.load_ml(record.lesion_load_ml) if review else record.lesion_load_ml

    def count(record: VisitRecord) -> object:
        review = reviews.get(record.key)
        return review.count(record.lesion_count) if review else record.lesion_count

    levels = {
        "accept": "a reader accepted the visit",
        "unsure": "a reader wants a second opinion",
        "reject": "a reader rejected the visit: it has no load after QC",
    }
    after = "after a reader's QC; unchanged without QC"
    return (
        Column(
            "qc_rating",
            "QC rating of the visit by a reader; n/a without a rating",
            of(lambda review: review.rating),
            levels=levels,
            shown="QC rating",
        ),
        result_column(
            "qc_lesion_load_ml",
            f"lesion_load_ml {after}",
            load,
            shown="lesion load after QC",
            digits=2,
        ),
        result_column("qc_lesion_count", f"lesion_count {after}", count, shown="lesions after QC"),
        result_column(
            "qc_rejected_count",
            "Lesions that a reader rejected",
            of(lambda review: len(review.rejected_mm3)),
        ),
        result_column(
            "qc_restored_count",
            "Rejected candidates that a reader marked as lesions",
            of(lambda review: len(review.restored_mm3)),
        ),
        Column("qc_rater", "Name of the reader", of(lambda review: review.rater)),
        Column("qc_comment", "Comment of the reader", of(lambda review: review.comment)),
    )
