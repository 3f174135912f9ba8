from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.training.synthesis.intensities import change_intensities, smooth3, thicken
from bids_msseg.training.synthesis.plan import SynthesisPlan


@given(sigma=st.floats(0.2, 1.6))
def test_smoothing_preserves_sum_and_has_requested_width(sigma: float) -> None:
    volume = np.zeros((25, 25, 25), np.float32)
    volume[12, 12, 12] = 1
    smooth = smooth3(volume, sigma)
    line = smooth.sum((1, 2))
    offsets = np.arange(25) - 12
    assert smooth.sum() == pytest.approx(1, abs=1e-4)
    assert np.sqrt((line * offsets**2).sum()) == pytest.approx(sigma, rel=1e-3)


@given(axis=st.integers(0, 2), slab=st.integers(2, 8), phase=st.integers(1, 8))
def test_thicken_preserves_constants_and_linear_ramps(axis: int, slab: int, phase: int) -> None:
    phase = min(phase, slab)
    flat = np.full((17, 18, 19), 2.5, np.float32)
    assert np.allclose(thicken(flat, axis, slab, phase), 2.5)
    shape = [1, 1, 1]
    shape[axis] = flat.shape[axis]
    ramp = np.broadcast_to(
        np.arange(flat.shape[axis], dtype=np.float32).reshape(shape), flat.shape
    )
    seen = np.moveaxis(thicken(ramp, axis, slab, phase), axis, 0)[slab:-slab]
    expected = np.moveaxis(ramp, axis, 0)[slab:-slab]
    assert np.allclose(seen, expected, atol=1e-3)


def test_slices_of_one_acquisition_differ_in_brightness() -> None:
    flat = np.ones((6, 6, 24), np.float32)
    seen = thicken(flat, 2, 4, 4, np.random.default_rng(0))
    assert np.ptp(seen[0, 0]) > 0.001
    assert np.ptp(seen, axis=(0, 1)).max() == 0


def test_change_intensities_with_zero_amounts_keeps_image() -> None:
    plan = SynthesisPlan(bias=0, gain=0, shift=0, gamma=0, noise=0)
    image = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    same = change_intensities(image, plan, np.random.default_rng(1))
    assert np.allclose(same, np.clip(image, -4, 5), atol=2e-3)
