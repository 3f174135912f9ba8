"""Brain mask of a visit: its source, and the check of its plausibility."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.imaging.brain import (
    brain_notes,
    contradictions,
    extract_brain,
    is_skull_stripped,
    mask_from_stripped,
)
from bids_msseg.imaging.brain_check import CheckedBrain, check_brain
from bids_msseg.imaging.header import check_header
from bids_msseg.imaging.resample import inverse, mask_onto
from bids_msseg.imaging.template import load_template
from bids_msseg.imaging.volume import Affine, Volume, load_or_raise

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ExtractedBrain:
    """Brain mask on the conformed FLAIR."""

    mask: Mask
    how: str  # its source: given, stripped or deepbet
    notes: tuple[str, ...] = ()


def brain_device(device: str) -> str:
    """Choose the device of the brain extraction: CUDA only if requested, otherwise CPU."""
    return device if device.startswith("cuda") else "cpu"


def find_brain(
    image: Volume,
    *,
    mask_path: Path | None = None,
    skull_stripped: str = "auto",
    sidecar: str = "auto",
    device: str = "cpu",
    threads: int = 1,
) -> ExtractedBrain:
    """Find the brain mask: given, of a stripped image, or by deepbet; DataError if none."""
    # the option overrides the image, and the image overrides the sidecar
    if mask_path is not None:
        mask = _on_grid(mask_path, image)
        return ExtractedBrain(mask, "given", brain_notes(mask, image.voxel_volume))
    looks_stripped = is_skull_stripped(image)
    notes = contradictions(looks_stripped, option=skull_stripped, sidecar=sidecar)
    if skull_stripped == "yes" or (skull_stripped == "auto" and looks_stripped):
        mask, how = mask_from_stripped(image), "stripped"
    else:
        mask, how = extract_brain(image, device=device, threads=threads), "deepbet"
    return ExtractedBrain(mask, how, (*notes, *brain_notes(mask, image.voxel_volume)))


def _on_grid(path: Path, image: Volume) -> Mask:
    """Read a mask of another pipeline and resample it onto the conformed image."""
    shape = check_header(path, contrast="brain mask").shape
    hint = "omit --derivatives, or create the mask again"
    stored = load_or_raise(path, f"the brain mask {path.name} is damaged", hint=hint)
    mask = stored.with_data(stored.data.reshape(shape) > 0)
    moved = mask_onto(mask, image.shape, image.affine)
    if not moved.any():
        raise DataError(
            f"the brain mask {path.name} does not overlap the FLAIR",
            hint="omit --derivatives, or use a mask in the space of this FLAIR",
        )
    return moved


def check_mask(flair: Volume, brain: Mask, template_to_flair: Affine, *, how: str) -> CheckedBrain:
    """Compare a mask with the template's after a valid fit, and repair it unless ``given``."""
    template = load_template()
    return check_brain(
        flair,
        brain,
        template.volume.with_data(template.mask),
        inverse(template_to_flair),
        repair=how != "given",
    )
