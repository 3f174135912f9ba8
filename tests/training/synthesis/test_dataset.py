from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.training.synthesis.dataset import CLASS_OF, SyntheticDataset, anatomy_shares
from bids_msseg.training.synthesis.plan import SynthesisPlan
from bids_msseg.training.synthesis.tissues import FIRST_EXTRA, TISSUES, LabelMap, Tissue

STILL = SynthesisPlan(rotate_deg=0, scale=0, flip=0, warp_mm=0)
"""Plan without spatial augmentation."""
PLAIN = replace(
    STILL,
    any_contrast=0,
    enhanced=0,
    halo=0,
    caps=0,
    flow=0,
    patchy=0,
    bright_cortex=0,
    margin_mm=(0, 0),
    mask_fault=0,
    misplaced=0,
    thick=0,
    drop_t1w=0,
    drop_t2w=0,
    bias=0,
    gain=0,
    shift=0,
    gamma=0,
    noise=0,
    lesion_share=1,
)


def test_item_depends_only_on_seed_and_index(label_map: LabelMap) -> None:
    one, same = (SyntheticDataset([label_map], 3, size=32)[5] for _ in range(2))
    other = SyntheticDataset([label_map], 3, size=32)[6]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_item_shapes_and_value_ranges(label_map: LabelMap) -> None:
    data = SyntheticDataset([label_map], 1, size=32)
    for index in range(12):
        images, lesion, anatomy = data[index]
        assert images.shape == (6, 32, 32, 32)
        assert lesion.shape == (1, 32, 32, 32)
        assert anatomy.shape == (CLASSES, 16, 16, 16)
        assert torch.isfinite(images).all()
        assert float(images.min()) >= -5
        assert float(images.max()) <= 5
        assert float(lesion.min()) >= 0
        assert float(lesion.max()) <= 1
        assert torch.allclose(anatomy.sum(0), torch.ones(16, 16, 16))


def test_missing_contrasts_are_zero_with_their_flag(label_map: LabelMap) -> None:
    data = SyntheticDataset([label_map], 1, size=32, plan=replace(PLAIN, drop_t1w=1))
    images, _, _ = data[0]
    assert not images[1].any()
    assert not images[4].any()
    assert (images[[3, 5]] == 1).all()


def test_a_lesion_is_brighter_in_flair_and_darker_in_t1w(label_map: LabelMap) -> None:
    plan = replace(PLAIN, lesion=(0.8, 0.8), lesion_t1w=(0.4, 0.4), texture=0)
    data = SyntheticDataset([replace(label_map, draws=label_map.draws[:1])], 1, size=48, plan=plan)
    images, lesion, anatomy = data[0]
    inside = lesion[0] > 0.99
    white = anatomy.argmax(0).repeat_interleave(2, 0).repeat_interleave(2, 1)
    white = (white.repeat_interleave(2, 2) == Anatomy.WHITE_MATTER) & (lesion[0] == 0)
    assert float(images[0][inside].mean()) > float(images[0][white].mean()) + 0.3
    assert float(images[1][inside].mean()) < float(images[1][white].mean()) - 0.3


def test_every_tissue_has_a_class_and_every_class_a_tissue() -> None:
    assert len(CLASS_OF) == TISSUES
    assert set(CLASS_OF.tolist()) == set(range(CLASSES))
    assert (CLASS_OF[FIRST_EXTRA:] == Anatomy.EXTRA_CEREBRAL).all()


def test_anatomy_shares_of_block() -> None:
    tissue = np.full((2, 2, 2), Tissue.WHITE, np.uint8)
    tissue[0, 0] = Tissue.CORTEX
    shares = anatomy_shares(tissue, np.ones((2, 2, 2), bool))[:, 0, 0, 0]
    assert shares[Anatomy.WHITE_MATTER] == 0.75
    assert shares[Anatomy.CORTEX] == 0.25
    hidden = anatomy_shares(tissue, np.zeros((2, 2, 2), bool))[:, 0, 0, 0]
    assert hidden[Anatomy.BACKGROUND] == 1
