"""Labelled visits on the working grid, on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.io.atomic import open_alone
from bids_msseg.lesions.instances import label_lesions

THICK_MM = 2.0


@dataclass(frozen=True, slots=True)
class LabelledVisit:
    """One labelled visit for training, on the 1 mm working grid."""

    name: str  # sub-<label>[_ses-<label>]
    site: str
    images: NDArray[np.float16]  # (3, X, Y, Z): FLAIR, T1w and T2w in SD of the brain
    present: tuple[bool, bool, bool]
    brain: NDArray[np.bool_]
    truth: NDArray[np.float16]  # share of each voxel that experts marked as lesion
    slice_mm: float  # largest voxel edge of the FLAIR as acquired

    @property
    def participant(self) -> str:
        """``sub-<label>``."""
        return self.name.partition("_")[0]

    @property
    def thick(self) -> bool:
        """Whether the slices are thick."""
        return self.slice_mm >= THICK_MM


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
            slice_mm=np.array(visit.slice_mm),
        )


def load_visit(path: Path) -> LabelledVisit:
    """Read what :func:`save_visit` wrote; DataError for the format of an earlier version."""
    with np.load(path, allow_pickle=False) as file:
        if "slice_mm" not in file:
            raise DataError(
                f"{path} was prepared by an earlier version",
                hint="use another output_dir, or delete this one",
            )
        flair, t1w, t2w = (bool(flag) for flag in file["present"])
        return LabelledVisit(
            str(file["name"]),
            str(file["site"]),
            file["images"],
            (flair, t1w, t2w),
            file["brain"],
            file["truth"],
            float(file["slice_mm"]),
        )
