"""Columns of the group table, with functions that read them from the record of a visit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bids_msseg.bids.record import VisitRecord
from bids_msseg.lesions.regions import REGION_LABELS, disseminated_in_space
from bids_msseg.reports.participant import contrasts_used, percent_of_brain
from bids_msseg.reports.text import MISSING, voxel_size, without_folders, words

SHA_DIGITS = 12
MIN_VOLUME_OPTIONS = ("min_lesion_volume_mm3", "min_lesion_volume")


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the group table, for the TSV file, data dictionary and page.

    ``value`` reads a record (None: unknown). ``shown`` is the heading on the page, empty if the
    page omits the column. ``digits`` are the decimals there; None for text.
    """

    name: str
    description: str
    value: Callable[[VisitRecord], object]
    units: str = ""
    levels: Mapping[str, str] = field(default_factory=dict)
    shown: str = ""
    digits: int | None = None


def identity_columns() -> tuple[Column, ...]:
    """List the columns of participant, session and processing status."""
    levels = {
        "ok": "the visit was processed",
        "failed": "processing broke off; see reason",
        "skipped": "the visit could not be processed; see reason",
        "running": "another run was still at work on it",
    }
    return (
        Column(
            "participant_id",
            "Participant",
            lambda one: f"sub-{one.participant}",
            shown="participant",
        ),
        Column(
            "session_id",
            "Session; n/a where the participant has none",
            lambda one: None if one.session is None else f"ses-{one.session}",
            shown="session",
        ),
        Column(
            "status", "How processing ended", lambda one: one.status, levels=levels, shown="status"
        ),
    )


def trust_columns() -> tuple[Column, ...]:
    """List the columns of the load interval and of the image quality check."""
    expert = "of the load that the experts of the training would have drawn"
    return (
        measured(
            "lesion_load_expected_ml", f"Expected value {expert}", _load_bound(0), units="mL"
        ),
        measured(
            "lesion_load_low_ml",
            f"Lower end of the 90 % interval {expert}",
            _load_bound(1),
            units="mL",
            shown="90 % from",
            digits=2,
        ),
        measured(
            "lesion_load_high_ml",
            f"Upper end of the 90 % interval {expert}",
            _load_bound(2),
            units="mL",
            shown="to",
            digits=2,
        ),
        Column(
            "lesion_load_interval_reason",
            "Why there is no interval",
            lambda one: without_folders(one.load_interval_reason),
        ),
        Column(
            "lesion_load_interval_note",
            "Which of mask and interval to believe where lesion_load_ml lies outside the interval",
            lambda one: without_folders(one.load_interval_note),
            shown="mask or interval",
        ),
        *_image_checks(),
    )


def _image_checks() -> tuple[Column, ...]:
    return (
        Column(
            "quality",
            "What the check of the images says, before anything is segmented",
            lambda one: one.quality,
            levels={
                "ok": "no check raised a flag",
                "flagged": "the images are unusual: see quality_reasons",
            },
            shown="images",
        ),
        Column(
            "quality_reasons",
            "What is unusual about the images, separated by semicolons",
            lambda one: without_folders("; ".join(one.quality_reasons or ())),
        ),
        Column(
            "training_distance",
            "How far the images lie from the nearest visit of the training; 1 is the median "
            "distance between a visit of the training and its nearest fellow",
            lambda one: one.quality_measures.get("training_distance"),
            shown="distance",
            digits=1,
        ),
        Column(
            "flair_noise",
            "Noise of FLAIR in standard deviations of the brain, the worst axis",
            lambda one: (
                max(
                    (one.quality_measures.get(f"FLAIR_noise_{axis}", -1.0) for axis in "xyz"),
                )
                if one.quality_measures
                else None
            ),
        ),
        Column(
            "brain_at_fov_edge_cm2",
            "Largest area in which the brain mask touches a face of the field of view",
            lambda one: one.quality_measures.get("cut_cm2"),
            "cm^2",
        ),
    )


def _load_bound(place: int) -> Callable[[VisitRecord], object]:
    return lambda one: None if one.load_interval_ml is None else one.load_interval_ml[place]


def measure_columns() -> tuple[Column, ...]:
    """List the columns of lesion load and lesion count."""
    return (
        measured(
            "lesion_load_ml",
            "Volume of all lesions",
            lambda one: one.lesion_load_ml,
            units="mL",
            shown="load",
            digits=2,
        ),
        measured(
            "lesion_count",
            "Number of lesions: 26-connected parts of the mask",
            lambda one: one.lesion_count,
            shown="lesions",
        ),
    )


def region_columns() -> tuple[Column, ...]:
    """List the columns of load and count per region, and of dissemination in space."""
    found = []
    for name in REGION_LABELS:
        plain = words(name)
        found += [
            measured(
                f"{name}_load_ml",
                f"Volume of all lesions within the {plain} region: a confluent lesion gives "
                "each region its share",
                _of_region(name, 0),
                units="mL",
                shown=plain,
                digits=2,
            ),
            measured(
                f"{name}_count",
                f"Number of {plain} lesions; each lesion counts in its main region",
                _of_region(name, 1),
            ),
        ]
    return (*found, _dissemination())


def _dissemination() -> Column:
    return Column(
        "dissemination_in_space",
        "At least one lesion in at least two of periventricular, juxtacortical, infratentorial "
        "(McDonald 2017), by the counts beside it; cord and optic nerve not assessed, cortical "
        "lesions only where they are in the mask; symptoms are not considered",
        lambda one: disseminated_in_space(_counts(one)) if one.status == "ok" else None,
        levels={
            "true": "shown by lesions of the brain",
            "false": "not shown by lesions of the brain; those of the cord are not known",
        },
        shown="DIS (cord, optic nerve not assessed)",
    )


