from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bids_msseg.cascade.adaptation import LARGEST_RATIO, adapt
from bids_msseg.cascade.inference import correction, fuse
from bids_msseg.models.weights import OperatingPoint

ALL = (True, True, True)


def _visit(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two lesions that look alike; the nets are sure of one of them and doubt the other."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (3, 40, 40, 40)).astype(np.float32)
    brain = np.zeros((40, 40, 40), bool)
    brain[2:-2, 2:-2, 2:-2] = True
    seen = np.full(brain.shape, 0.02, np.float32)
    truth = np.zeros(brain.shape, bool)
    for at, probability in ((8, 0.95), (24, 0.3)):
        box = (slice(at, at + 9),) * 3
        images[(slice(None), *box)] += np.array([1.5, -1, 1], np.float32)[:, None, None, None]
        seen[box] = probability
        truth[box] = True
    return np.where(brain, seen, 0).astype(np.float32), images, brain, truth


def test_what_looks_like_a_sure_lesion_becomes_surer_and_what_does_not_stays_none() -> None:
    seen, images, brain, truth = _visit()
    after = adapt(seen, images, ALL, brain, 30.0)
    doubted = truth & (seen < 0.5)
    assert after[doubted].mean() > 0.6 > 0.31 > seen[doubted].mean()
    assert after[~truth].max() < 0.1


@pytest.mark.parametrize("strength", [0.0, -1.0])
def test_without_strength_nothing_changes(strength: float) -> None:
    seen, images, brain, _ = _visit()
    assert np.array_equal(adapt(seen, images, ALL, brain, strength), seen)


def test_too_little_to_learn_from_changes_nothing() -> None:
    seen, images, brain, _ = _visit()
    for few in (seen * 0.3, np.zeros_like(seen)):
        assert np.array_equal(adapt(few, images, ALL, brain, 1.0), few)


def test_half_the_trust_is_given_at_twenty_millilitres() -> None:
    rng = np.random.default_rng(1)
    images = rng.normal(0, 0.1, (3, 80, 60, 60)).astype(np.float32)
    brain = np.ones((80, 60, 60), bool)
    seen = np.full(brain.shape, 0.15, np.float32)
    seen[:25, :40, :20] = 1.0
    images[0, :25, :40, :20] += 3
    after = adapt(seen, images, ALL, brain, 1.0)
    far = after[60:, 50:, 50:]
    expected = np.log(0.15 / 0.85) - 0.5 * LARGEST_RATIO
    assert np.log(far / (1 - far)) == pytest.approx(expected, abs=1e-3)


@settings(max_examples=8, deadline=None)
@given(st.permutations(range(3)), st.floats(0.2, 2.0))
def test_the_order_of_contrasts_and_absent_ones_do_not_matter(
    order: list[int], strength: float
) -> None:
    seen, images, brain, _ = _visit(3)
    whole = adapt(seen, images, ALL, brain, strength)
    assert adapt(seen, images[order], ALL, brain, strength) == pytest.approx(whole, abs=1e-5)
    two = adapt(seen, images, (True, False, True), brain, strength)
    noise = images.copy()
    noise[1] = 7
    assert np.array_equal(adapt(seen, noise, (True, False, True), brain, strength), two)


def test_the_verdict_on_a_candidate_outlasts_the_correction() -> None:
    seen, images, _, truth = _visit()
    doubted = truth & (seen < 0.5)
    verdict = np.where(doubted, 0.2, np.where(seen > 0.5, 0.9, 0)).astype(np.float32)
    point = OperatingPoint(second=0.0, trust=30.0)
    correct = correction(images, ALL, seen, point)
    assert correct is not None
    final = fuse(seen, seen, verdict, point, correct)
    assert final[doubted].max() == pytest.approx(0.2)
    assert final[truth & (seen > 0.5)].min() > 0.5
    assert not final[verdict == 0].any()
    free = fuse(seen, seen, np.where(doubted, 0.9, verdict).astype(np.float32), point, correct)
    assert free[doubted].mean() > 0.6
    assert correction(images, ALL, seen, OperatingPoint()) is None
