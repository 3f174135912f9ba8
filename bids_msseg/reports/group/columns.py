"""Columns of the group table, with functions that read them from the record of a visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from bids_msseg.bids.record import VisitRecord
from bids_msseg.lesions.regions import REGION_LABELS, disseminated_in_space
from bids_msseg.models.brain_volumes import MEASURES
from bids_msseg.reports.participant import FRACTION_DIGITS, contrasts_used, percent_of_brain
from bids_msseg.reports.text import MISSING, readable, voxel_size, without_folders

Read = Callable[[VisitRecord], object]
"""Function that reads a cell from a record; None if unknown."""
SHA_DIGITS = 12
MIN_VOLUME_OPTIONS = ("min_lesion_volume_mm3", "min_lesion_volume")
BRAIN_SHOWN = {
    "ventricles_ml": ("ventricles", 1),
    "brain_parenchymal_fraction": ("parenchymal fraction", FRACTION_DIGITS),
    "ventricular_fraction": ("ventricular fraction", FRACTION_DIGITS),
}
"""Headings and decimals of the brain measures that the page of the cohort shows."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the group table, for the TSV file, data dictionary and page."""

    name: str
    description: str
    value: Read
    units: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""  # heading on the page; empty: not shown
    digits: int | None = None


def result_column(
    name: str,
    description: str,
    value: Read | None = None,  # None: the field ``name`` of the record
    *,
    units: str = "",  # mL where the name ends in _ml
    shown: str = "",
    digits: int = 0,
) -> Column:
    """Create a column that is filled only for finished visits."""
    read = value or attrgetter(name)
    return Column(
        name,
        description,
        lambda record: read(record) if record.status == "ok" else None,
        "mL" if name.endswith("_ml") else units,
        shown=shown,
        digits=digits,
    )


def _text(name: str) -> Read:
    return lambda record: without_folders(getattr(record, name))


def _entry(mapping: str, name: str) -> Read:
    return lambda record: getattr(record, mapping).get(name)


def _participant_id(record: VisitRecord) -> str:
    return f"sub-{record.participant}"


def identity_columns() -> tuple[Column, ...]:
    """List the columns of participant, session and processing status."""
    levels = {
        "ok": "the visit was processed",
        "failed": "processing stopped with an error; see reason",
        "skipped": "the visit could not be processed; see reason",
        "running": "another run was still processing it",
    }
    return (
        Column("participant_id", "Participant", _participant_id, shown="participant"),
        Column(
            "session_id",
            "Session; n/a where the participant has none",
            lambda record: None if record.session is None else f"ses-{record.session}",
            shown="session",
        ),
        Column(
            "status", "Status of processing", attrgetter("status"), levels=levels, shown="status"
        ),
    )


def reliability_columns() -> tuple[Column, ...]:
    """List the columns of the load interval and of the image quality check."""
    expert = "of the load that the experts of the training data would have marked"
    ends = [
        result_column(
            f"lesion_load_{end}_ml",
            f"{which} end of the 90 % interval {expert}",
            _load_bound(place),
            shown=f"90 % interval, {end}",
            digits=2,
        )
        for place, end, which in ((1, "low", "Lower"), (2, "high", "Upper"))
    ]
    return (
        result_column("lesion_load_expected_ml", f"Expected value {expert}", _load_bound(0)),
        *ends,
        Column(
            "lesion_load_interval_reason",
            "Reason why there is no interval",
            _text("load_interval_reason"),
        ),
        Column(
            "lesion_load_interval_note",
            "Whether to use the mask or the interval if lesion_load_ml is outside the interval",
            _text("load_interval_note"),
            shown="note on the interval",
        ),
        *_image_checks(),
    )


