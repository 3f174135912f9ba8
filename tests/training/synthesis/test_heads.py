from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bids_msseg.models.inference import BACKGROUND
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis import heads
from bids_msseg.training.synthesis.heads import head_name, synthesize_head
from bids_msseg.training.synthesis.tissues import LabelMap


@pytest.fixture(scope="module")
def head(label_map: LabelMap) -> LabelledVisit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "EDGE", 64)
        return synthesize_head(replace(label_map, draws=label_map.draws[:1]), 3, 7)


def test_head_is_cropped_to_its_brain(head: LabelledVisit) -> None:
    assert head.name == head_name(7) == "synthetic-007"
    assert head.images.shape == (3, *head.brain.shape)
    for axis in range(3):
        inside = head.brain.any(axis=tuple({0, 1, 2} - {axis}))
        assert inside[0]
        assert inside[-1]
    assert (head.images[0][~head.brain] == BACKGROUND).all()
    assert head.present[0]
    for channel in np.flatnonzero(~np.array(head.present)):
        assert not head.images[channel].any()


def test_head_has_the_lesions_of_its_label_map(head: LabelledVisit) -> None:
    assert 0 < float(head.truth.sum(dtype=np.float64)) < head.brain.sum() / 10
    assert not head.truth[~head.brain].any()


def test_head_depends_only_on_its_arguments(label_map: LabelMap, head: LabelledVisit) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heads, "EDGE", 64)
        one = replace(label_map, draws=label_map.draws[:1])
        same, other = synthesize_head(one, 3, 7), synthesize_head(one, 3, 8)
    assert np.array_equal(same.images, head.images)
    assert same.images.shape != other.images.shape or not np.array_equal(same.images, other.images)
