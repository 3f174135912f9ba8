"""Bias field correction by N4 removes a smooth field and keeps the mean intensity."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from bids_msseg.imaging.bias import correct_bias, single_itk_thread
from bids_msseg.imaging.volume import Volume

from .conftest import CONTRASTS, head, tissue, world

Biased = tuple[Volume, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def biased_t1w() -> Biased:
    """A T1w with a field of ± 30 %, its brain, and its white matter."""
    volume, brain = head("T1w", (6, 6, 6), stripped=True)
    points = world(volume.shape, volume.affine)
    field = 1 + 0.3 * np.sin(points[:, 0] / 70) * np.cos(points[:, 2] / 90)
    white = tissue(points).reshape(volume.shape) == 5
    return volume.with_data(volume.data * field.reshape(volume.shape)), brain, white


def spread(volume: Volume, mask: np.ndarray) -> float:
    values = volume.data[mask]
    return float(values.std() / values.mean())


def test_bias_field_is_removed_and_mean_intensity_kept(biased_t1w: Biased) -> None:
    volume, brain, white = biased_t1w
    fixed = correct_bias(volume, brain)
    assert fixed.data.dtype == np.float32
    assert fixed.shape == volume.shape
    assert spread(fixed, white) < 0.6 * spread(volume, white)
    assert fixed.data[brain].mean() == pytest.approx(volume.data[brain].mean(), rel=0.05)


def test_correction_does_not_depend_on_thread_count(biased_t1w: Biased) -> None:
    volume, brain, _ = biased_t1w
    process = sitk.ProcessObject
    before = process.GetGlobalDefaultNumberOfThreads()
    runs = set()
    for threads in (1, 2, 3):
        process.SetGlobalDefaultNumberOfThreads(threads)
        runs.add(correct_bias(volume, brain).data.tobytes())
        assert process.GetGlobalDefaultNumberOfThreads() == threads
    process.SetGlobalDefaultNumberOfThreads(before)
    assert len(runs) == 1


def test_concurrent_corrections_equal_single_correction(biased_t1w: Biased) -> None:
    volume, brain, _ = biased_t1w
    alone = correct_bias(volume, brain).data.tobytes()
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(2)
    with single_itk_thread(), ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: correct_bias(volume, brain).data.tobytes(), range(3)))
    assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 2
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert found == [alone] * 3


def test_correction_does_not_depend_on_gain(biased_t1w: Biased) -> None:
    volume, brain, _ = biased_t1w
    plain = correct_bias(volume, brain).data
    louder = correct_bias(volume.with_data(volume.data * 50), brain).data
    np.testing.assert_allclose(louder[brain] / 50, plain[brain], rtol=1e-3)


def test_contrasts_without_bias_field_are_nearly_unchanged() -> None:
    for contrast in CONTRASTS:
        volume, brain = head(contrast, (5, 5, 7))
        fixed = correct_bias(volume, brain)
        assert np.isfinite(fixed.data).all()
        ratio = fixed.data[brain] / volume.data[brain]
        assert np.percentile(np.abs(ratio - 1), 95) < 0.15  # hardly anything to correct


def test_image_without_signal_is_unchanged() -> None:
    volume = Volume(np.full((10, 10, 10), -3.0), np.eye(4))
    same = correct_bias(volume, np.ones(volume.shape, bool))
    np.testing.assert_array_equal(same.data, volume.data)


def test_slab_of_five_slices_is_corrected() -> None:
    # the app accepts images with at least 5 slices
    brain = np.zeros((24, 24, 5), bool)
    brain[4:20, 4:20] = True
    data = np.where(brain, 100.0, 0.0) * np.linspace(0.9, 1.1, 24)[:, None, None]
    fixed = correct_bias(Volume(data.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), brain)
    assert np.isfinite(fixed.data).all()
    assert fixed.data[brain].mean() == pytest.approx(data[brain].mean(), rel=0.05)
