"""Preprocessing from images as acquired to the stack for the networks: a function per step.

The BIDS App runs the steps as nodes that exchange files, :func:`preprocess` in this process with
the precision of files: both produce the same stack, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bids_msseg.imaging.bias import correct_bias, single_itk_thread
from bids_msseg.imaging.conform import read_image
from bids_msseg.imaging.normalise import CONTRASTS, Stack, build_stack
from bids_msseg.imaging.registration.affine import register_affine, register_rigid
from bids_msseg.imaging.registration.itk import as_stored_affine
from bids_msseg.imaging.registration.result import Registration
from bids_msseg.imaging.resample import inverse, mask_onto
from bids_msseg.imaging.template import EMBEDDED, load_template
from bids_msseg.imaging.volume import Affine, Volume, as_stored
from bids_msseg.pipeline.brain import check_mask, find_brain

__all__ = ["Preprocessed", "preprocess"]

Mask = NDArray[np.bool_]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Alignment:
    """Alignment of a contrast or template with the FLAIR."""

    affine: Affine  # fixed to moving world mm; with a fault, the best attempt
    fault: str = ""  # why it is unreliable
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Preprocessed:
    """A visit after all steps.

    Attributes
    ----------
    images : mapping of contrast to Volume
        Bias field removed, each on its own grid; contrasts that could not be aligned are gone.
    transforms : mapping of contrast to ndarray, shape (4, 4)
        FLAIR world mm to the world mm of each other contrast in ``images``.
    brain : Volume
        Checked brain mask on the conformed FLAIR.
    extracerebral : Volume or None
        Where no lesion can be; None where the template may not fit.
    template_to_flair : ndarray, shape (4, 4)
        Template world mm to FLAIR world mm.
    stack : Stack
    faults : tuple of str
        Reasons to check the visit.
    notes : tuple of str
        What a reader should know, ``step: note``.
    """

    images: Mapping[str, Volume]
    transforms: Mapping[str, Affine]
    brain: Volume
    extracerebral: Volume | None
    template_to_flair: Affine
    stack: Stack
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def read_contrasts(files: Mapping[str, Path]) -> tuple[dict[str, Volume], tuple[str, ...]]:
    """Check images as acquired and reorient them to RAS+; return them with notes."""
    conformed = {name: read_image(path, contrast=name) for name, path in files.items()}
    images = {name: as_stored(image.volume) for name, image in conformed.items()}
    return images, _notes({f"conform_{name}": image.notes for name, image in conformed.items()})


def preprocess(
    images: Mapping[str, Volume],
    *,
    given_brain: Path | None = None,
    device: str = "cpu",
    threads: int = 1,
    seed: int = 0,
) -> Preprocessed:
    """Do all steps from conformed images to the stack, as the BIDS App does.

    Parameters
    ----------
    images : mapping of contrast to Volume
        From :func:`read_contrasts`; ``FLAIR`` is needed, ``T1w`` and ``T2w`` may be there.
    given_brain : path, optional
        Brain mask of another pipeline, in the space of the FLAIR.
    device : str, default "cpu"
        For the brain extraction; see :func:`~bids_msseg.pipeline.brain.brain_device`.
    threads, seed : int

    Returns
    -------
    Preprocessed

    Raises
    ------
    DataError
        If there is no brain, or an image does not vary inside it.
    """
    flair = images["FLAIR"]
    extraction = find_brain(flair, mask_path=given_brain, device=device, threads=threads)
    brain = as_stored(flair.with_data(extraction.mask))
    alignments = {
        name: align_contrast(name, image, flair, brain.data > 0, threads=threads, seed=seed)
        for name, image in images.items()
        if name != "FLAIR"
    }
    transforms = {
        name: as_stored_affine(alignment.affine)
        for name, alignment in alignments.items()
        if not alignment.fault
    }
    corrected = correct_contrasts(
        {"FLAIR": flair, **{name: images[name] for name in transforms}},
        brain,
        transforms,
        threads=threads,
        keep=lambda _, image: as_stored(image),
    )
    template_fit = fit_template(corrected["FLAIR"], brain.data > 0, threads=threads, seed=seed)
    to_flair = as_stored_affine(template_fit.affine)
    checked = None
    if not template_fit.fault:
        checked = check_mask(corrected["FLAIR"], brain.data > 0, to_flair, how=extraction.how)
    final = brain
    extracerebral: Volume | None = None
    if checked is not None:
        final = as_stored(brain.with_data(checked.mask))
        extracerebral = as_stored(brain.with_data(checked.extracerebral), np.uint8)
    return Preprocessed(
        images=corrected,
        transforms=transforms,
        brain=final,
        extracerebral=extracerebral,
        template_to_flair=to_flair,
        stack=build_stack(corrected, final, transforms=transforms),
        faults=(
            *(
                alignment.fault
                for alignment in (*alignments.values(), template_fit)
                if alignment.fault
            ),
            *(() if checked is None else checked.faults),
        ),
        notes=_notes(
            {
                "brain": extraction.notes,
                **{
                    f"coregister_{name}": alignment.notes for name, alignment in alignments.items()
                },
                "template": template_fit.notes,
                "check_brain": () if checked is None else checked.notes,
            }
        ),
    )


def _notes(by_step: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(f"{step}: {note}" for step, notes in by_step.items() for note in notes)


def align_contrast(
    contrast: str,
    moving: Volume,
    flair: Volume,
    brain: Mask,
    *,
    threads: int = 1,
    seed: int = 0,
) -> Alignment:
    """Align T1w or T2w rigidly; the affine maps FLAIR world mm to the contrast's world mm."""
    result = register_rigid(moving, flair, fixed_mask=brain, threads=threads, seed=seed)
    fault = f"the {contrast} image could not be aligned with FLAIR and is left out"
    return _alignment(result, fault)


def _alignment(registration: Registration, fault: str) -> Alignment:
    reason = f"{fault}: {registration.failure_reason}" if registration.failure_reason else ""
    return Alignment(registration.affine, reason, registration.notes)


def correct_contrasts(
    images: Mapping[str, Volume],
    brain: Volume,
    transforms: Mapping[str, Affine],
    *,
    threads: int,
    keep: Callable[[str, Volume], _Result],
) -> dict[str, _Result]:
    """Remove bias fields on the contrasts' own grids in threads; return what ``keep`` makes."""

    def correct(contrast: str) -> _Result:
        image = images[contrast]
        to_contrast = transforms.get(contrast)
        to_flair = None if to_contrast is None else inverse(to_contrast)
        inside = mask_onto(brain, image.shape, image.affine, transform=to_flair)
        return keep(contrast, correct_bias(image, inside))

    contrasts = [contrast for contrast in CONTRASTS if contrast in images]
    with single_itk_thread(), ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(correct, contrasts))
    return dict(zip(contrasts, results, strict=True))


def fit_template(
    flair: Volume,
    brain: Mask,
    *,
    name: str = EMBEDDED,
    resolution: int = 1,
    threads: int = 1,
    seed: int = 0,
) -> Alignment:
    """Fit a template to the brain; the affine maps template world mm to FLAIR world mm."""
    template = load_template(name, resolution=resolution)
    result = register_affine(
        flair,
        template.volume,
        moving_mask=brain,
        fixed_mask=template.mask,
        threads=threads,
        seed=seed,
    )
    fault = f"the registration of the template {template.name} and the regions may be wrong"
    return _alignment(result, fault)
