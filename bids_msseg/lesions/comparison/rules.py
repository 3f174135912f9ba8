"""When a lesion of one mask counts as found by the lesions of another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class DetectionRule(Protocol):
    """When a lesion of one mask counts as found by the lesions of another."""

    def found(self, overlap: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Decide for each reference lesion.

        Parameters
        ----------
        overlap : ndarray of int64, shape (n_reference + 1, n_test + 1)
            Voxels shared by each pair of labels; row and column 0 are the background.

        Returns
        -------
        ndarray of bool, shape (n_reference,)
        """
        ...


@dataclass(frozen=True, slots=True)
class AnyOverlap:
    """One shared voxel is enough (the rule of ISBI-2015's lesion-wise rates).

    Examples
    --------
    >>> AnyOverlap().found(np.array([[90, 5, 4], [9, 1, 0], [7, 0, 0]]))
    array([ True, False])
    """

    def found(self, overlap: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which reference lesions share a voxel with any test lesion."""
        hit: NDArray[np.bool_] = overlap[1:, 1:].sum(axis=1) > 0
        return hit


@dataclass(frozen=True, slots=True)
class AnimaRule:
    """The detection rule of MSSEG-2016, as in ``animaSegPerfCAnalyzer``.

    A reference lesion is found if more than ``alpha`` of it is covered and, walking through the
    test lesions by decreasing overlap until ``gamma`` of the covered part is explained, none of
    them lies outside the whole reference mask by more than ``beta`` of its own volume.
    The defaults are those of the program; :meth:`challenge` gives those of the challenge paper
    (Commowick et al. 2018, doi:10.1038/s41598-018-31911-7). Anima counts face-connected
    components where this package counts 26-connected ones; to compare with published Anima
    figures give :func:`~bids_msseg.lesions.comparison.metrics.detection` an overlap table of
    face-connected labels.

    Attributes
    ----------
    alpha : float
        Smallest covered share of the reference lesion.
    beta : float
        Largest share of a test lesion outside the reference.
    gamma : float
        Share of the covered part that has to be explained by such test lesions.

    Examples
    --------
    A lesion of 10 voxels, 6 of them covered by a test lesion that has 14 more outside:

    >>> overlap = np.array([[500, 14], [4, 6]])
    >>> AnimaRule().found(overlap), AnimaRule.challenge().found(overlap)
    (array([False]), array([ True]))
    """

    alpha: float = 0.05
    beta: float = 0.5
    gamma: float = 0.5

    @classmethod
    def code_defaults(cls) -> AnimaRule:
        """Thresholds that the Anima program uses by itself."""
        return cls(alpha=0.05, beta=0.5, gamma=0.5)

    @classmethod
    def challenge(cls) -> AnimaRule:
        """Thresholds given in the challenge paper."""
        return cls(alpha=0.10, beta=0.70, gamma=0.65)

    def found(self, overlap: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Tell which reference lesions are covered by test lesions that do not spill over."""
        shared = overlap[1:, 1:]
        # quotients as in Anima, so that a share of exactly alpha or beta is judged alike
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
