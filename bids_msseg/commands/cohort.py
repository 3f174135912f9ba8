"""From files with manual masks to the visits that the training reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.errors import DataError
from bids_msseg.imaging.bias import correct_bias
from bids_msseg.imaging.normalise import build_stack
from bids_msseg.imaging.resample import mask_onto, resample
from bids_msseg.imaging.volume import Volume, as_ras, load_volume

THICK_MM = 2.0


def prepare_visit(
    name: str,
    site: str,
    images: Mapping[str, Path],
    brain: Path,
    truth: Path,
    *,
    threads: int = 1,
) -> LabelledVisit:
    """Bring one labelled visit onto the working grid, exactly as the app does.

    Parameters
    ----------
    name, site : str
    images : mapping of contrast to path
        ``FLAIR`` and, where present, ``T1w`` and ``T2w`` already on the FLAIR's world.
    brain, truth : path
        Masks on the FLAIR grid.
    threads : int, default 1

    Returns
    -------
    LabelledVisit

    Raises
    ------
    DataError
        If a mask is not on the FLAIR grid.
    """
    volumes = {contrast: as_ras(load_volume(path)) for contrast, path in images.items()}
    flair = volumes["FLAIR"]
    inside, lesions = as_ras(load_volume(brain)), as_ras(load_volume(truth))
    for mask, path in ((inside, brain), (lesions, truth)):
        _check_grid(mask, flair, path)
    corrected = {
        contrast: correct_bias(
            volume, mask_onto(inside, volume.shape, volume.affine), threads=threads
        )
        for contrast, volume in volumes.items()
    }
    stack = build_stack(corrected, inside)
    share = resample(lesions, _shape(stack.brain), stack.affine).data
    return LabelledVisit(
        name,
        site,
        stack.data.astype(np.float16),
        stack.present,
        stack.brain,
        np.clip(share, 0, 1).astype(np.float16),
        bool(flair.spacing.max() >= THICK_MM),
    )


def _shape(volume: np.ndarray) -> tuple[int, int, int]:
    x, y, z = volume.shape
    return x, y, z


def _check_grid(mask: Volume, flair: Volume, path: Path) -> None:
    if mask.shape != flair.shape or not np.allclose(mask.affine, flair.affine, atol=1e-2):
        raise DataError(
            f"{path.name} is not on the grid of its FLAIR",
            hint="resample the mask onto the FLAIR (nearest neighbour) before training",
        )
