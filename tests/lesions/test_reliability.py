from __future__ import annotations

import numpy as np
import pytest

from bids_msseg.lesions.confidence.reliability import FLOOR, local_weights
from bids_msseg.lesions.raters.union import Votes, collect_votes


def _votes(n: int = 5, margin: int = 0) -> Votes:
    rng = np.random.default_rng(3)
    return collect_votes(list(rng.random((n, 8, 9, 7)) > 0.6), margin=margin)


@pytest.mark.parametrize("margin", [0, 2])
def test_weights_have_mean_one_at_every_voxel(margin: int) -> None:
    votes = _votes(margin=margin)
    weights = local_weights(votes, (1, 1, 2))
    assert weights.shape == votes.drawn.shape
    np.testing.assert_allclose(weights.mean(axis=0), 1)
    assert (weights > 0).all()


def test_one_or_two_raters_have_weight_one() -> None:
    for n in (1, 2):
        assert (local_weights(_votes(n), (1, 1, 1)) == 1).all()


def test_contradicting_rater_has_low_weight_only_locally() -> None:
    masks = np.zeros((4, 40, 6, 6), bool)
    masks[:, 2:8] = True
    masks[:, 30:36] = True
    masks[3, 30:36] = False
    votes = collect_votes(list(masks))
    weights = local_weights(votes, (1, 1, 1))
    half = weights.shape[1] // 2
    np.testing.assert_allclose(weights[:, :half], 1)
    # three raters agree with two of three others each, the fourth with none
    expected = np.array([2 / 3] * 3 + [FLOOR])
    np.testing.assert_allclose(
        weights[:, half:], np.repeat((expected / expected.mean())[:, None], half, axis=1)
    )


def test_neighbourhood_is_measured_in_mm() -> None:
    masks = np.zeros((3, 20, 1, 1), bool)
    masks[:, :10] = True
    masks[:2, 10:] = True
    votes = collect_votes(list(masks))
    sharp = local_weights(votes, (100, 1, 1))
    smooth = local_weights(votes, (1, 1, 1))
    assert sharp[2, 9] == 1
    assert FLOOR < smooth[2, 9] < 1
    assert smooth[2, 0] == pytest.approx(1)
