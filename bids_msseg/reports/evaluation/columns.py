"""Columns of the tables of an evaluation, in order, and their descriptions without units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_NAME: Final = {"name": "Visit: sub-<label>[_ses-<label>]"}
_SITE: Final = {"site": "Site at which the visit was acquired"}
_INTERVAL: Final = {
    "low": "Lower end of the 95 % bootstrap interval over patients; n/a with fewer than five",
    "high": "Upper end of the 95 % bootstrap interval over patients; n/a with fewer than five",
}
_COUNTS: Final = {
    "n_patients": "Number of patients from which the value is computed",
    "n_visits": "Number of visits from which the value is computed",
}
_SCOPED: Final = {
    "scope": "Whether the row describes one visit, one site or all sites",
    "name": "The visit, the site, or all sites",
}
METRICS: Final = {
    "dice": "Overlap of the masks: twice the shared voxels over the sum of both masks; n/a where "
    "both are empty",
    "ppv": 'Positive predictive value ("precision"): share of the automatic voxels that are '
    "manual; n/a where the automatic mask is empty",
    "sensitivity": "Share of the manual voxels found; n/a where the manual mask is empty",
    "volume_difference_ml": "Automatic minus manual volume",
    "volume_difference_relative": "Automatic minus manual volume, over the manual volume; n/a "
    "where the manual mask is empty",
    "hd95_mm": "Larger of the two 95th percentiles, by area, of the distances from one mask's "
    "surface (marching cubes) to the other's; n/a where a mask is empty",
    "assd_mm": "Mean distance between the surfaces, by area over both; n/a where a mask is empty",
    "surface_dice_1mm": "Share of both surfaces, by area, that lies within 1 mm of the other; 0 "
    "where one mask is empty, n/a where both are",
    "ndsc": "Normalised Dice (nDSC): Dice with false positives scaled to a share of lesion of "
    "0.001 of the brain mask; n/a without a brain mask",
    "lesion_sensitivity": "Share of manual lesions that share a voxel with an automatic lesion",
    "lesion_ppv": "Share of automatic lesions that share a voxel with a manual lesion",
    "lesion_f1": "Harmonic mean of lesion-wise sensitivity and PPV, any overlap; 0 where one mask "
    "has no lesion, n/a where neither has",
    "isbi_ltpr": "Lesion true positive rate as in ISBI-2015: 26-connected, any size, any overlap",
    "isbi_lfpr": "Lesion false positive rate as in ISBI-2015: share of the automatic lesions of "
    "any size without overlap",
    "isbi_score": "Score of ISBI-2015. Of one visit: 4/3 × (Dice/8 + PPV/8 + (1 - LFPR)/4 + "
    "LTPR/4); where one mask is empty, undefined terms count as 0. Of a cohort: mean of the same "
    "sum without 4/3, plus a quarter of Pearson's correlation of volumes",
    "anima_default_sensitivity": "Lesion-wise sensitivity by Anima's rule with the thresholds of "
    "its program (alpha 0.05, beta 0.5, gamma 0.5), on Anima's lesions: face-connected, strictly "
    "larger than the minimum",
    "anima_default_ppv": "Lesion-wise PPV by Anima's rule with the thresholds of its program",
    "anima_default_f1": "Lesion-wise F1 by Anima's rule with the thresholds of its program",
    "anima_paper_sensitivity": "Lesion-wise sensitivity by Anima's rule with the thresholds of "
    "the paper on MSSEG-2016 (alpha 0.10, beta 0.70, gamma 0.65), on Anima's lesions",
    "anima_paper_ppv": "Lesion-wise PPV by Anima's rule with the thresholds of the paper",
    "anima_paper_f1": "Lesion-wise F1 by Anima's rule with the thresholds of the paper",
    "ece": "Expected calibration error, ten bins of equal width, over voxels with a probability "
    "of at least 0.01; n/a without probabilities",
    "ece_brain": "Expected calibration error over all voxels of the brain mask, most of which are "
    "clearly healthy; n/a without a brain mask",
}
"""Figures of one visit that are averaged by site; NaN where not defined."""

COHORT_STATISTICS: Final = {
    "pearson_r": "Pearson's correlation of automatic and manual volumes",
    "icc_2_1": "Intraclass correlation ICC(2,1) of volumes: two-way random effects, absolute "
    "agreement, one measurement",
    "bland_altman_bias_ml": "Mean of automatic minus manual volume, in mL",
    "bland_altman_lower_ml": "Bias minus 1.96 standard deviations of the differences, in mL",
    "bland_altman_upper_ml": "Bias plus 1.96 standard deviations of the differences, in mL",
    "isbi_score": METRICS["isbi_score"],
    "n_both_empty": "Visits in which both masks are empty, which is neither a success nor a "
    "failure; counted only here",
    "n_manual_empty": "Visits in which only the manual mask is empty",
    "n_auto_empty": "Visits in which only the automatic mask is empty",
    "n_without_auto": "Visits with a manual mask but no automatic one; not in any other value",
    "n_without_manual": "Visits with an automatic mask but no manual one; not in any other value",
}
"""Statistics over the visits of a site, or of all sites."""

_SUBJECTS: Final = {
    **_NAME,
    "participant_id": "The patient",
    "session_id": "The session",
    **_SITE,
    "volume_manual_ml": "Volume of the manual mask",
    "volume_auto_ml": "Volume of the automatic mask",
    "volume_mean_ml": "Mean of both volumes, for the Bland-Altman plot",
    "n_manual": "Manual lesions that are counted",
    "n_found": "Counted manual lesions that are found",
    "n_missed": "Counted manual lesions that are missed",
    "n_auto": "Automatic lesions that are counted",
    "n_true": "Counted automatic lesions that are true",
    "n_false": "Counted automatic lesions that are false",
    **METRICS,
    "resampled": "Whether the automatic mask was resampled to the grid of the manual one: linear "
    "interpolation, threshold one half",
}
"""One row per visit; ``name`` equals :attr:`bids_msseg.reports.evaluation.data.Case.name`."""

_LESIONS: Final = {
    **_NAME,
    **_SITE,
    "side": "Mask that the lesion belongs to",
    "index": "Number of the lesion within its mask, by decreasing volume",
    "state": "Whether the lesion shares a voxel with a counted lesion of the other mask",
    "volume_mm3": "Volume",
    "n_voxels": "Number of voxels",
    "size": "Class of volume in mm³; a volume on an edge belongs to the larger class",
    "x": "x coordinate of the centre of mass, RAS+ world",
    "y": "y coordinate of the centre of mass, RAS+ world",
    "z": "z coordinate of the centre of mass, RAS+ world",
    "i": "First index, from 0, of the lesion's voxel nearest to the centre of mass",
    "j": "Second index of that voxel",
    "k": "Third index of that voxel",
    "region": "Main region as the McDonald criteria define it; n/a where not known",
    "share_periventricular": "Share of the lesion's voxels in the periventricular region",
    "share_juxtacortical": "Share of the lesion's voxels in the juxtacortical region",
    "share_infratentorial": "Share of the lesion's voxels in the infratentorial region",
    "share_deep_white_matter": "Share of the lesion's voxels in the deep white matter",
    "overlap_mm3": "Volume shared with counted lesions of the other mask",
    "overlap_share": "overlap_mm3 divided by the volume of the lesion",
    "n_partners": "Lesions of the other mask that share a voxel with this lesion; more than one "
    "if it was split or if it merges several",
    "partners": "Numbers of these lesions, separated by commas",
    "mean_probability": "Mean probability of the automatic method inside the lesion",
    "max_probability": "Highest probability of the automatic method inside the lesion",
}
"""One row per lesion of either side; ``index`` is its value in ``auto_labels`` or
``manual_labels``; x, y, z are mm (RAS+ world) and i, j, k the voxel indices of a voxel of the
lesion, the one nearest to the centre of mass."""

_SITES: Final = {
    "site": "The site, or all sites",
    "metric": "Metric of a visit",
    **_COUNTS,
    "n_undefined": "Visits in which the metric is not defined; left out of mean and median",
    "mean": "Mean over visits",
    **_INTERVAL,
    "median": "Median over visits",
    "minimum": "Smallest value of a visit",
    "maximum": "Largest value of a visit",
}
"""One row per site and metric, then ``all sites``; low and high only from five patients on."""

_COHORT: Final = {
    **_SCOPED,
    "statistic": "Statistic over the visits",
    "value": "Value of the statistic; correlations and limits need at least three visits",
    **_INTERVAL,
    **_COUNTS,
}
"""One row per site (``scope`` site) and statistic, then over all (``scope`` all)."""

_STRATA: Final = {
    **_SCOPED,
    "stratum": "Property that defines the classes: size or region of the lesion itself",
    "level": "Class; sizes in mm³, a volume on an edge belongs to the larger class",
    "n_patients": "Patients with a lesion of this class in either mask",
    "n_manual": "Manual lesions of this class",
    "n_found": "Manual lesions of this class that are found, any overlap",
    "sensitivity": "Share of all manual lesions of the class that are found",
    "sensitivity_low": "Lower end of the 95 % bootstrap interval over patients; n/a with fewer "
    "than five who have such a lesion",
    "sensitivity_high": "Upper end of the interval of sensitivity",
    "n_auto": "Automatic lesions of this class",
    "n_true": "Automatic lesions of this class that are true, any overlap",
    "ppv": "Share of all automatic lesions of the class that are true",
    "ppv_low": "Lower end of the 95 % bootstrap interval over patients; n/a with fewer than five "
    "who have such a lesion",
    "ppv_high": "Upper end of the interval of ppv",
    "f1": "Harmonic mean of sensitivity and ppv; 0 if there are lesions but none agrees",
}
"""One row per visit, site and all; ``stratum`` is size or region, ``level`` its class."""

_RELIABILITY: Final = {
    **_SCOPED,
    "bin_low": "Lower end of the probability bin; belongs to the bin",
    "bin_high": "Upper end of the probability bin; belongs only to the last bin",
    "n_voxels": "Voxels in the bin; voxels with a probability below 0.01 are left out",
    "mean_probability": "Mean probability of the voxels in the bin",
    "share_lesion": "Share of the voxels in the bin that are manual lesion",
}
"""One row per visit, site and all, and bin of probability; only where there are probabilities."""

_SEGMENTERS: Final = {
    "segmenter": "Name of the automatic masks; the other tables describe the first one",
    "metric": "Metric of a visit",
    "n_patients": "Patients with a visit that all segmenters have and in which the metric is "
    "defined",
    "n_visits": "Visits that all segmenters have and in which the metric is defined",
    "mean": "Mean over these visits",
    **_INTERVAL,
    "difference": "Mean over visits of the metric minus that of the first segmenter, where both "
    "are defined; n/a for the first segmenter",
    "difference_low": "Lower end of the 95 % bootstrap interval of the difference over patients; "
    "n/a with fewer than five",
    "difference_high": "Upper end of the interval of the difference",
    "n_paired": "Number of visits in the difference",
}
"""One row per segmenter and metric, on the visits that all segmenters have; the differences are
from the first segmenter, within visits."""

TABLE_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "subjects": _SUBJECTS,
    "lesions": _LESIONS,
    "sites": _SITES,
    "cohort": _COHORT,
    "strata": _STRATA,
    "reliability": _RELIABILITY,
}
"""Columns by file stem, in the order of the files."""
COMPARED_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {"segmenters": _SEGMENTERS}
"""The table that there is only where several segmenters are compared."""
