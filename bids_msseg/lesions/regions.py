"""Regions of lesions after the McDonald criteria.

Thompson et al. 2018, doi:10.1016/S1474-4422(17)30470-2. The anatomy is that of a template, mapped
by an affine and inaccurate by some mm, or the patient's own, for which distances are smaller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt

from bids_msseg.lesions.instances import bounding_box

__all__ = ["Region", "RegionAnatomy", "assign", "disseminated_in_space", "region_map"]


class Region(IntEnum):
    """The four regions of lesions.

    Examples
    --------
    >>> Region.DEEP_WHITE_MATTER.label
    'deep_white_matter'
    """

    PERIVENTRICULAR = 1
    JUXTACORTICAL = 2
    INFRATENTORIAL = 3
    DEEP_WHITE_MATTER = 4

    @property
    def label(self) -> str:
        """Name in tables."""
        return self.name.lower()


REGION_LABELS = tuple(region.label for region in Region)


class RegionAnatomy(IntEnum):
    """Codes of the label map that regions are derived from.

    ``VENTRICLE`` holds the lateral and third ventricles (the fourth belongs to
    ``INFRATENTORIAL``), ``CORTEX`` the cerebral cortical grey matter.
    """

    OUTSIDE = 0
    VENTRICLE = 1
    CORTEX = 2
    INFRATENTORIAL = 3
    SUPRATENTORIAL = 4


DISSEMINATION_AREAS = (Region.PERIVENTRICULAR, Region.JUXTACORTICAL, Region.INFRATENTORIAL)
MIN_AREAS = 2

OWN_PERIVENTRICULAR_MM = 2.0
"""Reach around a patient's own ventricles: two voxels in the plane, for the blurred ependyma."""

# Affinely fitted template ventricles against the ventricles drawn for ten patients (287 lesions):
# at 5 to 6 mm the best compromise between missed (half, mostly at horns that the template's small
# ventricles lack) and false abutment (one in nine); as many periventricular lesions as there are.
PERIVENTRICULAR_MM = 5.0
# One in-plane voxel: no allowance, since a folded cortex is misplaced as often in as out.
JUXTACORTICAL_MM = 1.5


def region_map(
    anatomy: NDArray[Any],
    spacing: Sequence[float] | NDArray[np.floating],
    *,
    periventricular_mm: float | None = None,
    juxtacortical_mm: float = JUXTACORTICAL_MM,
    own_ventricles: bool = False,
) -> NDArray[np.int8]:
    """Give every voxel its region.

    Infratentorial tissue is decided first, then what lies within ``periventricular_mm`` of a
    ventricle, then what lies within ``juxtacortical_mm`` of the cortex; the rest is deep white
    matter. Voxels outside the brain take the region of the nearest brain voxel (beyond the
    bounding box of the brain: of the nearest voxel of that box).

    Parameters
    ----------
    anatomy : ndarray of integers, shape (X, Y, Z)
        Codes of :class:`RegionAnatomy`.
    spacing : sequence of 3 floats
        Voxel edges in mm; distances are physical, between voxel centres.
    periventricular_mm : float, optional
        Reach of the band around the ventricles in mm; by default :data:`PERIVENTRICULAR_MM`, for a
        template fitted by an affine, or :data:`OWN_PERIVENTRICULAR_MM`.
    juxtacortical_mm : float
        Reach of the band around the cortex in mm.
    own_ventricles : bool, default False
        Whether the ventricles are the patient's own. Voxels that share a face, an edge or a corner
        with one of theirs then belong to the band at any distance: with thick slices, tissue that
        abuts a ventricle from above is a slice away.

    Returns
    -------
    ndarray of int8, shape (X, Y, Z)
        Codes of :class:`Region`, nowhere 0.

    Raises
    ------
    ValueError
        If the map holds no brain or unknown codes.

    Examples
    --------
    >>> anatomy = np.array([0, 1, 4, 4, 4, 4, 4, 2, 0]).reshape(9, 1, 1)
    >>> region_map(anatomy, (2.0, 1.0, 1.0)).ravel()
    array([1, 1, 1, 1, 4, 4, 4, 2, 2], dtype=int8)
    """
    if periventricular_mm is None:
        periventricular_mm = OWN_PERIVENTRICULAR_MM if own_ventricles else PERIVENTRICULAR_MM
    box = bounding_box(anatomy)
    tissue = anatomy[box]
    if not tissue.size:
        raise ValueError("the anatomical label map contains no brain")
    if not np.isin(np.unique(tissue), list(RegionAnatomy)).all():
        raise ValueError(f"unknown anatomical codes: {np.unique(tissue).tolist()}")
    regions = np.full(tissue.shape, Region.DEEP_WHITE_MATTER, np.int8)
    regions[near(tissue == RegionAnatomy.CORTEX, juxtacortical_mm, spacing)] = Region.JUXTACORTICAL
    ventricle = tissue == RegionAnatomy.VENTRICLE
    near_ventricle = near(ventricle, periventricular_mm, spacing)
    if own_ventricles:
        near_ventricle |= binary_dilation(ventricle, np.ones((3, 3, 3), bool))
    regions[near_ventricle] = Region.PERIVENTRICULAR
    regions[tissue == RegionAnatomy.INFRATENTORIAL] = Region.INFRATENTORIAL
    nearest = distance_transform_edt(
        tissue == RegionAnatomy.OUTSIDE,
        sampling=spacing,
        return_distances=False,
        return_indices=True,
    )
    rim = [(side.start, size - side.stop) for side, size in zip(box, anatomy.shape, strict=True)]
    return np.pad(regions[tuple(nearest)], rim, mode="edge")


