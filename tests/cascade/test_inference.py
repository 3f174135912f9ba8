from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bids_msseg.cascade.augment import SubImage
from bids_msseg.cascade.checkpoint import Cascade
from bids_msseg.cascade.inference import (
    FAST_STRIDE,
    STRIDE,
    NetInput,
    Segmentation,
    _ceiling,
    candidate_probability,
    find_candidates,
    refine,
    segment,
    tile_centres,
)
from bids_msseg.cascade.networks import CandidateNet, RefinementNet
from bids_msseg.errors import UsageError
from bids_msseg.lesions.metrics import voxel_agreement
from bids_msseg.models.engine import Engine, choose_engine
from bids_msseg.models.weights import OperatingPoint

ENGINE = Engine()
ALL = (True, True, True)


class _Reads(nn.Module):
    """A candidate net whose logit is one channel of its input."""

    def __init__(self, channel: int = 0) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, images: Tensor) -> Tensor:
        return images[:, self.channel : self.channel + 1]


class _Judges(nn.Module):
    """A refinement net made of a function of its crops."""

    def __init__(self, rule: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return self.rule(crops)


def _agrees(crops: Tensor) -> tuple[Tensor, Tensor]:
    return crops[:, :1], torch.full((len(crops),), 2.0)


def _cascade(
    candidate: nn.Module, refinement: nn.Module, point: OperatingPoint | None = None
) -> Cascade:
    return Cascade("toy", "0", (candidate,), (refinement,), point or OperatingPoint(), "")  # type: ignore[arg-type]


def _images(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (3, *shape)).astype(np.float32)


@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    tile=st.sampled_from([8, 12]),
    seed=st.integers(0, 5),
    share=st.sampled_from([0.001, 0.05, 1.0]),
)
def test_tiles_cover_all_of_the_brain_and_nothing_without_brain(
    shape: tuple[int, int, int], tile: int, seed: int, share: float
) -> None:
    brain = np.random.default_rng(seed).random(shape) < share
    covered = np.zeros(shape, bool)
    for centre in tile_centres(brain, tile=tile, stride=tile - 2):
        box = tuple(slice(max(at - tile // 2, 0), at + tile // 2) for at in centre)
        assert brain[box].any()
        covered[box] = True
    assert covered[brain].all()


@pytest.mark.parametrize("stride", [STRIDE, FAST_STRIDE])
def test_tiles_stay_on_the_grid_and_overlap(stride: int) -> None:
    centres = tile_centres(np.ones((150, 64, 200), bool), stride=stride)
    assert len(set(centres)) == len(centres)
    for axis, extent in ((0, 150), (1, 64), (2, 200)):
        starts = sorted({centre[axis] - 32 for centre in centres})
        assert starts[0] == 0
        assert starts[-1] == extent - 64
        assert all(0 < b - a <= stride for a, b in pairwise(starts))


@pytest.mark.parametrize("shape", [(70, 66, 90), (20, 64, 100), (7, 5, 3)])
@pytest.mark.parametrize("stride", [STRIDE, FAST_STRIDE])
def test_tiles_are_put_together_without_seams(shape: tuple[int, int, int], stride: int) -> None:
    images = _images(shape)
    # a slope over the whole grid: a tile in a wrong place would show
    images[0] = np.linspace(-4, 4, images[0].size, dtype=np.float32).reshape(shape)
    brain = np.random.default_rng(1).random(shape) < 0.7
    got = candidate_probability([_Reads()], images, ALL, brain, ENGINE, stride=stride)
    expected = np.where(brain, 1 / (1 + np.exp(-images[0].astype(float))), 0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_mirroring_is_undone() -> None:
    images = _images((66, 20, 20))
    brain = np.ones((66, 20, 20), bool)
    plain, mirrored = (
        candidate_probability([_Reads()], images, ALL, brain, ENGINE, mirror=mirror)
        for mirror in (False, True)
    )
    np.testing.assert_allclose(mirrored, plain, rtol=0, atol=1e-6)


def test_probabilities_of_an_ensemble_are_averaged() -> None:
    images = _images((16, 16, 16))
    brain = np.ones((16, 16, 16), bool)
    one, other, both = (
        candidate_probability(nets, images, ALL, brain, ENGINE)
        for nets in ([_Reads(0)], [_Reads(1)], [_Reads(0), _Reads(1)])
    )
    np.testing.assert_allclose(both, (one + other) / 2, rtol=0, atol=1e-6)


def test_an_empty_brain_needs_no_net() -> None:
    shape = (20, 20, 20)
    nothing = np.zeros(shape, bool)
    assert tile_centres(nothing) == []
    found = segment(_cascade(_Reads(), _Judges(_agrees)), _images(shape), ALL, nothing, ENGINE)
    for name in Segmentation.__dataclass_fields__:
        assert not getattr(found, name).any()


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int]] = []
    brain = np.ones((100, 20, 20), bool)
    candidate_probability(
        [_Reads()],
        _images(brain.shape),
        ALL,
        brain,
        Engine(batch=1),
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 2), (2, 2)]


def test_the_nets_read_what_they_were_trained_on() -> None:
    images = _images((10, 9, 8))
    brain = np.ones((10, 9, 8), bool)
    brain[:2] = False
    images[:, ~brain] = -3
    images[1] = 0
    present = (True, False, True)
    trained = SubImage(
        torch.from_numpy(images),
        torch.tensor(present, dtype=torch.float32),
        torch.from_numpy(brain.astype(np.float32)),
        torch.zeros(1, 10, 9, 8),
    ).as_input()
    cube = NetInput.of(images, present).cube((5, 4, 4), 16)
    inner = cube[:, 3:13, 4:13, 4:12]
    np.testing.assert_allclose(inner, trained.numpy(), rtol=0, atol=1e-6)
    assert cube.shape == (6, 16, 16, 16)
    outside = cube[:, 0, 0, 0].tolist()
    assert outside == [-3, 0, -3, 1, 0, 1]


@pytest.fixture(scope="module")
def candidate() -> CandidateNet:
    torch.manual_seed(0)
    return CandidateNet((4, 8)).eval()


@pytest.fixture(scope="module")
def refinement() -> RefinementNet:
    torch.manual_seed(1)
    return RefinementNet((4, 8)).eval()


def test_more_air_around_the_brain_changes_nothing_within_a_tile(candidate, make_visit) -> None:
    """The working grid follows the brain, so this is about what the net sees beyond its rim."""
    visit = make_visit(edge=40)
    images = visit.images.astype(np.float32)
    small = candidate_probability([candidate], images, ALL, visit.brain, ENGINE)
    wide = candidate_probability(
        [candidate],
        np.pad(images, [(0, 0), *[(6, 6)] * 3], constant_values=-3),
        ALL,
        np.pad(visit.brain, 6),
        ENGINE,
    )
    assert small.max() > 0
    np.testing.assert_array_equal(wide[6:-6, 6:-6, 6:-6], small)


def _whole(candidate, refinement, visit, engine: Engine) -> Segmentation:
    # random nets say about one half everywhere: this gate lets some hundred voxels through
    images = visit.images.astype(np.float32)
    seen = candidate_probability([candidate], images, ALL, visit.brain, engine)
    gate = float(np.quantile(seen[visit.brain], 0.97))
    cascade = _cascade(candidate, refinement, OperatingPoint(gate, 0.4, 0.4))
    return segment(cascade, images, ALL, visit.brain, engine)


def _bytes(found: Segmentation) -> list[bytes]:
    return [getattr(found, name).tobytes() for name in Segmentation.__dataclass_fields__]


def test_the_same_input_gives_the_same_bytes(candidate, refinement, make_visit) -> None:
    visit = make_visit()
    one, again = (_whole(candidate, refinement, visit, ENGINE) for _ in range(2))
    assert one.candidates.any()
    assert _bytes(one) == _bytes(again)


def _opinions(net, visit, engines: list[Engine], threads: list[int]) -> list[np.ndarray]:
    images = visit.images.astype(np.float32)
    found = []
    for engine, number in zip(engines, threads, strict=True):
        torch.set_num_threads(number)
        try:
            found.append(candidate_probability([net], images, ALL, visit.brain, engine))
        finally:
            torch.set_num_threads(1)
    return found


def test_another_number_of_threads_gives_the_same_bytes(learned, make_visit) -> None:
    visit = make_visit("sub-9", seed=9)
    one, two = _opinions(learned[0], visit, [ENGINE, ENGINE], [1, 2])
    np.testing.assert_array_equal(one, two)


def test_bfloat16_gives_nearly_the_mask_of_float32(learned, make_visit) -> None:
    """Within .05 in every voxel, and all but one in a hundred voxels of the mask."""
    visit = make_visit("sub-9", seed=9)
    exact, quick = _opinions(learned[0], visit, [ENGINE, Engine("cpu", True)], [1, 1])
    assert 0 < np.abs(exact - quick).max() < 0.05
    assert voxel_agreement(quick >= 0.5, exact >= 0.5, voxel_volume=1.0).dice >= 0.99


def test_bfloat16_and_threads_move_probabilities_little_on_average(learned, make_visit) -> None:
    visit = make_visit("sub-9", seed=9)
    engines = [ENGINE, ENGINE, Engine("cpu", True)]
    exact, *others = _opinions(learned[0], visit, engines, [1, 2, 1])
    assert (exact >= 0.5).sum() > 50
    for other in others:
        assert np.abs(exact - other)[visit.brain].mean() < 0.01
        assert voxel_agreement(other >= 0.5, exact >= 0.5, voxel_volume=1.0).dice > 0.9


def test_candidates_are_components_over_the_gate() -> None:
    probability = np.zeros((12, 4, 4), np.float32)
    probability[0:3, 0, 0] = 0.2
    probability[5:9, 0, 0] = (0.2, 0.6, 0.2, 0.2)
    probability[10:12, 0, 0] = 0.9  # two voxels cannot become a lesion
    assert find_candidates(probability, 0.2).max() == 2
    assert find_candidates(probability, 0.3).max() == 0
    grown = find_candidates(probability, 0.2, seed=0.5)
    np.testing.assert_array_equal(np.flatnonzero(grown[:, 0, 0]), [5, 6, 7, 8])


def test_refining_writes_inside_candidates_only(refinement) -> None:
    shape = (40, 36, 34)
    probability = np.zeros(shape, np.float32)
    probability[0:4, 0:3, 0:3] = 0.8  # at the rim of the grid
    probability[6:36, 10:12, 10:12] = 0.8  # longer than a piece
    probability[20:24, 30:36, 30:34] = 0.8
    voxels, lesion = refine([refinement], _images(shape), ALL, probability, 0.5, ENGINE, batch=2)
    over = probability >= 0.5
    assert (voxels[over] > 0).all()
    assert (lesion[over] > 0).all()
    assert not voxels[~over].any()
    assert not lesion[~over].any()


@settings(max_examples=15)
@given(corner=st.tuples(*[st.integers(0, 30)] * 3), wide=st.tuples(*[st.integers(2, 30)] * 3))
def test_verdicts_land_on_the_voxels_they_are_about(
    corner: tuple[int, int, int], wide: tuple[int, int, int]
) -> None:
    shape = (40, 41, 42)
    images = _images(shape)
    probability = np.zeros(shape, np.float32)
    probability[tuple(slice(a, a + w) for a, w in zip(corner, wide, strict=True))] = 0.9
    over = probability > 0
    voxels, lesion = refine([_Judges(_agrees)], images, ALL, probability, 0.5, ENGINE)
    expected = np.where(over, 1 / (1 + np.exp(-images[0].astype(float))), 0)
    np.testing.assert_allclose(voxels, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(lesion[over], 1 / (1 + np.exp(-2.0)), rtol=1e-5)


def test_without_candidates_the_probability_is_zero() -> None:
    shape = (20, 20, 20)
    images = np.full((3, *shape), -10, np.float32)
    brain = np.ones(shape, bool)
    found = segment(_cascade(_Reads(), _Judges(_agrees)), images, ALL, brain, ENGINE)
    assert (found.candidate > 0).all()
    assert not found.candidates.any()
    assert not found.probability.any()
    assert not found.lesion.any()


def test_a_candidate_that_is_certainly_none_stays_on_the_account() -> None:
    shape = (20, 20, 20)
    images = np.full((3, *shape), -10, np.float32)
    images[0, 8:11, 8:11, 8:11] = 10
    never = _Judges(lambda crops: (crops[:, :1], torch.full((len(crops),), -200.0)))
    found = segment(_cascade(_Reads(), never), images, ALL, np.ones(shape, bool), ENGINE)
    assert found.candidates.sum() == 27
    assert found.probability.max() < 1e-6


@pytest.mark.parametrize("verdict", [-3.0, -0.01, 0.01, 3.0])
def test_the_refinement_net_decides_what_is_kept(verdict: float) -> None:
    shape = (20, 20, 20)
    images = np.full((3, *shape), -10, np.float32)
    images[0, 8:11, 8:11, 8:11] = 10
    judge = _Judges(lambda crops: (crops[:, :1], torch.full((len(crops),), verdict)))
    found = segment(_cascade(_Reads(), judge), images, ALL, np.ones(shape, bool), ENGINE)
    kept = found.probability >= 0.5
    assert kept.sum() == (27 if verdict > 0 else 0)


def test_fast_uses_one_member_of_each_ensemble() -> None:
    shape = (16, 16, 16)
    images = _images(shape)
    brain = np.ones(shape, bool)
    judge = _Judges(_agrees)
    many = Cascade("t", "0", (_Reads(0), _Reads(1)), (judge,), OperatingPoint(), "")  # type: ignore[arg-type]
    got = segment(many, images, ALL, brain, ENGINE, fast=True).candidate
    first = candidate_probability([_Reads(0)], images, ALL, brain, ENGINE)
    np.testing.assert_array_equal(got, first)


@given(
    keep=st.floats(0.05, 0.95),
    lesions=st.lists(st.floats(0, 1, width=32), min_size=2, max_size=20),
)
def test_ceiling_rises_and_is_one_half_at_keep(keep: float, lesions: list[float]) -> None:
    lesion = np.sort(np.array(lesions, np.float32))
    mapped = _ceiling(lesion, keep)
    assert (np.diff(mapped) >= -1e-6).all()
    ends = _ceiling(np.array([0, keep, 1], np.float64), keep)
    np.testing.assert_allclose(ends, [0, 0.5, 1], rtol=0, atol=1e-6)
    for side in (lesion[lesion < keep - 1e-4], lesion[lesion > keep + 1e-4]):
        over = _ceiling(side, keep) >= 0.5
        assert over.all() or not over.any()


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "tpu"])
def test_a_device_that_is_not_there_is_refused(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=device):
        choose_engine(device)
    assert choose_engine("auto").device == choose_engine("cpu").device == "cpu"
