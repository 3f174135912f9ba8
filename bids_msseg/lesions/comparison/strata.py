"""Lesion detection by class: number of lesions found per size or region."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from bids_msseg.lesions.comparison.bootstrap import MeanEstimate, estimate_mean

SIZE_EDGES_MM3: Final = (10.0, 100.0, 1000.0)
SIZE_LEVELS: Final = ("<10", "10-100", "100-1000", ">1000")


def size_level(volume_mm3: float) -> str:
    """Return the size class of a lesion volume; an edge belongs to the larger class."""
    return SIZE_LEVELS[sum(volume_mm3 >= edge for edge in SIZE_EDGES_MM3)]


@dataclass(frozen=True, slots=True)
class AssessedLesion:
    """A true (``manual``) or predicted lesion; a ``hit`` shares a voxel with the other mask."""

    patient: str
    manual: bool
    level: str
    hit: bool


@dataclass(frozen=True, slots=True)
class Stratum:
    """Detection within one class of lesions; each lesion has the class of its own mask."""

    level: str
    n_manual: int
    n_found: int  # of the manual lesions
    n_auto: int
    n_true: int  # of the predicted lesions
    sensitivity: MeanEstimate
    ppv: MeanEstimate

    @property
    def f1(self) -> float:
        """Harmonic mean of sensitivity and PPV; 0 if no lesion agrees, NaN without lesions."""
        total = self.sensitivity.mean + self.ppv.mean
        if total > 0:
            return 2 * self.sensitivity.mean * self.ppv.mean / total
        return 0.0 if self.n_manual + self.n_auto else math.nan


def stratify(lesions: Iterable[AssessedLesion], levels: Sequence[str]) -> tuple[Stratum, ...]:
    """Count lesions by class, one stratum per level; lesions of other levels are skipped."""
    by_level: dict[str, list[AssessedLesion]] = {level: [] for level in levels}
    for lesion in lesions:
        if lesion.level in by_level:
            by_level[lesion.level].append(lesion)
    return tuple(_stratum(level, members) for level, members in by_level.items())


def _stratum(level: str, members: Sequence[AssessedLesion]) -> Stratum:
    manual = [lesion for lesion in members if lesion.manual]
    auto = [lesion for lesion in members if not lesion.manual]
    return Stratum(
        level,
        len(manual),
        sum(lesion.hit for lesion in manual),
        len(auto),
        sum(lesion.hit for lesion in auto),
        _share(manual),
        _share(auto),
    )


def _share(lesions: Sequence[AssessedLesion]) -> MeanEstimate:
    return estimate_mean(
        [float(lesion.hit) for lesion in lesions], [lesion.patient for lesion in lesions]
    )
