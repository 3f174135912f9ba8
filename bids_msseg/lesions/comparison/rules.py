"""Rules for the detection of a lesion of one mask by the lesions of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class DetectionRule(Protocol):
    """Rule for the detection of a lesion of one mask by the lesions of another."""

    def found(self, overlap: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which reference lesions (rows of the table from 1) are found."""
        ...


@dataclass(frozen=True, slots=True)
class AnyOverlap:
    """Detection rule of the ISBI-2015 lesion-wise rates: one shared voxel is enough."""

    def found(self, overlap: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which reference lesions share a voxel with any test lesion."""
        hit: NDArray[np.bool_] = overlap[1:, 1:].sum(axis=1) > 0
        return hit


@dataclass(frozen=True, slots=True)
class AnimaRule:
    """Detection rule of MSSEG-2016: Commowick et al. 2018, doi:10.1038/s41598-018-31911-7."""

    alpha: float = 0.05  # a larger share of the lesion is covered by test lesions
    beta: float = 0.5  # no test lesion has a larger share outside the reference ...
    gamma: float = 0.5  # ... among those, by decreasing overlap, that cover so much of that share

    @classmethod
    def code_defaults(cls) -> AnimaRule:
        """Return the rule with the default thresholds of the Anima program."""
        return cls(alpha=0.05, beta=0.5, gamma=0.5)

    def found(self, overlap: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which reference lesions are found by the rule of the class."""
        shared = overlap[1:, 1:]
        # quotients as in Anima, so that a share of exactly alpha or beta gives the same result
        volumes = np.maximum(overlap[1:].sum(axis=1), 1)
        hit: NDArray[np.bool_] = shared.sum(axis=1) / volumes > self.alpha
        spills = overlap[0, 1:] / np.maximum(overlap[:, 1:].sum(axis=0), 1) > self.beta
        for lesion in np.flatnonzero(hit):
            hit[lesion] = self._explained(shared[lesion], spills)
        return hit

    def _explained(self, row: NDArray[np.int64], spills: NDArray[np.bool_]) -> bool:
        order = np.argsort(-row, kind="stable")
        order = order[row[order] > 0]
        explained = np.cumsum(row[order])
        needed = int(np.searchsorted(explained, self.gamma * explained[-1], side="left")) + 1
        return not bool(spills[order[:needed]].any())


ANY_OVERLAP = AnyOverlap()
