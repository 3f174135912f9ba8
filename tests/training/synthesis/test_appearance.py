from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bids_msseg.training.synthesis.appearance import (
    Appearance,
    brain_scale,
    draw_appearance,
)
from bids_msseg.training.synthesis.plan import SynthesisPlan
from bids_msseg.training.synthesis.tissues import TISSUES, Tissue

USUAL = SynthesisPlan(any_contrast=0.0, enhanced=0.0)
"""Plan with the usual tissue contrasts of FLAIR, T1w and T2w only."""


def test_usual_contrasts_have_expected_tissue_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        flair, t1w, t2w = draw_appearance(rng, USUAL, 3).mean
        assert flair[Tissue.VENTRICLE] < flair[Tissue.WHITE] < flair[Tissue.CORTEX]
        assert t1w[Tissue.VENTRICLE] < t1w[Tissue.CORTEX] < t1w[Tissue.WHITE]
        assert t2w[Tissue.WHITE] < t2w[Tissue.CORTEX] < t2w[Tissue.VENTRICLE]


def test_random_contrasts_have_requested_frequency() -> None:
    def unusual(share: float) -> int:
        rng = np.random.default_rng(1)
        plan = replace(USUAL, any_contrast=share)
        drawn = [draw_appearance(rng, plan, 1) for _ in range(400)]
        return sum(one.mean[0, Tissue.WHITE] != 1 for one in drawn)

    assert unusual(0.0) == 0
    assert unusual(1.0) == 400
    assert abs(unusual(0.15) - 60) < 25


def test_lesion_contrasts_vary_around_contrast_of_rim() -> None:
    lesion = draw_appearance(np.random.default_rng(4), USUAL, 200).lesion
    assert lesion.shape == (3, 201)
    for row in lesion:
        relative = row[1:] / row[0]
        assert 0.2999 < relative.min() < relative.max() < 2.0001
        assert relative.mean() == pytest.approx(1, abs=0.08)


def test_flair_lesions_are_never_darker_than_white_matter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        appearance = draw_appearance(rng, SynthesisPlan(), 5)
        assert (appearance.lesion[0] > 0).all()
        assert (appearance.lesion[1] <= 0).all()


def test_brain_scale_is_the_mean_and_deviation_of_the_voxels() -> None:
    """White matter 1, ventricle 0, a lesion of +1 in a tenth of the voxels."""
    mean = np.zeros((3, TISSUES), np.float32)
    mean[:, Tissue.WHITE] = 1
    appearance = Appearance(mean, np.zeros_like(mean), np.array([[0, 1]] * 3, np.float32))
    count = np.zeros(TISSUES)
    count[[Tissue.WHITE, Tissue.VENTRICLE]] = 80, 20
    found, spread = brain_scale(appearance, count, 0.0)
    np.testing.assert_allclose(found, 0.8)
    np.testing.assert_allclose(spread, 0.4, rtol=1e-4)
    found, _ = brain_scale(appearance, count, 10.0)
    np.testing.assert_allclose(found, 0.9)
