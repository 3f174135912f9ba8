"""Data for the page of an evaluation: tables by column, and one case at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bids_msseg.reports.evaluation import columns

Row = Mapping[str, Any]

# lesions.tsv, column "side"
MANUAL: Final = "manual"
AUTO: Final = "auto"
# lesions.tsv, column "state": of a manual lesion the first two, of an automatic one the others
FOUND: Final = "found"
MISSED: Final = "missed"
TRUE: Final = "true"
FALSE: Final = "false"
# "scope" of strata.tsv, cohort.tsv and reliability.tsv
VISIT: Final = "visit"
SITE: Final = "site"
ALL: Final = "all"
ALL_SITES: Final = "all sites"
"""Name of the row over all sites, where ``scope`` is ``all`` and in sites.tsv."""
SIZE: Final = "size"
REGION: Final = "region"

METRICS: Final = columns.METRICS
COHORT_STATISTICS: Final = columns.COHORT_STATISTICS
TABLES: Final = columns.TABLE_COLUMNS
COMPARED: Final = columns.COMPARED_COLUMNS


@dataclass(frozen=True, slots=True)
class Case:
    """Two masks of one visit on one grid, arrays (x, y, z) as stored, not reoriented."""

    name: str
    site: str
    image: NDArray[np.float32] | None
    auto: NDArray[np.bool_]  # with uncounted lesions
    manual: NDArray[np.bool_]
    auto_labels: NDArray[np.int32]  # counted lesions by decreasing volume
    manual_labels: NDArray[np.int32]
    affine: NDArray[np.float64]  # voxels to world mm (RAS+)
    subject_row: Row
    lesion_rows: Sequence[Row]
    brain: NDArray[np.bool_] | None = None  # what pictures show; None: surroundings of lesions


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation: tables, definitions of columns, notes and cases."""

    title: str
    cases: Callable[[], Iterator[Case]]  # loads one at a time, in the order of ``subjects``
    tables: Mapping[str, Sequence[Row]]  # by file stem; undefined: NaN, unknown text: n/a
    definitions: Mapping[str, Mapping[str, str]]  # by file stem and column
    notes: tuple[str, ...] = ()
