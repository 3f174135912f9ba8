from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch

from bids_msseg.cascade.augment import BACKGROUND, SubImage, augment
from bids_msseg.cascade.augmentation.artefacts import RegistrationJitter
from bids_msseg.cascade.augmentation.geometry import Mirror, ResizeDim, Rotate
from bids_msseg.cascade.augmentation.intensity import Brightness, ToFloat32
from bids_msseg.cascade.augmentation.language import OneOf, Program, Sequence, Sometimes
from bids_msseg.cascade.augmentation.sample import fit
from bids_msseg.errors import UsageError

ONE, TEN = Brightness((1, 1)), Brightness((10, 10))


def _added(step, sample: SubImage, seed: int) -> float:
    done = step(sample, np.random.default_rng(seed))
    return round(float((done.images - sample.images).mean()), 3)


def test_a_sequence_takes_all_steps_in_order(make_sample) -> None:
    assert _added(Sequence((ONE, TEN)), make_sample(6), 0) == 11
    assert _added(Sequence(()), make_sample(6), 0) == 0


def test_one_of_takes_one_step_each_as_likely(make_sample) -> None:
    sample = make_sample(6)
    drawn = Counter(_added(OneOf((ONE, TEN)), sample, seed) for seed in range(400))
    assert set(drawn) == {1, 10}
    assert 150 < drawn[1] < 250
    assert _added(OneOf(()), sample, 0) == 0


def test_chances_are_those_asked_for(make_sample) -> None:
    sample = make_sample(6)
    for step, share in ((Sometimes((ONE,)), 0.5), (replace(ONE, p=0.2), 0.2)):
        taken = sum(_added(step, sample, seed) for seed in range(400)) / 400
        assert abs(taken - share) < 0.08
    assert _added(replace(ONE, p=0.0), sample, 0) == 0


def test_sometimes_takes_all_or_none(make_sample) -> None:
    sample = make_sample(6)
    assert {_added(Sometimes((ONE, TEN)), sample, seed) for seed in range(30)} == {0, 11}


def test_a_contrast_can_be_chosen(make_sample) -> None:
    sample = make_sample(6)
    for channel, name in enumerate(("FLAIR", "T1w", "T2w")):
        done = replace(ONE, contrasts=name)(sample, np.random.default_rng(0))
        change = (done.images - sample.images).mean((1, 2, 3))
        assert change.round(decimals=3).tolist() == [float(i == channel) for i in range(3)]
    missing = replace(sample, present=torch.tensor([1.0, 0.0, 1.0]))
    drawn = [replace(ONE, contrasts="one")(missing, np.random.default_rng(s)) for s in range(40)]
    changed = Counter(int((d.images - sample.images).abs().sum((1, 2, 3)).argmax()) for d in drawn)
    assert set(changed) == {0, 2}
    same = replace(ONE, contrasts="T1w")(missing, np.random.default_rng(0))
    assert torch.equal(same.images, sample.images)


def test_splits_have_programs_of_their_own_and_none_by_default(make_sample) -> None:
    program = Program(training=(ONE,), test=(TEN,))
    sample = make_sample(6)
    for split, expected in (("training", 1), ("validation", 0), ("test", 10)):
        done = augment(sample, program, np.random.default_rng(0), size=6, thin=True, split=split)
        assert float((done.images - sample.images).mean()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [5, 8, 11, 14, 15])
@pytest.mark.parametrize(
    "steps", [(), (Mirror(),), (Rotate(),), (RegistrationJitter(), ONE), (ResizeDim(7), ONE)]
)
def test_a_program_gives_the_size_asked_for(steps, size: int, make_sample) -> None:
    done = augment(
        make_sample(10), Program(steps), np.random.default_rng(1), size=size, thin=False
    )
    assert done.images.shape == (3, size, size, size)
    assert done.brain.shape == done.maps.shape[1:] == (size, size, size)


def test_margins_are_cropped_before_what_does_not_need_them(make_sample) -> None:
    seen = []

    class Spy(ToFloat32):
        def _change(self, image, sample, _rng):
            seen.append(tuple(sample.brain.shape))
            return image

    program = Program((Spy(), Rotate(), Spy(contrasts="T1w")))
    augment(make_sample(12), program, np.random.default_rng(0), size=8, thin=True)
    assert seen == [(12, 12, 12)] * 3 + [(8, 8, 8)]


def test_fitting_crops_and_pads_about_the_middle(make_sample) -> None:
    sample = make_sample(10)
    smaller = fit(sample, 6)
    assert torch.equal(smaller.images, sample.images[:, 2:8, 2:8, 2:8] - BACKGROUND + BACKGROUND)
    larger = fit(sample, 13)
    torch.testing.assert_close(fit(larger, 10).images, sample.images)
    assert torch.equal(fit(larger, 10).maps, sample.maps)
    assert float(larger.images[0, 0, 0, 0]) == BACKGROUND
    assert float(larger.brain[0, 0, 0]) == float(larger.maps[0, 0, 0, 0]) == 0
    assert fit(sample, 10) is sample


def test_steps_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ONE.p = 0.3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotate(degrees=200), "wrong degrees of the augmentation Rotate: 200"),
        (lambda: Rotate(degrees=float("nan")), "out of range"),
        (lambda: Rotate(p=1.5), "wrong p"),
        (lambda: Rotate(degrees=True), "not a number"),
        (lambda: Rotate(degrees="many"), "many"),
        (lambda: Brightness((1, 0)), "not in order"),
        (lambda: Brightness((0, 1, 2)), "not two numbers"),
        (lambda: Brightness(contrasts="PD"), "'PD' is none of them"),
        (lambda: ResizeDim(2.5), "no whole number"),
        (lambda: Sequence(("Rotate",)), "not a list of augmentations"),
        (lambda: Program(test=("Rotate",)), "for test is not a list"),
    ],
)
def test_what_may_not_be_is_refused_with_a_hint(make, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert caught.value.hint
