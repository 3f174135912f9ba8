"""Data for the page of an evaluation: tables by column, and one case at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
SIZE_LEVELS: Final = ("<10", "10-100", "100-1000", ">1000")
"""Lesion volume in mm³: below 10, 10 to below 100, 100 to below 1000, 1000 and more."""

METRICS: Final = (
    "dice",
    "ppv",
    "sensitivity",
    "volume_difference_ml",
    "volume_difference_relative",
    "hd95_mm",
    "assd_mm",
    "surface_dice_1mm",
    "ndsc",
    "lesion_sensitivity",
    "lesion_ppv",
    "lesion_f1",
    "isbi_ltpr",
    "isbi_lfpr",
    "isbi_score",
    "anima_default_sensitivity",
    "anima_default_ppv",
    "anima_default_f1",
    "anima_paper_sensitivity",
    "anima_paper_ppv",
    "anima_paper_f1",
    "ece",
    "ece_brain",
)
"""Figures of one visit that are averaged by site; NaN where not defined."""

SUBJECTS: Final = (
    "name",
    "participant_id",
    "session_id",
    "site",
    "volume_manual_ml",
    "volume_auto_ml",
    "volume_mean_ml",
    "n_manual",
    "n_found",
    "n_missed",
    "n_auto",
    "n_true",
    "n_false",
    *METRICS,
    "resampled",
)
"""One row per visit; ``name`` is ``sub-<label>[_ses-<label>]`` and equals :attr:`Case.name`."""

LESIONS: Final = (
    "name",
    "site",
    "side",
    "index",
    "state",
    "volume_mm3",
    "n_voxels",
    "size",
    "x",
    "y",
    "z",
    "i",
    "j",
    "k",
    "region",
    "share_periventricular",
    "share_juxtacortical",
    "share_infratentorial",
    "share_deep_white_matter",
    "overlap_mm3",
    "overlap_share",
    "n_partners",
    "partners",
    "mean_probability",
    "max_probability",
)
"""One row per lesion of either side; ``index`` is its value in ``auto_labels`` or
``manual_labels``; x, y, z are mm (RAS+ world) and i, j, k the voxel indices of a voxel of the
lesion, the one nearest to the centre of mass."""

SITES: Final = (
    "site",
    "metric",
    "n_patients",
    "n_visits",
    "n_undefined",
    "mean",
    "low",
    "high",
    "median",
    "minimum",
    "maximum",
)
"""One row per site and metric, then ``all sites``; low and high only from five patients on."""

COHORT_STATISTICS: Final = (
    "pearson_r",
    "icc_2_1",
    "bland_altman_bias_ml",
    "bland_altman_lower_ml",
    "bland_altman_upper_ml",
    "isbi_score",
    "n_both_empty",
    "n_manual_empty",
    "n_auto_empty",
    "n_without_auto",
    "n_without_manual",
)
COHORT: Final = ("scope", "name", "statistic", "value", "low", "high", "n_patients", "n_visits")
"""One row per site (``scope`` site) and statistic, then over all (``scope`` all)."""

STRATA: Final = (
    "scope",
    "name",
    "stratum",
    "level",
    "n_patients",
    "n_manual",
    "n_found",
    "sensitivity",
    "sensitivity_low",
    "sensitivity_high",
    "n_auto",
    "n_true",
    "ppv",
    "ppv_low",
    "ppv_high",
    "f1",
)
"""One row per visit, site and all; ``stratum`` is size or region, ``level`` its class."""

RELIABILITY: Final = (
    "scope",
    "name",
    "bin_low",
    "bin_high",
    "n_voxels",
    "mean_probability",
    "share_lesion",
)
"""One row per visit, site and all, and bin of probability; only where there are probabilities."""

TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "subjects": SUBJECTS,
    "lesions": LESIONS,
    "sites": SITES,
    "cohort": COHORT,
    "strata": STRATA,
    "reliability": RELIABILITY,
}
"""Columns by file stem, in the order of the files."""

SEGMENTERS: Final = (
    "segmenter",
    "metric",
    "n_patients",
    "n_visits",
    "mean",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "n_paired",
)
"""One row per segmenter and metric, on the visits that all segmenters have; the differences are
from the first segmenter, within visits."""

COMPARED: Final[Mapping[str, tuple[str, ...]]] = {"segmenters": SEGMENTERS}
"""The table that there is only where several segmenters are compared."""


@dataclass(frozen=True, slots=True)
class Case:
    """Two masks of one visit on one grid, arrays (x, y, z) as stored, not reoriented.

    Masks include uncounted lesions; labels number counted ones by decreasing volume. ``affine``
    maps voxels to world mm (RAS+). Pictures show only the ``brain`` or, without it, the
    surroundings of lesions, so that no face is visible.
    """

    name: str
    site: str
    image: NDArray[np.float32] | None
    auto: NDArray[np.bool_]
    manual: NDArray[np.bool_]
    auto_labels: NDArray[np.int32]
    manual_labels: NDArray[np.int32]
    spacing_mm: tuple[float, float, float]
    affine: NDArray[np.float64]
    subject_row: Row
    lesion_rows: Sequence[Row]
    brain: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation: tables, definitions of columns, notes and cases.

    ``cases`` returns a new iterator that loads one case at a time, in the order of ``subjects``.
    ``tables`` and ``definitions`` are by file stem (:data:`TABLES`, :data:`COMPARED`); undefined
    numbers are NaN, unknown text ``n/a``.
    """

    title: str
    cases: Callable[[], Iterator[Case]]
    tables: Mapping[str, Sequence[Row]]
    definitions: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = ()
