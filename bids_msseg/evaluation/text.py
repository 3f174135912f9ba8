"""Descriptions of the columns, metrics and statistics of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bids_msseg.reports.evaluation import data as schema

_METRICS: Final = {
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
_STATISTICS: Final = {
    "pearson_r": "Pearson's correlation of automatic and manual volumes",
    "icc_2_1": "Intraclass correlation ICC(2,1) of volumes: two-way random effects, absolute "
    "agreement, one measurement",
    "bland_altman_bias_ml": "Mean of automatic minus manual volume, in mL",
    "bland_altman_lower_ml": "Bias minus 1.96 standard deviations of the differences, in mL",
    "bland_altman_upper_ml": "Bias plus 1.96 standard deviations of the differences, in mL",
    "isbi_score": _METRICS["isbi_score"],
    "n_both_empty": "Visits in which both masks are empty, which is neither a success nor a "
    "failure; counted only here",
    "n_manual_empty": "Visits in which only the manual mask is empty",
    "n_auto_empty": "Visits in which only the automatic mask is empty",
    "n_without_auto": "Visits with a manual mask but no automatic one; not in any other value",
    "n_without_manual": "Visits with an automatic mask but no manual one; not in any other value",
}
_COMMON: Final = {
    "name": "Visit: sub-<label>[_ses-<label>]",
    "site": "Site at which the visit was acquired",
    "n_patients": "Number of patients from which the value is computed",
    "n_visits": "Number of visits from which the value is computed",
    "low": "Lower end of the 95 % bootstrap interval over patients; n/a with fewer than five",
    "high": "Upper end of the 95 % bootstrap interval over patients; n/a with fewer than five",
}
_SCOPED: Final = {
    "scope": "Whether the row describes one visit, one site or all sites",
    "name": "The visit, the site, or all sites",
}
_SUBJECTS: Final = {
    "participant_id": "The patient",
    "session_id": "The session",
    "volume_manual_ml": "Volume of the manual mask",
    "volume_auto_ml": "Volume of the automatic mask",
    "volume_mean_ml": "Mean of both volumes, for the Bland-Altman plot",
    "n_manual": "Manual lesions that are counted",
    "n_found": "Counted manual lesions that are found",
    "n_missed": "Counted manual lesions that are missed",
    "n_auto": "Automatic lesions that are counted",
    "n_true": "Counted automatic lesions that are true",
    "n_false": "Counted automatic lesions that are false",
    **_METRICS,
    "resampled": "Whether the automatic mask was resampled to the grid of the manual one: linear "
    "interpolation, threshold one half",
}
_LESIONS: Final = {
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
_SITES: Final = {
    "site": "The site, or all sites",
    "metric": "Metric of a visit",
    "n_undefined": "Visits in which the metric is not defined; left out of mean and median",
    "mean": "Mean over visits",
    "median": "Median over visits",
    "minimum": "Smallest value of a visit",
    "maximum": "Largest value of a visit",
}
_COHORT: Final = {
    **_SCOPED,
    "statistic": "Statistic over the visits",
    "value": "Value of the statistic; correlations and limits need at least three visits",
}
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
_RELIABILITY: Final = {
    **_SCOPED,
    "bin_low": "Lower end of the probability bin; belongs to the bin",
    "bin_high": "Upper end of the probability bin; belongs only to the last bin",
    "n_voxels": "Voxels in the bin; voxels with a probability below 0.01 are left out",
    "mean_probability": "Mean probability of the voxels in the bin",
    "share_lesion": "Share of the voxels in the bin that are manual lesion",
}
_SEGMENTERS: Final = {
    "segmenter": "Name of the automatic masks; the other tables describe the first one",
    "metric": "Metric of a visit",
    "n_patients": "Patients with a visit that all segmenters have and in which the metric is "
    "defined",
    "n_visits": "Visits that all segmenters have and in which the metric is defined",
    "mean": "Mean over these visits",
    "difference": "Mean over visits of the metric minus that of the first segmenter, where both "
    "are defined; n/a for the first segmenter",
    "difference_low": "Lower end of the 95 % bootstrap interval of the difference over patients; "
    "n/a with fewer than five",
    "difference_high": "Upper end of the interval of the difference",
    "n_paired": "Number of visits in the difference",
}
_SPECIFIC: Final[Mapping[str, Mapping[str, str]]] = {
    "subjects": _SUBJECTS,
    "lesions": _LESIONS,
    "sites": _SITES,
    "cohort": _COHORT,
    "strata": _STRATA,
    "reliability": _RELIABILITY,
    "segmenters": _SEGMENTERS,
}
_LEVELS: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("subjects", "resampled"): {"yes": "the grids differed", "no": "the grids were the same"},
    ("lesions", "side"): {schema.MANUAL: "the manual mask", schema.AUTO: "the automatic mask"},
    ("lesions", "state"): {
        schema.FOUND: "manual, with overlap",
        schema.MISSED: "manual, without overlap",
        schema.TRUE: "automatic, with overlap",
        schema.FALSE: "automatic, without overlap",
    },
    ("sites", "metric"): _METRICS,
    ("segmenters", "metric"): _METRICS,
    ("cohort", "statistic"): _STATISTICS,
    ("strata", "stratum"): {schema.SIZE: "volume", schema.REGION: "main region"},
}


def describe() -> dict[str, dict[str, str]]:
    """Return the meaning of every column, metric and statistic, by file stem.

    Units are in parentheses at the end.

    Examples
    --------
    >>> describe()["subjects"]["volume_auto_ml"]
    'Volume of the automatic mask (mL)'
    """
    extra = {"sites": _METRICS, "cohort": _STATISTICS}
    return {
        stem: {
            name: text + (f" ({unit})" if (unit := _unit(name)) else "")
            for name, text in {**_columns(stem), **extra.get(stem, {})}.items()
        }
        for stem in schema.TABLES
    }


def dictionary(stem: str) -> dict[str, Any]:
    """Build the BIDS data dictionary of the table with the given file stem.

    Examples
    --------
    >>> dictionary("subjects")["hd95_mm"]["Units"]
    'mm'
    """
    entries: dict[str, Any] = {}
    for name, text in _columns(stem).items():
        entries[name] = {"Description": text}
        if unit := _unit(name):
            entries[name]["Units"] = unit
        if levels := _LEVELS.get((stem, name)):
            entries[name]["Levels"] = dict(levels)
    return entries


def _columns(stem: str) -> dict[str, str]:
    specific, columns = _SPECIFIC[stem], {**schema.TABLES, **schema.COMPARED}[stem]
    return {name: specific[name] if name in specific else _COMMON[name] for name in columns}


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