def _image_checks() -> tuple[Column, ...]:
    return (
        Column(
            "quality",
            "Result of the image check before segmentation",
            attrgetter("quality"),
            levels={
                "ok": "no check raised a flag",
                "flagged": "the images are unusual: see quality_reasons",
            },
            shown="image quality",
        ),
        Column(
            "quality_reasons",
            "Unusual properties of the images, separated by semicolons",
            lambda record: without_folders("; ".join(record.quality_reasons or ())),
        ),
        Column(
            "training_distance",
            "Distance of the images to the nearest training visit; 1 is the median distance "
            "between a training visit and the nearest other training visit",
            _entry("quality_measures", "training_distance"),
            shown="training distance",
            digits=1,
        ),
        Column(
            "flair_noise",
            "Noise of FLAIR on the noisiest axis, in standard deviations of the brain",
            _flair_noise,
        ),
        Column(
            "brain_at_fov_edge_cm2",
            "Largest area in which the brain mask touches a face of the field of view",
            _entry("quality_measures", "cut_cm2"),
            "cm^2",
        ),
    )


def _flair_noise(record: VisitRecord) -> float | None:
    measures = record.quality_measures
    noise = [measures.get(f"FLAIR_noise_{axis}", -1.0) for axis in "xyz"]
    return max(noise) if measures else None


def _load_bound(place: int) -> Read:
    return lambda record: record.load_interval_ml and record.load_interval_ml[place]


def measure_columns() -> tuple[Column, ...]:
    """List the columns of lesion load and lesion count."""
    count = "Number of lesions: 26-connected components of the mask"
    return (
        result_column("lesion_load_ml", "Volume of all lesions", shown="lesion load", digits=2),
        result_column("lesion_count", count, shown="lesions"),
    )


def region_columns() -> tuple[Column, ...]:
    """List the columns of load and count per region, and of dissemination in space."""
    columns = []
    for name in REGION_LABELS:
        plain = readable(name)
        columns += [
            result_column(
                f"{name}_load_ml",
                f"Volume of all lesions within the {plain} region; a confluent lesion adds its "
                "share to each region",
                _of_region(name, 0),
                shown=plain,
                digits=2,
            ),
            result_column(
                f"{name}_count",
                f"Number of {plain} lesions; each lesion counts in its main region",
                _of_region(name, 1),
            ),
        ]
    return (*columns, _dissemination())


def _of_region(name: str, place: int) -> Read:
    return lambda record: record.regions.get(name, (None, None))[place]


def _dissemination() -> Column:
    return Column(
        "dissemination_in_space",
        "Whether at least two of the periventricular, juxtacortical and infratentorial regions "
        "have a lesion (McDonald 2017), from the counts of the regions; cord and optic nerve not "
        "assessed, cortical lesions only if they are in the mask; symptoms not considered",
        lambda record: disseminated_in_space(_counts(record)) if record.status == "ok" else None,
        levels={
            "true": "shown by lesions of the brain",
            "false": "not shown by lesions of the brain; the spinal cord is not assessed",
        },
        shown="DIS (cord, optic nerve not assessed)",
    )


def _counts(record: VisitRecord) -> dict[str, int | None]:
    return {name: count for name, (_, count) in record.regions.items()}


def brain_columns() -> tuple[Column, ...]:
    """List the columns of brain volumes and fractions, and of their plausibility."""
    columns = []
    for measure in MEASURES:
        name = measure.name
        shown, digits = BRAIN_SHOWN.get(name, ("", 0))
        value = _entry("brain_measures", name)
        columns.append(result_column(name, measure.description, value, shown=shown, digits=digits))
    plausibility = Column(
        "anatomy",
        "Whether volumes and fractions of the anatomy are plausible for an adult's whole brain",
        _plausibility,
        levels={
            "ok": "all are plausible",
            "flagged": "the segmentation of the anatomy may have failed: see flags",
        },
    )
    return (*columns, plausibility)


def _plausibility(record: VisitRecord) -> str | None:
    if record.status != "ok" or record.anatomy_implausible is None:
        return None
    return "flagged" if record.anatomy_implausible else "ok"


