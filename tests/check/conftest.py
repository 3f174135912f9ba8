"""A spherical brain phantom for painting lesions, and results of checked visits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_msseg.check.painting import Canvas, find_terrain, size_level
from bids_msseg.check.summary import VisitCheck
from bids_msseg.lesions.regions import RegionAnatomy
from bids_msseg.models.anatomy import Anatomy as Tissue

EDGE = 80
BLOCKED = (slice(44, 56), slice(50, 60), slice(44, 54))
"""White matter in which nothing may be painted."""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ball(radius: float, centre: Sequence[float] = (40, 40, 40)) -> NDArray[np.bool_]:
    axes = np.ogrid[:EDGE, :EDGE, :EDGE]
    distance = sum((axis - at) ** 2 for axis, at in zip(axes, centre, strict=True))
    return np.asarray(distance <= radius**2, bool)


@pytest.fixture(scope="session")
def brain() -> dict[str, NDArray[Any]]:
    """Brain mask, CNN-1 classes, codes of the region anatomy, and voxels without painting."""
    inside, ventricle, white = ball(36), ball(9), ball(31)
    below = np.zeros_like(inside)
    below[:, :, :22] = True
    tissue = np.where(inside, Tissue.CORTEX, Tissue.BACKGROUND).astype(np.uint8)
    tissue[white] = Tissue.WHITE_MATTER
    tissue[white & below] = Tissue.BRAINSTEM
    tissue[ventricle] = Tissue.VENTRICLE
    anatomy = np.where(inside, RegionAnatomy.SUPRATENTORIAL, RegionAnatomy.OUTSIDE).astype(
        np.uint8
    )
    anatomy[inside & ~white] = RegionAnatomy.CORTEX
    anatomy[inside & below] = RegionAnatomy.INFRATENTORIAL
    anatomy[ventricle] = RegionAnatomy.VENTRICLE
    blocked = ~inside
    blocked[BLOCKED] = True
    return {"inside": inside, "tissue": tissue, "anatomy": anatomy, "blocked": blocked}


@pytest.fixture(scope="session")
def canvas(brain: dict[str, NDArray[Any]]) -> Canvas:
    """A constant brain without T2w and blur; own lesions are 1.5 brighter on FLAIR."""
    inside = brain["inside"]
    images = np.zeros((3, *inside.shape), np.float32)
    images[:2, ~inside] = -3
    return Canvas(
        images,
        (True, True, False),
        inside,
        find_terrain(brain["tissue"], brain["anatomy"], brain["blocked"]),
        np.array([1.5, -0.6, 1.2], np.float32),
        np.zeros((3, 3)),
    )


def lesion(volume: float, *, found: bool, **more: Any) -> dict[str, Any]:
    """Row of a painted lesion; a found one is predicted with twice its volume."""
    row = {
        "draw": 1,
        "index": 1,
        "volume_mm3": volume,
        "size": size_level(volume),
        "region": "deep_white_matter",
        "strength": 1.0,
        "flair_contrast": 1.5,
        "x": 1.0,
        "y": 2.0,
        "z": 3.0,
        "found": found,
        "found_mm3": 2 * volume * found,
        "max_probability": 0.9 * found,
    }
    return {**row, **more}


def visit_check(
    participant: str = "01", load: float = 2.0, rescans: Sequence[float] = (2.2,), **more: Any
) -> VisitCheck:
    """A visit with a small lesion that was missed and a large one that was found."""
    content: dict[str, Any] = {
        "session": None,
        "lesions": (lesion(5.0, found=False, strength=0.4), lesion(300.0, found=True)),
        "draws": (
            {"draw": 1, "painted_ml": 0.305, "found_ml": 0.6, "n_false": 1, "false_ml": 0.004},
        ),
        "rescans": tuple(
            {"rescan": number, "load_ml": value, "dice": 0.8}
            for number, value in enumerate(rescans, 1)
        ),
        "load_ml": load,
        "contrast": (1.5, -0.6, 1.2),
        "noise": (0.05, 0.06, 0.1),
        "flags": (),
        "seconds": 12.5,
    }
    return VisitCheck(participant, **{**content, **more})


@pytest.fixture(scope="session")
def make_check() -> Callable[..., VisitCheck]:
    """Maker of checked visits; keywords replace fields."""
    return visit_check


@pytest.fixture(scope="session")
def make_lesion() -> Callable[..., dict[str, Any]]:
    """Maker of rows of painted lesions; keywords replace columns."""
    return lesion
