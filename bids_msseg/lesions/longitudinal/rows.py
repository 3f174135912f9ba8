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
    """Thresholds for what counts as a change."""

    coverage: float = 1.96  # SDs of the border noise
    flair_sd: float = 3.0  # SDs of the FLAIR noise
    contrast_share: float = 0.5  # largest contrast at the visit without the lesion
    certain_share: float = 0.5  # of the threshold: largest probability at that visit
    # a sphere of 3 mm: Filippi et al. 2019, doi 10.1093/brain/awz144
    min_mm3: float = math.pi / 6 * 27
    border_sd_mm: float = 0.25  # prior of the border noise
    border_weight: float = 10.0  # lesions that the prior counts as


@dataclass(frozen=True, slots=True)
class ChangeRow:
    """Change of one lesion, or of several that merge or split between visits."""

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
    flair_change_sd: float  # in SDs of its noise
    p_before: float
    p_after: float
    centre: Point  # in voxels of the common grid

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
