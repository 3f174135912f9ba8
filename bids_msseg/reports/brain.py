"""Brain volumes as displayed on the page of a visit."""

from __future__ import annotations

from bids_msseg.bids.record import VisitRecord
from bids_msseg.models.brain_volumes import MEASURES
from bids_msseg.reports.text import decimal, millilitres, readable

FRACTION_DIGITS = 4


def brain_view(record: VisitRecord) -> tuple[tuple[str, str], ...]:
    """List name and value of every brain measure of a visit; empty if unknown."""
    if not record.brain_measures:
        return ()
    views = []
    for measure in MEASURES:
        value = record.brain_measures.get(measure.name)
        text = f"{millilitres(value)} mL" if measure.units else decimal(value, FRACTION_DIGITS)
        views.append((readable(measure.name.removesuffix("_ml")), text))
    return tuple(views)
