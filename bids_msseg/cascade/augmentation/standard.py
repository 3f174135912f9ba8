"""The plan of fixed form: geometry, lesion contrast, slice thickness, intensities, contrasts.

All functions are pure: (sub-image, plan, random stream) in, sub-image out. Images are in units of
the brain's standard deviation, so amounts are stated in those units.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bids_msseg.cascade.augmentation.draw import grow
from bids_msseg.cascade.augmentation.sample import SIGNAL, SubImage, apart, together


@dataclass(frozen=True, slots=True)
class AugmentPlan:
    """How strongly to augment; all probabilities are per sub-image.

    Attributes
    ----------
    rotate_deg, scale, flip
        Largest rotation about each axis, largest relative change of size, chance of a left-right
        mirror.
    thick
        Chance of simulating 2-7 mm slices on a visit that was acquired with thin ones.
    bias, gain, shift, gamma, noise, blur_mm
        Largest amounts of each change of intensity, drawn for each contrast by itself.
    intensity
        Chance that a contrast's intensities are changed at all.
    lesion
        Largest relative change of the contrast between lesions and what surrounds them; they are
        dimmed twice as much as they are brightened.
    drop_t1w, drop_t2w
        Chance of hiding a contrast that is there.
    """

    rotate_deg: float = 15.0
    scale: float = 0.15
    flip: float = 0.5
    thick: float = 0.5
    bias: float = 0.25
    gain: float = 0.25
    shift: float = 0.4
    gamma: float = 0.35
    noise: float = 0.35
    blur_mm: float = 0.9
    intensity: float = 0.85
    lesion: float = 0.6
    drop_t1w: float = 0.25
    drop_t2w: float = 0.35


def apply_plan(sample: SubImage, plan: AugmentPlan, rng: np.random.Generator) -> SubImage:
    """Apply the whole plan to one sub-image.

    Parameters
    ----------
    sample : SubImage
        Cut somewhat larger than its ``size``, so that rotation does not bring in empty corners.
    plan : AugmentPlan
    rng : numpy Generator
        The sub-image's own random stream.

    Returns
    -------
    SubImage
        All edges as long as the sample's ``size``, or as its first edge where it has none.
    """
    size = sample.size or int(sample.brain.shape[0])
    moved = fade_lesions(move(sample, plan, rng, size), plan, rng)
    if sample.thin and rng.random() < plan.thick:
        moved = thicken(moved, rng)
    recoloured = torch.stack([recolour(image, plan, rng) for image in moved.images])
    return replace(moved, images=recoloured, present=drop_contrasts(moved.present, plan, rng))


def move(sample: SubImage, plan: AugmentPlan, rng: np.random.Generator, size: int) -> SubImage:
    """Rotate, scale and mirror; linear interpolation for everything."""
    angles = np.deg2rad(rng.uniform(-plan.rotate_deg, plan.rotate_deg, 3))
    stretch = 1.0 + rng.uniform(-plan.scale, plan.scale, 3)
    matrix = rotation(angles) @ np.diag(stretch)
    if rng.random() < plan.flip:
        matrix = matrix @ np.diag([-1.0, 1.0, 1.0])
    return apart(turn(together(sample), matrix, (size, size, size)), sample)


def turn(everything: Tensor, matrix: np.ndarray, edges: tuple[int, int, int]) -> Tensor:
    """Sample about the middle through a linear map; zero beyond the edges.

    Parameters
    ----------
    everything : Tensor, shape (C, X, Y, Z)
    matrix : ndarray, shape (3, 3) or (3, 4)
        From voxels of the result to voxels of the input, both counted from the middle; a fourth
        column is a shift.
    edges : tuple of int
        Shape of the result.

    Returns
    -------
    Tensor, shape (C, *edges)
    """
    before = everything.shape[1:]
    # grid_sample counts axes backwards and measures in half extents of the input
    theta = torch.zeros(1, 3, 4)
    scale = np.array([[after / edge for after in edges] for edge in before])
    theta[0, :, :3] = torch.from_numpy((matrix[:, :3] * scale)[::-1, ::-1].copy())
    if matrix.shape[1] == 4:
        shift = matrix[:, 3] * 2.0 / np.array(before)
        theta[0, :, 3] = torch.from_numpy(shift[::-1].copy())
    grid = F.affine_grid(theta, [1, 1, *edges], align_corners=False)
    return F.grid_sample(everything[None], grid, align_corners=False, padding_mode="zeros")[0]


def rotation(angles: np.ndarray) -> np.ndarray:
    """Matrix (3, 3) that turns about x, then y, then z; angles in radians, shape (3,)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    turned: np.ndarray = about_z @ about_y @ about_x
    return turned


