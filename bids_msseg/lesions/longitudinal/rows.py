"""The kinds of change, their codes, and the row of a lesion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

Change = Literal["new", "enlarging", "stable", "shrinking", "resolved", "unclear"]
Point = tuple[float, float, float]
CHANGES: Final[tuple[Change, ...]] = (
    "new",
    "enlarging",
    "shrinking",
    "resolved",
    "unclear",
    "stable",
)


class Code(IntEnum):
    """Values of the image of changes."""

    STABLE = 1
    NEW = 2
    GAINED = 3
    LOST = 4
    RESOLVED = 5
    UNCLEAR = 6

    @property
    def label(self) -> str:
        """Name in tables: letters, digits and underscores."""
        return self.name.lower()

    @property
    def description(self) -> str:
        """Description of the code."""
        return _CODE_DESCRIPTIONS[self]


_CODE_DESCRIPTIONS: Final[Mapping[Code, str]] = {
    Code.STABLE: "lesion at both visits",
    Code.NEW: "new lesion",
    Code.GAINED: "tissue gained by a lesion",
    Code.LOST: "tissue lost by a lesion",
    Code.RESOLVED: "resolved lesion",
    Code.UNCLEAR: "lesion at one visit only, without proof of a change",
}


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """Thresholds for what counts as a change.

    ``coverage`` and ``flair_sd`` are in SDs of noise of border and FLAIR; the shares limit
    contrast and probability (of the threshold) at the visit without the lesion; ``min_mm3`` is a
    sphere of 3 mm. ``border_sd_mm`` is a prior worth ``border_weight`` lesions.
    """

    coverage: float = 1.96
    flair_sd: float = 3.0
    contrast_share: float = 0.5
    certain_share: float = 0.5
    min_mm3: float = math.pi / 6 * 27
    border_sd_mm: float = 0.25
    border_weight: float = 10.0


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """Change of one lesion, or of several that merge or split between visits.

    ``reason`` explains the class, if needed. ``gained_mm3`` and ``lost_mm3`` are as shown by
    FLAIR, ``flair_change_sd`` is in SDs of its noise, ``p_before`` and ``p_after`` are mean
    probabilities over the same voxels, ``centre`` is in voxels of the common grid.
    """

    index: int
    change: Change
    reason: str
    lesions_before: tuple[int, ...]
    lesions_after: tuple[int, ...]
    before_mm3: float
    after_mm3: float
    smallest_detectable_change_mm3: float
    gained_mm3: float
    lost_mm3: float
    flair_change_sd: float
    p_before: float
    p_after: float
    centre: Point

    @property
    def change_mm3(self) -> float:
        """Volume after minus volume before."""
        return self.after_mm3 - self.before_mm3


@dataclass(frozen=True, slots=True)
class ChangeCount:
    """Number of lesions with one kind of change, and their volumes at both visits."""

    lesions: int
    before_ml: float
    after_ml: float


def count_changes(rows: Sequence[ChangeRow]) -> dict[Change, ChangeCount]:
    """Count the rows of each kind of change, including kinds that do not occur."""
    counts: dict[Change, ChangeCount] = {}
    for change in CHANGES:
        matching = [row for row in rows if row.change == change]
        counts[change] = ChangeCount(
            len(matching),
            math.fsum(row.before_mm3 for row in matching) / 1000,
            math.fsum(row.after_mm3 for row in matching) / 1000,
        )
    return counts