def near(
    target: NDArray[np.bool_], reach: float, spacing: Sequence[float] | NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Mark the voxels with centres at most ``reach`` mm from a target, including the target."""
    if reach <= 0:
        return target.copy()
    reached = np.zeros(target.shape, bool)
    box = bounding_box(target, margin=int(np.ceil(reach / min(spacing))))
    if target[box].size:
        reached[box] = distance_transform_edt(~target[box], sampling=spacing) <= reach
    return reached


@dataclass(frozen=True, slots=True)
class RegionAssignment:
    """Voxels per region, shape (n, 4), and main region (0 if no voxels) of the lesions 1..n."""

    voxels: NDArray[np.int64]
    main: NDArray[np.int8]

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each lesion's voxels in each region, shape (n, 4); rows add up to 1."""
        totals = np.maximum(self.voxels.sum(axis=1, keepdims=True), 1)
        shares: NDArray[np.float64] = self.voxels / totals
        return shares


def assign(labels: NDArray[np.integer], regions: NDArray[np.integer]) -> RegionAssignment:
    """Assign each lesion to a region, and return the share of its voxels in each region.

    A lesion is infratentorial if at least half of it is (it has to lie *in* the brainstem or
    cerebellum). Otherwise it counts as periventricular or juxtacortical as soon as one voxel lies
    in that band, since the criteria ask whether a lesion *abuts* the ventricles or the cortex,
    not where most of it lies. If it touches both bands, the larger contact (more voxels in the
    band) decides, and at a tie the ventricles. What touches neither is deep white matter.

    Parameters
    ----------
    labels : ndarray of integers, shape (X, Y, Z)
        0 outside, lesions 1..n.
    regions : ndarray of integers, shape (X, Y, Z)
        From :func:`region_map`.

    Returns
    -------
    RegionAssignment

    Raises
    ------
    ValueError
        If the grids differ.

    Examples
    --------
    >>> labels = np.array([1, 1, 1, 1, 0, 2, 2]).reshape(7, 1, 1)
    >>> regions = np.array([1, 4, 4, 4, 4, 4, 3]).reshape(7, 1, 1)
    >>> result = assign(labels, regions)
    >>> [Region(code).label for code in result.main]
    ['periventricular', 'infratentorial']
    >>> result.shares[0]
    array([0.25, 0.  , 0.  , 0.75])
    """
    if labels.shape != regions.shape:
        raise ValueError(f"lesions {labels.shape} and regions {regions.shape} differ in grid")
    n = int(labels.max(initial=0))
    used = np.flatnonzero(labels)
    codes = labels.reshape(-1)[used].astype(np.int64) * 5 + regions.reshape(-1)[used]
    voxels = np.bincount(codes, minlength=5 * (n + 1)).reshape(n + 1, 5)[1:, 1:]
    return RegionAssignment(voxels, _main_region(voxels))


def _main_region(voxels: NDArray[np.int64]) -> NDArray[np.int8]:
    ventricle, cortex, posterior, _ = voxels.T
    total = voxels.sum(axis=1)
    return np.select(
        [total == 0, 2 * posterior >= total, (ventricle > 0) & (ventricle >= cortex), cortex > 0],
        [0, Region.INFRATENTORIAL, Region.PERIVENTRICULAR, Region.JUXTACORTICAL],
        Region.DEEP_WHITE_MATTER,
    ).astype(np.int8)


def disseminated_in_space(counts: Mapping[str, int | None]) -> bool | None:
    """Tell whether lesions of the brain alone show dissemination in space, McDonald 2017.

    At least one lesion in at least two of: periventricular, juxtacortical or cortical,
    infratentorial (Thompson et al. 2018). The fourth area of the criteria, the
    spinal cord, is not assessed, so False does not mean that the criterion is not met.

    Parameters
    ----------
    counts : mapping of str to int or None
        Lesions by the label of their main :class:`Region`; each lesion counts in one.

    Returns
    -------
    bool or None
        None where one of the three areas is not known.

    Examples
    --------
    >>> counts = {"periventricular": 3, "juxtacortical": 0, "infratentorial": 1}
    >>> disseminated_in_space(counts), disseminated_in_space({**counts, "infratentorial": 0})
    (True, False)
    >>> disseminated_in_space({"periventricular": 3}) is None
    True
    """
    area_counts = [counts.get(region.label) for region in DISSEMINATION_AREAS]
    if any(count is None for count in area_counts):
        return None
    return sum(bool(count) for count in area_counts) >= MIN_AREAS
