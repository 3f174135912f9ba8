"""Finding the brain in a head, and recognising heads that are brains already.

Heads go through deepbet (Fisch et al., "deepbet: Fast brain extraction of T1-weighted MRI using
convolutional neural networks", Comput Biol Med 2024, doi 10.1016/j.compbiomed.2024.108845), whose
weights come with its wheel; it is trained on T1w and works on FLAIR and T2w too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from deepbet import bet
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume

USUAL_BRAIN_ML = (700.0, 2200.0)
STRIPPED_BELOW_ML = 2200.0
STRIPPED_BELOW_DARK_SHARE = 0.08
DARK_LEVEL = 0.05
TORCH_THREADS = 1


@dataclass(frozen=True, slots=True)
class Support:
    """What of an image is not background; the evidence for or against skull-stripping.

    Attributes
    ----------
    volume_ml : float
        Everything inside the outline of the support, slice by slice, in mL.
    dark_share : float
        Share of it that is darker than 5 % of its 99th percentile. A head has skull and air
        cells there, a brain has hardly anything.
    """

    volume_ml: float
    dark_share: float


def is_skull_stripped(volume: Volume) -> bool:
    """Tell whether an image shows a brain only.

    An image counts as stripped where its support is no larger than a brain and holds no dark
    shell; both must say so, because a head taken for a brain spoils all that follows, while a
    brain taken for a head only goes through the brain extraction once more. Padding and cropping
    to the support change neither figure. Measured by ``benchmarks/imaging.py stripped``: 35
    stripped images 1098-1808 mL and at most .043 dark, 21 raw heads 2656-4502 mL and at least
    .150.

    Parameters
    ----------
    volume : Volume
        One contrast, axes closest to RAS+.

    Returns
    -------
    bool
    """
    found = support(volume)
    return (
        0.0 < found.volume_ml < STRIPPED_BELOW_ML and found.dark_share < STRIPPED_BELOW_DARK_SHARE
    )


def contradictions(shown: bool, *, option: str, sidecar: str) -> tuple[str, ...]:
    """Say where the image shows something else than was said of its skull.

    Parameters
    ----------
    shown : bool
        What :func:`is_skull_stripped` says of the image.
    option, sidecar : {"auto", "yes", "no"}
        ``--skull-stripped``, and ``SkullStripped`` of the sidecar, ``auto`` where it says nothing.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> contradictions(False, option="auto", sidecar="yes")
    ('the sidecar says that the skull is off, but the image shows a head: the image decides',)
    >>> contradictions(True, option="auto", sidecar="yes")
    ()
    """
    image = "a brain alone" if shown else "a head"
    found = []
    for said, who, decides in (
        (option, "--skull-stripped", "the option"),
        (sidecar, "the sidecar", "the image" if option == "auto" else "the option"),
    ):
        if said != "auto" and (said == "yes") != shown:
            skull = "off" if said == "yes" else "on"
            found.append(
                f"{who} says that the skull is {skull}, but the image shows {image}: "
                f"{decides} decides"
            )
    return tuple(found)


def support(volume: Volume) -> Support:
    """Measure what differs from the background.

    Parameters
    ----------
    volume : Volume
        One contrast, axes closest to RAS+.

    Returns
    -------
    Support
        All zero where the image is constant.
    """
    background = _background(volume.data)
    inside = volume.data != background
    if not inside.any():
        return Support(0.0, 0.0)
    # a head is open below where the scan ends, so holes are closed in axial slices
    slices = (ndimage.binary_fill_holes(inside[:, :, k]) for k in range(inside.shape[2]))
    filled = np.stack(list(slices), axis=-1)
    height = np.abs(volume.data.astype(np.float32) - background)
    dark = height < DARK_LEVEL * np.percentile(height[inside], 99)
    share = float(np.count_nonzero(dark & filled) / np.count_nonzero(filled))
    return Support(brain_volume_ml(filled, volume.voxel_volume), share)


def mask_from_stripped(volume: Volume) -> NDArray[np.bool_]:
    """Take the support of a skull-stripped image as the brain mask.

    Parameters
    ----------
    volume : Volume
        A skull-stripped image; the background may have any one value.

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Largest connected part of what is not background, holes filled.

    Raises
    ------
    DataError
        If all voxels have the same value.
    """
    return one_part(volume.data != _background(volume.data))


def extract_brain(
    volume: Volume,
    *,
    device: str = "cpu",
    threads: int = 1,  # noqa: ARG001
) -> NDArray[np.bool_]:
    """Find the brain in a head of any contrast.

    Parameters
    ----------
    volume : Volume
        FLAIR, T1w or T2w with skull, in any orientation.
    device : str, default "cpu"
        Where the networks run: ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int, default 1
        Kept for callers that count threads: on the CPU the networks run on one (3-4 s), because
        with two, one voxel of one of 21 heads came out otherwise (``benchmarks/imaging.py
        brain``).

    Returns
    -------
    ndarray of bool, shape (X, Y, Z)
        Brain and the fluid around it on the image's own grid, one part without holes.

    Raises
    ------
    DataError
        If no brain is found.
    """
    image = nib.Nifti1Image(volume.data.astype(np.float32), volume.affine)
    with _torch_threads(TORCH_THREADS):
        network = bet.BrainExtraction(no_gpu=True)
        network.model.to(device)
        network.bbox_model.to(device)
        try:
            mask = network.run(image)[1]
        except (AssertionError, ValueError) as error:  # how it says that it found nothing
            raise _no_brain() from error
    return one_part(np.asarray(mask.dataobj) > 0)


def brain_volume_ml(mask: NDArray[np.bool_], voxel_volume: float) -> float:
    """Measure a mask in mL.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    voxel_volume : float
        Volume of one voxel in mm³.

    Returns
    -------
    float

    Examples
    --------
    >>> brain_volume_ml(np.ones((10, 10, 10), bool), voxel_volume=3.0)
    3.0
    """
    return float(np.count_nonzero(mask) * voxel_volume / 1000.0)


def brain_notes(mask: NDArray[np.bool_], voxel_volume: float) -> tuple[str, ...]:
    """Say where a brain mask is of no usual size.

    Parameters
    ----------
    mask : ndarray of bool, shape (X, Y, Z)
        The brain.
    voxel_volume : float
        Volume of one voxel in mm³.

    Returns
    -------
    tuple of str
        Empty for 700-2200 mL.

    Examples
    --------
    >>> brain_notes(np.ones((10, 10, 10), bool), voxel_volume=3.0)
    ('the brain mask holds 3 mL, outside the usual 700-2200 mL: look at it',)
    """
    size = brain_volume_ml(mask, voxel_volume)
    low, high = USUAL_BRAIN_ML
    if low <= size <= high:
        return ()
    usual = f"{low:.0f}-{high:.0f} mL"
    return (f"the brain mask holds {size:.0f} mL, outside the usual {usual}: look at it",)


def _background(data: NDArray[np.generic]) -> float:
    """Most frequent value on the faces of the field of view."""
    ends = [np.take(data, index, axis).ravel() for axis in range(3) for index in (0, -1)]
    values, counts = np.unique(np.concatenate(ends), return_counts=True)
    return float(values[counts.argmax()])


def one_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest connected part and fill its holes.

    Raises
    ------
    DataError
        If the mask is empty.
    """
    labels, count = ndimage.label(mask)
    if count == 0:
        raise _no_brain()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()), bool)


def _no_brain() -> DataError:
    return DataError(
        "no brain was found in the image",
        hint="look at the image; give a brain mask, or leave this visit out",
    )


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Limit deepbet's torch, which is not otherwise used here, and set it back."""
    before = bet.torch.get_num_threads()
    bet.torch.set_num_threads(count)
    try:
        yield
    finally:
        bet.torch.set_num_threads(before)
