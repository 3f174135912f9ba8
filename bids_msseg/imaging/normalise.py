"""Normalisation of preprocessed contrasts to the stack that the networks read.

The grid follows the brain, and intensities are measured only inside the brain mask, so padding,
cropping, gain, offset and storage type do not change the stack. (The z-score of the reference
implementation is computed over the whole field of view and depends on the amount of air around the
head.)
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
    """Normalised contrasts on a common 1 mm grid, the input of the cascade.

    ``data``, shape (3, X, Y, Z), holds FLAIR, T1w and T2w in standard deviations of the brain: -3
    outside the brain, all zero for a missing contrast. ``affine`` maps the voxel index to world mm
    of the FLAIR.
    """

    data: NDArray[np.float32]
    present: tuple[bool, bool, bool]
    brain: NDArray[np.bool_]
    affine: Affine

    def save(self, path: Path) -> None:
        """Write an uncompressed ``.npz`` without pickled objects."""
        with path.open("wb") as stream:
            np.savez(
                stream,
                data=self.data,
                present=np.array(self.present),
                brain=self.brain,
                affine=self.affine,
            )

    @classmethod
    def load(cls, path: Path) -> Stack:
        """Read a file that :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            flair, t1w, t2w = (bool(flag) for flag in file["present"])
            return cls(file["data"], (flair, t1w, t2w), file["brain"], file["affine"])


def working_grid(
    brain: Volume, *, spacing: float = SPACING_MM
) -> tuple[tuple[int, int, int], Affine]:
    """Build an isotropic grid (``spacing`` in mm) around the brain, along its axes.

    Return shape and affine. The first voxel lies a whole number of mm before that of the brain, so
    that a 1 mm image is not interpolated. Raises DataError if the mask is empty.
    """
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
    affine[:3, 3] = start - directions @ np.full(3, float(MARGIN_MM))
    return (x, y, z), affine


def zscore(
    data: NDArray[np.floating], inside: NDArray[np.bool_], *, trim: float = TRIM_PERCENT
) -> NDArray[np.float32]:
    """Express intensities in standard deviations inside a mask, clipped to ±5.

    Mean and standard deviation leave out the lowest and highest ``trim`` percent, which limits the
    effect of scalp or orbit in a brain mask. Raises DataError if the voxels inside do not vary.

    Examples
    --------
    >>> values = np.array([0.0, 10.0, 20.0])
    >>> zscore(values, np.array([True, True, True]), trim=0)
    array([-1.2247449,  0.       ,  1.2247449], dtype=float32)
    """
    values = data[inside].astype(np.float64)
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
    images: Mapping[str, Volume],
    brain: Volume,
    *,
    transforms: Mapping[str, Affine] | None = None,
) -> Stack:
    """Resample the contrasts onto one 1 mm grid in FLAIR space and normalise them.

    ``images`` are bias-corrected; ``FLAIR`` is required, ``T1w`` and ``T2w`` are optional.
    ``brain`` is on the FLAIR grid. ``transforms`` map FLAIR world mm to the contrast's world mm,
    by default the identity.
    """
    grid, affine = working_grid(brain)
    inside = mask_onto(brain, grid, affine)
    moves = transforms or {}
    data = np.zeros((len(CONTRASTS), *grid), np.float32)
    for channel, contrast in enumerate(CONTRASTS):
        if contrast in images:
            data[channel] = _channel(images[contrast], inside, affine, moves.get(contrast))
    flair, t1w, t2w = (contrast in images for contrast in CONTRASTS)
    return Stack(data, (flair, t1w, t2w), inside, affine)


def _channel(
    image: Volume, inside: NDArray[np.bool_], affine: Affine, transform: Affine | None
) -> NDArray[np.float32]:
    """Resample and normalise one contrast on the working grid.

    Brain outside the field of view of the contrast is set to the mean.
    """
    grid = (inside.shape[0], inside.shape[1], inside.shape[2])
    smooth = smooth_before_coarser(image, SPACING_MM)
    moved = resample(smooth, grid, affine, transform=transform).data
    field = image.with_data(np.ones(image.shape, np.float32))
    in_view = resample(field, grid, affine, transform=transform).data > 0.5
    scaled = zscore(moved, inside & in_view)
    scaled[~in_view] = 0.0
    scaled[~inside] = BACKGROUND
    return scaled
