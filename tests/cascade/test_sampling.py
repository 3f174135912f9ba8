from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from bids_msseg.cascade.augment import AugmentPlan
from bids_msseg.cascade.patches import LabelledVisit, stream
from bids_msseg.cascade.sampling import (
    Candidates,
    CandidateSampler,
    RefinementSampler,
    _pick_visit,
    batches,
    cut_size,
    judge_candidates,
)

NOTHING = AugmentPlan(**dict.fromkeys(AugmentPlan.__dataclass_fields__, 0.0))


def _candidates(visit: LabelledVisit) -> Candidates:
    components = np.zeros(visit.brain.shape, np.int32)
    components[visit.truth >= 0.5] = 1
    components[6:8, 15:17, 15:17] = 2
    probability = np.where(components > 0, 0.7, 0.01).astype(np.float32)
    return judge_candidates(visit, probability, components)


@pytest.fixture(params=["candidate", "refinement"])
def sampler(request: pytest.FixtureRequest, make_visit) -> Dataset[tuple[torch.Tensor, ...]]:
    visits = [
        make_visit("sub-01", site="X", seed=1),
        make_visit("sub-02", site="Y", seed=2, present=(True, False, True)),
    ]
    if request.param == "candidate":
        return CandidateSampler(visits, 9, size=16)
    return RefinementSampler([_candidates(visit) for visit in visits], 9, size=16)


def _equal(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("size", range(1, 130))
def test_what_is_cut_is_larger_and_even_or_odd_like_what_is_read(size: int) -> None:
    assert (cut_size(size) - size) % 2 == 0
    assert 0 <= cut_size(size) - round(1.2 * size) <= 1


def test_items_are_the_same_with_and_without_workers(sampler) -> None:
    alone = list(batches(sampler, first=0, last=4, batch=2, workers=0))
    helped = list(batches(sampler, first=0, last=4, batch=2, workers=2))
    assert len(alone) == 4
    assert all(_equal(a, b) for a, b in zip(alone, helped, strict=True))


def test_items_are_the_same_after_starting_later(sampler) -> None:
    everything = list(batches(sampler, first=0, last=4, batch=2, workers=0))
    rest = list(batches(sampler, first=3, last=4, batch=2, workers=0))
    assert len(rest) == 1
    assert _equal(everything[3], rest[0])


def test_nothing_is_left_of_a_finished_stream(sampler) -> None:
    assert list(batches(sampler, first=4, last=4, batch=2, workers=0)) == []


def test_items_neither_read_nor_move_global_random_state(sampler) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = sampler[5]
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    torch.manual_seed(2)
    np.random.seed(2)
    assert _equal(first, sampler[5])
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == np.random.get_state()[1].tolist()


def test_different_items_differ(sampler) -> None:
    assert not torch.equal(sampler[0][0], sampler[1][0])


def test_shapes_and_ranges(sampler) -> None:
    images, truth, *rest = sampler[3]
    assert images.shape == (8 if rest else 6, 16, 16, 16)
    assert truth.shape == (1, 16, 16, 16)
    assert float(truth.min()) >= 0
    assert float(truth.max()) <= 1 + 1e-6
    assert images.dtype == truth.dtype == torch.float32
    if rest:
        assert set(images[-1].unique().tolist()) <= {0.0, 1.0}
        assert rest[0].shape == ()


def test_sites_are_drawn_in_equal_shares_whatever_their_size() -> None:
    sites = ["big"] * 9 + ["small"]
    drawn = Counter(_pick_visit(sites, stream(0, index)) for index in range(4000))
    assert abs(drawn[9] / 4000 - 0.5) < 0.04
    for index in range(9):
        assert abs(drawn[index] / 4000 - 0.5 / 9) < 0.02


def test_the_order_of_sites_in_the_list_does_not_name_a_favourite() -> None:
    drawn = Counter(_pick_visit(["b", "a"], stream(1, index)) for index in range(2000))
    assert abs(drawn[0] / 2000 - 0.5) < 0.06


def test_lesions_are_in_most_sub_images_that_are_centred_on_them(make_visit) -> None:
    visit = make_visit(edge=48, lesions=1)
    always = CandidateSampler([visit], 0, size=16, plan=NOTHING, lesion_share=1.0)
    never = CandidateSampler([visit], 0, size=16, plan=NOTHING, lesion_share=0.0)
    hits = [sum(float(one[i][1].max()) > 0.3 for i in range(25)) for one in (always, never)]
    assert hits[0] > 20 > hits[1]


def test_a_missing_contrast_is_told_to_the_net(make_visit) -> None:
    visit = make_visit(present=(True, False, True))
    images, _ = CandidateSampler([visit], 0, size=16, plan=NOTHING)[0]
    assert (images[1] == 0).all()
    assert [float(flag.unique()) for flag in images[3:]] == [1, 0, 1]


def test_candidates_are_judged_by_a_tenth_of_their_volume(make_visit) -> None:
    visit = make_visit(lesions=0)
    components = np.zeros(visit.brain.shape, np.int32)
    components[2:12, 5, 5] = 1
    components[2:13, 9, 9] = 2
    components[20, 20, 20] = 3
    visit.truth[2, 5, 5] = visit.truth[2, 9, 9] = 1
    found = judge_candidates(visit, np.zeros(visit.brain.shape, np.float32), components)
    assert found.real.tolist() == [True, False, False]
    assert len(found.boxes) == 3


def test_true_and_false_candidates_come_in_the_share_asked_for(make_visit) -> None:
    found = _candidates(make_visit(seed=3))
    for share, expected in ((0.0, 0.0), (1.0, 1.0)):
        source = RefinementSampler([found], 0, size=16, plan=NOTHING, real_share=share)
        assert {float(source[index][2]) for index in range(8)} == {expected}


def test_a_crop_shows_its_own_candidate_and_the_opinion_on_it(make_visit) -> None:
    found = _candidates(make_visit(seed=3))
    # an edge of 20 is cut from 24: both even, so that nothing is interpolated
    images, truth, real = RefinementSampler([found], 0, size=20, plan=NOTHING, real_share=1.0)[0]
    member = images[-1] > 0.5
    assert real == 1
    assert member.any()
    assert (truth[0][member] > 0.5).all()
    # the opinion is bent, but not beyond what exp(±0.3) does to 0.7
    opinion = images[6][member]
    assert ((opinion > 0.6) & (opinion < 0.78)).all()


def test_visits_without_candidates_are_left_out(make_visit) -> None:
    visit = make_visit(lesions=0)
    empty = judge_candidates(
        visit, np.zeros(visit.brain.shape, np.float32), np.zeros(visit.brain.shape, np.int32)
    )
    assert RefinementSampler([empty, _candidates(make_visit(site="Z"))], 0).sites == ("Z",)
