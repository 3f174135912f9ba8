"""Lesion load per atlas region: the long table of the cohort and its summary on the page."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.record import VisitRecord, recorded_visit
from bids_msseg.bids.sidecars import atlas_dictionary
from bids_msseg.bids.visit import IDENTITY_COLUMNS, identity_cells
from bids_msseg.reports.tables import Row, read_tsv
from bids_msseg.reports.text import MISSING, decimal, millilitres

MAX_REGIONS = 30
"""Regions that the page lists of an atlas; the table file has all."""


@dataclass(frozen=True, slots=True)
class AtlasView:
    """One atlas as the group page shows it."""

    name: str
    visits: int
    regions: int  # all, also those not shown
    rows: tuple[tuple[str, ...], ...]  # cells as of :func:`_cells`


def atlas_rows(out_dir: Path, records: Iterable[VisitRecord]) -> list[Row]:
    """Join the atlas tables of all finished visits; empty if no visit has one."""
    names = tuple(atlas_dictionary())
    joined: list[Row] = []
    for record in records:
        if record.status != "ok":
            continue
        cells = identity_cells(record.participant, record.session)
        visit = {name: cell or MISSING for name, cell in cells.items()}
        for row in read_tsv(OUTPUTS["atlases"].path(out_dir, recorded_visit(record), ".tsv")):
            joined.append({**visit, **{name: row.get(name, MISSING) for name in names}})
    return joined


def group_atlas_dictionary() -> dict[str, Any]:
    """Describe the columns of ``group_lesions_atlas.tsv``."""
    return {**IDENTITY_COLUMNS, **atlas_dictionary()}


def view_atlases(rows: Sequence[Row]) -> tuple[AtlasView, ...]:
    """Summarise each atlas for the group page; regions with the largest total load come first."""
    atlases: dict[str, list[Row]] = {}
    for row in rows:
        atlases.setdefault(row["atlas"], []).append(row)
    return tuple(_view(name, members) for name, members in atlases.items())


def _view(name: str, rows: Sequence[Row]) -> AtlasView:
    regions: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        regions.setdefault((row["label"], row["name"]), []).append(row)
    loads = {region: _numbers(members, "lesion_ml") for region, members in regions.items()}
    order = sorted(loads, key=lambda region: -sum(loads[region]))
    shown = tuple(_cells(region[1], regions[region], loads[region]) for region in order)
    visits = len({(row["participant_id"], row["session_id"]) for row in rows})
    return AtlasView(name, visits, len(regions), shown[:MAX_REGIONS])


def _cells(name: str, rows: Sequence[Row], loads: Sequence[float]) -> tuple[str, ...]:
    """Return name, visits with lesions, median and largest load (mL), and median share (%)."""
    shares = _numbers(rows, "share")
    return (
        name,
        str(sum(load > 0 for load in loads)),
        millilitres(statistics.median(loads) if loads else None),
        millilitres(max(loads, default=None)),
        decimal(100 * statistics.median(shares) if shares else None, 2),
    )


def _numbers(rows: Iterable[Mapping[str, str]], column: str) -> list[float]:
    return [float(row[column]) for row in rows if _is_number(row[column])]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
