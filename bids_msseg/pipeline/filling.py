"""Lesion filling in images as acquired, for programs that misclassify lesions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.imaging.stored import with_values
from bids_msseg.imaging.volume import Affine, Volume
from bids_msseg.lesions.filling import fill_lesions
from bids_msseg.models.anatomy import Anatomy
from bids_msseg.pipeline.lesions import Grid

WHITE = (Anatomy.WHITE_MATTER, Anatomy.CEREBELLAR_WHITE, Anatomy.BRAINSTEM)


def fill_image(
    path: Path,
    lesions: NDArray[Any],
    anatomy: Volume,
    *,
    transform: Affine | None = None,
    seed: int = 0,
) -> Any:
    """Fill lesions on the image's grid; ``transform``: its world mm to FLAIR world mm.

    ``anatomy`` is on the working grid (FLAIR world). Raises DataError if there are lesions but no
    white matter outside them.
    """
    grid = Grid.of(path)
    white = np.isin(grid.take(anatomy, transform=transform, order=0), WHITE)
    image: Any = nib.load(path)
    # an axis of length 1 may follow
    values = np.asarray(image.dataobj, np.float32).reshape(grid.frame.shape)
    values = np.where(np.isfinite(values), values, np.float32(0))
    try:
        filled = fill_lesions(values, lesions, white, grid.frame.spacing, rng=seed)
    except ValueError as error:
        raise DataError(
            f"the lesions of {path.name} cannot be filled: {error}",
            hint="check the anatomy of this visit, or run without --fill-lesions",
        ) from error
    return with_values(image, filled != values, filled)
