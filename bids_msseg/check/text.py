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
        "Description": "Class of volume_mm3",
        "Levels": {
            level: f"at least {low:g} mm^3"
            for level, (low, _) in zip(SIZE_LEVELS, SIZES_MM3, strict=True)
        },
    },
    "region": {
        "Description": "Main region as the McDonald criteria define it, as in the tables of msseg",
        "Levels": {level: level.replace("_", " ") for level in REGION_LABELS},
    },
    "strength": {
        "Description": "Contrast of the painted lesion as a share of that of the visit's own "
        f"lesions: one of {', '.join(f'{strength:g}' for strength in STRENGTHS)}"
    },
    "flair_contrast": {
        "Description": "Mean intensity added to FLAIR inside the lesion, after blurring to the "
        "size of the voxels, in standard deviations of the brain"
    },
    "x": {"Description": "Centre of mass, RAS+ world of the FLAIR", "Units": "mm"},
    "y": {"Description": "Centre of mass, RAS+ world of the FLAIR", "Units": "mm"},
    "z": {"Description": "Centre of mass, RAS+ world of the FLAIR", "Units": "mm"},
    "found": {
        "Description": "Whether a lesion of the mask shares a voxel with the painted lesion",
        "Levels": {"true": "found", "false": "missed"},
    },
    "found_mm3": {
        "Description": "New volume of the lesions of the mask that share a voxel with the painted "
        "lesion; each voxel counts for the nearest painted lesion",
        "Units": "mm^3",
    },
    "max_probability": {"Description": "Highest final probability inside the painted lesion"},
}
VISIT_COLUMNS: Final[Mapping[str, Mapping[str, Any]]] = {
    **IDENTITY_COLUMNS,
    "status": {
        "Description": "Status of the check of the visit",
        "Levels": {"ok": "the visit was checked", "failed": "the check failed; see reason"},
    },
    "lesion_load_ml": {
        "Description": "Volume of all lesions of the visit before painting, on the 1 mm grid",
        "Units": "mL",
    },
    "n_painted": {"Description": "Painted lesions, over all draws"},
    "n_found": {"Description": "Painted lesions that were found"},
    "painted_ml": {"Description": "Volume of the painted lesions, over all draws", "Units": "mL"},
    "found_ml": {"Description": "Volume found of the painted lesions", "Units": "mL"},
    "draws": {"Description": "Sets of lesions that were painted"},
    "n_false": {
        "Description": "False positives over all draws: lesions of the mask that touch neither a "
        "painted lesion nor a lesion found before painting"
    },
    "false_ml": {"Description": "Volume of the false positives", "Units": "mL"},
    "rescans": {"Description": "Number of pseudo-rescans"},
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
            "Description": f"Contrast of the visit's own lesions in {contrast}, in standard "
            "deviations of the brain; a typical value where they are too small to measure"
        }
        for contrast in CONTRASTS
    },
    "flair_noise": {
        "Description": "FLAIR noise added to pseudo-rescans, in standard deviations of the brain"
    },
    "flags": {"Description": "Flags of the image check, separated by semicolons"},
    "seconds": {"Description": "Wall time of the check", "Units": "s"},
    "reason": {"Description": "Reason why the visit was not checked"},
}


_PAINTED: Final = (
    "Painted lesions are not real lesions: their shape, edge and texture are simulated, and they "
    "are in white matter in which the networks find no lesion."
)
_RESCANS: Final = (
    "A pseudo-rescan is the same scan after a simulated movement, resampling and addition of "
    "noise of the measured level. Two real scans also differ in bias field, gradients and "
    "scanner, and noise is not added to their own noise: the limits of agreement are an estimate, "
    "not a bound. They are the same for all visits. If differences increase with the load, they "
    "are too wide for small loads and too narrow for large loads."
)
_GRID: Final = (
    "All values are measured on the 1 mm grid of the networks. Loads differ slightly from those "
    "on the grid of the FLAIR."
)
_INTERVALS: Final = (
    "Intervals are 95 % bootstrap intervals over patients, from five patients on. With fewer "
    "patients, or if all or no lesions were found, shares have Wilson's interval. It assumes that "
    "the lesions of a patient are independent and is therefore too narrow."
)
_BOUNDS: Final[Mapping[str, str]] = {
    UPPER: "In the labelled cohort, painted lesions of every size were found more often than "
    "experts' lesions: there, the sensitivity is an upper bound of that to real lesions.",
    LOWER: "In the labelled cohort, painted lesions of every size were found less often than "
    "experts' lesions: there, the sensitivity is a lower bound of that to real lesions.",
    NEITHER: "In the labelled cohort, the sensitivity to painted lesions was neither above nor "
    "below that to experts' lesions in all sizes: it is not a bound.",
    UNKNOWN: "It is not known whether real lesions are found more or less often than painted "
    "lesions: this version has no values of a labelled cohort. The sensitivity is not a bound.",
}


def notes(reference: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the notes needed to interpret the figures of a check."""
    return (_PAINTED, _BOUNDS[bound(reference)], _RESCANS, _GRID, _INTERVALS)
