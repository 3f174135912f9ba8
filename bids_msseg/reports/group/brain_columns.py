"""Columns of the brain volumes in the group table."""

from __future__ import annotations

from collections.abc import Callable

from bids_msseg.bids.record import VisitRecord
from bids_msseg.models.brain_volumes import MEASURES
from bids_msseg.reports.brain import FRACTION_DIGITS
from bids_msseg.reports.group.columns import Column, result_column

SHOWN = {
    "ventricles_ml": ("ventricles", 1),
    "brain_parenchymal_fraction": ("parenchymal fraction", FRACTION_DIGITS),
    "ventricular_fraction": ("ventricular fraction", FRACTION_DIGITS),
}
"""Headings and decimals of what the page of the cohort shows."""


def brain_columns() -> tuple[Column, ...]:
    """List the columns of brain volumes and fractions, and of their plausibility."""
    columns = []
    for measure in MEASURES:
        shown, digits = SHOWN.get(measure.name, ("", 0))
        columns.append(
            result_column(
                measure.name,
                measure.description,
                _of_brain(measure.name),
                units=measure.units,
                shown=shown,
                digits=digits,
            )
        )
    return (*columns, _plausibility())


def _of_brain(name: str) -> Callable[[VisitRecord], object]:
    return lambda record: record.brain_measures.get(name)


def _plausibility() -> Column:
    return Column(
        "anatomy",
        "Whether volumes and fractions of the anatomy are plausible for an adult's whole brain",
        _level,
        levels={
            "ok": "all are plausible",
            "flagged": "the segmentation of the anatomy may have failed: see flags",
        },
    )


def _level(record: VisitRecord) -> str | None:
    if record.status != "ok" or record.anatomy_implausible is None:
        return None
    return "flagged" if record.anatomy_implausible else "ok"
