"""Synthetic head around a brain, realistic enough for a brain extractor only.

deepbet finds the brain with a Dice of .98 (FLAIR, T1w) or .88-.90 (T2w, with some muscle).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.demo.brain import Brain, smooth_field, upsample
from bids_msseg.imaging.volume import Affine

# left, front/back and below/above of the brain, in mm
MARGINS = ((24, 24), (24, 36), (48, 24))
# In SD of the brain, in the order FLAIR, T1w, T2w.
INTENSITIES: Mapping[str, tuple[float, float, float]] = {
    "air": (-3.5, -2.75, -2.3),
    "fluid": (-3.1, -2.3, 4.0),
    "bone": (-3.0, -2.3, -2.1),
    "marrow": (-1.8, -1.1, -1.6),
    "muscle": (-0.5, -0.4, -1.7),
    "fat": (1.5, 2.2, 1.6),
}
MATERIALS = tuple(INTENSITIES)


@dataclass(frozen=True, slots=True)
class Scene:
    """Images, brain and body on a 1 mm grid; ``affine`` maps to the participant's mm."""

    affine: Affine
    images: NDArray[np.float32]  # (3, X, Y, Z): FLAIR, T1w and T2w in SD of the brain
    brain: NDArray[np.float32]  # a fraction
    body: NDArray[np.bool_]  # must be inside the field of view
    box: tuple[slice, slice, slice]  # part of the grid that the brain alone covers


def brain_only(brain: Brain) -> Scene:
    """Make a scene of a brain without a head."""
    everywhere = (slice(None), slice(None), slice(None))
    return Scene(brain.affine, brain.images, brain.mask, brain.mask >= 0.5, everywhere)


def add_head(brain: Brain, rng: np.random.Generator) -> Scene:
    """Make a scene of a brain with a random synthetic head around it."""
    starts = [low for low, _ in MARGINS]
    affine = brain.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ starts
    mask = np.pad(brain.mask, MARGINS)
    layers = _layers(mask[::2, ::2, ::2] >= 0.5, affine, rng)
    intensities = np.array(list(INTENSITIES.values()), np.float32)
    images = np.empty((len(brain.images), *mask.shape), np.float32)
    for channel, image in enumerate(brain.images):
        mottled = (
            0.3 * (layers >= MATERIALS.index("muscle")) * smooth_field(rng, layers.shape, 3.0)
        )
        around = upsample(
            ndimage.gaussian_filter(intensities[layers, channel] + mottled, 0.4), mask.shape
        )
        images[channel] = mask * np.pad(image, MARGINS) + (1.0 - mask) * around
    body = upsample((layers > 0).astype(np.float32), mask.shape) >= 0.5
    x, y, z = (slice(i, i + n) for i, n in zip(starts, brain.mask.shape, strict=True))
    return Scene(affine, images, mask, body, (x, y, z))


def _layers(
    brain: NDArray[np.bool_], affine: Affine, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Choose the material of every second voxel: an index into :data:`MATERIALS`."""
    wrinkle = 0.8 * smooth_field(rng, brain.shape, 7.5)
    inner = _distance(brain) + wrinkle
    outer = _distance(_hull(brain)) + wrinkle
    below = _distance(_face_and_neck(brain.shape, affine))
    choices = {
        "fluid": inner < 2.5,
        "marrow": (inner >= 4.5) & (np.abs(outer - 5.5) < 1.0),
        "bone": outer < 8.5,
        "muscle": ((outer >= 10.5) & (outer < 12.0)) | (below <= 0.0),
        "fat": (outer < 13.5) | (below <= 4.0),
    }
    codes = [MATERIALS.index(name) for name in choices]
    layers = np.select(list(choices.values()), codes, MATERIALS.index("air"))
    return np.asarray(layers, np.uint8)


def _hull(brain: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill the gaps between brain, cerebellum and brainstem, as inside the skull."""
    reach = 15
    padded = np.pad(brain, reach + 1)
    grown = ndimage.distance_transform_edt(~padded) <= reach
    closed = ndimage.distance_transform_edt(grown) > reach
    inside = slice(reach + 1, -reach - 1)
    return np.asarray(closed[inside, inside, inside] | brain, bool)


def _distance(target: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the smoothed distance to a target in mm."""
    distance = 2.0 * ndimage.distance_transform_edt(~target)
    return np.asarray(ndimage.gaussian_filter(distance.astype(np.float32), 1.0))


def _face_and_neck(shape: tuple[int, ...], affine: Affine) -> NDArray[np.bool_]:
    """Draw an ellipsoid for the face and a cylinder for the neck, in mm of the template."""
    x, y, z = (
        2 * np.arange(size).reshape([-1 if a == axis else 1 for a in range(3)]) + affine[axis, 3]
        for axis, size in enumerate(shape)
    )
    face = (x / 56) ** 2 + ((y - 42) / 40) ** 2 + ((z + 56) / 56) ** 2 < 1
    neck = ((x / 50) ** 2 + ((y + 25) / 54) ** 2 < 1) & (z < -40)
    return np.asarray(face | neck, bool)
