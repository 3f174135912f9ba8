"""Fixtures that every room shares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

SHARED = Path(
    os.environ.get("MSSEG_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say so, what needs the cohorts where they are not beside the repository."""
    if SHARED.is_dir():
        return
    reason = "the labelled and raw cohorts are not beside the repository (MSSEG_SHARED_DATA)"
    for item in items:
        if item.get_closest_marker("realdata"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder that holds ``ms-cohort``, ``raw-heads`` and ``label-maps``; use with ``realdata``."""
    return SHARED


@pytest.fixture(scope="session")
def bright_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cascade of widths (4, 8) set by hand, not trained: it finds what is bright on FLAIR.

    CNN-1 hands the FLAIR on to its head; what only passes the gate is refused because CNN-2 says
    one half to every voxel.
    """
    import torch

    from bids_msseg.cascade.checkpoint import save_cascade
    from bids_msseg.cascade.networks import CandidateNet, RefinementNet
    from bids_msseg.models.weights import OperatingPoint

    torch.manual_seed(7)
    first, second = CandidateNet((4, 8)), RefinementNet((4, 8))
    with torch.no_grad():
        for block, source in ((first.unet.encoder[0], 0), (first.unet.decoder[0], 8)):
            for convolution, channel in ((block[0], source), (block[3], 0)):
                convolution.weight.zero_()
                convolution.weight[0, channel, 1, 1, 1] = 1
        first.head.weight.zero_()
        first.head.weight[0, 0] = 1.5
        first.head.bias.fill_(-12.5)
        for parameter in second.parameters():
            parameter.zero_()
        second.lesion[2].bias.fill_(3.0)
    path = tmp_path_factory.mktemp("model") / "bright.safetensors"
    point = OperatingPoint(gate=0.05, keep=0.5, threshold=0.5)
    save_cascade(path, [first], [second], name="bright", version="0", point=point)
    return path


LESIONS = (((22, 8, 12), (6, 8, 7)), ((-26, -18, 18), (6, 6, 6)), ((20, -26, 8), (6, 5, 6)))
"""Centres and half axes of the phantom's lesions in mm."""
DIM = ((-26, 22, 14), (5, 6, 6))
"""A spot that is a candidate and no lesion."""
LEVELS = {
    # white matter, grey matter, fluid, lesion, dim spot
    "FLAIR": (100, 130, 40, 230, 160),
    "T1w": (200, 140, 50, 130, 180),
    "T2w": (90, 120, 250, 180, 120),
}


class Phantom:
    """A skull-stripped brain of ellipsoids, about 0.9 L, with three lesions and a dim spot."""

    def __init__(self, shape: tuple[int, int, int], affine: np.ndarray) -> None:
        self.shape, self.affine = shape, affine

    def inside(self, centre: Sequence[float], half_axes: Sequence[float]) -> np.ndarray:
        """Voxels whose centre lies in an ellipsoid."""
        index = np.indices(self.shape).reshape(3, -1)
        world = self.affine[:3, :3] @ index + self.affine[:3, 3:]
        scaled = (world - np.array(centre)[:, None]) / np.array(half_axes)[:, None]
        return ((scaled**2).sum(0) <= 1).reshape(self.shape)

    @property
    def lesions(self) -> np.ndarray:
        return np.any([self.inside(*one) for one in LESIONS], axis=0)

    def image(self, contrast: str, seed: int = 0) -> np.ndarray:
        """Intensities as float32, zero outside the brain."""
        white, grey, fluid, lesion, dim = LEVELS[contrast]
        data = np.zeros(self.shape)
        brain = self.inside((0, 0, 0), (56, 72, 52))
        for where, level in (
            (brain, fluid),
            (self.inside((0, 0, 0), (54, 70, 50)), grey),
            (self.inside((0, 0, 0), (50, 66, 46)), white),
            (self.inside((8, 0, 6), (7, 22, 12)), fluid),
            (self.inside((-8, 0, 6), (7, 22, 12)), fluid),
            # nothing in a head is symmetric
            (self.inside((30, -40, -18), (14, 12, 10)), grey),
            (self.lesions, lesion),
            (self.inside(*DIM), dim),
        ):
            data[where] = level
        noise = np.random.default_rng(seed).normal(0, 3, self.shape)
        return np.where(brain, np.maximum(data + noise, 1), 0).astype(np.float32)

    def write(self, path: Path, contrast: str, *, seed: int = 0, kind: str = "float32") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(self.image(contrast, seed).astype(kind), self.affine)
        image.header.set_xyzt_units("mm", "sec")
        nib.save(image, path)
        return path


def phantom_grid(
    axes: str = "RAS", spacing: Sequence[float] = (2.0, 2.0, 4.0), turn: float = 0.0
) -> Phantom:
    """Lay a grid over the phantom: stored axes, edges along R, A and S in mm, turn in degrees."""
    extent = np.array([124.0, 156.0, 116.0])
    order = [0 if c in "LR" else 1 if c in "PA" else 2 for c in axes]
    signs = [1.0 if c in "RAS" else -1.0 for c in axes]
    shape = tuple(int(np.ceil(extent[world] / spacing[world])) for world in order)
    angle = np.deg2rad(turn)
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = np.eye(4)
    for column, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[:3, column] = rotation[:, world] * sign * spacing[world]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Phantom((shape[0], shape[1], shape[2]), affine)


@pytest.fixture(scope="session")
def make_phantom() -> Callable[..., Phantom]:
    """Maker of phantoms; see :func:`phantom_grid`."""
    return phantom_grid
