from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.training.data import labelled
from bids_msseg.training.data.labelled import (
    FADE,
    LabelledDataset,
    augment_visit,
    cut_visit,
    draw_visit,
    fade_lesions,
    partial_anatomy,
    whole_voxels,
    with_thick_slices,
    with_thick_truth,
)
from bids_msseg.training.data.visits import LabelledVisit
from bids_msseg.training.synthesis.geometry import sample_places
from bids_msseg.training.synthesis.plan import SynthesisPlan

STILL = SynthesisPlan(rotate_deg=0, scale=0, flip=0, warp_mm=0)


def test_cut_visit_at_integer_positions_is_crop(visit: LabelledVisit) -> None:
    at = np.stack(np.meshgrid(*[np.arange(20, 36, dtype=np.float32)] * 3, indexing="ij"))
    images, brain, share = cut_visit(visit, at)
    box = (slice(20, 36),) * 3
    assert np.allclose(images, visit.images[(slice(None), *box)].astype(np.float32), atol=1e-3)
    assert np.array_equal(brain, visit.brain[box])
    assert np.allclose(share, visit.truth[box], atol=1e-3)


def test_cut_visit_outside_image_is_background(visit: LabelledVisit) -> None:
    at = sample_places(np.random.default_rng(0), (200, 32, 32), 16, STILL)
    images, brain, share = cut_visit(visit, at)
    assert np.allclose(images, -3)
    assert not brain.any()
    assert not share.any()


def test_item_depends_only_on_seed_and_index(visit: LabelledVisit) -> None:
    one, same = (LabelledDataset([visit], 3, size=32)[5] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))


def test_missing_contrast_is_zero_in_all_items(visit: LabelledVisit) -> None:
    data = LabelledDataset([visit], 3, size=32)
    for index in range(8):
        images, share, anatomy = data[index]
        assert images.shape == (6, 32, 32, 32)
        assert not images[2].any()
        assert not images[5].any()
        assert share.max() <= 1
        assert anatomy.shape == (CLASSES, 16, 16, 16)


def test_partial_anatomy_follows_brain_mask_and_lesions() -> None:
    brain, share = torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)
    brain[2:], share[6:] = 1, 1
    brain[4, 4, 4] = 0
    possible = partial_anatomy(brain, share)
    assert possible[:, 0, 0, 0].nonzero().ravel().tolist() == [Anatomy.BACKGROUND]
    assert int(possible[:, 1, 0, 0].sum()) == CLASSES - 1
    assert not possible[Anatomy.BACKGROUND, 1:].any()
    # this block is partly outside
    assert not possible[:, 2, 2, 2].any()
    assert possible[Anatomy.CORTEX, 3].sum() == 0
    assert possible[Anatomy.WHITE_MATTER, 3].all()


def test_participants_of_a_site_are_drawn_equally(visit: LabelledVisit) -> None:
    visits = [replace(visit, name=f"sub-01_ses-{n}") for n in range(3)]
    visits += [replace(visit, name="sub-02"), replace(visit, name="sub-03", site="b")]
    rng = np.random.default_rng(0)
    drawn = [draw_visit(visits, rng).participant for _ in range(2000)]
    shares = [drawn.count(name) / 2000 for name in ("sub-01", "sub-02", "sub-03")]
    assert np.allclose(shares, (0.25, 0.25, 0.5), atol=0.04)


def test_whole_voxels_cube_is_not_interpolated(visit: LabelledVisit) -> None:
    at = whole_voxels(np.random.default_rng(0), (30, 31, 32), 8, STILL)
    box = (slice(26, 34), slice(27, 35), slice(28, 36))
    images, _, share = cut_visit(visit, at)
    assert np.allclose(images, visit.images[(slice(None), *box)].astype(np.float32), atol=1e-3)
    assert np.allclose(share, visit.truth[box], atol=1e-3)
    mirrored = whole_voxels(np.random.default_rng(0), (30, 31, 32), 8, replace(STILL, flip=1))
    assert np.array_equal(mirrored[0, :, 0, 0], np.arange(34, 26, -1))


def test_thick_slices_do_not_darken_the_rim_of_the_brain(
    visit: LabelledVisit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelled, "draw_slab", lambda *_: (2, 6, 3))
    monkeypatch.setattr(labelled, "change_intensities", lambda image, *_: image)
    brain = np.zeros((24, 24, 24), bool)
    brain[4:20, 4:20, 5:19] = True
    images = np.where(brain, np.float32(1), np.float32(-3))[None].repeat(3, 0)
    plan = replace(STILL, drop_t1w=0, drop_t2w=0)
    share = np.zeros(brain.shape, np.float32)
    shown = augment_visit(visit, images, brain, share, plan, np.random.default_rng(0))[0].numpy()
    assert np.allclose(shown[0][brain], 1, atol=1e-3)
    assert (shown[0][~brain] == -3).all()


def test_with_thick_slices_averages_images_and_truth(visit: LabelledVisit) -> None:
    thick = with_thick_slices(visit)
    assert (thick.slice_mm, thick.thick, visit.thick) == (6.0, True, False)
    total = visit.truth.sum(dtype=float)
    assert thick.truth.sum(dtype=float) == pytest.approx(total, rel=0.05)
    # the slice from 24 to 29 holds two of the voxels of the lesion, from 28 to 35
    np.testing.assert_allclose(thick.truth[28, 42, 26:28], 2 / 6, atol=0.06)
    np.testing.assert_allclose(thick.truth[28, 42, 32:34], 1, atol=0.1)
    assert (thick.images[:2, ~visit.brain] == -3).all()
    inside = thick.images[0][visit.brain].astype(float)
    # the noise is averaged, and the image normalised again
    assert inside[abs(inside) < 3].std() == pytest.approx(1, abs=0.15)
    assert with_thick_truth(visit).images is visit.images


def test_sites_are_drawn_in_equal_shares(visit: LabelledVisit) -> None:
    other = replace(visit, name="sub-02", site="b", present=(True, False, False))
    plan = replace(STILL, drop_t1w=0, drop_t2w=0)
    data = LabelledDataset([visit, visit, visit, other], 3, size=8, plan=plan)
    share = np.mean([float(data[index][0][4].max()) for index in range(100)])
    assert 0.35 < share < 0.65


def _lesion_in_tissue(value: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images of constant tissue, a full brain mask, and a cubic lesion."""
    share = torch.zeros(11, 11, 11)
    share[4:7, 4:7, 4:7] = 1
    images = torch.stack([torch.full((11, 11, 11), level) for level in (0.5, 0.0, -0.5)])
    return images + value * share, torch.ones(11, 11, 11), share


def test_fade_lesions_changes_only_lesion_voxels() -> None:
    images, brain, share = _lesion_in_tissue(2.0)
    inside = share == 1
    shares = []
    for seed in range(60):
        done = fade_lesions(images, brain, share, np.random.default_rng(seed))
        assert torch.equal(done[:, ~inside], images[:, ~inside])
        change = (done - images)[:, inside] / 2.0
        torch.testing.assert_close(change, change[:1, :1].expand_as(change), rtol=0, atol=1e-5)
        shares.append(float(change[0, 0]))
    assert -FADE <= min(shares) < -FADE / 2
    assert 0.1 < max(shares) <= FADE / 2
    # about half of the sub-images are unchanged
    assert 15 <= shares.count(0.0) <= 45


def test_fade_lesions_without_lesions_returns_input() -> None:
    images, brain, share = _lesion_in_tissue(2.0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert fade_lesions(images, brain, torch.zeros_like(share), rng) is images
