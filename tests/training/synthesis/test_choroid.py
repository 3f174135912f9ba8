from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bids_msseg.training.synthesis.choroid import (
    ChoroidTerrain,
    place_choroid,
    prepare_choroid_terrain,
)

SHAPE = (40, 80, 40)
THALAMUS_BACK = 40


@pytest.fixture(scope="module")
def lateral() -> NDArray[np.bool_]:
    """Two ventricles, 60 voxels long, with 4 voxels between them."""
    ventricles = np.zeros(SHAPE, bool)
    ventricles[6:18, 10:70, 14:26] = True
    ventricles[22:34, 10:70, 14:26] = True
    return ventricles


@pytest.fixture(scope="module")
def fissure() -> NDArray[np.bool_]:
    """Thalamus below the front half of the ventricles."""
    below = np.zeros(SHAPE, bool)
    below[6:34, THALAMUS_BACK:60, 10:14] = True
    return below


@pytest.fixture(scope="module")
def terrain(lateral: NDArray[np.bool_], fissure: NDArray[np.bool_]) -> ChoroidTerrain:
    found = prepare_choroid_terrain(lateral, fissure)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
def test_plexus_lies_on_thalamus_and_in_atrium_of_ventricles(
    terrain: ChoroidTerrain, lateral: NDArray[np.bool_], seed: int
) -> None:
    found = place_choroid(np.random.default_rng(seed), terrain)
    x, y, z = np.unravel_index(found, SHAPE)
    assert lateral[x, y, z].all()
    assert ((x < 20).any(), (x >= 20).any()) == (True, True)
    # the glomus reaches 8 mm beyond the atrium, a little more where its surface is rough
    assert y.min() >= THALAMUS_BACK - 14 - 8 * 2
    front = y > THALAMUS_BACK + 4 + 8 * 2
    assert (z[front] <= 18).all()


def test_plexus_is_reproducible_by_seed(terrain: ChoroidTerrain) -> None:
    first, again, other = (
        place_choroid(np.random.default_rng(seed), terrain) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_atria_are_next_to_posterior_thalamus(terrain: ChoroidTerrain) -> None:
    left, right = (side + terrain.corner for side in terrain.atria)
    assert (left[:, 0].min(), left[:, 0].max()) == (6, 17)
    assert (right[:, 0].min(), right[:, 0].max()) == (22, 33)
    for side in (left, right):
        assert (side[:, 1].min(), side[:, 1].max()) == (THALAMUS_BACK - 14, THALAMUS_BACK + 4)


def test_plexus_without_thalamus_lies_in_ventricles(lateral: NDArray[np.bool_]) -> None:
    alone = prepare_choroid_terrain(lateral, np.zeros(SHAPE, bool))
    found = place_choroid(np.random.default_rng(3), alone)
    assert found.size
    assert lateral.ravel()[found].all()


def test_no_ventricles_give_no_plexus() -> None:
    nothing = np.zeros((8, 8, 8), bool)
    terrain = prepare_choroid_terrain(nothing, nothing)
    assert terrain is None
    found = place_choroid(np.random.default_rng(0), terrain)
    assert (found.size, found.dtype) == (0, np.int32)