def thicken(sample: SubImage, rng: np.random.Generator) -> SubImage:
    """Average 2-7 mm slabs along one axis and interpolate back, images and maps alike.

    The truth is averaged too: it becomes what a rater would have drawn on the thick slices.
    """
    axis = int(rng.choice(3, p=(0.15, 0.15, 0.7)))
    slab = int(rng.integers(2, 8))
    everything = torch.cat([sample.images, sample.maps])[None]
    extent = int(everything.shape[2 + axis])
    missing = [0] * 6
    # the last slab is filled up with its own last slice
    missing[2 * (2 - axis) + 1] = -extent % slab
    whole = F.pad(everything, missing, mode="replicate")
    window = [1, 1, 1]
    window[axis] = slab
    pooled = F.avg_pool3d(whole, window)
    grown = F.interpolate(pooled, size=whole.shape[2:], mode="trilinear", align_corners=False)[0]
    grown = grown.narrow(1 + axis, 0, extent)
    return replace(sample, images=grown[:3], maps=grown[3:])


def fade_lesions(sample: SubImage, plan: AugmentPlan, rng: np.random.Generator) -> SubImage:
    """Make the lesions of a sub-image stand out less or more than they do.

    Scanners differ in it more than augmentations of a whole image can say: the mean contrast
    between lesions and the 3 mm around them is changed by a share, the same in all contrasts.
    """
    lesion = sample.maps[0].clamp(0, 1)
    if rng.random() < 0.5 or not float(lesion.sum()) > 1.0:
        return sample
    share = float(rng.uniform(-plan.lesion, plan.lesion / 2))
    ring = (grow(lesion, 3) - lesion) * (sample.brain > 0.5)
    dims = (1, 2, 3)
    inside = (sample.images * lesion).sum(dims) / lesion.sum()
    around = (sample.images * ring).sum(dims) / ring.sum().clamp_min(1.0)
    change = (share * (inside - around)).view(3, 1, 1, 1) * lesion
    return replace(sample, images=sample.images + change)


def recolour(image: Tensor, plan: AugmentPlan, rng: np.random.Generator) -> Tensor:
    """Change one contrast: bias field, gamma, gain, shift, blur, noise."""
    if rng.random() > plan.intensity:
        return image
    edges = [int(edge) for edge in image.shape]
    coarse = torch.from_numpy(rng.normal(0, plan.bias / 2, (1, 1, 3, 3, 3)).astype(np.float32))
    field = F.interpolate(coarse, size=edges, mode="trilinear", align_corners=True)[0, 0]
    # a z-score has no zero to multiply from: brain tissue varies by about a quarter of its mean
    relative = (image * SIGNAL + 1.0).clamp_min(0.0) * torch.exp(field)
    gamma = float(np.exp(rng.uniform(-plan.gamma, plan.gamma)))
    result = (relative.clamp_min(1e-4) ** gamma - 1.0) / (SIGNAL * gamma)
    result = result * float(1 + rng.uniform(-plan.gain, plan.gain))
    result = result + float(rng.uniform(-plan.shift, plan.shift))
    if rng.random() < 0.3:
        result = blur(result, float(rng.uniform(min(0.3, plan.blur_mm), plan.blur_mm)))
    if rng.random() < 0.5:
        amount = float(rng.uniform(0, plan.noise))
        grain = rng.standard_normal(edges, dtype=np.float32)
        result = result + amount * torch.from_numpy(grain)
    return result.clamp(-5.0, 5.0)


def blur(image: Tensor, sigma: float) -> Tensor:
    """Convolve with a Gaussian, truncated at three voxels; ``sigma`` in voxels."""
    offsets = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    result = image[None, None]
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0] * 6
        shape[2 + axis] = 7
        padding[4 - 2 * axis : 6 - 2 * axis] = 3, 3
        result = F.conv3d(F.pad(result, padding, mode="replicate"), kernel.view(shape))
    return result[0, 0]


def drop_contrasts(present: Tensor, plan: AugmentPlan, rng: np.random.Generator) -> Tensor:
    """Hide T1w or T2w now and then, so that one net serves any subset that holds FLAIR."""
    kept = present.clone()
    for channel, chance in ((1, plan.drop_t1w), (2, plan.drop_t2w)):
        if rng.random() < chance:
            kept[channel] = 0.0
    return kept
