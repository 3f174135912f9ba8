"""What the judge of voxels learns from, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_msseg.cascade.augment import BACKGROUND
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.cascade.valverde.inference import surround, without_gaps
from bids_msseg.cascade.valverde.sampling import Pool
from bids_msseg.cascade.valverde.train import PatchPlan

Patches = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class JudgePlan(PatchPlan):
    """How a judge is trained.

    Attributes
    ----------
    spread : float
        Standard deviation of what is added to a contrast of a patch, in those of the brain, and
        of the logarithm of what it is multiplied by.
    as_is : float
        Share of patches whose brightness is left as it is.
    drop : float
        Share of patches that lack T1w, and of those that lack T2w.
    """

    spread: float = 0.25
    as_is: float = 0.5
    drop: float = 0.15


def judge_pool(visit: LabelledVisit, opinion: NDArray[np.floating], gate: float) -> Pool:
    """List all lesion voxels, and what CNN-1 wrongly lets pass.

    Parameters
    ----------
    visit : LabelledVisit
    opinion : ndarray, shape (X, Y, Z)
        CNN-1's probability; it has not seen the visit.
    gate : float
        What reaches it is a candidate.
    """
    lesion = visit.brain & (visit.truth >= 0.5)
    wrong = visit.brain & (opinion >= gate) & ~lesion
    images = without_gaps(visit.images, visit.present, visit.brain)
    return Pool(surround(images), np.flatnonzero(lesion), np.flatnonzero(wrong))


def vary_patches(patches: Patches, rng: np.random.Generator, plan: JudgePlan) -> Patches:
    """Change brightness and contrast of patches, and take contrasts away.

    Parameters
    ----------
    patches : ndarray of float32, shape (N, 3, X, Y, Z)
        What lies outside the brain stays as it is.
    rng : Generator
    plan : JudgePlan

    Returns
    -------
    ndarray of float32, shape (N, 3, X, Y, Z)
    """
    outside = patches == BACKGROUND
    size = (*patches.shape[:2], 1, 1, 1)
    changed = rng.random((len(patches), 1, 1, 1, 1)) >= plan.as_is
    gain = np.exp(changed * rng.normal(0, plan.spread, size)).astype(np.float32)
    shift = (changed * rng.normal(0, plan.spread, size)).astype(np.float32)
    missing = rng.random(size) < plan.drop
    missing[:, 0] = False
    varied = np.where(missing, np.float32(0), patches * gain + shift)
    result: Patches = np.where(outside, np.float32(BACKGROUND), varied)
    return result
