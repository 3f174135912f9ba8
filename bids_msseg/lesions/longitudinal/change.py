"""Change of each lesion between two visits, distinguished from noise.

A change of volume exceeds the noise of the border (repeatability of Bland and Altman 1986, doi
10.1016/S0140-6736(86)90837-8), and FLAIR has changed there beyond its noise. Exchanging the visits
exchanges new with resolved and enlarging with shrinking.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.lesions.longitudinal.flair_change import (
    NORMAL_MAD,
    FlairChange,
    Mask,
    VisitMaps,
    measure_flair_change,
)
from bids_msseg.lesions.longitudinal.match import TOUCHING, Box, Group, match_lesions, surface_mm2
from bids_msseg.lesions.longitudinal.rows import CHANGES, Change, ChangeRow, ChangeRule, Code

__all__ = ["Comparison", "compare_lesions"]

RING_VOXELS: Final = 3
MIN_SHARE_IN_BRAIN: Final = 0.5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Changes of all lesions between two visits.

    Attributes
    ----------
    rows : tuple of ChangeRow
        In the order of :data:`~bids_msseg.lesions.longitudinal.rows.CHANGES`, the largest change
        first.
    codes : ndarray of uint8, shape (X, Y, Z)
        Values of :class:`~bids_msseg.lesions.longitudinal.rows.Code` on the common grid,
        0 outside.
    score : ndarray of float32, shape (X, Y, Z)
        Change of FLAIR in standard deviations of its noise.
    border_sd_mm : float
        Standard deviation of how far a border moves without a change.
    matched : int
        Lesions at both visits, from which ``border_sd_mm`` is estimated.
    """

    rows: tuple[ChangeRow, ...]
    codes: NDArray[np.uint8]
    score: NDArray[np.float32]
    border_sd_mm: float
    matched: int


def compare_lesions(
    before: VisitMaps,
    after: VisitMaps,
    inside: Mask,
    *,
    rule: ChangeRule | None = None,
    spacing: float = 1.0,
    disagreement_mm: float = 0.0,
) -> Comparison:
    """Classify the change of every lesion between two visits.

    Parameters
    ----------
    before, after : VisitMaps
        On one grid.
    inside : ndarray of bool, shape (X, Y, Z)
        What both brain masks hold.
    rule : ChangeRule, optional
    spacing : float, default 1
        Edge of the cubic voxels in mm.
    disagreement_mm : float, default 0
        Known error of the registration.

    Returns
    -------
    Comparison

    Raises
    ------
    ValueError
        If the grids differ.
    """
    _check_grids(before, after, inside)
    rule = rule or ChangeRule()
    flair_change = measure_flair_change(before, after, inside, spacing=spacing)
    groups = match_lesions(before.labels, after.labels)
    areas = _areas(groups, before, after, spacing)
    border = _border_noise(groups, areas, before, after, rule)
    edge = max(before.edge_mm / 2, after.edge_mm / 2, spacing)
    reach = max(rule.coverage * border, edge) + disagreement_mm
    pair = _Pair(before, after, flair_change, inside, rule, spacing, reach, border)
    classified = [pair.classify(group, area) for group, area in zip(groups, areas, strict=True)]
    classified.sort(
        key=lambda lesion: (CHANGES.index(lesion.row.change), -abs(lesion.row.change_mm3))
    )
    codes = np.zeros(inside.shape, np.uint8)
    for lesion in classified:
        _paint(codes, lesion, before, after)
    rows = tuple(replace(lesion.row, index=i) for i, lesion in enumerate(classified, start=1))
    matched = sum(bool(group.before and group.after) for group in groups)
    return Comparison(rows, codes, flair_change.score, border, matched)


def _check_grids(before: VisitMaps, after: VisitMaps, inside: Mask) -> None:
    shapes = {inside.shape}
    for visit in (before, after):
        shapes |= {visit.flair.shape, visit.probability.shape, visit.labels.shape}
    if len(shapes) > 1:
        raise ValueError(f"the visits lie on different grids: {sorted(shapes)}")


def _areas(
    groups: Sequence[Group], before: VisitMaps, after: VisitMaps, spacing: float
) -> list[float]:
    """Compute the surface of each group in mm², averaged over the visits that have it."""
    areas_before, areas_after = (
        surface_mm2(visit.labels, spacing=spacing) for visit in (before, after)
    )
    areas = []
    for group in groups:
        visit_areas = [
            math.fsum(area[label] for label in labels)
            for area, labels in ((areas_before, group.before), (areas_after, group.after))
            if labels
        ]
        areas.append(math.fsum(visit_areas) / len(visit_areas))
    return areas


