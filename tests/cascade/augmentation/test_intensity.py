from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bids_msseg.cascade.augment import BACKGROUND, SubImage
from bids_msseg.cascade.augmentation import artefacts, intensity
from bids_msseg.cascade.augmentation.catalogue import OPERATIONS
from bids_msseg.cascade.augmentation.language import IntensityOperation

NAMES = sorted(name for name, kind in OPERATIONS.items() if issubclass(kind, IntensityOperation))
STILL = [
    intensity.GaussianBlur((0, 0)),
    intensity.AdditiveLaplaceNoise((0, 0)),
    intensity.AdditivePoissonNoise((0, 0)),
    intensity.GammaContrast((1, 1)),
    intensity.Brightness((0, 0)),
    intensity.Contrast((1, 1)),
    intensity.CoarseDropout((0, 0)),
    intensity.Salt((0, 0)),
    intensity.Pepper((0, 0)),
    intensity.SaltAndPepper((0, 0)),
    intensity.Normalize(),
    intensity.Clip(),
    intensity.ToFloat32(),
    intensity.ScaleFromTo((0, 1), (0, 1)),
    artefacts.BiasField((0, 0)),
    artefacts.RicianNoise((0, 0)),
    artefacts.Ghosting((0, 0)),
    artefacts.Motion((0, 0)),
    artefacts.GibbsRinging((1, 1)),
]


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _flat(value: float = 0.0, edge: int = 24) -> SubImage:
    return SubImage(
        torch.full((3, edge, edge, edge), value),
        torch.ones(3),
        torch.ones(edge, edge, edge),
        torch.zeros(1, edge, edge, edge),
    )


@pytest.mark.parametrize("name", NAMES)
def test_only_images_change(name: str, make_sample) -> None:
    sample = make_sample(10)
    done = OPERATIONS[name]()(sample, _rng())
    assert done.brain is sample.brain
    assert done.maps is sample.maps
    assert done.present is sample.present
    assert done.images.shape == sample.images.shape
    if name not in ("ToFloat32", "Normalize", "Clip"):
        assert not torch.equal(done.images, sample.images)


@pytest.mark.parametrize("step", STILL, ids=lambda step: type(step).__name__)
def test_nothing_changes_by_nothing(step, make_sample) -> None:
    sample = make_sample(10)
    # no signal is negative where this one is
    sample = replace(sample, images=sample.images.clamp(-2.9, 4.9))
    done = step(sample, _rng())
    torch.testing.assert_close(done.images, sample.images, rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "step",
    [
        intensity.AdditiveLaplaceNoise((0.3, 0.3)),
        intensity.AdditivePoissonNoise((0.3, 0.3)),
        artefacts.RicianNoise((0.3, 0.3)),
    ],
    ids=lambda step: type(step).__name__,
)
def test_noise_has_the_deviation_asked_for(step) -> None:
    noise = step(_flat(), _rng()).images
    assert float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert abs(float(noise.mean())) < 0.03


def test_laplace_noise_has_longer_tails_than_a_gaussian() -> None:
    noise = intensity.AdditiveLaplaceNoise((1, 1))(_flat(edge=32), _rng()).images
    assert float((noise**4).mean() / (noise**2).mean() ** 2) == pytest.approx(6, rel=0.15)


def test_poisson_noise_grows_with_the_signal_and_rician_noise_lifts_what_is_dark() -> None:
    step = intensity.AdditivePoissonNoise((0.3, 0.3))
    # signals of 1 and of 2.25 times the brain's mean
    spread = [float(step(_flat(value), _rng()).images.std()) for value in (0.0, 5.0)]
    assert spread[1] / spread[0] == pytest.approx(1.5, rel=0.05)
    # without signal a magnitude is distributed as Rayleigh says: sd * sqrt(pi / 2)
    dark = artefacts.RicianNoise((0.4, 0.4))(_flat(-4.0), _rng()).images
    assert float(dark.mean()) + 4 == pytest.approx(0.4 * np.sqrt(np.pi / 2), rel=0.03)


def test_gamma_keeps_the_mean_and_the_order() -> None:
    ramp = torch.linspace(-3, 4, 15).view(15, 1, 1).expand(15, 15, 15)
    sample = replace(_flat(edge=15), images=ramp.expand(3, -1, -1, -1))
    for seed in range(10):
        bent = intensity.GammaContrast()(sample, _rng(seed)).images[0, :, 0, 0]
        assert (bent.diff() > 0).all()
        assert float(bent[6]) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("step", "values", "share"),
    [
        (intensity.Salt((0.1, 0.1)), {0.0, 5.0}, 0.1),
        (intensity.Pepper((0.1, 0.1)), {0.0, BACKGROUND}, 0.1),
        (intensity.SaltAndPepper((0.1, 0.1)), {0.0, 5.0, BACKGROUND}, 0.1),
    ],
)
def test_speckles(step, values: set[float], share: float) -> None:
    done = step(_flat(), _rng()).images
    assert set(done.unique().tolist()) == values
    assert float((done != 0).float().mean()) == pytest.approx(share, rel=0.05)
    if len(values) == 3:
        assert float((done == 5).sum() / (done != 0).sum()) == pytest.approx(0.5, abs=0.03)


def test_blocks_are_dropped_whole() -> None:
    done = intensity.CoarseDropout((0.3, 0.3), edge=6)(_flat(1.0), _rng()).images[0]
    blocks = done.view(4, 6, 4, 6, 4, 6).permute(0, 2, 4, 1, 3, 5).reshape(64, -1)
    assert ((blocks == 0).all(1) | (blocks == 1).all(1)).all()
    assert 0.1 < float((blocks == 0).float().mean()) < 0.5


def test_scales() -> None:
    sample = _flat(2.0, 4)
    assert (intensity.Normalize(1, 2)(sample, _rng()).images == 0.5).all()
    assert (intensity.DivBy255()(_flat(510.0, 4), _rng()).images == 2).all()
    assert (intensity.ScaleFromTo((0, 4), (10, 20))(sample, _rng()).images == 15).all()
    assert (intensity.Clip((-1, 1))(sample, _rng()).images == 1).all()
    assert (intensity.ScaleTo((3, 9))(sample, _rng()).images == 3).all()
    images = sample.images.clone()
    images[:, 0], images[:, 1], images[:, 2] = 100.0, -1.0, 3.0
    brain = sample.brain.clone()
    brain[0] = 0
    done = intensity.ScaleTo((0, 1))(replace(sample, images=images, brain=brain), _rng())
    assert [float(done.images[0, x, 0, 0]) for x in (1, 2, 3)] == [0, 1, 0.75]
    nothing = replace(sample, brain=torch.zeros_like(brain))
    assert torch.equal(intensity.ScaleTo()(nothing, _rng()).images, sample.images)


def test_blurring_keeps_constants_and_the_mean_of_what_is_inside() -> None:
    step = intensity.GaussianBlur((1.5, 1.5))
    torch.testing.assert_close(step(_flat(2.0), _rng()).images, _flat(2.0).images)
    images = torch.zeros(3, 25, 25, 25)
    images[:, 12, 12, 12] = 1
    done = step(replace(_flat(edge=25), images=images), _rng()).images[0]
    assert float(done.sum()) == pytest.approx(1, abs=1e-4)
    line = torch.arange(25.0) - 12
    assert float((done.sum((1, 2)) * line**2).sum()) == pytest.approx(1.5**2, rel=0.01)
    torch.testing.assert_close(done, done.permute(2, 0, 1))
