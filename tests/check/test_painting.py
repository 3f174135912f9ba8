"""Painting of lesions into a spherical brain phantom: contrast, size and location."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bids_msseg.check.painting import (
    SIZE_LEVELS,
    SIZES_MM3,
    STRENGTHS,
    Canvas,
    Painted,
    find_terrain,
    paint_draw,
    size_level,
    voxel_blur,
)
from bids_msseg.errors import DataError
from bids_msseg.imaging.volume import Volume
from bids_msseg.lesions.regions import Region

BLURS = (0.0, 0.7, 1.4)


def painted(canvas: Canvas, seed: int = 0, draw: int = 0) -> Painted:
    return paint_draw(canvas, draw, np.random.default_rng(seed))


def blurred(canvas: Canvas, sd: float) -> Canvas:
    """Blur along z, as by thick slices."""
    blur = np.zeros((3, 3))
    blur[:, 2] = sd
    return replace(canvas, blur=blur)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.sampled_from(BLURS))
@settings(max_examples=5)
def test_nothing_changes_outside_the_support(
    canvas: Canvas, brain: dict[str, NDArray[Any]], seed: int, draw: int, sd: float
) -> None:
    chosen = blurred(canvas, sd)
    found = painted(chosen, seed, draw)
    outside = ~found.support
    np.testing.assert_array_equal(found.images[:, outside], canvas.images[:, outside])
    assert not found.support[~brain["inside"]].any()
    # reported lesions are inside the support and outside blocked voxels
    labels = found.lesions.labels > 0
    assert labels.any()
    assert not labels[brain["blocked"]].any()
    assert not labels[~found.support].any()
    # T2w was not acquired
    assert not found.images[2].any()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=3)
def test_painting_is_deterministic_for_seed(canvas: Canvas, seed: int) -> None:
    one, other = (painted(canvas, seed, draw=1) for _ in range(2))
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.lesions.labels, other.lesions.labels)
    assert (one.strengths, one.added) == (other.strengths, other.added)
    assert (painted(canvas, seed + 1, draw=1).images != one.images).any()


def test_input_is_not_changed(canvas: Canvas) -> None:
    before = canvas.images.copy()
    painted(canvas)
    np.testing.assert_array_equal(canvas.images, before)


def test_size_level_of_an_edge_is_the_larger_class() -> None:
    levels = [size_level(volume) for volume in (3, 9.9, 10, 200, 5000)]
    assert levels == ["3-10", "3-10", "10-50", ">200", ">200"]


def test_every_size_and_region_is_painted(canvas: Canvas) -> None:
    found = painted(canvas)
    volumes = found.lesions.volumes
    assert volumes.min() >= SIZES_MM3[0][0]
    assert {size_level(volume) for volume in volumes} == set(SIZE_LEVELS)
    assert {one.region for one in found.lesions.lesions} == set(Region)
    assert len(found.strengths) == len(found.added) == len(volumes)


def test_three_draws_use_all_strengths_at_each_location(canvas: Canvas) -> None:
    """The same random numbers put the same lesions into each draw."""
    draws = [painted(canvas, seed=4, draw=draw) for draw in range(3)]
    for one in draws[1:]:
        np.testing.assert_array_equal(one.lesions.labels, draws[0].lesions.labels)
    for strengths in zip(*(one.strengths for one in draws), strict=True):
        assert sorted(strengths) == sorted(STRENGTHS)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_painted_contrast_is_proportional_to_strength(canvas: Canvas, seed: int) -> None:
    found = painted(canvas, seed)
    wanted = np.array(found.strengths) * canvas.contrast[0]
    # clipped texture and halos of neighbouring lesions cause small differences
    np.testing.assert_allclose(found.added, wanted, rtol=0.2)
    inside = found.lesions.labels > 0
    assert found.images[0][inside].mean() > 0
    assert found.images[1][inside].mean() < 0


@pytest.mark.parametrize("sd", BLURS[1:])
def test_thick_slices_reduce_contrast_most_in_small_lesions(canvas: Canvas, sd: float) -> None:
    sharp, thick = painted(canvas), painted(blurred(canvas, sd))
    np.testing.assert_array_equal(sharp.lesions.labels, thick.lesions.labels)
    kept = np.array(thick.added) / np.array(sharp.added)
    assert (kept < 1).all()
    volumes = sharp.lesions.volumes
    assert kept[volumes.argmax()] > kept[volumes.argmin()]


@pytest.mark.parametrize(
    ("edges", "expected"),
    [((1, 1, 1), (0, 0, 0)), ((0.5, 1, 2), (0, 0, 0.75**0.5)), ((1, 3, 1), (0, 2**0.5, 0))],
)
def test_voxel_blur_of_small_example(
    edges: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    image = Volume(np.zeros((2, 2, 2)), np.diag([*edges, 1.0]))
    np.testing.assert_allclose(voxel_blur(image, np.eye(4), np.eye(4)), expected, atol=1e-12)


def test_voxel_blur_follows_slice_direction_of_other_contrast() -> None:
    """Slices along y of its own grid that lie along z of the FLAIR, whose grid is shifted."""
    image = Volume(np.zeros((2, 2, 2)), np.diag([1.0, 3.0, 1.0, 1.0]))
    turn = np.array([[1.0, 0, 0, 7], [0, 0, -1, 5], [0, 1, 0, 0], [0, 0, 0, 1]])
    grid = np.eye(4)
    grid[:3, 3] = (4, -2, 9)
    np.testing.assert_allclose(voxel_blur(image, turn, grid), (0, 0, 2**0.5), atol=1e-9)


def test_missing_white_matter_is_refused(brain: dict[str, NDArray[Any]]) -> None:
    everything = np.ones(brain["inside"].shape, bool)
    with pytest.raises(DataError):
        find_terrain(brain["tissue"], brain["anatomy"], everything)
    no_white = np.zeros_like(brain["tissue"])
    with pytest.raises(DataError):
        find_terrain(no_white, brain["anatomy"], brain["blocked"])


def test_too_little_white_matter_gives_no_lesions(canvas: Canvas) -> None:
    """Two voxels are less than the smallest lesion."""
    tiny = np.zeros(canvas.brain.shape, bool)
    tiny[50, 40, 40:42] = True
    terrain = replace(canvas.terrain, tissue=tiny, seeds=dict.fromkeys(Region, np.argwhere(tiny)))
    found = painted(replace(canvas, terrain=terrain))
    assert (found.lesions.lesions, found.strengths, found.added) == ((), (), ())
    np.testing.assert_array_equal(found.images, canvas.images)
