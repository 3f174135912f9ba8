"""Counting of expert lesions in the same way as painted ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from check_reference import experts_lesions

from bids_msseg.check.visit import FirstScan, Prepared
from bids_msseg.imaging.normalise import Stack
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.regions import Region

SHAPE = (12, 8, 8)
LARGE, SMALL, TINY = np.s_[2:5, 2:4, 2:4], np.s_[8, 2:5, 2], np.s_[10, 6, 6:8]


def scanned(affine: np.ndarray) -> FirstScan:
    """First scan that finds one voxel of the large lesion; the small one has its own region."""
    brain = np.ones(SHAPE, bool)
    stack = Stack(np.zeros((3, *SHAPE), np.float32), (True, False, False), brain, affine, 1.0)
    regions = np.full(SHAPE, Region.DEEP_WHITE_MATTER, np.int8)
    regions[8] = Region.INFRATENTORIAL
    outside, anatomy = ~brain, np.ones(SHAPE, np.uint8)
    blur, noise = np.zeros((3, 3)), (0.1, 0.1, 0.1)
    prepared = Prepared(
        "sub-1", stack, outside, anatomy, regions, (1.0, 1.0, 1.0), blur, noise, ()
    )
    lesions = np.zeros(SHAPE, np.int32)
    lesions[2, 2, 2] = 1
    canvas: Any = None
    return FirstScan(prepared, lesions, canvas)


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_expert_lesions_are_counted_on_network_grid(flip: float) -> None:
    """The expert mask may have another voxel order than the grid of the networks."""
    truth = np.zeros(SHAPE, np.float32)
    for place in (LARGE, SMALL, TINY):
        truth[place] = 1
    affine = np.diag([flip, 1.0, 1.0, 1.0])
    affine[0, 3] = 0 if flip > 0 else SHAPE[0] - 1
    stored = truth if flip > 0 else truth[::-1]
    assert experts_lesions(scanned(np.eye(4)), Volume(stored, affine)) == [
        {"volume_mm3": 12.0, "size": "10-50", "region": "deep_white_matter", "found": True},
        {"volume_mm3": 3.0, "size": "3-10", "region": "infratentorial", "found": False},
    ]


def test_empty_expert_mask_gives_no_lesions() -> None:
    empty = Volume(np.zeros(SHAPE, np.float32), np.eye(4))
    assert experts_lesions(scanned(np.eye(4)), empty) == []
