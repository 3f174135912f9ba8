from __future__ import annotations

import numpy as np
import pytest
import torch

from bids_msseg.cascade.patches import LabelledVisit
from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.inference import Prediction
from bids_msseg.models.lesion_refinement import FINE
from bids_msseg.training.candidates import (
    CandidateCrops,
    LabelledCandidates,
    label_candidates,
    tightened,
)


@pytest.fixture(scope="module")
def labelled(visit: LabelledVisit) -> LabelledCandidates:
    lesion = np.where(visit.truth > 0, 0.9, 0).astype(np.float32)
    lesion[20:23, 30:33, 40:43] = 0.7
    anatomy = np.zeros((CLASSES, 32, 32, 32), np.float16)
    return label_candidates(visit, Prediction(lesion, anatomy), 0.5)


def test_candidates_are_compared_with_the_ground_truth(labelled: LabelledCandidates) -> None:
    assert sorted(labelled.real.tolist()) == [False, True]


def test_an_item_depends_on_seed_and_index_alone(labelled: LabelledCandidates) -> None:
    one, same = (CandidateCrops([labelled], 3)[4] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_true_candidates_hold_ground_truth_and_false_ones_do_not(
    labelled: LabelledCandidates,
) -> None:
    data = CandidateCrops([labelled], 1)
    seen = set()
    for index in range(12):
        images, candidate, _, coarse, present, share, real = data[index]
        assert share.shape == candidate.shape == (1, FINE, FINE, FINE)
        assert bool((share * candidate).any()) == bool(real)
        assert torch.isfinite(images).all()
        assert torch.isfinite(coarse).all()
        assert not images[present == 0].any()
        seen.add(bool(real))
    assert seen == {True, False}


@pytest.mark.parametrize(("left", "kept"), [(9, 9), (3, 3), (2, 27), (0, 27)])
def test_a_candidate_is_tightened_but_never_lost(left: int, kept: int) -> None:
    candidate, tight = torch.zeros(1, FINE, FINE, FINE), np.zeros((FINE,) * 3, bool)
    candidate[0, :3, :3, :3] = 1
    tight.ravel()[[n for n in range(FINE**3) if candidate.ravel()[n]][:left]] = True
    assert float(tightened(candidate, tight).sum()) == kept
