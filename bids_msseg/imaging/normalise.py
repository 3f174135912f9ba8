"""Normalisation of preprocessed contrasts to the stack that the networks read.

Grid and intensities depend on the brain alone: padding, cropping, gain and offset do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.imaging.resample import mask_onto, resample, smooth_before_coarser
from bids_msseg.imaging.volume import Affine, Volume

CONTRASTS = ("FLAIR", "T1w", "T2w")
SPACING_MM = 1.0
MARGIN_MM = 4
CLIP = 5.0
BACKGROUND = -3.0
TRIM_PERCENT = 1.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Normalised contrasts on a common 1 mm grid, the input of the cascade."""

    # shape (3, X, Y, Z), in SDs of the brain: -3 outside, all zero for a missing contrast
    data: NDArray[np.float32]
    present: tuple[bool, bool, bool]  # FLAIR, T1w, T2w
    brain: NDArray[np.bool_]
    affine: Affine  # voxel index to world mm of the FLAIR
    slice_mm: float  # largest voxel edge of the FLAIR as acquired

    def save(self, path: Path) -> None:
        """Write an uncompressed ``.npz`` without pickled objects."""
        with path.open("wb") as stream:
            np.savez(
                stream,
                data=self.data,
                present=np.array(self.present),
                brain=self.brain,
                affine=self.affine,
                slice_mm=np.array(self.slice_mm),
            )

    @classmethod
    def load(cls, path: Path) -> Stack:
        """Read a file that :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            flair, t1w, t2w = (bool(flag) for flag in file["present"])
            slice_mm = float(file["slice_mm"])
            return cls(file["data"], (flair, t1w, t2w), file["brain"], file["affine"], slice_mm)


def working_grid(
    brain: Volume, *, spacing: float = SPACING_MM
) -> tuple[tuple[int, int, int], Affine]:
    """Build an isotropic grid (mm) around the brain, along its axes; DataError if it is empty."""
    inside = np.asarray(brain.data, bool)
    if not inside.any():
        raise DataError(
            "the brain mask is empty", hint="check that the FLAIR shows a brain, or pass a mask"
        )
    bounds = [np.flatnonzero(inside.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    first = np.array([index[0] for index in bounds], float)
    last = np.array([index[-1] for index in bounds], float)
    edge = brain.spacing
    extent = (last - first) * edge
    x, y, z = (int(n) for n in np.ceil((extent + 2 * MARGIN_MM) / spacing - 1e-6) + 1)
    directions = brain.affine[:3, :3] / edge
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    start = brain.affine[:3, :3] @ first + brain.affine[:3, 3]
    # whole mm before the first voxel of the brain: a 1 mm image is not interpolated
    affine[:3, 3] = start - directions @ np.full(3, float(MARGIN_MM))
    return (x, y, z), affine


def zscore(
    data: NDArray[np.floating], inside: NDArray[np.bool_], *, trim: float = TRIM_PERCENT
) -> NDArray[np.float32]:
    """Express intensities in SDs inside a mask, clipped to ±5; DataError if these are equal."""
    values = data[inside].astype(np.float64)
    # trimming limits the effect of scalp or orbit in a brain mask
    low, high = np.percentile(values, (trim, 100 - trim)) if values.size else (0.0, 0.0)
    trimmed = values[(values >= low) & (values <= high)]
    spread = float(trimmed.std()) if trimmed.size else 0.0
    if not np.isfinite(spread) or spread <= 1e-9 * max(1.0, float(np.abs(values).max(initial=0))):
        raise DataError(
            "the image does not vary inside the brain",
            hint="check the image; an empty or constant series cannot be used",
        )
    scaled = (data.astype(np.float64) - trimmed.mean()) / spread
    clipped: NDArray[np.float32] = np.clip(scaled, -CLIP, CLIP).astype(np.float32)
    return clipped


def build_stack(
    images: Mapping[str, Volume], brain: Volume, *, transforms: Mapping[str, Affine] | None = None
) -> Stack:
    """Normalise contrasts on a 1 mm grid; ``transforms`` map FLAIR mm to the contrast's mm.

    ``images`` are bias-corrected, FLAIR is required, and ``brain`` is on the FLAIR grid.
    """
    grid, affine = working_grid(brain)
    inside = mask_onto(brain, grid, affine)
    moves = transforms or {}
    data = np.zeros((len(CONTRASTS), *grid), np.float32)
    for channel, contrast in enumerate(CONTRASTS):
        if contrast in images:
            data[channel] = _channel(images[contrast], inside, affine, moves.get(contrast))
    flair, t1w, t2w = (contrast in images for contrast in CONTRASTS)
    slice_mm = float(images["FLAIR"].spacing.max())
    return Stack(data, (flair, t1w, t2w), inside, affine, slice_mm)


def _channel(
    image: Volume, inside: NDArray[np.bool_], affine: Affine, transform: Affine | None
) -> NDArray[np.float32]:
    """Resample and normalise one contrast; brain outside its field of view gets the mean."""
    grid = (inside.shape[0], inside.shape[1], inside.shape[2])
    smooth = smooth_before_coarser(image, SPACING_MM)
    moved = resample(smooth, grid, affine, transform=transform).data
    field = image.with_data(np.ones(image.shape, np.float32))
    in_view = resample(field, grid, affine, transform=transform).data > 0.5
    scaled = zscore(moved, inside & in_view)
    scaled[~in_view] = 0.0
    scaled[~inside] = BACKGROUND
    return scaled
