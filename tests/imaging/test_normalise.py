"""The normalised stack depends on the brain, not on how the image is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_msseg.errors import DataError
from bids_msseg.imaging.normalise import (
    BACKGROUND,
    CLIP,
    CONTRASTS,
    MARGIN_MM,
    SPACING_MM,
    TRIM_PERCENT,
    Stack,
    build_stack,
    working_grid,
    zscore,
)
from bids_msseg.imaging.volume import Volume

from .conftest import head, rigid


def small(contrast: str = "FLAIR") -> tuple[Volume, Volume]:
    """A coarse head and its brain as volumes."""
    volume, brain = head(contrast, (6.0, 6.0, 7.0))
    return volume, volume.with_data(brain)


def padded(volume: Volume, before: int, after: int) -> Volume:
    """The same image with more field of view."""
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, float(before))
    return Volume(np.pad(volume.data, [(before, after)] * 3), affine)


def cropped(volume: Volume, brain: Volume) -> tuple[Volume, Volume]:
    """Image and mask cut to the brain and one voxel around it."""
    index = np.argwhere(brain.data)
    low, high = index.min(0) - 1, index.max(0) + 2
    low, high = np.maximum(low, 0), np.minimum(high, volume.shape)
    cut = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return Volume(volume.data[cut], affine), Volume(brain.data[cut], affine)


def assert_same(one: Stack, other: Stack, atol: float = 2e-4) -> None:
    np.testing.assert_array_equal(one.brain, other.brain)
    np.testing.assert_allclose(one.data, other.data, atol=atol)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-6)
    assert one.present == other.present


def test_working_grid_surrounds_the_brain_by_the_margin() -> None:
    data = np.zeros((20, 20, 20), bool)
    data[5:15, 6:12, 7:9] = True
    affine = rigid((0, 0, 0), (-30, 20, 10)) @ np.diag([1.0, 1.0, 3.0, 1.0])
    shape, grid = working_grid(Volume(data, affine))
    assert shape == (9 + 2 * MARGIN_MM + 1, 5 + 2 * MARGIN_MM + 1, 3 + 2 * MARGIN_MM + 1)
    np.testing.assert_allclose(grid[:3, :3], np.eye(3))
    np.testing.assert_allclose(grid[:3, 3] + MARGIN_MM, affine[:3, :3] @ (5, 6, 7) + affine[:3, 3])


@settings(max_examples=40, deadline=None)
@given(
    edges=st.tuples(*[st.floats(0.4, 7.0)] * 3),
    degrees=st.tuples(*[st.floats(-40, 40)] * 3),
    spacing=st.sampled_from([1.0, 2.0]),
)
def test_working_grid_holds_every_brain_voxel(
    edges: tuple[float, float, float], degrees: tuple[float, float, float], spacing: float
) -> None:
    data = np.zeros((9, 9, 9), bool)
    data[2:8, 3, 1:5] = True
    volume = Volume(data, rigid(degrees, (5, -6, 7)) @ np.diag([*edges, 1.0]))
    shape, affine = working_grid(volume, spacing=spacing)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing)
    world = np.argwhere(data) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    index = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert (index >= MARGIN_MM / spacing - 1e-6).all()
    assert (index <= np.array(shape) - 1 - MARGIN_MM / spacing + 1e-6).all()


def test_working_grid_of_empty_mask_is_a_user_error() -> None:
    with pytest.raises(DataError, match="mask is empty"):
        working_grid(Volume(np.zeros((4, 4, 4), bool), np.eye(4)))


def test_image_of_one_millimetre_is_not_interpolated() -> None:
    data = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    brain = np.zeros(data.shape, bool)
    brain[6:14, 6:14, 6:14] = True
    volume = Volume(data, rigid((0, 0, 0), (3.3, -2.2, 1.1)))
    stack = build_stack({"FLAIR": volume}, volume.with_data(brain))
    np.testing.assert_array_equal(stack.data[0][stack.brain], zscore(data, brain)[brain])


def test_zscore_uses_statistics_inside_mask_and_clips() -> None:
    data = np.zeros((10, 10, 10))
    data[:5] = np.random.default_rng(0).normal(100, 10, (5, 10, 10))
    data[5:] = 1e6
    inside = np.zeros(data.shape, bool)
    inside[:5] = True
    scaled = zscore(data, inside)
    assert scaled.dtype == np.float32
    assert abs(scaled[inside].mean()) < 0.05
    assert scaled[inside].std() == pytest.approx(1, abs=0.1)
    assert (scaled[5:] == CLIP).all()


def test_zscore_is_robust_to_few_bright_voxels() -> None:
    data = np.random.default_rng(0).normal(100, 10, (20, 20, 20))
    inside = np.ones(data.shape, bool)
    spoiled = data.copy()
    spoiled[0, :2] = 5000
    np.testing.assert_allclose(zscore(spoiled, inside)[1:], zscore(data, inside)[1:], atol=0.1)


@pytest.mark.parametrize("level", [0.0, 7.0, 1e6])
def test_constant_brain_is_a_user_error(level: float) -> None:
    with pytest.raises(DataError, match="does not vary"):
        zscore(np.full((4, 4, 4), level), np.ones((4, 4, 4), bool))


def test_zscore_of_empty_mask_is_a_user_error() -> None:
    with pytest.raises(DataError):
        zscore(np.arange(8.0).reshape(2, 2, 2), np.zeros((2, 2, 2), bool))


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(1e-3, 1e4), offset=st.floats(-1e4, 1e4))
def test_zscore_does_not_depend_on_gain_and_offset(gain: float, offset: float) -> None:
    data = np.random.default_rng(0).normal(0, 1, (8, 8, 8))
    inside = np.random.default_rng(1).random(data.shape) > 0.4
    np.testing.assert_allclose(
        zscore(data * gain + offset * gain, inside), zscore(data, inside), atol=1e-4
    )


def test_stack_does_not_depend_on_padding_scaling_or_type() -> None:
    flair, brain = small()
    plain = build_stack({"FLAIR": flair}, brain)
    assert_same(plain, build_stack({"FLAIR": padded(flair, 3, 5)}, padded(brain, 3, 5)))
    assert_same(plain, build_stack({"FLAIR": flair}, padded(brain, 2, 1)))
    cut, cut_brain = cropped(flair, brain)
    assert cut.data.size < 0.9 * flair.data.size
    assert_same(plain, build_stack({"FLAIR": cut}, cut_brain))
    louder = flair.with_data(flair.data * 37.5 + 1200)
    assert_same(plain, build_stack({"FLAIR": louder}, brain))
    rounded = flair.with_data(np.round(flair.data * 20).astype(np.uint16))
    assert_same(plain, build_stack({"FLAIR": rounded}, brain), atol=5e-3)
    for dtype in (np.float64, np.int32):
        stored = flair.with_data(np.round(flair.data).astype(dtype))
        as_float = flair.with_data(np.round(flair.data))
        assert_same(build_stack({"FLAIR": as_float}, brain), build_stack({"FLAIR": stored}, brain))


def test_missing_contrasts_are_zero_and_flagged() -> None:
    flair, brain = small()
    stack = build_stack({"FLAIR": flair, "T2w": small("T2w")[0]}, brain)
    assert stack.present == (True, False, True)
    assert (stack.data[1] == 0).all()
    for channel in (0, 2):
        assert (stack.data[channel][~stack.brain] == BACKGROUND).all()
        assert stack.data[channel][stack.brain].std() > 0.5


def test_contrast_is_resampled_with_its_transform() -> None:
    flair, brain = small()
    t1w, _ = small("T1w")
    away = rigid((8, -5, 4), (30, -20, 10))
    elsewhere = Volume(t1w.data, away @ t1w.affine)
    here = build_stack({"FLAIR": flair, "T1w": t1w}, brain)
    back = build_stack({"FLAIR": flair, "T1w": elsewhere}, brain, transforms={"T1w": away})
    np.testing.assert_allclose(back.data, here.data, atol=1e-3)


def test_brain_outside_contrast_field_of_view_is_zero() -> None:
    flair, brain = small()
    t1w, _ = small("T1w")
    half = Volume(t1w.data[:, :, : t1w.shape[2] // 2], t1w.affine)
    stack = build_stack({"FLAIR": flair, "T1w": half}, brain)
    top = stack.data[1][:, :, -20:]
    assert (top[stack.brain[:, :, -20:]] == 0).all()


def test_saved_stack_is_read_back(tmp_path: Path) -> None:
    flair, brain = small()
    stack = build_stack({"FLAIR": flair}, brain)
    stack.save(tmp_path / "stack.npz")
    assert_same(Stack.load(tmp_path / "stack.npz"), stack, atol=0)


def test_normalisation_constants_match_trained_weights() -> None:
    """The shipped weights depend on these values; a change needs a new training."""
    assert CONTRASTS == ("FLAIR", "T1w", "T2w")
    assert (SPACING_MM, MARGIN_MM, TRIM_PERCENT) == (1.0, 4, 1.0)
    assert (CLIP, BACKGROUND) == (5.0, -3.0)


def test_zscore_of_three_values() -> None:
    scaled = zscore(np.array([0.0, 10.0, 20.0]), np.ones(3, bool), trim=0)
    np.testing.assert_allclose(scaled, [-np.sqrt(1.5), 0, np.sqrt(1.5)], rtol=1e-6)
