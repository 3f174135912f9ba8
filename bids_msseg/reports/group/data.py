"""Data of every visit on the group page, in compact form for its script."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bids_msseg.bids.record import VisitRecord
from bids_msseg.lesions.regions import Region
from bids_msseg.reports.atlas import AtlasView
from bids_msseg.reports.group.cohort import Facets
from bids_msseg.reports.group.columns import Column
from bids_msseg.reports.group.frequency import Frequency
from bids_msseg.reports.tables import Row
from bids_msseg.reports.text import MISSING, decimal, without_folders

ROWS = 100
"""Rows of the table that a page shows at once, unless its reader chooses another number."""
MAX_FLAGS = 20
"""Kinds of flags that the filter lists."""
OTHER_FLAG = "other quality flags"
_NUMBER = re.compile(r"(?<![\w.])(?:\d+(?:\.\d+)?|\.\d+)")
"""Numbers that are not part of a word, such as T1w."""


@dataclass(frozen=True, slots=True)
class Cohort:
    """Data that the group page shows, per visit in the order of ``records``."""

    out_dir: Path
    records: tuple[VisitRecord, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]  # those shown, participant first
    loads: tuple[float | None, ...]  # mL, after QC if given
    excluded: frozenset[str]  # visits that a reader rejected
    reviewed: int | None  # None without QC
    facets: Facets
    summary: tuple[Row, ...]
    mixtures: tuple[str, ...]  # differences between visits that limit comparisons
    frequency: Frequency | None
    atlases: tuple[AtlasView, ...]


@dataclass(frozen=True, slots=True)
class Flags:
    """Kinds of flags with visit counts, most frequent first, and the kinds of each visit."""

    kinds: tuple[tuple[str, int], ...]
    visits: tuple[tuple[int, ...], ...]  # indices into kinds

    @property
    def flagged(self) -> int:
        """Number of visits with any flag."""
        return sum(map(bool, self.visits))


def sort_flags(records: Iterable[VisitRecord]) -> Flags:
    """Group flags into at most :data:`MAX_FLAGS` kinds, ignoring numbers in their text."""
    remarks = [(*record.flags, *(record.quality_reasons or ())) for record in records]
    kinds_by_visit = [{_kind(text) for text in texts} for texts in remarks]
    counts = Counter(kind for kinds in kinds_by_visit for kind in kinds)
    names = sorted(counts, key=lambda kind: (-counts[kind], kind))
    shown_kinds = names if len(names) <= MAX_FLAGS else [*names[: MAX_FLAGS - 1], OTHER_FLAG]
    index_of = {name: min(i, len(shown_kinds) - 1) for i, name in enumerate(names)}
    visits = tuple(tuple(sorted({index_of[kind] for kind in kinds})) for kinds in kinds_by_visit)
    numbers = Counter(index for indices in visits for index in indices)
    return Flags(tuple((name, numbers[i]) for i, name in enumerate(shown_kinds)), visits)


def _kind(flag: str) -> str:
    return _NUMBER.sub("…", without_folders(flag))


def pack(values: Sequence[Hashable]) -> list[Any] | dict[str, list[Any]]:
    """Encode values with many repeats as ``levels`` and ``codes``; else return a list."""
    place = {value: code for code, value in enumerate(dict.fromkeys(values))}
    if 2 * len(place) > len(values):
        return list(values)
    return {"levels": list(place), "codes": [place[value] for value in values]}


def shorten(value: float | None) -> float | None:
    """Round a number to six significant digits."""
    return None if value is None else _int_if_whole(float(f"{value:.6g}"))


def _int_if_whole(value: float) -> float:
    return int(value) if value.is_integer() else value


def page_data(
    cohort: Cohort, flags: Flags, pictures: Sequence[str | None] = ()
) -> dict[str, object]:
    """Collect the JSON data of the page's script, by column in visit order."""
    finished = [record if record.status == "ok" else None for record in cohort.records]
    levels, numbers = cohort.facets.levels, cohort.facets.numbers
    return {
        "rows": ROWS,
        "columns": [_column(cohort, column) for column in cohort.columns],
        "sessions": pack([record.session for record in cohort.records]),
        "loads": [shorten(load) for load in cohort.loads],
        "excluded": [
            i for i, record in enumerate(cohort.records) if record.key in cohort.excluded
        ],
        "flags": pack(flags.visits),
        "regions": [
            [region.label, [_region_ml(record, region) for record in finished]]
            for region in Region
        ],
        "levels": [[name, pack(values)] for name, values in levels.items()],
        "numbers": [[name, list(map(shorten, values))] for name, values in numbers.items()],
        "summary": list(cohort.summary),
        "load": "lesion load" + (" after QC" if cohort.reviewed is not None else ""),
        "pictures": list(pictures),
    }


def _column(cohort: Cohort, column: Column) -> dict[str, object]:
    texts = [text_on_page(row, column) for row in cohort.rows]
    numbers = column.digits is not None
    return {
        "name": column.name,
        "digits": column.digits,
        "tag": bool(column.levels),
        "values": [_number(text) for text in texts] if numbers else pack(texts),
    }


def text_on_page(row: Mapping[str, str], column: Column) -> str:
    """Format a cell for the page with rounded numbers; flags also show the reason."""
    value = row[column.name]
    if column.name == "flags":
        return "; ".join(text for text in (row["reason"], value) if text != MISSING)
    if column.digits is None or value == MISSING:
        return value
    return decimal(float(value), column.digits)


def _number(text: str) -> float | None:
    return None if text == MISSING else _int_if_whole(float(text))


def _region_ml(record: VisitRecord | None, region: Region) -> float | None:
    if record is None:
        return None
    return shorten(record.regions.get(region.label, (None, None))[0] or 0.0)
