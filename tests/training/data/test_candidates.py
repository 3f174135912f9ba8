from __future__ import annotations

import numpy as np
import pytest
import torch

from bids_msseg.models.anatomy import CLASSES
from bids_msseg.models.inference import Prediction
from bids_msseg.models.lesion_refinement import COARSE, FINE
from bids_msseg.training.data.candidates import (
    CandidateCrops,
    CropPlan,
    LabelledCandidates,
    label_candidates,
    tighten,
)
from bids_msseg.training.data.visits import LabelledVisit

CUBE = (slice(26, 34), slice(40, 46), slice(28, 36))
"""Position of the only lesion of the visit."""


@pytest.fixture(scope="module")
def labelled(visit: LabelledVisit) -> LabelledCandidates:
    lesion = np.where(visit.truth > 0, 0.9, 0).astype(np.float32)
    lesion[20:23, 30:33, 40:43] = 0.7
    anatomy = np.zeros((CLASSES, 32, 32, 32), np.float16)
    return label_candidates(visit, Prediction(lesion, anatomy), 0.5)


def test_candidates_are_labelled_by_ground_truth(labelled: LabelledCandidates) -> None:
    assert sorted(labelled.real.tolist()) == [False, True]


def test_item_depends_only_on_seed_and_index(labelled: LabelledCandidates) -> None:
    one, same = (CandidateCrops([labelled], 3)[4] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_only_real_candidates_overlap_ground_truth(
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
def test_tighten_changes_both_scales_or_keeps_whole_candidate(left: int, kept: int) -> None:
    candidate, tight = torch.zeros(1, FINE, FINE, FINE), np.zeros((FINE,) * 3, bool)
    candidate[0, :3, :3, :3] = 1
    tight.ravel()[[n for n in range(FINE**3) if candidate.ravel()[n]][:left]] = True
    coarse = torch.zeros(3 + 1 + CLASSES + 3, COARSE, COARSE, COARSE)
    coarse[3, 8, 8, 8] = 27 / 64
    anatomy, present = torch.zeros(CLASSES, FINE // 2, FINE // 2, FINE // 2), torch.ones(3)
    crops = (torch.zeros(3, FINE, FINE, FINE), candidate, anatomy, coarse, present)
    found = tighten(crops, tight, (16, 16, 16))
    assert float(found[1].sum()) == kept
    assert float(found[3][3].sum()) == pytest.approx(kept / 64)
    assert float(coarse[3].sum()) == pytest.approx(27 / 64)


def test_tightened_candidate_is_labelled_by_remaining_voxels(visit: LabelledVisit) -> None:
    """A wide candidate with about 5 % lesion voxels is false; its core is a lesion."""
    lesion = np.zeros(visit.truth.shape, np.float32)
    x, y, z = (slice(side.start - 8, side.stop + 8) for side in CUBE)
    lesion[x, y, z] = 0.15
    lesion[CUBE] = 0.9
    anatomy = np.zeros((CLASSES, 32, 32, 32), np.float16)
    wide = label_candidates(visit, Prediction(lesion, anatomy), 0.1)
    assert wide.real.tolist() == [False]
    data = CandidateCrops([wide], 0, CropPlan(tighten=1.0))
    seen = {bool(data[index][-1]) for index in range(12)}
    assert seen == {True, False}
