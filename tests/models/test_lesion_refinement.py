from __future__ import annotations

import numpy as np
import pytest
import torch

from bids_msseg.models.anatomy import CLASSES, Anatomy
from bids_msseg.models.cascade import fuse, refine, segment
from bids_msseg.models.checkpoint import LesionCascade
from bids_msseg.models.crops import (
    CropSource,
    as_crops,
    coarse_mark,
    cut_crops,
    pool,
    prepare_crops,
    without_background,
)
from bids_msseg.models.engine import Engine
from bids_msseg.models.inference import Prediction
from bids_msseg.models.lesion_anatomy import LesionAnatomyConfig, LesionAnatomyNet
from bids_msseg.models.lesion_refinement import (
    COARSE,
    FINE,
    LesionRefinementConfig,
    LesionRefinementNet,
)
from bids_msseg.models.weights import CascadePoint

SHAPE = (50, 46, 41)
BOX = (slice(20, 26), slice(30, 34), slice(10, 15))
PRESENT = (True, False, True)


def _prediction() -> Prediction:
    lesion = np.zeros(SHAPE, np.float32)
    lesion[BOX] = 0.8
    lesion[40, 5, 30:34] = 0.6
    anatomy = np.zeros((CLASSES, *(-(-edge // 2) for edge in SHAPE)), np.float16)
    anatomy[5] = 1
    return Prediction(lesion, anatomy)


@pytest.fixture(scope="module")
def source() -> CropSource:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, *SHAPE)).astype(np.float16)
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    return prepare_crops(images, PRESENT, brain, _prediction(), 0.5)


def test_candidates_are_the_components_over_the_threshold(source: CropSource) -> None:
    assert source.boxes == (BOX, (slice(40, 41), slice(5, 6), slice(30, 34)))
    assert np.count_nonzero(source.pieces == 1) == 6 * 4 * 5


def test_candidate_is_centred_at_both_scales(source: CropSource) -> None:
    images, candidate, anatomy, coarse, present = cut_crops(source, 0, (23, 32, 12))
    assert images.shape == (3, FINE, FINE, FINE)
    assert coarse.shape == (3 + 1 + CLASSES + 3, COARSE, COARSE, COARSE)
    assert present.tolist() == [1, 0, 1]
    middle = FINE // 2
    # the centre is moved to an even voxel: (22, 32, 12)
    assert float(images[0, middle, middle, middle]) == pytest.approx(
        float(source.images[0, 22, 32, 12]), abs=1e-3
    )
    assert float(candidate.sum()) == 6 * 4 * 5
    assert float(candidate[0, middle, middle, middle]) == 1
    assert float(anatomy[5, FINE // 4, FINE // 4, FINE // 4]) == 1
    # 120 mm³ in voxels of 64 mm³
    assert float(coarse[3].sum()) == pytest.approx(120 / 64, abs=1e-4)
    assert float(coarse[3, COARSE // 2, COARSE // 2, COARSE // 2]) > 0.3


def test_missing_contrasts_are_zero_at_both_scales(source: CropSource) -> None:
    images, _, _, coarse, _ = cut_crops(source, 0, (23, 32, 12))
    assert not images[1].any()
    assert not coarse[1].any()


def test_position_channels_run_from_0_to_1_over_brain(source: CropSource) -> None:
    place = cut_crops(source, 0, (23, 32, 12))[3][-3:].numpy()
    for axis in range(3):
        line = np.moveaxis(place[axis], axis, 0)[:, 3, 3]
        assert (np.diff(line) >= 0).all()
        # the crop is 96 mm wide, the brain less than 50
        assert (line[0], line[-1]) == (0, 1)
    # the brain has voxels 2 to 47 along x; the crop's block 12 holds voxels 20 to 23
    assert float(place[0, 12, 0, 0]) == pytest.approx((21.5 - 2) / 45, abs=1e-6)


def test_background_inside_brain_is_divided_among_other_classes() -> None:
    anatomy = np.zeros((CLASSES, 2, 1, 1), np.float16)
    anatomy[Anatomy.BACKGROUND] = 0.5
    anatomy[Anatomy.WHITE_MATTER] = 0.25
    anatomy[Anatomy.CORTEX] = 0.25
    brain = np.zeros((4, 2, 2), bool)
    brain[:2] = True
    shares = without_background(anatomy, brain)
    assert shares[Anatomy.WHITE_MATTER, :, 0, 0].tolist() == [0.5, 0.25]
    assert shares[Anatomy.BACKGROUND, :, 0, 0].tolist() == [0, 0.5]
    assert np.allclose(shares.sum(0), 1)


@pytest.mark.parametrize("even", [(22, 32, 12), (20, 30, 10), (0, 2, 4)])
def test_coarse_mark_of_fine_crop_matches_whole_volume(
    source: CropSource, even: tuple[int, int, int]
) -> None:
    crops = cut_crops(source, 0, even)
    inside = crops[1].numpy()[0]
    if inside.sum() == np.count_nonzero(source.pieces == 1):
        assert np.array_equal(coarse_mark(inside, even), crops[3][3].numpy())
    else:
        assert coarse_mark(inside, even).sum() <= float(crops[3][3].sum())


def test_pooling_averages_blocks() -> None:
    volume = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)
    pooled = pool(volume, 4)
    assert pooled.shape == (1, 1, 1, 1)
    assert float(pooled[0, 0, 0, 0]) == pytest.approx(31.5)
    assert pool(np.ones((2, 5, 4, 7)), 4).shape == (2, 2, 1, 2)


def test_outputs_have_the_shapes_that_the_documentation_states(source: CropSource) -> None:
    net = LesionRefinementNet(LesionRefinementConfig((4, 6, 8))).eval()
    cuts = [cut_crops(source, piece, (23, 32, 12)) for piece in (0, 1)]
    voxels, lesion = net(as_crops([torch.stack(parts) for parts in zip(*cuts, strict=True)]))
    assert voxels.shape == (2, 1, FINE, FINE, FINE)
    assert lesion.shape == (2,)


def test_refinement_is_zero_outside_candidates(source: CropSource) -> None:
    torch.manual_seed(0)
    net = LesionRefinementNet(LesionRefinementConfig((4, 6, 8))).eval()
    found = refine(net, source, Engine(), batch=1)
    outside = source.pieces == 0
    assert not found[outside].any()
    assert (found[~outside] > 0).all()
    assert len(np.unique(found[source.pieces == 1])) == 1


def test_fusion_is_weighted_mean_of_logits_minus_slice_term() -> None:
    one = np.full((1, 1, 1), 0.8, np.float32)
    refined = np.full_like(one, 0.2)
    fused = fuse(one, refined, CascadePoint(0.1, 0.25), 1.0)
    expected = 0.75 * np.log(4) + 0.25 * np.log(0.25)
    assert float(fused[0, 0, 0]) == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-5)
    point = CascadePoint(0.1, 0.25, slice_weight=0.1)
    thick = fuse(one, refined, point, slice_mm=6.0)
    assert float(thick[0, 0, 0]) == pytest.approx(1 / (1 + np.exp(0.5 - expected)), abs=1e-5)
    thin = fuse(one, refined, point, slice_mm=0.8)
    np.testing.assert_array_equal(thin, fused)
    assert float(fuse(one, np.zeros_like(one), CascadePoint(), 1.0)[0, 0, 0]) == 0


@pytest.mark.parametrize("fast", [False, True])
def test_cascade_output_is_zero_outside_brain(fast: bool) -> None:
    torch.manual_seed(1)
    first = LesionAnatomyNet(LesionAnatomyConfig((2, 4))).eval()
    second = LesionRefinementNet(LesionRefinementConfig((2, 4, 6))).eval()
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 24, 20, 22)).astype(np.float32)
    brain = np.zeros(images.shape[1:], bool)
    brain[4:-4, 4:-4, 4:-4] = True
    point = CascadePoint(candidate_threshold=0.3)
    cascade = LesionCascade("tiny", "0", (first,), second, None, point, "")
    found = segment(cascade, images, (True,) * 3, brain, Engine(), slice_mm=1.0, fast=fast)
    assert not found.probability[~brain].any()
    assert not found.candidates[~brain].any()
    assert not found.probability[~found.brain.mask].any()
    assert np.array_equal(found.candidates, found.lesion > 0)
    assert not found.probability[~found.candidates].any()
    assert found.anatomy.shape == (CLASSES, 12, 10, 11)
