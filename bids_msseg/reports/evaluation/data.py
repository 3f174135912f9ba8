"""What the page of an evaluation is made of: tables by column, and one case at a time.

Public names: :class:`Case`, :class:`Evaluation`, the columns of every table, and the words that
stand in them.
"""

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
"""One row a visit; ``name`` is ``sub-<label>[_ses-<label>]`` and equals :attr:`Case.name`."""

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
"""One row a lesion of either side; ``index`` is its value in ``auto_labels`` or
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
"""One row a site and metric, then ``all sites``; low and high only from five patients on."""

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
"""One row a site (``scope`` site) and statistic, then over all (``scope`` all)."""

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
"""One row a visit, site and all; ``stratum`` is size or region, ``level`` its class."""

RELIABILITY: Final = (
    "scope",
    "name",
    "bin_low",
    "bin_high",
    "n_voxels",
    "mean_probability",
    "share_lesion",
)
"""One row a visit, site and all, and bin of probability; only where there are probabilities."""

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
"""One row a segmenter and metric, on the visits that all segmenters have; the differences are
from the first segmenter, within visits."""

COMPARED: Final[Mapping[str, tuple[str, ...]]] = {"segmenters": SEGMENTERS}
"""The table that there is only where several segmenters are compared."""


@dataclass(frozen=True, slots=True)
class Case:
    """Two masks of one visit on one grid; arrays have shape (X, Y, Z) as stored, not reoriented.

    Attributes
    ----------
    name : str
        ``sub-<label>[_ses-<label>]``.
    site : str
    image : ndarray of float32 or None
        The FLAIR on the grid of the masks, any intensity scale; None where there is none.
    auto, manual : ndarray of bool
        All lesion voxels, those of lesions too small to be counted included.
    auto_labels, manual_labels : ndarray of int32
        Counted lesions 1..n by decreasing volume, 0 elsewhere; ``index`` in the lesion table.
    spacing_mm : tuple of 3 floats
        Voxel edges.
    affine : ndarray of float64, shape (4, 4)
        Voxel index to world mm, RAS+.
    subject_row : mapping
        Its row of ``subjects``.
    lesion_rows : sequence of mapping
        Its rows of ``lesions``.
    brain : ndarray of bool, optional
        Brain mask on the same grid: pictures show nothing outside it. Without one only what lies
        near a lesion is drawn, so that no page holds a face.
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
    """A finished evaluation.

    Attributes
    ----------
    title : str
        What was compared with what.
    cases : callable
        Gives a new iterator that loads one case at a time, in the order of ``subjects``.
    tables : mapping of str to sequence of mapping
        Rows by file stem, see :data:`TABLES`, and :data:`COMPARED` where there are several
        segmenters. Numbers are int or float, NaN where not defined; everything else is text
        (``n/a`` where unknown).
    definitions : mapping of str to mapping of str to str
        What each column means, with its unit, by file stem and column. For ``sites`` and
        ``cohort`` also what each metric or statistic means, under its name.
    notes : tuple of str
        What has to be known to read the figures, one sentence each.
    """

    title: str
    cases: Callable[[], Iterator[Case]]
    tables: Mapping[str, Sequence[Row]]
    definitions: Mapping[str, Mapping[str, str]]
    notes: tuple[str, ...] = ()