def _counts(record: VisitRecord) -> dict[str, int | None]:
    return {name: count for name, (_, count) in record.regions.items()}


def change_columns() -> tuple[Column, ...]:
    """List the columns of visit order and of changes since the previous finished visit."""
    found = [
        measured(
            "visit_number",
            "Place among the finished visits of the participant, the earliest is 1; n/a where "
            "there is no other or the order is not known",
            lambda one: one.visit_number,
            shown="visit",
        ),
        Column(
            "visit_order_source",
            "Where that order is known from, or why it is not known; nothing is compared then",
            lambda one: without_folders(one.order_source) if one.status == "ok" else None,
        ),
        Column(
            "compared_with",
            "Earlier session that this one is compared with; n/a where there is none, or the two "
            "could not be compared",
            _compared_with,
        ),
    ]
    for change, words_ in (
        ("new", "that are new since then"),
        ("enlarging", "that have grown since then beyond noise"),
        ("shrinking", "that have shrunk since then beyond noise"),
        ("resolved", "of then that have gone"),
        ("unclear", "of one of the two visits only, without proof of a change"),
    ):
        shown = change if change in ("new", "enlarging") else ""
        name, meaning = f"n_{change}", f"Number of lesions {words_}"
        found.append(measured(name, meaning, _of_change(name), shown=shown))
    for name, description in (
        ("new_ml", "Volume of the lesions that are new"),
        ("enlarging_gained_ml", "Tissue that enlarging lesions have gained"),
        ("shrinking_lost_ml", "Tissue that shrinking lesions have lost"),
        ("resolved_ml", "Volume, then, of the lesions that have gone"),
    ):
        found.append(measured(name, description, _of_change(name), units="mL"))
    return (*found, *_brain_change_columns())


def _brain_change_columns() -> tuple[Column, ...]:
    then = "less that of then; n/a where the anatomy of either visit is flagged"
    return (
        measured(
            "brain_parenchymal_fraction_change",
            f"brain_parenchymal_fraction {then}",
            _of_change("brain_parenchymal_fraction_change"),
        ),
        measured(
            "ventricles_change_ml",
            f"ventricles_ml {then}",
            _of_change("ventricles_change_ml"),
            units="mL",
        ),
    )


def _compared_with(record: VisitRecord) -> str | None:
    changes = record.changes
    compared = "fingerprint" in changes and not changes.get("failed")
    return f"ses-{changes.get('compared_with')}" if compared else None


def _of_change(name: str) -> Callable[[VisitRecord], object]:
    return lambda one: one.changes.get(name)


def circumstance_columns() -> tuple[Column, ...]:
    """List the columns of brain, contrasts, model, options, flags and reason."""
    return (
        measured(
            "brain_volume_ml",
            "Volume of the brain mask",
            lambda one: one.brain_volume_ml,
            units="mL",
            shown="brain",
        ),
        measured(
            "lesion_load_percent_of_brain",
            "Lesion load as a percentage of brain_volume_ml",
            percent_of_brain,
            units="%",
            shown="of brain",
            digits=2,
        ),
        measured(
            "rejected_count",
            "Candidates of the first net that the second one removed; of another segmenter, parts "
            "above the threshold that are too small or outside the brain",
            lambda one: one.rejected_count,
        ),
        measured(
            "excluded_ml",
            "Volume of lesion that exclusion masks took; n/a without them",
            lambda one: one.excluded_ml,
            units="mL",
            shown="excluded",
            digits=2,
        ),
        Column("contrasts", "Contrasts that the nets saw", _contrasts, shown="contrasts"),
        Column("flair_voxel_mm", "Voxel edges of FLAIR, x, y, z", _voxel, "mm", shown="FLAIR"),
        Column("model", "Name and version of the weights, or of another segmenter", _model),
        Column(
            "model_sha256",
            f"First {SHA_DIGITS} digits of the SHA-256 of the weights, or of another segmenter's "
            "model and settings",
            lambda one: one.model and one.model.sha256[:SHA_DIGITS],
        ),
        Column(
            "lesion_mask",
            "Given mask that replaced the lesions of the networks; n/a without one",
            lambda one: without_folders(one.lesion_mask),
            shown="given mask",
        ),
        Column(
            "threshold",
            "Probability from which a voxel is lesion",
            lambda one: one.options.get("threshold"),
        ),
        Column("min_lesion_volume_mm3", "Smallest lesion that is kept", min_volume_of, "mm^3"),
        Column(
            "flags",
            "What a reader should look at, separated by semicolons",
            lambda one: without_folders("; ".join(one.flags)),
            shown="flags, reason",
        ),
        Column(
            "reason",
            "Why the visit is not ok",
            lambda one: without_folders(one.reason),
        ),
    )


def measured(
    name: str,
    description: str,
    value: Callable[[VisitRecord], object],
    *,
    units: str = "",
    shown: str = "",
    digits: int = 0,
) -> Column:
    """Create a column that is filled only for finished visits.

    Values left by a failed run are not results.
    """
    return Column(
        name,
        description,
        lambda one: value(one) if one.status == "ok" else None,
        units,
        shown=shown,
        digits=digits,
    )


def _of_region(name: str, place: int) -> Callable[[VisitRecord], object]:
    return lambda one: one.regions.get(name, (None, None))[place]


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
