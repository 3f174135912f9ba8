"""Descriptions of the columns, metrics and statistics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bids_msseg.reports.evaluation import data as schema

_LEVELS: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("subjects", "resampled"): {"yes": "the grids differed", "no": "the grids were the same"},
    ("lesions", "side"): {schema.MANUAL: "the manual mask", schema.AUTO: "the automatic mask"},
    ("lesions", "state"): {
        schema.FOUND: "manual, with overlap",
        schema.MISSED: "manual, without overlap",
        schema.TRUE: "automatic, with overlap",
        schema.FALSE: "automatic, without overlap",
    },
    ("sites", "metric"): schema.METRICS,
    ("segmenters", "metric"): schema.METRICS,
    ("cohort", "statistic"): schema.COHORT_STATISTICS,
    ("strata", "stratum"): {schema.SIZE: "volume", schema.REGION: "main region"},
}


def describe() -> dict[str, dict[str, str]]:
    """Return the meaning (with unit) of every column, metric and statistic, by file stem."""
    extra = {"sites": schema.METRICS, "cohort": schema.COHORT_STATISTICS}
    return {
        stem: {
            name: text + (f" ({unit})" if (unit := _unit(name)) else "")
            for name, text in {**columns, **extra.get(stem, {})}.items()
        }
        for stem, columns in schema.TABLES.items()
    }


def dictionary(stem: str) -> dict[str, Any]:
    """Build the BIDS data dictionary of the table with the given file stem."""
    entries: dict[str, Any] = {}
    for name, text in {**schema.TABLES, **schema.COMPARED}[stem].items():
        entries[name] = {"Description": text}
        if unit := _unit(name):
            entries[name]["Units"] = unit
        if levels := _LEVELS.get((stem, name)):
            entries[name]["Levels"] = dict(levels)
    return entries


def _unit(name: str) -> str:
    if name in ("x", "y", "z"):
        return "mm"
    endings = {"_ml": "mL", "_mm": "mm", "_mm3": "mm^3"}
    return next((unit for ending, unit in endings.items() if name.endswith(ending)), "")


def notes(min_volume: float) -> tuple[str, ...]:
    """Return the notes for readers of the results; ``min_volume`` is in mm³."""
    lesion = (
        f"A lesion is one 26-connected component of at least {min_volume:g} mm³; smaller ones "
        "count as voxels, not as lesions. ISBI's and Anima's metrics use the lesion definitions "
        "of those challenges."
    )
    return ("All values refer to whole volumes, on the grid of the manual mask.", lesion, *_NOTES)


_NOTES: Final = (
    (
        "Undefined values are n/a and are counted. They are never set to 1: two empty masks are "
        "neither a success nor a failure."
    ),
    (
        "Intervals are 95 % percentile bootstrap intervals over patients (10,000 draws). With "
        "fewer than five patients there is no interval; the table lists each patient."
    ),
    "Results are given per site; those over all sites depend on the number of patients per site.",
)
