"""Lesion load and count of every visit at other thresholds, from the probability maps in OUT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from bids_msseg.bids.derivatives import OUTPUTS
from bids_msseg.bids.paths import group_path
from bids_msseg.bids.record import VisitRecord, recorded_visit
from bids_msseg.bids.visit import IDENTITY_COLUMNS, identity_cells
from bids_msseg.imaging.volume import Volume, load_if_readable
from bids_msseg.lesions.instances import label_lesions
from bids_msseg.lesions.load import lesion_load_ml
from bids_msseg.reports import page
from bids_msseg.reports.group.columns import min_volume_of

THRESHOLDS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SWEEP_COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    **IDENTITY_COLUMNS,
    "threshold": {"Description": "Probability threshold: voxels at or above it are lesion"},
    "lesion_load_ml": {
        "Description": "Volume of all lesions at this threshold; n/a if the visit has no "
        "probability map, such as with --lesion-masks",
        "Units": "mL",
    },
    "lesion_count": {"Description": "Number of lesions at this threshold"},
    "mask_threshold": {
        "Description": "Threshold of the visit's lesion mask. At this threshold, parts of the "
        "probability map outside the brain were removed"
    },
    "min_lesion_volume_mm3": {
        "Description": "Minimum volume of a lesion, as in the visit's lesion mask",
        "Units": "mm^3",
    },
}


def write_threshold_sweep(out_dir: Path, records: Iterable[VisitRecord]) -> Path:
    """Write ``group_lesions_thresholds.tsv`` and its JSON; return the table's path."""
    rows = [row for record in records if record.status == "ok" for row in _rows(out_dir, record)]
    return page.save_table(group_path(out_dir, ".tsv", "thresholds"), SWEEP_COLUMNS, rows)


def sweep(
    probability: Volume, *, min_volume: float, thresholds: Iterable[float] = THRESHOLDS
) -> dict[float, tuple[float, int]]:
    """Measure load (mL) and count of lesions from ``min_volume`` mm³ on, by threshold."""
    results: dict[float, tuple[float, int]] = {}
    voxel = probability.voxel_volume
    for threshold in thresholds:
        labels = label_lesions(
            probability.data >= threshold, voxel_volume=voxel, min_volume=min_volume
        )
        results[threshold] = (lesion_load_ml(labels, voxel), int(labels.max(initial=0)))
    return results


def _rows(out_dir: Path, record: VisitRecord) -> list[dict[str, Any]]:
    path = OUTPUTS["probseg"].path(out_dir, recorded_visit(record), ".nii.gz")
    probability = load_if_readable(path)
    smallest = min_volume_of(record)
    min_volume = float(smallest) if isinstance(smallest, (int, float)) else 0.0
    results = {} if probability is None else sweep(probability, min_volume=min_volume)
    start = {
        **identity_cells(record.participant, record.session),
        "mask_threshold": record.options.get("threshold"),
        "min_lesion_volume_mm3": smallest,
    }
    rows = []
    for threshold in THRESHOLDS:
        load, count = results.get(threshold, (None, None))
        values = {"threshold": threshold, "lesion_load_ml": load, "lesion_count": count}
        rows.append({**start, **values})
    return rows
