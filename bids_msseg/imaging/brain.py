"""Brain extraction, and detection of images that are skull-stripped already.

deepbet: Fisch et al. 2024, doi 10.1016/j.compbiomed.2024.108845; also works on FLAIR and T2w.
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

__all__ = ["extract_brain"]

PLAUSIBLE_BRAIN_ML = (700.0, 2200.0)
STRIPPED_BELOW_ML = 2200.0
STRIPPED_BELOW_DARK_SHARE = 0.08
DARK_LEVEL = 0.05
TORCH_THREADS = 1


@dataclass(frozen=True, slots=True)
class Support:
    """Measures of what is not background, the evidence for skull-stripping."""

    volume_ml: float  # inside the outline of each slice
    dark_share: float  # below 5 % of the 99th percentile: high in a head (skull, air cells)


def is_skull_stripped(volume: Volume) -> bool:
    """Return whether an image (axes closest to RAS+) shows only a brain."""
    # benchmarks/imaging.py: 35 stripped images of 1098-1808 mL, dark share up to 0.043; 21 heads
    # of 2656-4502 mL, from 0.150. Both must be low: a head taken for a brain is the worse error
    measures = support(volume)
    return (
        0.0 < measures.volume_ml < STRIPPED_BELOW_ML
        and measures.dark_share < STRIPPED_BELOW_DARK_SHARE
    )


def contradictions(looks_stripped: bool, *, option: str, sidecar: str) -> tuple[str, ...]:
    """List contradictions of an image to option or sidecar (``yes``, ``no``; ``auto``: none)."""
    image = "only a brain" if looks_stripped else "a head"
    notes = []
    for statement, source, authority in (
        (option, "--skull-stripped", "the option"),
        (sidecar, "the sidecar", "the image" if option == "auto" else "the option"),
    ):
        if statement != "auto" and (statement == "yes") != looks_stripped:
            stripped = "skull-stripped" if statement == "yes" else "not skull-stripped"
            notes.append(
                f"{source} says that the image is {stripped}, but it shows {image}: "
                f"{authority} takes precedence"
            )
    return tuple(notes)


def support(volume: Volume) -> Support:
    """Measure what differs from the background (axes near RAS+); zero in a constant image."""
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
    """Return the brain of a skull-stripped image; DataError if the image is constant."""
    return largest_component(volume.data != _background(volume.data))


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
    with torch_threads(TORCH_THREADS):
        network = bet.BrainExtraction(no_gpu=True)
        network.model.to(device)
        network.bbox_model.to(device)
        try:
            mask = network.run(image)[1]
        except (AssertionError, ValueError) as error:  # raised if no brain is found
            raise _no_brain() from error
    return largest_component(np.asarray(mask.dataobj) > 0)


def brain_volume_ml(mask: NDArray[np.bool_], voxel_volume: float) -> float:
    """Return the volume of a mask in mL; ``voxel_volume`` is in mm³."""
    return float(np.count_nonzero(mask) * voxel_volume / 1000.0)


def brain_notes(mask: NDArray[np.bool_], voxel_volume: float) -> tuple[str, ...]:
    """Return a note if the volume of a brain mask is outside 700-2200 mL."""
    size = brain_volume_ml(mask, voxel_volume)
    low, high = PLAUSIBLE_BRAIN_ML
    if low <= size <= high:
        return ()
    limits = f"the usual {low:.0f}-{high:.0f} mL"
    return (f"the volume of the brain mask is {size:.0f} mL, outside {limits}: check the mask",)


def _background(data: NDArray[np.generic]) -> float:
    """Return the most frequent value on the faces of the field of view."""
    faces = [np.take(data, index, axis).ravel() for axis in range(3) for index in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    return float(values[counts.argmax()])


def largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the largest connected part and fill its holes; DataError if the mask is empty."""
    labels, count = ndimage.label(mask)
    if count == 0:
        raise _no_brain()
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(ndimage.binary_fill_holes(labels == sizes.argmax()), bool)


def _no_brain() -> DataError:
    return DataError(
        "no brain was found in the image",
        hint="check the image; pass a brain mask, or leave this visit out",
    )


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, and restore it at the end."""
    before = bet.torch.get_num_threads()
    bet.torch.set_num_threads(count)
    try:
        yield
    finally:
        bet.torch.set_num_threads(before)
