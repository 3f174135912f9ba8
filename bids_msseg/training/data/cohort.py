"""Preparation of training visits from images and manual masks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from bids_msseg.errors import DataError
from bids_msseg.imaging.bias import correct_bias
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.normalise import Stack, build_stack
from bids_msseg.imaging.resample import mask_onto, resample
from bids_msseg.imaging.volume import Affine, Volume, as_ras, load_volume
from bids_msseg.pipeline.preprocess import preprocess, read_contrasts
from bids_msseg.training.data.visits import LabelledVisit

LOGGER = logging.getLogger("bids_msseg")


def prepare_visit(
    name: str,
    site: str,
    images: Mapping[str, Path],
    brain: Path,
    truth: Path,
    *,
    threads: int = 1,
) -> LabelledVisit:
    """Bring an aligned visit onto the working grid; DataError if a mask is on another grid."""
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
    return _build_visit(name, site, build_stack(corrected, inside), lesions, flair)


def prepare_raw_visit(
    name: str,
    site: str,
    images: Mapping[str, Path],
    brain: Path | None,
    truth: Path,
    *,
    threads: int = 1,
) -> tuple[LabelledVisit, Volume]:
    """Bring a visit as acquired onto the working grid, as ``msseg`` does.

    Also returns the brain mask on the conformed FLAIR. Raises DataError for unusable images.
    """
    volumes, notes = read_contrasts(images)
    lesions = as_ras(load_volume(truth))
    _check_grid(lesions, volumes["FLAIR"], truth)
    result = preprocess(volumes, given_brain=brain, threads=threads)
    for note in (*notes, *result.notes):
        LOGGER.info("%s: %s", name, note)
    for fault in result.faults:
        LOGGER.warning("%s: %s", name, fault)
    return _build_visit(name, site, result.stack, lesions, volumes["FLAIR"]), result.brain


def share_a_grid(images: Mapping[str, Path]) -> bool:
    """Return whether all contrasts are on one grid, regardless of the order of their axes."""
    grids = [_ras_grid(path) for path in images.values()]
    shape, affine = grids[0]
    return all(s == shape and np.allclose(a, affine, atol=1e-2) for s, a in grids)


def _ras_grid(path: Path) -> tuple[tuple[int, ...], Affine]:
    info = check_header(path)
    axes = nib.io_orientation(info.affine)
    shape = tuple(info.shape[place] for place in np.argsort(axes[:, 0]))
    return shape, info.affine @ nib.orientations.inv_ornt_aff(axes, info.shape)


def _build_visit(
    name: str, site: str, stack: Stack, lesions: Volume, flair: Volume
) -> LabelledVisit:
    share = resample(lesions, _shape(stack.brain), stack.affine).data
    return LabelledVisit(
        name,
        site,
        stack.data.astype(np.float16),
        stack.present,
        stack.brain,
        np.clip(share, 0, 1).astype(np.float16),
        float(flair.spacing.max()),
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
