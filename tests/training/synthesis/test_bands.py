"""Periventricular bands of synthetic lesions."""

from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.training.synthesis.bands import REACH_MM, add_bands
from bids_msseg.training.synthesis.tissues import (
    HALO_STEPS,
    LesionDraw,
    Tissue,
    ventricle_distance,
)

SHAPE = (48, 60, 40)
EMPTY = LesionDraw(
    np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.int16), np.array([7], np.int32)
)


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """Return tissue and distance to the ventricle of a block; the lower part is deep grey."""
    tissue = np.full(SHAPE, Tissue.WHITE, np.uint8)
    tissue[:, :, :12] = Tissue.THALAMUS
    lateral = np.zeros(SHAPE, bool)
    lateral[18:30, 15:45, 12:28] = True
    tissue[lateral] = Tissue.VENTRICLE
    return tissue, ventricle_distance(lateral)


@pytest.mark.parametrize("seed", range(5))
def test_band_is_in_white_matter_beside_ventricle(
    head: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    tissue, halo = head
    found = add_bands(np.random.default_rng(seed), tissue, halo, EMPTY)
    assert found.voxels.size > 0
    assert set(tissue.ravel()[found.voxels]) == {Tissue.WHITE}
    assert halo.ravel()[found.voxels].max() < (REACH_MM + 2) * HALO_STEPS
    whole = found.owner > 0
    assert (found.fraction[whole] >= 127).all()
    assert set(found.owner[whole]) == set(range(1, found.owner.max() + 1))
    np.testing.assert_array_equal(found.choroid, EMPTY.choroid)


@pytest.mark.parametrize("seed", range(3))
def test_lesions_of_the_set_are_kept(head: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    tissue, halo = head
    voxels = np.ravel_multi_index(((4, 4, 19), (30, 31, 14), (20, 20, 20)), SHAPE)
    lesions = LesionDraw(
        voxels.astype(np.int32),
        np.array([200, 90, 255], np.uint8),
        np.array([1, 0, 2], np.int16),
        EMPTY.choroid,
    )
    found = add_bands(np.random.default_rng(seed), tissue, halo, lesions)
    share = np.zeros(SHAPE, np.uint8).ravel()
    owner = np.zeros(SHAPE, np.int16).ravel()
    share[found.voxels], owner[found.voxels] = found.fraction, found.owner
    assert (share[voxels] >= lesions.fraction).all()
    np.testing.assert_array_equal(owner[voxels[[0, 2]]], [1, 2])
    assert owner.max() > 2


def test_head_without_ventricles_gets_no_band() -> None:
    tissue = np.full(SHAPE, Tissue.WHITE, np.uint8)
    halo = ventricle_distance(np.zeros(SHAPE, bool))
    assert add_bands(np.random.default_rng(0), tissue, halo, EMPTY) is EMPTY


def test_same_seed_gives_same_bands(head: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = (add_bands(np.random.default_rng(3), *head, EMPTY) for _ in range(2))
    for name in ("voxels", "fraction", "owner"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
