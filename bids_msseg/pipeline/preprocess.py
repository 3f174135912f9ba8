"""From images as acquired to what the networks read: one function for each step."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from bids_msseg.errors import DataError
from bids_msseg.imaging.bias import correct_bias, steady_threads
from bids_msseg.imaging.brain import (
    brain_notes,
    contradictions,
    extract_brain,
    is_skull_stripped,
    mask_from_stripped,
)
from bids_msseg.imaging.brain_check import CheckedBrain, check_brain
from bids_msseg.imaging.conform import check_header
from bids_msseg.imaging.normalise import CONTRASTS
from bids_msseg.imaging.register import Registration, register_affine, register_rigid
from bids_msseg.imaging.resample import inverse, mask_onto
from bids_msseg.imaging.template import EMBEDDED, load_template
from bids_msseg.imaging.volume import Affine, Volume, load_volume

Mask = NDArray[np.bool_]
_Kept = TypeVar("_Kept")


@dataclass(frozen=True, slots=True)
class FoundBrain:
    """A brain mask on the conformed FLAIR.

    Attributes
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
    how : {"given", "stripped", "deepbet"}
        Where it comes from.
    notes : tuple of str
    """

    mask: Mask
    how: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Alignment:
    """A contrast or a template in the FLAIR's world.

    Attributes
    ----------
    affine : ndarray, shape (4, 4)
        Fixed world mm to moving world mm; the best attempt where there is a fault.
    fault : str
        Why it cannot be relied on; empty where it passed its checks.
    notes : tuple of str
    """

    affine: Affine
    fault: str = ""
    notes: tuple[str, ...] = ()


def brain_device(device: str) -> str:
    """Choose where the brain extraction runs: on CUDA only where that was asked for.

    Examples
    --------
    >>> brain_device("auto"), brain_device("cuda:1"), brain_device("mps")
    ('cpu', 'cuda:1', 'cpu')
    """
    return device if device.startswith("cuda") else "cpu"


def find_brain(
    image: Volume,
    *,
    given: Path | None = None,
    skull_stripped: str = "auto",
    sidecar: str = "auto",
    device: str = "cpu",
    threads: int = 1,
) -> FoundBrain:
    """Find the brain: a given mask, the support of a stripped image, or deepbet.

    The image is trusted more than its sidecar, and the option more than both.

    Parameters
    ----------
    image : Volume
        Conformed FLAIR.
    given : path, optional
        Brain mask of another pipeline.
    skull_stripped, sidecar : {"auto", "yes", "no"}
        The option, and what the sidecar says.
    device : str, default "cpu"
    threads : int, default 1

    Returns
    -------
    FoundBrain

    Raises
    ------
    DataError
        If there is no brain, or the given mask cannot be used.
    """
    if given is not None:
        mask = _on_grid(given, image)
        return FoundBrain(mask, "given", brain_notes(mask, image.voxel_volume))
    shown = is_skull_stripped(image)
    notes = contradictions(shown, option=skull_stripped, sidecar=sidecar)
    if skull_stripped == "yes" or (skull_stripped == "auto" and shown):
        mask, how = mask_from_stripped(image), "stripped"
    else:
        mask, how = extract_brain(image, device=device, threads=threads), "deepbet"
    return FoundBrain(mask, how, (*notes, *brain_notes(mask, image.voxel_volume)))


def _on_grid(path: Path, image: Volume) -> Mask:
    """Read a mask that another pipeline made and bring it onto the conformed image."""
    shape = check_header(path, contrast="brain mask").shape
    try:
        stored = load_volume(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise DataError(
            f"the brain mask {path.name} is damaged: {error}",
            hint="leave --derivatives out, or make the mask again",
        ) from error
    mask = stored.with_data(stored.data.reshape(shape) > 0)
    moved = mask_onto(mask, image.shape, image.affine)
    if not moved.any():
        raise DataError(
            f"the brain mask {path.name} does not meet the FLAIR",
            hint="leave --derivatives out, or give a mask in the space of this FLAIR",
        )
    return moved


def align_contrast(
    contrast: str,
    moving: Volume,
    flair: Volume,
    brain: Mask,
    *,
    threads: int = 1,
    seed: int = 0,
) -> Alignment:
    """Align T1w or T2w with FLAIR, rigidly, and say where that cannot be right.

    Parameters
    ----------
    contrast : str
        For the message.
    moving, flair : Volume
        Conformed images.
    brain : ndarray of bool, shape (X, Y, Z)
        On the FLAIR's grid.
    threads, seed : int

    Returns
    -------
    Alignment
        FLAIR world mm to the contrast's world mm.
    """
    result = register_rigid(moving, flair, fixed_mask=brain, threads=threads, seed=seed)
    fault = f"the {contrast} image could not be aligned with FLAIR and is left out"
    return _alignment(result, fault)


def _alignment(found: Registration, fault: str) -> Alignment:
    told = f"{fault}: {found.doubt}" if found.doubt else ""
    return Alignment(found.affine, told, found.notes)


def correct_contrasts(
    images: Mapping[str, Volume],
    brain: Volume,
    transforms: Mapping[str, Affine],
    *,
    threads: int,
    keep: Callable[[str, Volume], _Kept],
) -> dict[str, _Kept]:
    """Remove the bias fields inside the brain, each contrast on its own grid.

    N4 keeps one processor busy, so contrasts are corrected beside each other; as many are in
    memory as there are threads.

    Parameters
    ----------
    images : mapping of contrast to Volume
        Conformed images; each is asked for once.
    brain : Volume
        Brain mask on the FLAIR's grid.
    transforms : mapping of contrast to ndarray, shape (4, 4)
        FLAIR world mm to the contrast's world mm.
    threads : int
    keep : callable
        Takes the contrast and the corrected image, which is dropped afterwards.

    Returns
    -------
    dict of contrast to what ``keep`` gave
    """

    def correct(contrast: str) -> _Kept:
        image = images[contrast]
        moved = transforms.get(contrast)
        world = None if moved is None else inverse(moved)
        inside = mask_onto(brain, image.shape, image.affine, transform=world)
        return keep(contrast, correct_bias(image, inside))

    contrasts = [contrast for contrast in CONTRASTS if contrast in images]
    with steady_threads(), ThreadPoolExecutor(threads) as pool:
        kept = list(pool.map(correct, contrasts))
    return dict(zip(contrasts, kept, strict=True))


def fit_template(
    flair: Volume,
    brain: Mask,
    *,
    name: str = EMBEDDED,
    resolution: int = 1,
    threads: int = 1,
    seed: int = 0,
) -> Alignment:
    """Fit a template to the brain by an affine; visits without T1w have it too.

    Parameters
    ----------
    flair : Volume
        Bias field removed.
    brain : ndarray of bool, shape (X, Y, Z)
        On the FLAIR's grid.
    name : str
        TemplateFlow identifier.
    resolution : int, default 1
    threads, seed : int

    Returns
    -------
    Alignment
        Template world mm to FLAIR world mm.
    """
    template = load_template(name, resolution=resolution)
    result = register_affine(
        flair,
        template.volume,
        moving_mask=brain,
        fixed_mask=template.mask,
        threads=threads,
        seed=seed,
    )
    fault = f"the template {template.name} may not fit, and regions may be wrong"
    return _alignment(result, fault)


def check_mask(flair: Volume, brain: Mask, template_to_flair: Affine, *, how: str) -> CheckedBrain:
    """Compare a brain mask with the template's; see :mod:`bids_msseg.imaging.brain_check`.

    Parameters
    ----------
    flair : Volume
        Bias field removed.
    brain : ndarray of bool, shape (X, Y, Z)
        On the FLAIR's grid.
    template_to_flair : ndarray, shape (4, 4)
        Of the embedded template, where its fit passed its checks.
    how : str
        Where the mask comes from; a given one stays as it is.

    Returns
    -------
    CheckedBrain
    """
    template = load_template()
    return check_brain(
        flair,
        brain,
        template.volume.with_data(template.mask),
        inverse(template_to_flair),
        repair=how != "given",
    )