def _volume(visit: VisitMaps, labels: Sequence[int]) -> float:
    return math.fsum(visit.volumes_mm3[label] for label in labels)


def _border_noise(
    groups: Sequence[Group],
    areas: Sequence[float],
    before: VisitMaps,
    after: VisitMaps,
    rule: ChangeRule,
) -> float:
    """Estimate the random movement of borders in mm, robust to a few real changes."""
    # about zero: a shift of all borders is due to the scanner or the net, not to the disease
    shifts = [
        abs(_volume(after, group.after) - _volume(before, group.before)) / area
        for group, area in zip(groups, areas, strict=True)
        if group.before and group.after
    ]
    observed = (NORMAL_MAD * float(np.median(shifts))) ** 2 if shifts else 0.0
    weight = rule.border_weight + len(shifts)
    variance = (rule.border_weight * rule.border_sd_mm**2 + len(shifts) * observed) / weight
    return math.sqrt(variance)


@dataclass(frozen=True, slots=True)
class _Classified:
    """Row of a lesion, with masks of its gained and lost voxels inside a box."""

    row: ChangeRow
    box: Box
    gained: Mask
    lost: Mask


@dataclass(frozen=True, slots=True)
class _Pair:
    """Data of two visits by which lesions are classified."""

    before: VisitMaps
    after: VisitMaps
    flair_change: FlairChange
    inside: Mask
    rule: ChangeRule
    spacing: float
    reach: float
    border: float

    def classify(self, group: Group, area: float) -> _Classified:
        """Classify the change of a group of lesions."""
        box = self._padded(group.box)
        mask_before = np.isin(self.before.labels[box], group.before)
        mask_after = np.isin(self.after.labels[box], group.after)
        if group.before and group.after:
            limit = self.rule.coverage * self.border * area
            change, reason, gained, lost = self._classify_both_visits(
                group, box, mask_before, mask_after, limit
            )
        else:
            limit = self.rule.min_mm3
            change, reason = self._classify_single_visit(group, box, mask_before | mask_after)
            empty = np.zeros(mask_before.shape, bool)
            gained = mask_after if change == "new" else empty
            lost = mask_before if change == "resolved" else empty
        row = self._row(group, box, mask_before, mask_after, limit)
        row = replace(
            row,
            change=change,
            reason=reason,
            gained_mm3=self._mm3(gained),
            lost_mm3=self._mm3(lost),
        )
        return _Classified(row, box, gained, lost)

    def _padded(self, box: Box) -> Box:
        rim = max(RING_VOXELS, math.ceil(self.reach / self.spacing)) + 1
        x, y, z = (slice(max(side.start - rim, 0), side.stop + rim) for side in box)
        return (x, y, z)

    def _mm3(self, mask: Mask) -> float:
        return float(np.count_nonzero(mask)) * self.spacing**3

    def _score(self, box: Box, mask: Mask) -> float:
        """Return the mean change in a mask, in units of the mean noise there."""
        if not mask.any():
            return 0.0
        noise = float(self.flair_change.noise[box][mask].mean())
        return float(self.flair_change.change[box][mask].mean()) / noise

    def _row(
        self, group: Group, box: Box, mask_before: Mask, mask_after: Mask, limit: float
    ) -> ChangeRow:
        """Build a row with the measurements; the class is set later."""
        volumes = _volume(self.before, group.before), _volume(self.after, group.after)
        either = mask_before | mask_after
        if group.before and group.after:
            changed = (
                mask_after & ~mask_before
                if volumes[1] >= volumes[0]
                else mask_before & ~mask_after
            )
        else:
            changed = either
        centre = np.argwhere(either).mean(axis=0)
        x, y, z = (float(mean) + side.start for mean, side in zip(centre, box, strict=True))
        return ChangeRow(
            index=0,
            change="stable",
            reason="",
            lesions_before=group.before,
            lesions_after=group.after,
            before_mm3=volumes[0],
            after_mm3=volumes[1],
            smallest_detectable_change_mm3=limit,
            gained_mm3=0.0,
            lost_mm3=0.0,
            flair_change_sd=self._score(box, changed),
            p_before=float(self.before.probability[box][either].mean()),
            p_after=float(self.after.probability[box][either].mean()),
            centre=(x, y, z),
        )

    def _classify_single_visit(self, group: Group, box: Box, mask: Mask) -> tuple[Change, str]:
        """Classify a lesion that is present at only one visit."""
        sign = 1.0 if group.after else -1.0
        present, absent = (self.after, self.before) if group.after else (self.before, self.after)
        other_visit = "earlier visit" if group.after else "later visit"
        volume = _volume(present, group.after or group.before)
        # a certain prediction without the lesion: McKinley 2020, doi 10.1016/j.nicl.2019.102104
        certain = self.rule.certain_share * absent.threshold
        if volume < self.rule.min_mm3:
            return "unclear", f"smaller than {self.rule.min_mm3:.0f} mm³"
        if self.inside[box][mask].mean() < MIN_SHARE_IN_BRAIN:
            return "unclear", f"outside the brain mask of the {other_visit}"
        if sign * self._score(box, mask) < self.rule.flair_sd:
            return "unclear", "the FLAIR change is within its noise"
        if float(absent.probability[box][mask].mean()) > certain:
            return "unclear", f"lesion probability above {certain:.2g} at the {other_visit}"
        if self._remaining_contrast(box, mask, present, absent) > self.rule.contrast_share:
            return "unclear", f"FLAIR brighter than surrounding tissue at the {other_visit}, too"
        return ("new" if group.after else "resolved"), ""

    def _remaining_contrast(
        self, box: Box, mask: Mask, present: VisitMaps, absent: VisitMaps
    ) -> float:
        """Return the share of a lesion's contrast to its ring at the visit without it."""
        wide = ndimage.binary_dilation(mask, TOUCHING, iterations=RING_VOXELS)
        ring = wide & self.flair_change.normal[box]
        if not ring.any():
            return 0.0
        contrast_absent, contrast_present = (
            float(visit.flair[box][mask].mean() - visit.flair[box][ring].mean())
            for visit in (absent, present)
        )
        return contrast_absent / contrast_present if contrast_present > 0 else 1.0

    def _classify_both_visits(
        self, group: Group, box: Box, mask_before: Mask, mask_after: Mask, limit: float
    ) -> tuple[Change, str, Mask, Mask]:
        """Classify a lesion that is present at both visits."""
        net = _volume(self.after, group.after) - _volume(self.before, group.before)
        gained = self._appeared(box, mask_after, self.before.labels, 1.0)
        lost = self._appeared(box, mask_before, self.after.labels, -1.0)
        empty = np.zeros(mask_before.shape, bool)
        changed, sign = (
            (mask_after & ~mask_before, 1.0) if net > 0 else (mask_before & ~mask_after, -1.0)
        )
        visible = sign * self._score(box, changed) >= self.rule.coverage
        if abs(net) > limit and visible:
            part = changed & (sign * self.flair_change.score[box] >= self.rule.coverage)
            if net > 0:
                return "enlarging", "", gained | part, lost
            return "shrinking", "", gained, lost | part
        balance = int(gained.sum()) - int(lost.sum())
        if balance > 0 and net > 0:
            return "enlarging", "part of the lesion is new", gained, lost
        if balance < 0 and net < 0:
            return "shrinking", "part of the lesion has resolved", gained, lost
        reason = ""
        if abs(net) > limit:
            reason = "the FLAIR change is within its noise"
        elif balance:
            reason = "part of the lesion changed, but its volume did not change accordingly"
        return "stable", reason, empty, empty

    def _appeared(
        self, box: Box, lesion: Mask, other_labels: NDArray[np.integer], sign: float
    ) -> Mask:
        """Find parts, as large as a new lesion, beyond the noise of the other visit's borders."""
        other_lesions = other_labels[box] > 0
        fresh = (
            lesion & ~other_lesions & (sign * self.flair_change.score[box] >= self.rule.flair_sd)
        )
        parts, count = ndimage.label(fresh, TOUCHING)
        if not count:
            return fresh
        distance = ndimage.distance_transform_edt(~other_lesions, sampling=self.spacing)
        number = np.arange(count + 1)
        size = np.bincount(parts.ravel(), minlength=count + 1) * self.spacing**3
        furthest = np.asarray(ndimage.maximum(distance, parts, number))
        qualifies = (size >= self.rule.min_mm3) & (furthest > self.reach) & (number > 0)
        chosen: Mask = qualifies[parts]
        return chosen


def _paint(
    codes: NDArray[np.uint8], lesion: _Classified, before: VisitMaps, after: VisitMaps
) -> None:
    """Write the codes of a lesion into the image of changes."""
    row, part = lesion.row, codes[lesion.box]
    mask_before = np.isin(before.labels[lesion.box], row.lesions_before)
    mask_after = np.isin(after.labels[lesion.box], row.lesions_after)
    if row.change in ("new", "resolved", "unclear"):
        part[mask_before | mask_after] = Code[row.change.upper()]
        return
    part[mask_after] = Code.STABLE
    part[lesion.gained] = Code.GAINED
    part[lesion.lost] = Code.LOST
