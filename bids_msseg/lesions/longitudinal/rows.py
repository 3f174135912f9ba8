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
    def words(self) -> str:
        """What it stands for."""
        return _CODE_WORDS[self]


_CODE_WORDS: Final[Mapping[Code, str]] = {
    Code.STABLE: "lesion at both visits",
    Code.NEW: "new lesion",
    Code.GAINED: "tissue that a lesion has gained",
    Code.LOST: "tissue that a lesion has lost",
    Code.RESOLVED: "resolved lesion",
    Code.UNCLEAR: "lesion at one visit only, without proof of a change",
}


@dataclass(frozen=True, slots=True)
class ChangeRule:
    """What counts as a change.

    Attributes
    ----------
    coverage : float
        Standard deviations of the border's noise that a change of volume has to exceed.
    flair_sd : float
        Standard deviations of its noise that FLAIR has to change by.
    contrast_share : float
        A new lesion had at most this share of its contrast before.
    certain_share : float
        Nor, on average, more than this share of the threshold as probability.
    min_mm3 : float
        Smallest new lesion, or new part of a lesion: a sphere of 3 mm.
    border_sd_mm : float
        The border's noise as it is assumed before a pair of visits is looked at.
    border_weight : float
        As how many lesions that counts.
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
    """What became of one lesion, or of several that are one at the other visit.

    Attributes
    ----------
    index : int
        1 for the first row.
    change : str
        One of :data:`CHANGES`.
    reason : str
        In words, what kept it from being called a change, or what made it one without the whole
        volume; empty where nothing has to be said.
    lesions_before, lesions_after : tuple of int
        Numbers at either visit; empty where it was not there.
    before_mm3, after_mm3 : float
        Volumes at the visits.
    smallest_detectable_change_mm3 : float
        Smallest change that can be told for this lesion.
    gained_mm3, lost_mm3 : float
        Tissue that has become lesion or ceased to be, as far as FLAIR shows it.
    flair_change_sd : float
        Mean change of FLAIR, less that of the tissue around, in standard deviations of its noise.
        It is measured inside a lesion that was there once; in one that was there twice, inside
        what the visit with more has more.
    p_before, p_after : float
        Mean probabilities in the same place.
    centre : tuple of 3 floats
        In voxels of the common grid.
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
        """Volume after less volume before."""
        return self.after_mm3 - self.before_mm3


@dataclass(frozen=True, slots=True)
class ChangeCount:
    """How many lesions had one fate.

    Attributes
    ----------
    lesions : int
    before_ml, after_ml : float
        Their volumes at either visit.
    """

    lesions: int
    before_ml: float
    after_ml: float


def count_changes(rows: Sequence[ChangeRow]) -> dict[Change, ChangeCount]:
    """Add up the rows of a comparison.

    Parameters
    ----------
    rows : sequence of ChangeRow

    Returns
    -------
    mapping of str to ChangeCount
        All of :data:`CHANGES`, also those that did not occur.
    """
    counts: dict[Change, ChangeCount] = {}
    for change in CHANGES:
        of_it = [row for row in rows if row.change == change]
        counts[change] = ChangeCount(
            len(of_it),
            math.fsum(row.before_mm3 for row in of_it) / 1000,
            math.fsum(row.after_mm3 for row in of_it) / 1000,
        )
    return counts
