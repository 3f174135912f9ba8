"""Lesion load: one row per lesion or rejected candidate, and the totals of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.regions import Region

__all__ = ["LesionRow", "Load", "lesion_load_ml", "rows_to_table", "summarise"]

Point = tuple[float, float, float]
Shares = tuple[float, float, float, float]
Status = Literal["kept", "rejected"]
MISSING = "n/a"


@dataclass(frozen=True, slots=True)
class LesionRow:
    """What is known of one lesion or rejected candidate.

    Attributes
    ----------
    index : int
        Its value in the label image.
    volume_mm3 : float
        Volume in mm³.
    n_voxels : int
        Size in voxels.
    centroid : tuple of 3 floats
        Centre of mass in mm, RAS+ world of the image.
    centroid_template : tuple of 3 floats or None
        The same point in mm of the template.
    p_cnn1, p_final : float
        Mean probability inside, after the candidate net and at the end; NaN where not given.
    p_cnn2_lesion : float or None
        Probability of the refinement net that this candidate is a lesion at all.
    region : str
        Label of the main :class:`~bids_msseg.lesions.regions.Region`; ``"n/a"`` where unknown.
    shares : tuple of 4 floats
        Share of the voxels in each region, in the order of ``Region``; NaN where unknown.
    status : {"kept", "rejected"}
        Whether it is part of the result.
    reason : str
        Why it was rejected; empty where it was kept.
    confidence : float or None
        Share of lesions with such a probability that the experts had drawn too, in patients
        that the networks had not seen; None where that was not measured.
    image_quality : str
        ``ok`` or ``flagged``, the result of the image check for the whole visit.
    """

    index: int
    volume_mm3: float
    n_voxels: int
    centroid: Point
    centroid_template: Point | None
    p_cnn1: float
    p_final: float
    p_cnn2_lesion: float | None
    region: str
    shares: Shares
    status: Status
    reason: str
    confidence: float | None = None
    image_quality: str = MISSING


def lesion_load_ml(mask: NDArray[Any], voxel_volume: float) -> float:
    """Measure the volume of a mask.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z)
        Non-zero inside lesions.
    voxel_volume : float
        Volume of one voxel in mm³.

    Returns
    -------
    float
        Volume in mL.

    Examples
    --------
    >>> lesion_load_ml(np.ones((10, 10, 5)), voxel_volume=2.0)
    1.0
    """
    return int(np.count_nonzero(mask)) * voxel_volume / 1000


@dataclass(frozen=True, slots=True)
class Load:
    """What the kept lesions of one visit add up to.

    Attributes
    ----------
    total_ml : float
        Volume in mL.
    n_lesions : int
        Number of lesions.
    region_ml : mapping of Region to float
        Volume in mL within each region: a confluent lesion gives each region its share. NaN
        where a lesion's regions are unknown; otherwise the parts add up to the total.
    region_count : mapping of Region to int
        Lesions by their main region.
    """

    total_ml: float
    n_lesions: int
    region_ml: Mapping[Region, float]
    region_count: Mapping[Region, int]


def summarise(rows: Iterable[LesionRow]) -> Load:
    """Add up the kept lesions of a table.

    Parameters
    ----------
    rows : iterable of LesionRow
        Rows that were rejected are passed over.

    Returns
    -------
    Load

    Examples
    --------
    >>> from bids_msseg.lesions.load_table import lesion_table
    >>> labels = np.array([0, 1, 1, 0, 2]).reshape(5, 1, 1)
    >>> regions = np.array([1, 1, 4, 4, 2]).reshape(5, 1, 1)
    >>> load = summarise(lesion_table(labels, 10 * np.eye(4), region_map=regions))
    >>> load.n_lesions, round(load.total_ml, 3), round(load.region_ml[Region.PERIVENTRICULAR], 3)
    (2, 3.0, 1.0)
    """
    kept_rows = [row for row in rows if row.status == "kept"]
    return Load(
        total_ml=math.fsum(row.volume_mm3 for row in kept_rows) / 1000,
        n_lesions=len(kept_rows),
        region_ml={
            region: math.fsum(row.volume_mm3 * row.shares[region - 1] for row in kept_rows) / 1000
            for region in Region
        },
        region_count={
            region: sum(row.region == region.label for row in kept_rows) for region in Region
        },
    )


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the lesion table: its description and how to read it from a row."""

    name: str
    description: str
    units: str = ""
    digits: int = 2
    levels: Mapping[str, str] | None = None
    read: Callable[[LesionRow], float | None] | None = None  # by default the field of that name

    def cell(self, row: LesionRow) -> str:
        """Format the value of a row; ``n/a`` if there is none."""
        value = self.read(row) if self.read else getattr(row, self.name)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return MISSING
        return f"{value:.{self.digits}f}" if isinstance(value, float) else str(value)


