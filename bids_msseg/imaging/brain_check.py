"""Comparison of a brain mask with the template's brain, and removal of leaks into the scalp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bids_msseg.imaging.brain import brain_volume_ml, largest_component
from bids_msseg.imaging.resample import mask_onto
from bids_msseg.imaging.volume import Affine, Volume

MISFIT_MM = 5.0
"""Largest error of the template's surface after an affine alignment."""
FAR_MM = 12.0
"""Distance beyond the template's brain that only skull and scalp reach."""
BRIGHT = 1.4
"""Intensity of fat on FLAIR as a multiple of the brain's median; cortex has 1.2."""
BRIGHT_SHARE = 0.25
RAGGED_SHARE = 0.5
MIN_LEAK_ML = 0.2
"""Smaller parts stay in the mask: candidates in them are rejected one by one."""
LOCAL_ML = 25.0
"""Largest leak that is removed; a larger one needs inspection."""
REST_MM, GROW_MM = 2.0, 6.0
"""Within GROW_MM of a leak, the mask is cut back to REST_MM from the template."""
CONVEX_ABOVE_MM = -10.0
"""Height in the template below which the brain has clefts and is not compared."""
CORD_BELOW_MM = -50.0
"""Height in the template below which a mask may continue along the cord."""
EXTRACEREBRAL_MM = 4.0
"""Distance outside the template's brain beyond which no lesion can be."""
CORE_MM = 10.0
MAX_LACKING_ML = 40.0
_CROSS = np.array([[[0, 1, 0], [1, 1, 1], [0, 1, 0]]], bool)

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class CheckedBrain:
    """A brain mask after the comparison with the template."""

    mask: Mask  # the input array if nothing was removed
    extracerebral: Mask  # where no lesion can be
    notes: tuple[str, ...] = ()  # what was removed
    faults: tuple[str, ...] = ()  # what needs inspection


def check_brain(
    flair: Volume, mask: Mask, template: Volume, to_template: Affine, *, repair: bool = True
) -> CheckedBrain:
    """Compare a brain mask with the template's; ``to_template`` maps FLAIR mm to template mm."""
    template_brain = mask_onto(template, flair.shape, flair.affine, transform=to_template)
    empty = np.zeros_like(mask)
    if not template_brain.any():
        fault = "the registered template is outside the image"
        return CheckedBrain(mask, empty, faults=(fault,))
    box = _box(mask | template_brain)
    shift = np.eye(4)
    shift[:3, 3] = [side.start for side in box]
    cut = Volume(flair.data[box], flair.affine @ shift)
    checked = _check(cut, mask[box], template_brain[box], to_template, repair=repair)
    repaired, extracerebral = mask, empty
    extracerebral[box] = checked.extracerebral
    if checked.notes:
        repaired = np.zeros_like(mask)
        repaired[box] = checked.mask
    return CheckedBrain(repaired, extracerebral, checked.notes, checked.faults)


def _box(mask: Mask) -> tuple[slice, slice, slice]:
    """Return the bounding box of a mask, one voxel wider to contain its surface."""
    x, y, z = ndimage.find_objects(mask.astype(np.int8))[0]
    return (
        slice(max(x.start - 1, 0), x.stop + 1),
        slice(max(y.start - 1, 0), y.stop + 1),
        slice(max(z.start - 1, 0), z.stop + 1),
    )


def _check(
    flair: Volume, mask: Mask, template_brain: Mask, to_template: Affine, *, repair: bool
) -> CheckedBrain:
    height = _height(flair, to_template)
    outside = ndimage.distance_transform_edt(~template_brain, flair.spacing).astype(np.float32)
    extracerebral = (outside > EXTRACEREBRAL_MM) & (height > CORD_BELOW_MM)
    convex = height > CONVEX_ABOVE_MM
    faults = _missing_brain(mask, template_brain & convex, flair)
    leak = _leak(flair, mask, outside * convex, template_brain)
    size = brain_volume_ml(leak, flair.voxel_volume)
    if not size:
        return CheckedBrain(mask, extracerebral, faults=faults)
    if size > LOCAL_ML or not repair:
        fault = f"the brain mask has {size:.1f} mL outside the template's brain: check the mask"
        return CheckedBrain(mask, extracerebral, faults=(fault, *faults))
    near = ndimage.distance_transform_edt(~leak, flair.spacing) <= GROW_MM
    repaired = largest_component(mask & ~(leak | (near & convex & (outside > REST_MM))))
    removed_ml = brain_volume_ml(mask & ~repaired, flair.voxel_volume)
    note = (
        f"{removed_ml:.1f} mL outside the brain, such as scalp, were removed from the brain mask"
    )
    return CheckedBrain(repaired, extracerebral, (note,), faults)


def _height(flair: Volume, to_template: Affine) -> NDArray[np.float64]:
    """Return the height of every voxel in the world of the template, mm."""
    x, y, z = np.ogrid[tuple(slice(size) for size in flair.shape)]
    row = (to_template @ flair.affine)[2]
    height: NDArray[np.float64] = row[0] * x + row[1] * y + row[2] * z + row[3]
    return height


def _leak(flair: Volume, mask: Mask, outside: NDArray[np.floating], template_brain: Mask) -> Mask:
    """Find the parts of a mask beyond the template's brain that are not brain."""
    labels, count = ndimage.label(mask & (outside > MISFIT_MM), np.ones((3, 3, 3)))
    if not count:
        return np.zeros_like(mask)
    level = (
        float(np.median(flair.data[mask & template_brain]))
        if (mask & template_brain).any()
        else 0.0
    )
    bright = (flair.data > BRIGHT * level) & (level > 0)
    ragged = _ragged(mask, flair.spacing)
    sizes = np.bincount(labels.ravel())
    shares = [
        np.bincount(labels[marked], minlength=count + 1) / sizes for marked in (bright, ragged)
    ]
    reach = np.zeros(count + 1)
    reach[1:] = ndimage.maximum(outside, labels, np.arange(1, count + 1))
    is_leak = (reach >= FAR_MM) | (shares[0] >= BRIGHT_SHARE) | (shares[1] >= RAGGED_SHARE)
    is_leak &= sizes * flair.voxel_volume / 1000 >= MIN_LEAK_ML
    is_leak[0] = False
    leak: Mask = is_leak[labels]
    return leak


def _ragged(mask: Mask, spacing: NDArray[np.float64]) -> Mask:
    """Mark voxels that the next slice towards the middle of the brain does not support."""
    axis = 2 - int(np.argmax(spacing[::-1]))
    plane = [float(edge) for index, edge in enumerate(spacing) if index != axis]
    along = np.moveaxis(mask, axis, 0)
    middle = int(along.sum(axis=(1, 2)).argmax())
    inner = np.concatenate([along[1 : middle + 1], along[middle : middle + 1], along[middle:-1]])
    # the outline shrinks away from the largest slice; it may grow by the distance of two slices
    steps = max(1, round(float(spacing[axis]) / min(plane)))
    supported = ndimage.binary_dilation(inner, _CROSS, iterations=steps)
    return np.moveaxis(along & ~supported, 0, axis)


def _missing_brain(mask: Mask, template_brain: Mask, flair: Volume) -> tuple[str, ...]:
    """Return a fault if the mask lacks too much of the middle of the template's brain."""
    deep = ndimage.distance_transform_edt(template_brain, flair.spacing) > CORE_MM
    size = brain_volume_ml(deep & ~mask, flair.voxel_volume)
    if size <= MAX_LACKING_ML:
        return ()
    return (f"the brain mask lacks {size:.0f} mL of the template's brain: check the mask",)
