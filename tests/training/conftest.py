from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis.tissues import (
    FIRST_EXTRA,
    LabelMap,
    LesionDraw,
    brain_distance,
    ventricle_distance,
)

EDGE = 64
CUBE = (slice(26, 34), slice(40, 46), slice(28, 36))
"""Position of the only lesion of the ball."""


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ball() -> NDArray[np.uint8]:
    """Tissue codes: cortex around white matter, one ventricle, fluid, then two kinds of scalp."""
    axes = np.indices((EDGE, EDGE, EDGE)) - (EDGE - 1) / 2
    away = np.sqrt((axes**2).sum(0))
    tissue = np.zeros(away.shape, np.uint8)
    for radius, code in ((31, FIRST_EXTRA + 2), (27, FIRST_EXTRA + 8), (24, 13), (22, 2), (18, 1)):
        tissue[away < radius] = code
    tissue[28:36, 20:34, 29:35] = 3
    return tissue


@pytest.fixture(scope="session")
def label_map() -> LabelMap:
    tissue = ball()
    brain = np.where(tissue >= FIRST_EXTRA, np.uint8(17), tissue)
    share, owner = np.zeros(tissue.shape, np.uint8), np.zeros(tissue.shape, np.int16)
    share[CUBE], owner[CUBE] = 255, 1
    voxels = np.flatnonzero(share).astype(np.int32)
    nothing = np.zeros(0, np.int32)
    lesion = LesionDraw(voxels, share.ravel()[voxels], owner.ravel()[voxels], nothing)
    empty = LesionDraw(nothing, nothing.astype(np.uint8), nothing.astype(np.int16), nothing)
    return LabelMap(
        "ball", tissue, brain_distance(brain), ventricle_distance(tissue == 3), (lesion, empty)
    )


@pytest.fixture(scope="session")
def visit() -> LabelledVisit:
    rng = np.random.default_rng(2)
    brain = (ball() > 0) & (ball() < FIRST_EXTRA)
    truth = np.zeros(brain.shape, np.float16)
    truth[CUBE] = 1
    images = np.where(brain, rng.normal(size=(3, *brain.shape)), -3)
    images[0][CUBE] += 3
    return LabelledVisit(
        "sub-01", "a", images.astype(np.float16), (True, True, False), brain, truth, 1.0
    )
