from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.cascade.heads import Head, Tissue
from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.training.label_maps import FIRST_EXTRA, TISSUES
from bids_msseg.training.synthesis import (
    CLASS_OF,
    SynthesisPlan,
    SyntheticDataset,
    anatomy_shares,
    change_intensities,
    crop_label_map,
    draw_appearance,
    sample_places,
    smooth3,
    thicken,
)

STILL = SynthesisPlan(rotate_deg=0, scale=0, flip=0, warp_mm=0)
"""No change of place."""
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


def test_an_item_depends_on_seed_and_index_alone(head: Head) -> None:
    one, same = (SyntheticDataset([head], 3, size=32)[5] for _ in range(2))
    other = SyntheticDataset([head], 3, size=32)[6]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])


def test_shapes_and_ranges(head: Head) -> None:
    data = SyntheticDataset([head], 1, size=32)
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


def test_missing_contrasts_are_zero_with_their_flag(head: Head) -> None:
    data = SyntheticDataset([head], 1, size=32, plan=replace(PLAIN, drop_t1w=1))
    images, _, _ = data[0]
    assert not images[1].any()
    assert not images[4].any()
    assert (images[[3, 5]] == 1).all()


def test_a_lesion_is_brighter_in_flair_and_darker_in_t1w(head: Head) -> None:
    plan = replace(PLAIN, lesion=(0.8, 0.8), lesion_t1w=(0.4, 0.4), texture=0)
    data = SyntheticDataset([Head(**_fields(head, draws=head.draws[:1]))], 1, size=48, plan=plan)
    images, lesion, anatomy = data[0]
    inside = lesion[0] > 0.99
    white = anatomy.argmax(0).repeat_interleave(2, 0).repeat_interleave(2, 1)
    white = (white.repeat_interleave(2, 2) == Anatomy.WHITE_MATTER) & (lesion[0] == 0)
    assert float(images[0][inside].mean()) > float(images[0][white].mean()) + 0.3
    assert float(images[1][inside].mean()) < float(images[1][white].mean()) - 0.3


def _fields(head: Head, **changed: object) -> dict[str, object]:
    names = ("name", "patient", "tissue", "rim", "halo", "draws")
    return {name: changed.get(name, getattr(head, name)) for name in names}


def test_without_change_of_place_the_crop_is_the_label_map(head: Head) -> None:
    at = sample_places(np.random.default_rng(0), (32, 32, 32), 16, STILL)
    crop = crop_label_map(head, head.draws[0], at)
    # voxel i of an even cube lies half a voxel before the middle: rounding half to even
    index = np.rint(at).astype(int)
    assert np.array_equal(crop.tissue, head.tissue[tuple(index)])


def test_beyond_the_label_map_there_is_air(head: Head) -> None:
    at = sample_places(np.random.default_rng(0), (-40, 0, 0), 16, STILL)
    crop = crop_label_map(head, head.draws[0], at)
    assert (crop.tissue == Tissue.AIR).all()
    assert (crop.rim == 255).all()
    assert not crop.share.any()


def test_every_tissue_has_a_class_and_every_class_a_tissue() -> None:
    assert len(CLASS_OF) == TISSUES
    assert set(CLASS_OF.tolist()) == set(range(CLASSES))
    assert (CLASS_OF[FIRST_EXTRA:] == Anatomy.EXTRA_CEREBRAL).all()


def test_shares_of_a_block_are_counted() -> None:
    tissue = np.full((2, 2, 2), Tissue.WHITE, np.uint8)
    tissue[0, 0] = Tissue.CORTEX
    shares = anatomy_shares(tissue, np.ones((2, 2, 2), bool))[:, 0, 0, 0]
    assert shares[Anatomy.WHITE_MATTER] == 0.75
    assert shares[Anatomy.CORTEX] == 0.25
    hidden = anatomy_shares(tissue, np.zeros((2, 2, 2), bool))[:, 0, 0, 0]
    assert hidden[Anatomy.BACKGROUND] == 1


@given(sigma=st.floats(0.2, 1.6))
def test_smoothing_keeps_the_sum_and_has_the_width_asked_for(sigma: float) -> None:
    volume = np.zeros((25, 25, 25), np.float32)
    volume[12, 12, 12] = 1
    smooth = smooth3(volume, sigma)
    line = smooth.sum((1, 2))
    offsets = np.arange(25) - 12
    assert smooth.sum() == pytest.approx(1, abs=1e-4)
    assert np.sqrt((line * offsets**2).sum()) == pytest.approx(sigma, rel=1e-3)


@given(axis=st.integers(0, 2), slab=st.integers(2, 8), phase=st.integers(1, 8))
def test_thick_slices_keep_constants_and_lines(axis: int, slab: int, phase: int) -> None:
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


def test_intensities_stay_where_nothing_is_to_change() -> None:
    image = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    same = change_intensities(image, PLAIN, np.random.default_rng(1))
    assert np.allclose(same, np.clip(image, -4, 5), atol=2e-3)


def test_flair_lesions_are_never_darker_than_white_matter() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        appearance = draw_appearance(rng, SynthesisPlan(), 5)
        assert (appearance.lesion[0] > 0).all()
        assert (appearance.lesion[1] <= 0).all()
