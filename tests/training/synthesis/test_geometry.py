from __future__ import annotations

import numpy as np

from bids_msseg.training.synthesis.geometry import crop_label_map, sample_places
from bids_msseg.training.synthesis.plan import SynthesisPlan
from bids_msseg.training.synthesis.tissues import LabelMap, Tissue

STILL = SynthesisPlan(rotate_deg=0, scale=0, flip=0, warp_mm=0)
"""Plan without spatial augmentation."""


def test_crop_without_augmentation_equals_label_map(label_map: LabelMap) -> None:
    at = sample_places(np.random.default_rng(0), (32, 32, 32), 16, STILL)
    crop = crop_label_map(label_map, label_map.draws[0], at)
    # voxel i of an even cube lies half a voxel before the middle: rounding half to even
    index = np.rint(at).astype(int)
    assert np.array_equal(crop.tissue, label_map.tissue[tuple(index)])


def test_crop_outside_label_map_is_air(label_map: LabelMap) -> None:
    at = sample_places(np.random.default_rng(0), (-40, 0, 0), 16, STILL)
    crop = crop_label_map(label_map, label_map.draws[0], at)
    assert (crop.tissue == Tissue.AIR).all()
    assert (crop.rim == 255).all()
    assert not crop.share.any()
