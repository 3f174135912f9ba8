"""Texts for the tables and the page of a check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bids_msseg.bids.visit import IDENTITY_COLUMNS
from bids_msseg.check.painting import SIZE_LEVELS, SIZES_MM3, STRENGTHS
from bids_msseg.check.summary import LOWER, NEITHER, UNKNOWN, UPPER, bound
from bids_msseg.imaging.normalise import CONTRASTS
from bids_msseg.lesions.regions import REGION_LABELS

LESION_COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    **IDENTITY_COLUMNS,
    "draw": {"Description": "Number of the set of lesions that were painted together"},
    "index": {"Description": "Number of the painted lesion in its set"},
    "volume_mm3": {"Description": "Volume of the painted lesion", "Units": "mm^3"},
    "size": {
        "Description": "Class of that volume",
        "Levels": {
            level: f"at least {low:g} mm^3"
            for level, (low, _) in zip(SIZE_LEVELS, SIZES_MM3, strict=True)
        },
    },
    "region": {
        "Description": "Main region after the wording of the McDonald criteria, as in the tables "
        "of msseg",
        "Levels": {level: level.replace("_", " ") for level in REGION_LABELS},
    },
    "strength": {
        "Description": "Share of the contrast of the visit's own lesions that it was given: one "
        f"of {', '.join(f'{one:g}' for one in STRENGTHS)}"
    },
    "flair_contrast": {
        "Description": "Mean of what was added to FLAIR inside it, after the blur of the voxels, "
        "in standard deviations of the brain"
    },
    "x": {"Description": "Centre of mass, RAS+ world of the FLAIR", "Units": "mm"},
    "y": {"Description": "Centre of mass, RAS+ world of the FLAIR", "Units": "mm"},
    "z": {"Description": "Centre of mass, RAS+ world of the FLAIR", "Units": "mm"},
    "found": {
        "Description": "Whether a lesion of the mask shares a voxel with it",
        "Levels": {"true": "found", "false": "missed"},
    },
    "found_mm3": {
        "Description": "New volume of such lesions of the mask, each voxel counted for the "
        "nearest painted lesion",
        "Units": "mm^3",
    },
    "max_probability": {"Description": "Highest final probability inside it"},
}
VISIT_COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    **IDENTITY_COLUMNS,
    "status": {
        "Description": "How the check of the visit ended",
        "Levels": {"ok": "it was checked", "failed": "it was not; see reason"},
    },
    "lesion_load_ml": {
        "Description": "Volume of all lesions of the visit as it is, on the grid of 1 mm",
        "Units": "mL",
    },
    "n_painted": {"Description": "Lesions painted, over all draws"},
    "n_found": {"Description": "Of them found"},
    "painted_ml": {"Description": "Volume of the painted lesions, over all draws", "Units": "mL"},
    "found_ml": {"Description": "Volume that was found of them", "Units": "mL"},
    "draws": {"Description": "Sets of lesions that were painted"},
    "n_false": {
        "Description": "False positives over all draws: lesions of the mask that touch no painted "
        "lesion and none that was there before"
    },
    "false_ml": {"Description": "Their volume", "Units": "mL"},
    "rescans": {"Description": "Pseudo-rescans"},
    "rescan_difference_ml": {
        "Description": "Mean load of the pseudo-rescans minus that of the scan",
        "Units": "mL",
    },
    "load_sd_ml": {
        "Description": "Standard deviation of the loads of the scan and its pseudo-rescans",
        "Units": "mL",
    },
    "rescan_dice": {
        "Description": "Mean Dice of the masks of scan and pseudo-rescan; n/a where all are empty"
    },
    **{
        f"{contrast.lower()}_lesion_contrast": {
            "Description": f"What the visit's own lesions add to {contrast}, in standard "
            "deviations of the brain; the usual contrast where they are too small to measure"
        }
        for contrast in CONTRASTS
    },
    "flair_noise": {
        "Description": "Noise of FLAIR that pseudo-rescans were given, in standard deviations of "
        "the brain"
    },
    "flags": {"Description": "What the check of the images found, separated by semicolons"},
    "seconds": {"Description": "Wall time of the check", "Units": "s"},
    "reason": {"Description": "Why the visit was not checked"},
}


_PAINTED: Final = (
    "Painted lesions are not real lesions: shape, edge and texture are computed, and they lie in "
    "white matter that the networks call free of lesions."
)
_RESCANS: Final = (
    "A pseudo-rescan is the same scan, moved, sampled again and with noise of the measured level "
    "added. Two real scans also differ in bias field, gradients and scanner, and have their noise "
    "once only: the limits of agreement are an estimate, not a bound. They are one range for all "
    "visits: where differences grow with the load, it is too wide for small loads and too narrow "
    "for large ones."
)
_GRID: Final = (
    "Everything is measured on the grid of 1 mm that the networks read; loads differ a little "
    "from those on the grid of the FLAIR."
)
_INTERVALS: Final = (
    "Intervals are 95 %: bootstrap over patients, from five patients on. With fewer, and where "
    "all or no lesions were found, shares have Wilson's interval. It takes the lesions of one "
    "patient as independent, and so is too narrow."
)
_BOUNDS: Final[Mapping[str, str]] = {
    UPPER: "On the labelled cohort painted lesions of every size were found more often than those "
    "that experts drew: the sensitivity is an upper bound there.",
    LOWER: "On the labelled cohort painted lesions of every size were found less often than those "
    "that experts drew: the sensitivity is a lower bound there.",
    NEITHER: "On the labelled cohort the sensitivity to painted lesions did not lie on one side "
    "of that to experts' lesions in all sizes: it is no bound.",
    UNKNOWN: "Whether real lesions are found more or less often than painted ones is not known: "
    "this version has no values of a labelled cohort, so the sensitivity is no bound.",
}


def notes(reference: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the notes needed to interpret the figures of a check.

    The note on real lesions depends on ``reference`` (values of the labelled cohort).
    """
    return (_PAINTED, _BOUNDS[bound(reference)], _RESCANS, _GRID, _INTERVALS)
