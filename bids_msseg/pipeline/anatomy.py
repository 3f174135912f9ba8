"""Anatomy of a visit: classes from CNN-1 on the FLAIR as acquired, and their volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.resample import inverse
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.models.brain_volumes import (
    BrainVolumes,
    implausible,
    measure_volumes,
    side_ratio,
)
from bids_msseg.pipeline.lesions import Grid


@dataclass(frozen=True, slots=True)
class MeasuredBrain:
    """Anatomy of a visit on the FLAIR as acquired."""

    labels: NDArray[np.uint8]  # values of Anatomy, 0 outside the brain
    volumes: BrainVolumes
    implausible: tuple[str, ...]  # measures outside the plausible range of adults

    @property
    def note(self) -> str:
        """Flag for the report; empty if all measures are plausible."""
        reasons = "; ".join(self.implausible)
        return f"the segmentation of the anatomy is implausible: {reasons}" if reasons else ""


def measure_brain(
    anatomy: Volume, grid: Grid, template_to_flair: Affine | None = None
) -> MeasuredBrain:
    """Measure the anatomy on the FLAIR as acquired; a valid template fit compares the sides."""
    labels = grid.take(anatomy, order=0)
    volumes = measure_volumes(labels, grid.frame.voxel_volume)
    ratio = None
    if template_to_flair is not None:
        ratio = side_ratio(anatomy.data, _right(anatomy, inverse(template_to_flair)))
    return MeasuredBrain(labels, volumes, implausible(volumes, ratio))


def _right(volume: Volume, to_template: Affine) -> NDArray[np.bool_]:
    """Return the voxels where x of the symmetric template is positive."""
    x = (to_template @ volume.affine)[0]
    size_i, size_j, size_k = volume.shape
    i, j, k = np.ogrid[0:size_i, 0:size_j, 0:size_k]
    right: NDArray[np.bool_] = x[0] * i + x[1] * j + x[2] * k + x[3] > 0
    return right
