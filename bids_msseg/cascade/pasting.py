"""Pasting lesions of one labelled visit softly into sub-images of another.

What a lesion adds to the tissue around it is kept in a bank and put on the tissue of another place
(after soft Poisson blending, arXiv 2406.14826, with a weighted mean of the surroundings instead
of the solution of Laplace's equation). Images are in units of the brain's standard deviation, so
contrasts of one visit are comparable with those of another.

A bank holds lesions of the visits that it is filled from and of nobody else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.cascade.augment import SubImage
from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.lesions.instances import label_lesions

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Box = tuple[slice, slice, slice]

MARGIN = 4
"""Voxels kept around a lesion."""
SMALLEST, WIDEST = 3, 32
"""Fewest voxels of a lesion, and widest box, that are pasted: confluent lesions have one place."""
FEATHER_MM = 2.5
"""Distance over which a pasted lesion's surroundings give way to the target's."""
TRACE = 0.02
"""Least share of a voxel that counts as lesion."""
SURROUND_MM = 3.0
KEEP_AWAY = 3
"""Voxels to the border of the brain and to other lesions."""
FLUID_BELOW = -1.0
"""Brightness in FLAIR below which a voxel is fluid."""
FLAIR_NORMAL = (-0.3, 1.1)
T1W_WHITE = 0.3
"""Brightness that normal-appearing white matter has in FLAIR, and at least has in T1w."""
MOSTLY = 0.85
"""Share of a lesion that must come to lie in normal-appearing white matter."""
TRIES = 20


@dataclass(frozen=True, slots=True)
class BankedLesion:
    """A lesion apart from its brain.

    Attributes
    ----------
    visit : str
        Where it is from.
    share : ndarray of float16, shape (X, Y, Z)
        Share of each voxel that is lesion.
    change : ndarray of float16, shape (3, X, Y, Z)
        Brightness less that of the tissue around, FLAIR, T1w, T2w.
    weight : ndarray of float16, shape (X, Y, Z)
        1 on the lesion, falling to 0 outside.
    present : tuple of bool
        Contrasts of its visit.
    thick : bool
        Seen in slices of 2 mm or more.
    """

    visit: str
    share: NDArray[np.float16]
    change: NDArray[np.float16]
    weight: NDArray[np.float16]
    present: tuple[bool, bool, bool]
    thick: bool


@dataclass(frozen=True, slots=True)
class LesionBank:
    """Lesions to paste.

    Attributes
    ----------
    lesions : tuple of BankedLesion
    """

    lesions: tuple[BankedLesion, ...]

    def fitting(self, present: Sequence[bool], *, thick: bool) -> tuple[BankedLesion, ...]:
        """Choose lesions seen in every contrast that a visit has, in slices like its own."""
        return tuple(
            lesion
            for lesion in self.lesions
            if lesion.thick == thick
            and all(own or not wanted for own, wanted in zip(lesion.present, present, strict=True))
        )


def surroundings(image: Array, known: Mask) -> Array:
    """Estimate everywhere what the known voxels nearby look like.

    Parameters
    ----------
    image : ndarray of float32, shape (X, Y, Z)
    known : ndarray of bool, shape (X, Y, Z)

    Returns
    -------
    ndarray of float32, shape (X, Y, Z)
        Mean of the known voxels, weighted by a Gaussian of 3 mm; their median where none is near;
        0 where there is none at all.

    Examples
    --------
    >>> image = np.full((5, 5, 5), 2.0, np.float32)
    >>> image[2, 2, 2] = 9
    >>> float(surroundings(image, image < 9)[2, 2, 2])
    2.0
    """
    if not known.any():
        return np.zeros(image.shape, np.float32)
    middle = float(np.median(image[known]))
    near = ndimage.gaussian_filter(known.astype(np.float32), SURROUND_MM, mode="constant")
    # relative to the median, so that a constant stays exactly that
    total = ndimage.gaussian_filter(
        np.where(known, image - np.float32(middle), np.float32(0)), SURROUND_MM, mode="constant"
    )
    mean = total / np.maximum(near, np.float32(1e-6))
    return (middle + np.where(near > 1e-4, mean, 0)).astype(np.float32)


def _tissue(images: Array, brain: Mask, truth: Array) -> Mask:
    """Find brain that is neither lesion nor fluid."""
    return np.asarray(brain & (truth < TRACE) & (images[0] > FLUID_BELOW), bool)


def fill_bank(visits: Sequence[LabelledVisit]) -> LesionBank:
    """Take the lesions out of labelled visits.

    Parameters
    ----------
    visits : sequence of LabelledVisit

    Returns
    -------
    LesionBank
        Lesions of at least 3 mm³ and at most 32 mm wide.
    """
    return LesionBank(tuple(lesion for visit in visits for lesion in _take_out(visit)))


def _take_out(visit: LabelledVisit) -> list[BankedLesion]:
    labels = label_lesions(visit.truth >= 0.5, voxel_volume=1.0)
    found: list[BankedLesion] = []
    for number, tight in enumerate(ndimage.find_objects(labels), start=1):
        if max(side.stop - side.start for side in tight) > WIDEST:
            continue
        if np.count_nonzero(labels[tight] == number) >= SMALLEST:
            found.append(_bank(visit, labels, number, tight))
    return found


def _bank(
    visit: LabelledVisit, labels: NDArray[np.int32], number: int, tight: Box
) -> BankedLesion:
    x, y, z = (
        slice(max(side.start - MARGIN, 0), min(side.stop + MARGIN, extent))
        for side, extent in zip(tight, labels.shape, strict=True)
    )
    truth = visit.truth[x, y, z].astype(np.float32)
    images = visit.images[:, x, y, z].astype(np.float32)
    brain = visit.brain[x, y, z]
    own, others = labels[x, y, z] == number, labels[x, y, z] > 0
    others &= ~own
    nearer = ndimage.distance_transform_edt(~own) < MARGIN
    if others.any():
        nearer &= ndimage.distance_transform_edt(~own) <= ndimage.distance_transform_edt(~others)
    share = np.where(nearer, truth, 0)
    foreign = (truth >= TRACE) & (share < TRACE)
    away = ndimage.distance_transform_edt(share < TRACE)
    weight = np.clip(1 - away / FEATHER_MM, 0, 1) * ~foreign * brain
    known = _tissue(images, brain, truth)
    change = np.stack([image - surroundings(image, known) for image in images])
    # fluid and skull beside a lesion stay where they are
    change[:, ~(known | (share >= TRACE))] = 0
    change[~np.array(visit.present)] = 0
    return BankedLesion(
        visit.name,
        share.astype(np.float16),
        change.astype(np.float16),
        weight.astype(np.float16),
        visit.present,
        visit.thick,
    )


def mirror(lesion: BankedLesion, axes: Sequence[int]) -> BankedLesion:
    """Turn a lesion round along some of its three axes; slices stay slices."""
    turned = tuple(axes)
    return replace(
        lesion,
        share=np.flip(lesion.share, turned),
        change=np.flip(lesion.change, tuple(axis + 1 for axis in turned)),
        weight=np.flip(lesion.weight, turned),
    )


def paste(
    images: Array,
    present: Sequence[bool],
    known: Mask,
    truth: Array,
    lesion: BankedLesion,
    corner: Sequence[int],
    *,
    gain: float = 1.0,
) -> tuple[Array, Array]:
    """Put a lesion on the tissue of another image.

    Parameters
    ----------
    images : ndarray of float32, shape (3, X, Y, Z)
    present : sequence of 3 bool
        Contrasts that are there; the others stay as they are.
    known : ndarray of bool, shape (X, Y, Z)
        Brain that is neither lesion nor fluid.
    truth : ndarray of float32, shape (X, Y, Z)
        Share of each voxel that is lesion.
    lesion : BankedLesion
    corner : sequence of 3 int
        Voxel of the image on which the first voxel of the lesion's box comes to lie.
    gain : float, default 1
        Factor of the lesion's contrast.

    Returns
    -------
    images : ndarray of float32, shape (3, X, Y, Z)
        New array. Where the lesion's weight is 1, the target's surroundings plus what the lesion
        adds to its own.
    truth : ndarray of float32, shape (X, Y, Z)
        New array, the soft union.

    Raises
    ------
    ValueError
        If the lesion does not lie in the image.
    """
    x, y, z = (slice(int(a), int(a) + n) for a, n in zip(corner, lesion.share.shape, strict=True))
    if min(corner) < 0 or truth[x, y, z].shape != lesion.share.shape:
        raise ValueError(f"a lesion at {tuple(corner)} does not lie in an image of {truth.shape}")
    images, truth = images.copy(), truth.copy()
    weight = lesion.weight.astype(np.float32)
    share = lesion.share.astype(np.float32)
    for channel in np.flatnonzero(present):
        here = images[channel, x, y, z]
        ground = surroundings(here, known[x, y, z])
        wanted = ground + np.float32(gain) * lesion.change[channel].astype(np.float32)
        images[channel, x, y, z] = here + weight * (wanted - here)
    truth[x, y, z] = 1 - (1 - truth[x, y, z]) * (1 - share)
    return images, truth


@dataclass(frozen=True, slots=True)
class Room:
    """Where lesions may be pasted.

    Attributes
    ----------
    free : ndarray of bool, shape (X, Y, Z)
        Inside the brain, away from its border and from every lesion.
    normal : ndarray of bool, shape (X, Y, Z)
        The part of it that looks like white matter without a lesion.
    """

    free: Mask
    normal: Mask


def find_room(images: Array, present: Sequence[bool], brain: Mask, truth: Array) -> Room:
    """Find normal-appearing brain at least 3 mm from every lesion and from outside.

    Parameters
    ----------
    images : ndarray of float32, shape (3, X, Y, Z)
    present : sequence of 3 bool
    brain : ndarray of bool, shape (X, Y, Z)
    truth : ndarray of float32, shape (X, Y, Z)

    Returns
    -------
    Room
        Nowhere if there is no FLAIR.
    """
    if not present[0]:
        nowhere = np.zeros(brain.shape, bool)
        return Room(nowhere, nowhere)
    # the border of a sub-image is no border of the brain: the filter mirrors what is there
    inside = ndimage.minimum_filter(brain & (truth < TRACE), 2 * KEEP_AWAY + 1)
    flair = ndimage.gaussian_filter(images[0], 0.7)
    normal = inside & (flair > FLAIR_NORMAL[0]) & (flair < FLAIR_NORMAL[1])
    if present[1]:
        normal &= ndimage.gaussian_filter(images[1], 0.7) > T1W_WHITE
    return Room(inside, normal)


def find_corner(
    room: Room, lesion: BankedLesion, rng: np.random.Generator
) -> tuple[int, int, int] | None:
    """Draw a place where a lesion fits.

    Parameters
    ----------
    room : Room
    lesion : BankedLesion
    rng : Generator

    Returns
    -------
    tuple of int, or None
        First voxel of the lesion's box; None if no place was found in 20 tries.
    """
    share = lesion.share.astype(np.float32)
    body = share >= TRACE
    ends = [extent - n for extent, n in zip(room.normal.shape, share.shape, strict=True)]
    if min(ends) < 0:
        return None
    # the middle of the box comes to lie on a normal voxel, and all of the box in the image
    x, y, z = (slice(n // 2, n // 2 + end + 1) for n, end in zip(share.shape, ends, strict=True))
    places = np.flatnonzero(room.normal[x, y, z])
    for place in rng.choice(places, TRIES) if places.size else ():
        low = np.unravel_index(int(place), [end + 1 for end in ends])
        x, y, z = (slice(int(a), int(a) + n) for a, n in zip(low, share.shape, strict=True))
        mostly = share[room.normal[x, y, z]].sum() >= MOSTLY * share.sum()
        if mostly and room.free[x, y, z][body].all():
            return int(low[0]), int(low[1]), int(low[2])
    return None


def paste_some(
    sample: SubImage, bank: LesionBank, rng: np.random.Generator, *, thick: bool, most: int = 4
) -> SubImage:
    """Paste one to a few lesions into a sub-image.

    Parameters
    ----------
    sample : SubImage
        ``maps`` holds the truth and nothing else.
    bank : LesionBank
    rng : Generator
    thick : bool
        Whether the sub-image's visit was acquired in slices of 2 mm or more.
    most : int, default 4

    Returns
    -------
    SubImage
        The same one if no lesion of the bank fits.
    """
    present = [bool(flag) for flag in sample.present]
    lesions = bank.fitting(present, thick=thick)
    if not lesions:
        return sample
    images, truth = sample.images.numpy(), sample.maps[0].numpy()
    brain = sample.brain.numpy() >= 0.5
    for _ in range(int(rng.integers(1, most + 1))):
        lesion = lesions[int(rng.integers(len(lesions)))]
        lesion = mirror(lesion, np.flatnonzero(rng.random(3) < 0.5).tolist())
        gain = float(rng.uniform(0.8, 1.2))
        corner = find_corner(find_room(images, present, brain, truth), lesion, rng)
        if corner is not None:
            known = _tissue(images, brain, truth)
            images, truth = paste(images, present, known, truth, lesion, corner, gain=gain)
    return replace(sample, images=torch.from_numpy(images), maps=torch.from_numpy(truth)[None])
