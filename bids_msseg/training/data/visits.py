"""Labelled visits on the working grid, on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.io.atomic import open_alone
from bids_msseg.lesions.instances import label_lesions


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
        The voxels of each lesion.
    brain : ndarray of int64
        Voxels inside the brain.
    """

    lesions: tuple[NDArray[np.int64], ...]
    brain: NDArray[np.int64]


def find_places(visit: LabelledVisit) -> Places:
    """List the voxels at which sub-images of a visit may be centred."""
    labels = label_lesions(visit.truth >= 0.5, voxel_volume=1.0)
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(1, labels.max() + 2))
    lesions = tuple(order[begin:end].astype(np.int64) for begin, end in pairwise(starts))
    return Places(lesions, np.flatnonzero(visit.brain).astype(np.int64))


def save_visit(visit: LabelledVisit, path: Path) -> None:
    """Write a prepared visit; no pickle."""
    with open_alone(path) as stream:
        np.savez_compressed(
            stream,
            name=np.array(visit.name),
            site=np.array(visit.site),
            images=visit.images,
            present=np.array(visit.present),
            brain=visit.brain,
            truth=visit.truth,
            thick=np.array(visit.thick),
        )


def load_visit(path: Path) -> LabelledVisit:
    """Read what :func:`save_visit` wrote."""
    with np.load(path, allow_pickle=False) as file:
        flair, t1w, t2w = (bool(flag) for flag in file["present"])
        return LabelledVisit(
            str(file["name"]),
            str(file["site"]),
            file["images"],
            (flair, t1w, t2w),
            file["brain"],
            file["truth"],
            bool(file["thick"]),
        )