def change_columns() -> tuple[Column, ...]:
    """List the columns of visit order and of changes since the previous finished visit."""
    columns = [
        result_column(
            "visit_number",
            "Position among the finished visits of the participant; the earliest is 1; n/a if "
            "there is only one visit or the order is not known",
            shown="visit no.",
        ),
        Column(
            "visit_order_source",
            "Source of the visit order, or the reason why the order is not known; in that case no "
            "visits are compared",
            lambda record: without_folders(record.order_source) if record.status == "ok" else None,
        ),
        Column(
            "compared_with",
            "Earlier session that this one is compared with; n/a if there is none or the two "
            "could not be compared",
            _compared_with,
        ),
    ]
    for change, phrase in (
        ("new", "that are new since the compared session"),
        ("enlarging", "that are larger than at the compared session by more than noise"),
        ("shrinking", "that are smaller than at the compared session by more than noise"),
        ("resolved", "of the compared session that are no longer present"),
        ("unclear", "at only one of the two visits, without proof of a change"),
    ):
        shown = change if change in ("new", "enlarging") else ""
        name, meaning = f"n_{change}", f"Number of lesions {phrase}"
        columns.append(result_column(name, meaning, _entry("changes", name), shown=shown))
    minus = "minus that of the compared session; n/a if the anatomy of either visit is flagged"
    for name, description in (
        ("new_ml", "Volume of new lesions"),
        ("enlarging_gained_ml", "Volume that enlarging lesions gained"),
        ("shrinking_lost_ml", "Volume that shrinking lesions lost"),
        ("resolved_ml", "Volume of resolved lesions at the compared session"),
        ("brain_parenchymal_fraction_change", f"brain_parenchymal_fraction {minus}"),
        ("ventricles_change_ml", f"ventricles_ml {minus}"),
    ):
        columns.append(result_column(name, description, _entry("changes", name)))
    return tuple(columns)


def _compared_with(record: VisitRecord) -> str | None:
    changes = record.changes
    compared = "fingerprint" in changes and not changes.get("failed")
    return f"ses-{changes.get('compared_with')}" if compared else None


def circumstance_columns() -> tuple[Column, ...]:
    """List the columns of brain, contrasts, model, options, flags and reason."""
    return (
        result_column("brain_volume_ml", "Volume of the brain mask", shown="brain volume"),
        result_column(
            "lesion_load_percent_of_brain",
            "Lesion load as a percentage of brain_volume_ml",
            percent_of_brain,
            units="%",
            shown="share of brain volume",
            digits=2,
        ),
        result_column(
            "rejected_count",
            "Number of rejected candidates; with another segmenter, of parts above the threshold "
            "that are too small or outside the brain",
        ),
        result_column(
            "excluded_ml",
            "Lesion volume that exclusion masks removed; n/a without them",
            shown="excluded volume",
            digits=2,
        ),
        Column("contrasts", "Contrasts that were used", _contrasts, shown="contrasts"),
        Column(
            "flair_voxel_mm", "Voxel edges of FLAIR, x, y, z", _voxel, "mm", shown="FLAIR voxels"
        ),
        Column("model", "Name and version of the weights, or of another segmenter", _model),
        Column(
            "model_sha256",
            f"First {SHA_DIGITS} digits of the SHA-256 of the weights, or of another segmenter's "
            "model and settings",
            lambda record: record.model and record.model.sha256[:SHA_DIGITS],
        ),
        Column(
            "lesion_mask",
            "Given lesion mask that replaces the result of the networks; n/a without one",
            _text("lesion_mask"),
            shown="given mask",
        ),
        Column(
            "threshold",
            "Probability threshold: voxels at or above it are lesion",
            _entry("options", "threshold"),
        ),
        Column(
            "min_lesion_volume_mm3",
            "Minimum volume of a lesion; smaller ones are removed",
            min_volume_of,
            "mm^3",
        ),
        Column(
            "flags",
            "Quality flags that a reader should check, separated by semicolons",
            lambda record: without_folders("; ".join(record.flags)),
            shown="quality flags, reason",
        ),
        Column("reason", "Reason why the status is not ok", _text("reason")),
    )


def _contrasts(record: VisitRecord) -> str | None:
    used = contrasts_used(record)
    return None if used == MISSING else used


def _voxel(record: VisitRecord) -> str | None:
    flair = record.contrasts.get("FLAIR")
    return None if flair is None else voxel_size(flair.spacing_mm)


def _model(record: VisitRecord) -> str | None:
    return None if record.model is None else f"{record.model.name} {record.model.version}".strip()


def min_volume_of(record: VisitRecord) -> object:
    """Return the minimum lesion volume in mm³ of a record; None if unknown."""
    return next(
        (record.options[name] for name in MIN_VOLUME_OPTIONS if name in record.options), None
    )