_REGION_LEVELS = {
    Region.PERIVENTRICULAR.label: "touches the band around the lateral and third ventricles",
    Region.JUXTACORTICAL.label: "touches the band along the cerebral cortex",
    Region.INFRATENTORIAL.label: "at least half of it lies in the brainstem or cerebellum",
    Region.DEEP_WHITE_MATTER.label: "in none of the other regions",
}


def _coordinate(axis: int, *, template: bool) -> Column:
    def value(row: LesionRow) -> float | None:
        point = row.centroid_template if template else row.centroid
        return None if point is None else point[axis]

    letter = "xyz"[axis]
    name = f"centroid_template_{letter}" if template else f"centroid_{letter}"
    space = "of the template" if template else "of the image"
    text = f"{letter} coordinate of the centre of mass in the RAS+ world {space}"
    return Column(name, text, "mm", read=value)


def _share(region: Region) -> Column:
    region_name = region.label.replace("_", " ")
    return Column(
        f"share_{region.label}",
        f"Share of the lesion's voxels in the {region_name} region",
        digits=3,
        read=lambda row: row.shares[region - 1],
    )


COLUMNS: tuple[Column, ...] = (
    Column("index", "Value of the lesion in the label image"),
    Column("volume_mm3", "Volume", "mm^3"),
    Column("n_voxels", "Number of voxels"),
    *(_coordinate(axis, template=False) for axis in range(3)),
    *(_coordinate(axis, template=True) for axis in range(3)),
    Column("p_cnn1", "Mean probability from the candidate net inside the lesion", digits=4),
    Column("p_final", "Mean final probability inside the lesion", digits=4),
    Column(
        "p_cnn2_lesion",
        "Probability from the refinement net that the candidate is a lesion",
        digits=4,
    ),
    Column(
        "region",
        "Main region as the McDonald criteria define it; if the lesion touches both the "
        "periventricular and the juxtacortical band, the one that holds more of its voxels",
        levels=_REGION_LEVELS,
    ),
    *(_share(region) for region in Region),
    Column(
        "status",
        "Whether the candidate is kept as a lesion",
        levels={"kept": "in the lesion mask", "rejected": "not in the lesion mask; see reason"},
    ),
    Column("reason", "Why the candidate was rejected"),
    Column(
        "confidence",
        "For a kept lesion: share of lesions with the same p_final that touched a lesion marked "
        "by experts, in patients that were not used for training; n/a if the weights have no "
        "calibration",
        digits=3,
    ),
    Column(
        "image_quality",
        "Result of the image check for the whole visit; the reasons are in its record, on its "
        "page and in group_lesions.tsv",
        levels={
            "ok": "no check raised a flag",
            "flagged": "the images are unusual: the result may be wrong",
        },
    ),
)


def rows_to_table(rows: Iterable[LesionRow]) -> list[dict[str, str]]:
    """Write rows as the cells of a BIDS table.

    Parameters
    ----------
    rows : iterable of LesionRow
        From :func:`~bids_msseg.lesions.load_table.lesion_table`.

    Returns
    -------
    list of dict
        One dict per row, in the order of :data:`COLUMNS`; ``n/a`` where a value is missing.

    Examples
    --------
    >>> from bids_msseg.lesions.load_table import lesion_table
    >>> rows = lesion_table(np.ones((1, 1, 1), int), np.eye(4))
    >>> cells = rows_to_table(rows)[0]
    >>> cells["volume_mm3"], cells["region"]
    ('1.00', 'n/a')
    """
    return [{column.name: column.cell(row) for column in COLUMNS} for row in rows]


def column_dictionary() -> dict[str, dict[str, Any]]:
    """Return the BIDS data dictionary of the lesion table."""
    entries: dict[str, dict[str, Any]] = {}
    for column in COLUMNS:
        entries[column.name] = {"Description": column.description}
        if column.units:
            entries[column.name]["Units"] = column.units
        if column.levels:
            entries[column.name]["Levels"] = dict(column.levels)
    return entries
