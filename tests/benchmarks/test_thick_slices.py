from __future__ import annotations

from functools import partial

import numpy as np
from thick_slices import in_plane, thicken

from bids_msseg.check.rescan import RescanPlan, pseudo_rescan
from bids_msseg.imaging.normalise import zscore


def test_thicken_of_small_example() -> None:
    line = np.array([0, 3, 6, 9, 9, 9, 0], float)
    # the last slice is completed with the last plane
    np.testing.assert_allclose(thicken(line, 3, 0), [3, 3, 5, 7, 9, 6, 3], atol=1e-6)
    field = np.broadcast_to(line[None, :, None], (2, 7, 2))
    np.testing.assert_allclose(thicken(field, 3, 1)[1, :, 1], [3, 3, 5, 7, 9, 6, 3], atol=1e-6)
    np.testing.assert_array_equal(thicken(line, 1, 0), line)
    np.testing.assert_allclose(thicken(line[:2], 3, 0), [2, 2])


def test_thick_slices_blur_only_through_plane() -> None:
    index = np.indices((28, 26, 24)).astype(float)
    far = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(index, (13, 12, 11), strict=True)))
    brain = far < 10
    images = np.where(brain, zscore(np.sin(0.2 * index[0]), brain), -3).astype(np.float32)[None]
    still = RescanPlan(degrees=0, shift=(0, 0, 0), noise=0, slices=3)
    thin = pseudo_rescan(images, (True,), brain, still)
    thick = pseudo_rescan(images, (True,), brain, still, partial(thicken, voxels=3, axis=2))
    assert not np.array_equal(thin.images, thick.images)
    # this contrast varies along x only
    np.testing.assert_allclose(thick.images[0][9][7:17, 6:16].std(), 0, atol=0.1)


def test_thick_visits_move_in_plane_only() -> None:
    plan = in_plane(6.5, 1)
    assert plan == RescanPlan(0, shift=(1.3, 0, 2.1), slices=6.5, slice_axis=1)
