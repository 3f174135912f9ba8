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
    """One labelled visit for training, on the 1 mm working grid."""

    name: str  # sub-<label>[_ses-<label>]
    site: str
    images: NDArray[np.float16]  # (3, X, Y, Z): FLAIR, T1w and T2w in SD of the brain
    present: tuple[bool, bool, bool]
    brain: NDArray[np.bool_]
    truth: NDArray[np.float16]  # share of each voxel that experts marked as lesion
    thick: bool  # slices of 2 mm or more

    @property
    def participant(self) -> str:
        """``sub-<label>``."""
        return self.name.partition("_")[0]


@dataclass(frozen=True, slots=True)
class Places:
    """Flat indices of voxels at which sub-images may be centred: of each lesion, of the brain."""

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
    """Write a prepared visit to a file without pickle."""
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
