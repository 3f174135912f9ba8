"""Bias-corrected images of a visit for another segmenter, and the check of its output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bids_msseg.errors import DataError
from bids_msseg.imaging.normalise import CONTRASTS, SPACING_MM, working_grid
from bids_msseg.imaging.resample import mask_onto, resample, smooth_before_coarser
from bids_msseg.imaging.volume import (
    Affine,
    Volume,
    is_same_grid,
    load_or_raise,
    load_volume,
    save_volume,
)

RANGE_TOLERANCE = 1e-3
"""Interpolated probabilities may be outside 0 to 1 by this."""


@dataclass(frozen=True, slots=True)
class VisitImages:
    """Image files that a segmenter reads, on one 1 mm grid along the axes of the FLAIR."""

    folder: Path  # of the files; the segmenter may write there
    files: Mapping[str, Path]  # FLAIR, and T1w and T2w if they could be aligned
    brain: Path  # brain mask

    def paths_of(self, contrasts: Iterable[str], *, name: str) -> list[Path]:
        """Return the file of each required contrast; DataError if one is missing."""
        needed = list(contrasts)
        missing = [contrast for contrast in dict.fromkeys(needed) if contrast not in self.files]
        if missing:
            raise DataError(
                f"{name} needs {' and '.join(missing)}, which this visit lacks or which could not "
                "be aligned",
                hint="leave the visit out, or use a segmenter or model that needs FLAIR only",
            )
        return [self.files[contrast] for contrast in needed]


def write_images(
    images: Mapping[str, Volume],
    brain: Volume,
    transforms: Mapping[str, Affine],
    folder: Path,
    *,
    whole_head: bool,
) -> VisitImages:
    """Write contrasts on a 1 mm grid; without ``whole_head``, only the brain with 0 outside."""
    field = brain.with_data(np.ones(brain.shape, np.uint8)) if whole_head else brain
    shape, affine = working_grid(field)
    inside = mask_onto(brain, shape, affine)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for contrast in CONTRASTS:
        if contrast not in images:
            continue
        smooth = smooth_before_coarser(images[contrast], SPACING_MM)
        data = resample(smooth, shape, affine, transform=transforms.get(contrast)).data
        if not whole_head:
            data = np.where(inside, data, np.float32(0))
        files[contrast] = folder / f"{contrast.lower()}.nii.gz"
        save_volume(Volume(data, affine), files[contrast])
    save_volume(Volume(inside, affine), folder / "brain.nii.gz")
    return VisitImages(folder, files, folder / "brain.nii.gz")


def read_probability(
    path: Path, images: VisitImages, *, name: str, label: int | None = None
) -> Volume:
    """Read a segmenter's output as float32 probability inside the brain; may raise DataError."""
    volume = _read(path, name)
    brain = load_volume(images.brain)
    if not is_same_grid(volume.data.shape, volume.affine, brain.shape, brain.affine):
        raise DataError(
            f"{name} wrote {path.name} on another grid: {_grid(volume)} instead of {_grid(brain)}",
            hint="make it write on the grid of its input images",
        )
    if not np.isfinite(volume.data).all():
        raise DataError(
            f"{name} wrote non-finite values into {path.name}",
            hint="check the images in the work folder: one may be unsuitable for this segmenter",
        )
    data = volume.data if label is None else (volume.data == label).astype(np.float32)
    low, high = float(data.min()), float(data.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise DataError(
            f"{name} wrote values from {low:g} to {high:g} into {path.name}",
            hint="make it write probabilities or a mask of 0 and 1; for a label image, set the "
            "option label to the value of lesions",
        )
    inside = np.where(brain.data > 0, np.clip(data, 0, 1), np.float32(0))
    return brain.with_data(inside.astype(np.float32))


def _read(path: Path, name: str) -> Volume:
    """Read an image; a last axis of length one is left out."""
    if not path.is_file():
        raise DataError(
            f"{name} ended without an error but did not write {path.name}",
            hint="correct its output path, or the option out",
        )
    problem = f"{path.name} of {name} cannot be read"
    volume = load_or_raise(path, problem, hint="make it write a NIfTI file")
    data = volume.data
    return volume.with_data(data[..., 0] if data.ndim == 4 and data.shape[3] == 1 else data)


def _grid(volume: Volume) -> str:
    size = "x".join(map(str, volume.data.shape))
    return f"{size} from {', '.join(f'{at:.1f}' for at in volume.affine[:3, 3])} mm"
