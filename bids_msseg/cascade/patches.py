"""Sub-images cut on the fly; nothing is ever materialised.

Every sub-image is a pure function of (cohort, plan, seed, index): its own random stream is derived
from the seed and its index, so an epoch is the same with any number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bids_msseg.lesions.instances import label_lesions
from bids_msseg.models.boxes import Shape, cut, split_into_pieces

__all__ = [
    "LabelledVisit",
    "Places",
    "Shape",
    "cut",
    "draw_centre",
    "find_places",
    "split_into_pieces",
    "stream",
]


@dataclass(frozen=True, slots=True)
class LabelledVisit:
    """One visit as the training sees it, on the 1 mm working grid.

    Attributes
    ----------
    name : str
        ``sub-<label>[_ses-<label>]``.
    site : str
        Where it was acquired; sites are sampled in equal shares.
    images : ndarray of float16, shape (3, X, Y, Z)
        FLAIR, T1w, T2w in units of standard deviation inside the brain.
    present : tuple of bool
        Which contrasts were acquired.
    brain : ndarray of bool, shape (X, Y, Z)
    truth : ndarray of float16, shape (X, Y, Z)
        Share of each voxel that the experts call lesion.
    thick : bool
        Acquired with slices of 2 mm or more.
    """

    name: str
    site: str
    images: NDArray[np.float16]
    present: tuple[bool, bool, bool]
    brain: NDArray[np.bool_]
    truth: NDArray[np.float16]
    thick: bool

    @property
    def participant(self) -> str:
        """``sub-<label>``."""
        return self.name.partition("_")[0]


@dataclass(frozen=True, slots=True)
class Places:
    """Where sub-images of one visit may be centred, as flat indices into (X, Y, Z).

    Attributes
    ----------
    lesions : tuple of ndarray of int64
        One array of voxels a lesion.
    brain : ndarray of int64
        Voxels inside the brain.
    hard : ndarray of int64
        Voxels that an earlier net wrongly called lesion; may be empty.
    """

    lesions: tuple[NDArray[np.int64], ...]
    brain: NDArray[np.int64]
    hard: NDArray[np.int64]


def find_places(visit: LabelledVisit, hard: NDArray[np.bool_] | None = None) -> Places:
    """List the voxels at which sub-images of a visit may be centred."""
    labels = label_lesions(visit.truth >= 0.5, voxel_volume=1.0)
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(1, labels.max() + 2))
    lesions = tuple(order[begin:end].astype(np.int64) for begin, end in pairwise(starts))
    false = np.zeros(0, np.int64) if hard is None else np.flatnonzero(hard).astype(np.int64)
    return Places(lesions, np.flatnonzero(visit.brain).astype(np.int64), false)


def draw_centre(
    places: Places,
    shape: Shape,
    rng: np.random.Generator,
    *,
    lesion_share: float,
    hard_share: float,
) -> tuple[int, int, int]:
    """Draw the centre of a sub-image: on a lesion, on a hard negative, or anywhere in the brain.

    Lesions are drawn uniformly, so that a small one counts as much as a large one.
    """
    roll = rng.random()
    if roll < lesion_share and places.lesions:
        pool = places.lesions[int(rng.integers(len(places.lesions)))]
    elif roll < lesion_share + hard_share and places.hard.size:
        pool = places.hard
    else:
        pool = places.brain
    x, y, z = np.unravel_index(int(pool[int(rng.integers(pool.size))]), shape)
    return int(x), int(y), int(z)


def stream(seed: int, index: int) -> np.random.Generator:
    """Return the random stream of one sub-image, independent of every other one's."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index))))
