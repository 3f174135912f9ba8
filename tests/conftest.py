"""Fixtures that all tests share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from bids_msseg.training.data.visits import LabelledVisit

# a correct test must not fail on a busy computer
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

SHARED = Path(
    os.environ.get("MSSEG_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``realdata`` if the cohorts are missing."""
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
def bids_issues() -> Callable[[Path], list[dict[str, Any]]]:
    """Function that returns the official BIDS validator's issues of a dataset."""
    beside = Path(sys.executable).with_name("bids-validator-deno")
    found = str(beside) if beside.exists() else shutil.which("bids-validator-deno")
    assert found, "bids-validator-deno is one of the test requirements of setup.py"

    def validate(folder: Path) -> list[dict[str, Any]]:
        words = [found, str(folder), "--format", "json"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        issues: list[dict[str, Any]] = json.loads(done.stdout)["issues"]["issues"]
        return issues

    return validate


@pytest.fixture(scope="session")
def bright_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained cascade with fixed weights: it segments bright voxels on FLAIR."""
    from small_net import write_small_net

    return write_small_net(tmp_path_factory.mktemp("model") / "bright.safetensors")


@pytest.fixture(scope="session")
def toy_cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained cascade with pretrained CNN-1; its header names ``sub-99`` as training data."""
    import torch

    from bids_msseg.models.checkpoint import save_cascade
    from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
    from bids_msseg.models.lesion_refinement import LesionRefinementConfig, LesionRefinementNet
    from bids_msseg.models.weights import CascadePoint

    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("given") / "toy.safetensors"
    save_cascade(
        path,
        [LesionAnatomyNet(LesionAnatomyConfig((4, 8)))],
        LesionRefinementNet(LesionRefinementConfig((4, 6, 8))),
        unseen=LesionAnatomyNet(LesionAnatomyConfig((4, 8))),
        name="toy",
        version="0",
        point=CascadePoint(candidate_threshold=0.01),
        notes={"visits": ["sub-99"], "images": {"sub-99": "0"}},
    )
    return path


LESIONS = (((22, 8, 12), (6, 8, 7)), ((-26, -18, 18), (6, 6, 6)), ((20, -26, 8), (6, 5, 6)))
"""Centres and half axes of the phantom's lesions in mm."""
DIM = ((-26, 22, 14), (5, 6, 6))
"""Centre and half axes of a dim spot that is a candidate but not a lesion."""
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
            # no phantom is left-right symmetric
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
    """Create a phantom on a grid: axis codes, voxel size in R, A, S in mm, turn in degrees."""
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
    """The function :func:`phantom_grid`."""
    return phantom_grid


EDGE = 32
"""Edge length of the images of the labelled cohort, in voxels of 1 mm."""


def _save(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.diag([-1.0, 1, 1, 1])), path)


@pytest.fixture(scope="session")
def labelled_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five participants of two sites; sub-02 has no T2w, sub-04 has two sessions."""
    root = tmp_path_factory.mktemp("cohort") / "raw"
    visits = ["sub-01", "sub-02", "sub-03", "sub-04/ses-1", "sub-04/ses-2", "sub-05"]
    distance = np.sqrt(sum((axis - EDGE / 2) ** 2 for axis in np.indices((EDGE,) * 3)))
    brain = distance < 0.42 * EDGE
    for number, visit in enumerate(visits):
        rng = np.random.default_rng(number)
        truth = np.zeros(brain.shape, np.uint8)
        for low in rng.integers(10, 20, (3, 3)):
            truth[tuple(slice(int(a), int(a) + 3) for a in low)] = 1
        stem = visit.replace("/", "_")
        for contrast, gain in (("FLAIR", 90), ("T1w", -40), ("T2w", 60)):
            if (visit, contrast) == ("sub-02", "T2w"):
                continue
            image = np.where(brain, 100 + float(gain) * truth + rng.normal(0, 8, brain.shape), 0)
            _save(root / visit / "anat" / f"{stem}_{contrast}.nii.gz", image.astype(np.float32))
        manual = root / "derivatives" / "manual" / visit / "anat" / f"{stem}_space-FLAIR"
        _save(Path(f"{manual}_label-L_mask.nii.gz"), truth)
        _save(Path(f"{manual}_desc-brain_mask.nii.gz"), brain.astype(np.uint8))
    description = {"Name": "toy", "BIDSVersion": "1.10.1", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    sites = "\n".join(f"sub-0{n}\t{'AB'[n % 2]}" for n in range(1, 6))
    (root / "participants.tsv").write_text(f"participant_id\tsite\n{sites}\n")
    return root


@pytest.fixture(scope="session")
def make_visit() -> Callable[..., LabelledVisit]:
    """Function that creates a visit: spherical brain with noise, box-shaped lesions."""
    from bids_msseg.training.data.visits import LabelledVisit

    def make(
        name: str = "sub-01",
        *,
        site: str = "X",
        edge: int = 32,
        lesions: int = 4,
        seed: int = 0,
        present: tuple[bool, bool, bool] = (True, True, True),
    ) -> LabelledVisit:
        rng = np.random.default_rng(seed)
        shape = (edge, edge, edge)
        middle = (edge - 1) / 2
        distance = np.sqrt(sum((axis - middle) ** 2 for axis in np.indices(shape)))
        brain = distance < 0.45 * edge
        truth = np.zeros(shape, np.float16)
        for _ in range(lesions):
            low = rng.integers(edge // 3, 2 * edge // 3 - 2, 3)
            wide = rng.integers(2, 5, 3)
            box = tuple(slice(int(a), int(a + w)) for a, w in zip(low, wide, strict=True))
            truth[box] = 1
        images = rng.normal(0, 0.4, (3, *shape))
        images[0] += 3 * truth
        images[1] -= 1 * truth
        images[:, ~brain] = -3
        images[~np.array(present)] = 0
        return LabelledVisit(
            name, site, images.astype(np.float16), present, brain, truth, slice_mm=1.0
        )

    return make
